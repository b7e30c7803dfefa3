//! The deployment under test: connection, administrator access, and synthetic accounts.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kith_kernel::{Random, SystemRandom};
use serde_json::{Value, json};
use tokio::sync::{Mutex, OnceCell};

use crate::evidence::Notes;
use crate::{Client, Refused, Shortfall};

/// Domain of the synthetic accounts. `.invalid` is reserved (RFC 2606), so Kith purges such accounts as soon
/// as they are deleted.
const SYNTHETIC_DOMAIN: &str = "kith-verify.invalid";
/// Timeout of each request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(35);
const REGISTRATION_REMEDIATION: &str = "find out why the registration is rejected, and try again";
const NO_ADMIN_REASON: &str = "no administrator was given";
const ADMIN_REMEDIATION: &str = "run it on the server's machine, or name an administrator with --admin and \
                                 set KITH_VERIFY_PASSWORD to the password";

/// Address of a deployment and everything that is known about it before the run.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// Base URL, such as `https://api.example.org`.
    pub url: String,
    /// Base URLs of other nodes of the same deployment.
    pub others: Vec<String>,
    /// PEM certificate of an additional trusted certificate authority.
    pub authority: Option<Vec<u8>>,
    /// Administrator account to use.
    pub admin: Option<AdminAccess>,
    /// Path of the server's log file, in JSON lines.
    pub logs: Option<PathBuf>,
    /// Digest of the configuration that was given on this machine.
    pub configuration: Option<String>,
    /// Expected interface of the build that runs `kith verify`, if it also contains the server.
    pub own: Option<OwnBuild>,
    /// Identity of this machine, to compare with `process.machine` in `/api/v1/admin/facts`.
    pub machine: Option<String>,
}

/// Interface of the build that runs `kith verify`.
#[derive(Clone, Debug)]
pub struct OwnBuild {
    /// Release, as `releaseId` in `/api/health` shows it.
    pub release: String,
    /// OpenAPI document, including the operations of development mode.
    pub document: Arc<Value>,
    /// Names of all settings, such as `server.listen`.
    pub settings: Vec<String>,
    /// Roles with their permissions.
    pub roles: Vec<RolePermissions>,
}

/// Role with the permissions that it grants.
#[derive(Clone, Debug)]
pub struct RolePermissions {
    /// Name of the role in the API.
    pub name: &'static str,
    /// Names of the permissions, as in the OpenAPI document's security requirements.
    pub permissions: Vec<&'static str>,
}

/// Credentials of an administrator.
#[derive(Clone)]
pub struct AdminAccess {
    /// E-mail address.
    pub email: String,
    /// Password.
    pub password: String,
    /// True if the account was created for this run and is deleted after it.
    pub is_made_up: bool,
}

impl std::fmt::Debug for AdminAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminAccess").field("email", &self.email).finish_non_exhaustive()
    }
}

impl AdminAccess {
    /// Creates credentials of a synthetic administrator with a random address and password.
    pub fn made_up() -> Self {
        Self { email: format!("admin-{}@{SYNTHETIC_DOMAIN}", word()), password: word(), is_made_up: true }
    }
}

/// Connected deployment under test.
#[derive(Debug)]
pub struct Deployment {
    target: Target,
    http: reqwest::Client,
    /// Random word that distinguishes the accounts of this run from those of other runs.
    run: String,
    people: Mutex<HashMap<String, Arc<OnceCell<Account>>>>,
    admin_token: OnceCell<String>,
    document: OnceCell<Arc<Value>>,
}

/// Synthetic account.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) id: String,
    pub(crate) email: String,
    pub(crate) password: String,
    pub(crate) name: String,
    pub(crate) access_token: String,
    pub(crate) refresh_token: String,
}

impl Deployment {
    /// Prepares a client for `target`. Sends no request.
    ///
    /// # Errors
    /// Returns [`Refused`] if the TLS configuration is invalid.
    pub fn new(target: Target) -> Result<Self, Refused> {
        let refused = |error: reqwest::Error| Refused { asked: target.url.clone(), why: error.to_string() };
        let mut http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .tls_info(true)
            .timeout(REQUEST_TIMEOUT)
            .user_agent(concat!("kith-verify/", env!("CARGO_PKG_VERSION")));
        if let Some(pem) = &target.authority {
            http = http.add_root_certificate(reqwest::Certificate::from_pem(pem).map_err(refused)?);
        }
        Ok(Self {
            http: http.build().map_err(refused)?,
            run: word(),
            people: Mutex::default(),
            admin_token: OnceCell::new(),
            document: OnceCell::new(),
            target,
        })
    }

    /// Returns the target.
    pub fn target(&self) -> &Target {
        &self.target
    }

    pub(crate) fn client(&self, notes: Notes) -> Client {
        Client::new(self.http.clone(), &self.target.url, notes)
    }

