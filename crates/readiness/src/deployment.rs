//! The deployment that a run judges: connection, administrator access, and synthetic accounts.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kith_kernel::{Random, SystemRandom};
use serde_json::{Value, json};
use tokio::sync::{Mutex, OnceCell};

use crate::evidence::EvidenceRecorder;
use crate::{Client, RequestError, Shortfall};

/// Domain of the synthetic accounts. `.invalid` is reserved (RFC 2606), so Kith purges such accounts as soon
/// as they are deleted.
const SYNTHETIC_DOMAIN: &str = "kith-verify.invalid";
/// Timeout of each request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(35);
const REGISTRATION_REMEDIATION: &str = "find out why the registration is rejected, and try again";
const NO_ADMIN_REASON: &str = "no administrator was given";
const ADMIN_REMEDIATION: &str = "run it on the server's machine, or name an administrator with --admin and \
                                 set KITH_VERIFY_PASSWORD to the password";

/// Address of a deployment, and information about it that is known before the run.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// Base URL, such as `https://api.example.org`.
    pub url: String,
    /// Base URLs of other nodes of the same deployment.
    pub other_nodes: Vec<String>,
    /// PEM certificate of an additional trusted certificate authority.
    pub authority: Option<Vec<u8>>,
    /// Administrator account to use.
    pub admin: Option<AdminAccess>,
    /// Path of the server's log file, in JSON lines.
    pub logs: Option<PathBuf>,
    /// Digest of the configuration on this machine, to compare with that of the server.
    pub configuration: Option<String>,
    /// Interface of the build that runs `kith verify`, if this build contains the server.
    pub own_build: Option<OwnBuild>,
    /// Identity of this machine, to compare with `process.machine` in `/api/v1/admin/facts`.
    pub machine: Option<String>,
}

/// Interface of the build that runs `kith verify`, to compare with that of the deployment.
#[derive(Clone, Debug)]
pub struct OwnBuild {
    /// Name of the release, in the form of `releaseId` in `/api/health`.
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
    /// True if the account was created for this run. It is then deleted afterwards.
    pub is_synthetic: bool,
}

impl std::fmt::Debug for AdminAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminAccess").field("email", &self.email).finish_non_exhaustive()
    }
}

impl AdminAccess {
    /// Creates credentials of a synthetic administrator with a random address and password.
    pub fn synthetic() -> Self {
        Self {
            email: format!("admin-{}@{SYNTHETIC_DOMAIN}", random_word()),
            password: random_word(),
            is_synthetic: true,
        }
    }
}

/// Deployment under test, with clients and synthetic accounts.
#[derive(Debug)]
pub struct Deployment {
    target: Target,
    http: reqwest::Client,
    /// Random word in the names of this run's accounts, which distinguishes them from those of other runs.
    run_marker: String,
    accounts: Mutex<HashMap<String, Arc<OnceCell<AccountCredentials>>>>,
    admin_token: OnceCell<String>,
    document: OnceCell<Arc<Value>>,
}

