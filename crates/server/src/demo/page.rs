//! The page at `/demo`, which shows two users side by side. Its files are embedded in the binary.

use std::sync::{Arc, LazyLock};

use axum::extract::Path;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use kith_kernel::{Problem, problems};
use kith_platform::{ApiResult, Asset, Routes, style_sheet_path};
use serde_json::{Value, json};
use utoipa_axum::routes;

use super::{PASSWORD, PEOPLE, email};

/// Content-Security-Policy of the page. It allows only files of this server, and no inline code.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);
const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const JSON: &str = "application/json";

static PAGE: LazyLock<Arc<Asset>> =
    LazyLock::new(|| Asset::new(HTML, include_str!("page.html").replace("{style}", &style_sheet_path())));
static FILES: LazyLock<[(&str, Arc<Asset>); 4]> = LazyLock::new(|| {
    [
        ("page.css", Asset::new(STYLE, include_str!("page.css"))),
        ("page.js", Asset::new(SCRIPT, include_str!("page.js"))),
        ("person.js", Asset::new(SCRIPT, include_str!("person.js"))),
        ("people.json", Asset::new(JSON, users().to_string())),
    ]
});

fn users() -> Value {
    let one = |name: &&str| json!({ "name": name, "email": email(name), "password": PASSWORD });
    PEOPLE.iter().map(one).collect()
}

pub(super) fn routes() -> Routes {
    Routes::new().routes(routes!(demo)).routes(routes!(demo_file))
}

/// Get the demo page
#[utoipa::path(
    get, path = "/demo",
    responses(
        (status = 200, description = "HTML page.", body = String, content_type = HTML),
        (status = 304, description = "Not modified: `If-None-Match` matches the ETag."),
    )
)]
async fn demo() -> Response {
    let mut response = PAGE.answer();
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, POLICY);
    response
}

/// Get a file of the demo page
#[utoipa::path(
    get, path = "/demo/{file}",
    params(("file" = String, Path, description = "Name of the file, as referenced by the page.")),
    responses(
        (status = 200, description = "Content of the file.",
            content((String = STYLE), (String = SCRIPT), (Value = JSON))),
        (status = 304, description = "Not modified: `If-None-Match` matches the ETag."),
    )
)]
async fn demo_file(Path(name): Path<String>) -> ApiResult<Response> {
    let found = FILES.iter().find(|(file, _)| *file == name);
    let (_, asset) =
        found.ok_or_else(|| Problem::new(&problems::NOT_FOUND, "No file of the demo page has this name."))?;
    Ok(asset.answer())
}
