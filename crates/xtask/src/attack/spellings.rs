//! Attacks with alternative forms of paths and methods, with headers that override them, and with values that
//! a response might reflect.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::attacked_server::{AttackedServer, PASSWORD};
use super::report::{AttackReport, DEFAULT_TIME_LIMIT, format_response, status_in};
use super::wire::{RawResponse, request, send};

/// Paths that a careless router or proxy would map to `/api/v1/admin/users`. They are sent by a user without
/// permission.
const PATHS: &[&str] = &[
    "//api/v1/admin/users",
    "/api//v1/admin/users",
    "/api/v1/admin/users/",
    "/api/v1/admin/users//",
    "/api/v1/./admin/users",
    "/api/v1/me/../admin/users",
    "/api/v1/me/%2e%2e/admin/users",
    "/api/v1/admin%2fusers",
    "/api/v1/%61dmin/users",
    "/API/V1/ADMIN/USERS",
    "/api/v1/admin/users;a=b",
    "/api/v1/admin/users%00",
    "/api/v1/admin/users%20",
    "/api/v1/admin\\users",
    "/api/v1/admin/users.json",
    "/api/v1/admin/users?role=admin",
];

/// Headers by which some frameworks override method, path or role.
const OVERRIDE_HEADERS: &[(&str, &str)] = &[
    ("x-http-method-override", "DELETE"),
    ("x-method-override", "PUT"),
    ("x-original-url", "/api/v1/admin/users"),
    ("x-rewrite-url", "/api/v1/admin/users"),
    ("x-forwarded-user", "root"),
    ("x-remote-user", "root"),
    ("x-forwarded-for", "127.0.0.1"),
    ("x-real-ip", "127.0.0.1"),
    ("x-user-role", "admin"),
];

/// Origins that are not allowed.
const ORIGINS: &[&str] = &[
    "https://evil.example",
    "null",
    "http://localhost.evil.example",
    "http://127.0.0.1.evil.example",
    "http://evil-localhost",
    "https://evil.example#http://localhost",
    "file://",
];

/// Fields that users must not be able to set (mass assignment), each with a value.
const PROTECTED_FIELDS: &[(&str, &str)] = &[
    ("role", "admin"),
    ("id", "01900000-0000-7000-8000-000000000000"),
    ("status", "active"),
    ("email_verified", "true"),
    ("created_at", "2020-01-01T00:00:00Z"),
    ("password_hash", "x"),
];

/// Runs all attacks with paths, methods, headers and protected fields.
pub fn run(server: &AttackedServer, report: &mut AttackReport) {
    report.group("spellings of paths");
    let eve = Some(server.eve.token.as_str());
    for path in PATHS {
        report.attack(&format!("GET {path}"), DEFAULT_TIME_LIMIT, || {
            let response = send(server.address(), &request("GET", path, eve, &[], None))?;
            status_in(&response, &[308, 400, 403, 404])
        });
    }
    report.group("claims");
    for (name, value) in OVERRIDE_HEADERS {
        report.attack(&format!("{name}: {value}"), DEFAULT_TIME_LIMIT, || {
            let response = get_me(server, &[(name, value)])?;
            ensure!(
                response.json()["id"] == server.eve.id.as_str(),
                "returned {}",
                format_response(&response)
            );
            let guarded = server.call_with(
                "GET",
                "/api/v1/admin/users",
                &server.eve,
                &[(name, value)],
                &Value::Null,
            )?;
            status_in(&guarded, &[403])
        });
    }
    for origin in ORIGINS {
        report.attack(&format!("Origin: {origin}"), DEFAULT_TIME_LIMIT, || {
            let response = get_me(server, &[("origin", origin)])?;
            let allowed = response.header("access-control-allow-origin").unwrap_or_default().to_owned();
            ensure!(allowed.is_empty(), "pages of {allowed} may read it");
            status_in(&response, &[200, 403])
        });
    }
    report.attack("a Host of another site", DEFAULT_TIME_LIMIT, || host(server));
    report.group("fields that users may not set");
    for (field, value) in PROTECTED_FIELDS {
        report.attack(field, DEFAULT_TIME_LIMIT, || {
            let mut new = json!({
                "email": format!("{}@example.org", field.replace('_', "-")), "password": PASSWORD,
                "display_name": "Mallory",
            });
            new[*field] = json!(value);
            let registered = server.call("POST", "/api/v1/auth/register", None, &new)?;
            ensure!(registered.status == 422, "registered with {}", format_response(&registered));
            let changed = server.call("PATCH", "/api/v1/me", eve, &json!({ *field: value }))?;
            status_in(&changed, &[422])
        });
    }
}

fn get_me(server: &AttackedServer, more: &[(&str, &str)]) -> Result<RawResponse> {
    server.call_with("GET", "/api/v1/me", &server.eve, more, &Value::Null)
}

/// Sends a forged Host header. A cacheable response must not contain this host, and no response may redirect
/// to it.
fn host(server: &AttackedServer) -> Result<String> {
    for path in ["/", "/api-docs", "/swagger", "/openapi.json", "/docs", "/api/health"] {
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: evil.example\r\nx-forwarded-host: worse.example\r\nconnection: close\r\n\r\n"
        );
        let response = send(server.address(), head.as_bytes())?;
        let body = String::from_utf8_lossy(&response.body).into_owned();
        let names = |text: &str| text.contains("evil.example") || text.contains("worse.example");
        ensure!(!response.headers.iter().any(|(_, value)| names(value)), "a header of {path} names it");
        let is_kept = !["no-store", "private"]
            .iter()
            .any(|word| response.header("cache-control").is_some_and(|value| value.contains(word)));
        ensure!(!body.contains("worse.example"), "{path} believes X-Forwarded-Host");
        ensure!(!(names(&body) && is_kept), "{path} contains it and may be cached");
    }
    Ok("no cacheable response contains it".to_owned())
}