/// Credentials of a synthetic account.
#[derive(Clone, Debug)]
pub(crate) struct AccountCredentials {
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
    /// Returns [`RequestError`] if the TLS configuration is invalid.
    pub fn new(target: Target) -> Result<Self, RequestError> {
        let refused =
            |error: reqwest::Error| RequestError { request: target.url.clone(), reason: error.to_string() };
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
            run_marker: random_word(),
            accounts: Mutex::default(),
            admin_token: OnceCell::new(),
            document: OnceCell::new(),
            target,
        })
    }

    /// Returns the target.
    pub fn target(&self) -> &Target {
        &self.target
    }

    pub(crate) fn client(&self, notes: EvidenceRecorder) -> Client {
        Client::new(self.http.clone(), &self.target.url, notes)
    }

    /// Returns the random word that is part of this run's account names and markers.
    pub(crate) fn run_marker(&self) -> &str {
        &self.run_marker
    }

    /// Returns the account called `name` in this run. Registers it when it is requested for the first time.
    pub(crate) async fn account(
        &self,
        name: &str,
        notes: &EvidenceRecorder,
    ) -> Result<AccountCredentials, Shortfall> {
        let cell = Arc::clone(self.accounts.lock().await.entry(name.to_owned()).or_default());
        cell.get_or_try_init(|| self.register(name, notes)).await.cloned()
    }

    async fn register(&self, name: &str, notes: &EvidenceRecorder) -> Result<AccountCredentials, Shortfall> {
        let (email, password) = (format!("{name}-{}@{SYNTHETIC_DOMAIN}", self.run_marker), random_word());
        let body = json!({ "email": email, "password": password, "display_name": name });
        let response = self.client(notes.clone()).post("/api/v1/auth/register", body).await?;
        // A failed registration does not show that the row fails, so the check counts as unmeasured.
        let response = response.expect(201).map_err(|shortfall| match shortfall {
            Shortfall::Fails(found) => Shortfall::unmeasured(
                format!("the registration of a synthetic account failed: {found}"),
                REGISTRATION_REMEDIATION,
            ),
            other => other,
        })?;
        Ok(AccountCredentials {
            id: response.text_at("/user/id")?,
            access_token: response.text_at("/access_token")?,
            refresh_token: response.text_at("/refresh_token")?,
            name: name.to_owned(),
            email,
            password,
        })
    }

    /// Returns an access token of the administrator. Logs in when it is requested for the first time.
    pub(crate) async fn admin_token(&self, notes: &EvidenceRecorder) -> Result<String, Shortfall> {
        let Some(admin) = &self.target.admin else {
            return Err(Shortfall::unmeasured(NO_ADMIN_REASON, ADMIN_REMEDIATION));
        };
        let token = self.admin_token.get_or_try_init(async || {
            let body = json!({ "email": admin.email, "password": admin.password });
            let response = self.client(notes.clone()).post("/api/v1/auth/login", body).await?;
            match response.status {
                200 => response.text_at("/access_token"),
                status => {
                    let reason = format!("the log-in of the administrator returned {status}");
                    Err(Shortfall::unmeasured(reason, ADMIN_REMEDIATION))
                }
            }
        });
        token.await.cloned()
    }

    /// Returns the OpenAPI document that the deployment serves.
    pub(crate) async fn document(&self, notes: &EvidenceRecorder) -> Result<Arc<Value>, Shortfall> {
        let document = self.document.get_or_try_init(async || {
            let response = self.client(notes.clone()).get("/openapi.json").await?.expect(200)?;
            Ok::<_, Shortfall>(Arc::new(response.json()))
        });
        document.await.cloned()
    }

    /// Deletes all synthetic accounts. Returns those that could not be deleted, each with the reason.
    pub(crate) async fn clean_up(&self) -> Vec<String> {
        let notes = EvidenceRecorder::default();
        let client = self.client(notes.clone());
        let accounts: Vec<_> = self.accounts.lock().await.drain().collect();
        let mut undeleted = Vec::new();
        let known = accounts.into_iter().filter_map(|(_, cell)| cell.get().cloned());
        for account in known {
            let signed_in = client.with_token(&account.access_token);
            // Uses the token from the registration, which makes a log-in unnecessary unless a check has
            // revoked the token.
            if matches!(delete_own_account(&signed_in, &account.password).await, Ok(202)) {
                continue;
            }
            if let Err(reason) = delete(&client, &account.email, &account.password).await {
                undeleted.push(format!("{} ({reason})", account.email));
            }
        }
        if let Some(admin) = self.target.admin.as_ref().filter(|admin| admin.is_synthetic)
            && let Err(reason) = delete(&client, &admin.email, &admin.password).await
        {
            undeleted.push(format!("{} ({reason})", admin.email));
        }
        undeleted
    }
}

/// Logs in with the given credentials and deletes the account.
async fn delete(client: &Client, email: &str, password: &str) -> Result<(), String> {
    let credentials = json!({ "email": email, "password": password });
    let response = client.post("/api/v1/auth/login", credentials).await.map_err(|e| e.to_string())?;
    let token = match response.text_at("/access_token") {
        Ok(token) if response.status == 200 => token,
        _ => return Err(format!("log-in returned {}", response.status)),
    };
    match delete_own_account(&client.with_token(&token), password).await? {
        202 => Ok(()),
        status => Err(format!("deletion returned {status}")),
    }
}

/// Deletes the account of the user as whom `client` is signed in. Returns the status of the response.
async fn delete_own_account(client: &Client, password: &str) -> Result<u16, String> {
    let response = client.delete("/api/v1/me", json!({ "password": password })).await;
    response.map(|response| response.status).map_err(|error| error.to_string())
}

/// Returns a random word of 26 letters and digits (130 bits).
fn random_word() -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnopqrstuvwxyz2345678";
    let mut bytes = [0; 26];
    SystemRandom.fill(&mut bytes);
    bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect()
}
