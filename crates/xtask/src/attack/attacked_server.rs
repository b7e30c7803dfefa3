//! The server under attack and the accounts that the attacks use.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::wire::{self, RawResponse};
use crate::kith::{Kith, Start};

pub const PASSWORD: &str = "correct horse battery staple";

/// Signed-in account on the attacked server.
#[derive(Clone, Debug)]
pub struct TestAccount {
    pub id: String,
    pub email: String,
    pub token: String,
    pub refresh: String,
}

/// Running server under attack with four accounts: an administrator, the partners `ada` and `ben`, and `eve`,
/// a stranger.
pub struct AttackedServer {
    pub start: Start,
    pub kith: Kith,
    pub admin: TestAccount,
    /// Partner of `ben`.
    pub ada: TestAccount,
    pub ben: TestAccount,
    /// User without any relation to the others.
    pub eve: TestAccount,
}

impl AttackedServer {
    /// Starts the server, registers the accounts and pairs `ada` with `ben`.
    pub fn new(start: Start) -> Result<Self> {
        let kith = Kith::start(&start)?;
        let at = kith.address;
        let admin = first_admin(at, &start).context("the first administrator")?;
        let [ada, ben, eve] = ["ada", "ben", "eve"].map(|name| register(at, name));
        let server = Self { start, kith, admin, ada: ada?, ben: ben?, eve: eve? };
        let to_ben = json!({ "to": { "user_id": server.ben.id } });
        let sent = server.post(&server.ada, "/api/v1/partners/requests", &to_ben)?.expect(201)?;
        let accept = format!("/api/v1/partners/requests/{}/accept", text(&sent["id"])?);
        server.call("POST", &accept, Some(&server.ben.token), &Value::Null)?.expect(200)?;
        Ok(server)
    }

    pub fn address(&self) -> SocketAddr {
        self.kith.address
    }

    /// Registers another account.
    pub fn register(&self, name: &str) -> Result<TestAccount> {
        register(self.address(), name)
    }

    /// Sends a request with a JSON body and returns the response. If `body` is null, no body is sent.
    pub fn call(&self, method: &str, path: &str, token: Option<&str>, body: &Value) -> Result<RawResponse> {
        call(self.address(), method, path, token, body)
    }

    pub fn get(&self, by: &TestAccount, path: &str) -> Result<RawResponse> {
        self.call("GET", path, Some(&by.token), &Value::Null)
    }

    pub fn post(&self, by: &TestAccount, path: &str, body: &Value) -> Result<RawResponse> {
        self.call("POST", path, Some(&by.token), body)
    }

    /// Sends a request with additional headers.
    pub fn call_with(
        &self,
        method: &str,
        path: &str,
        by: &TestAccount,
        more: &[(&str, &str)],
        body: &Value,
    ) -> Result<RawResponse> {
        let body = (!body.is_null()).then(|| body.to_string().into_bytes());
        wire::send(self.address(), &wire::request(method, path, Some(&by.token), more, body.as_deref()))
    }

    /// Creates an API key with these scopes and returns the key.
    pub fn api_key(&self, name: &str, scopes: &[&str]) -> Result<String> {
        let body = json!({ "name": name, "scopes": scopes });
        let made = self.post(&self.admin, "/api/v1/admin/api-keys", &body)?.expect(201)?;
        text(&made["key"]).with_context(|| format!("no key in {made}"))
    }
}

/// Sends a request with a JSON body to the server `at` and returns the response. If `body` is null, no body
/// is sent.
pub fn call(
    at: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: &Value,
) -> Result<RawResponse> {
    let body = (!body.is_null()).then(|| body.to_string().into_bytes());
    wire::send(at, &wire::request(method, path, token, &[], body.as_deref()))
}

/// Registers an account with the address `NAME@example.org`.
pub fn register(at: SocketAddr, name: &str) -> Result<TestAccount> {
    let email = format!("{name}@example.org");
    let body = json!({ "email": email, "password": PASSWORD, "display_name": name });
    let response = call(at, "POST", "/api/v1/auth/register", None, &body)?.expect(201)?;
    parse_account(&response, email)
}

fn first_admin(at: SocketAddr, start: &Start) -> Result<TestAccount> {
    let email = "root@example.org".to_owned();
    let mut create = start.command(&["admin", "create", "--email", &email]);
    let mut create = create.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().context("cannot run kith")?;
    let mut input = create.stdin.take().context("no input")?;
    writeln!(input, "{PASSWORD}")?;
    drop(input);
    ensure!(create.wait()?.success(), "`kith admin create` failed");
    let body = json!({ "email": email, "password": PASSWORD });
    let response = call(at, "POST", "/api/v1/auth/login", None, &body)?.expect(200)?;
    parse_account(&response, email)
}

fn parse_account(response: &Value, email: String) -> Result<TestAccount> {
    Ok(TestAccount {
        id: text(&response["user"]["id"])?,
        email,
        token: text(&response["access_token"])?,
        refresh: text(&response["refresh_token"])?,
    })
}

/// Returns a JSON value as a string. Fails if the value is not a string.
pub fn text(value: &Value) -> Result<String> {
    value.as_str().map(str::to_owned).with_context(|| format!("{value} is not a string"))
}