    /// Returns the word that distinguishes this run's accounts and markers.
    pub(crate) fn run_word(&self) -> &str {
        &self.run
    }

    /// Returns the account called `name` in this run. Registers it on first use.
    pub(crate) async fn account(&self, name: &str, notes: &Notes) -> Result<Account, Shortfall> {
        let cell = Arc::clone(self.people.lock().await.entry(name.to_owned()).or_default());
        cell.get_or_try_init(|| self.register(name, notes)).await.cloned()
    }

    async fn register(&self, name: &str, notes: &Notes) -> Result<Account, Shortfall> {
        let (email, password) = (format!("{name}-{}@{SYNTHETIC_DOMAIN}", self.run), word());
        let body = json!({ "email": email, "password": password, "display_name": name });
        let answer = self.client(notes.clone()).post("/api/v1/auth/register", body).await?;
        // A failed registration says nothing about the row, so the check counts as unmeasured.
        let answer = answer.expect(201).map_err(|shortfall| match shortfall {
            Shortfall::Fails(found) => Shortfall::unmeasured(
                format!("the registration of a synthetic account failed: {found}"),
                REGISTRATION_REMEDIATION,
            ),
            other => other,
        })?;
        Ok(Account {
            id: answer.text_at("/user/id")?,
            access_token: answer.text_at("/access_token")?,
            refresh_token: answer.text_at("/refresh_token")?,
            name: name.to_owned(),
            email,
            password,
        })
    }

    /// Returns an access token of the administrator.
    pub(crate) async fn admin_token(&self, notes: &Notes) -> Result<String, Shortfall> {
        let Some(admin) = &self.target.admin else {
            return Err(Shortfall::unmeasured(NO_ADMIN_REASON, ADMIN_REMEDIATION));
        };
        let token = self.admin_token.get_or_try_init(async || {
            let body = json!({ "email": admin.email, "password": admin.password });
            let answer = self.client(notes.clone()).post("/api/v1/auth/login", body).await?;
            match answer.status {
                200 => answer.text_at("/access_token"),
                status => {
                    let why = format!("the log-in of the administrator returned {status}");
                    Err(Shortfall::unmeasured(why, ADMIN_REMEDIATION))
                }
            }
        });
        token.await.cloned()
    }

    /// Returns the OpenAPI document that the deployment serves.
    pub(crate) async fn document(&self, notes: &Notes) -> Result<Arc<Value>, Shortfall> {
        let document = self.document.get_or_try_init(async || {
            let answer = self.client(notes.clone()).get("/openapi.json").await?.expect(200)?;
            Ok::<_, Shortfall>(Arc::new(answer.json()))
        });
        document.await.cloned()
    }

    /// Deletes all synthetic accounts. Returns those that could not be deleted, each with the reason.
    pub(crate) async fn clean_up(&self) -> Vec<String> {
        let notes = Notes::default();
        let client = self.client(notes.clone());
        let people: Vec<_> = self.people.lock().await.drain().collect();
        let mut left = Vec::new();
        let known = people.into_iter().filter_map(|(_, cell)| cell.get().cloned());
        for account in known {
            let at_hand = client.with_token(&account.access_token);
            // The token from registration saves a log-in, if a check has not revoked it.
            if matches!(take_leave(&at_hand, &account.password).await, Ok(202)) {
                continue;
            }
            if let Err(why) = delete(&client, &account.email, &account.password).await {
                left.push(format!("{} ({why})", account.email));
            }
        }
        if let Some(admin) = self.target.admin.as_ref().filter(|admin| admin.is_made_up)
            && let Err(why) = delete(&client, &admin.email, &admin.password).await
        {
            left.push(format!("{} ({why})", admin.email));
        }
        left
    }
}

/// Logs in and deletes the account.
async fn delete(client: &Client, email: &str, password: &str) -> Result<(), String> {
    let credentials = json!({ "email": email, "password": password });
    let answer = client.post("/api/v1/auth/login", credentials).await.map_err(|e| e.to_string())?;
    let token = match answer.text_at("/access_token") {
        Ok(token) if answer.status == 200 => token,
        _ => return Err(format!("log-in returned {}", answer.status)),
    };
    match take_leave(&client.with_token(&token), password).await? {
        202 => Ok(()),
        status => Err(format!("deletion returned {status}")),
    }
}

/// Deletes the account that `client` is signed in as. Returns the status of the response.
async fn take_leave(client: &Client, password: &str) -> Result<u16, String> {
    let answer = client.delete("/api/v1/me", json!({ "password": password })).await;
    answer.map(|answer| answer.status).map_err(|error| error.to_string())
}

/// Returns 26 random letters and digits (130 bits).
fn word() -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnopqrstuvwxyz2345678";
    let mut bytes = [0; 26];
    SystemRandom.fill(&mut bytes);
    bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect()
}
