//! Context of a running check: the deployment, synthetic accounts, and the recorder of evidence.

use std::sync::Arc;

use serde_json::Value;

use crate::evidence::EvidenceRecorder;
use crate::{Client, Counters, Deployment, Shortfall};

const UNLISTED_REMEDIATION: &str = "run it from an address that server.admin_addresses lists";

/// Context of one running check.
#[derive(Debug)]
pub struct Run {
    deployment: Arc<Deployment>,
    notes: EvidenceRecorder,
}

/// Synthetic account of this run, signed in.
#[derive(Clone, Debug)]
pub struct SyntheticAccount {
    /// User id.
    pub id: String,
    /// E-mail address.
    pub email: String,
    /// Password.
    pub password: String,
    /// Display name.
    pub name: String,
    /// Access token from registration.
    pub access_token: String,
    /// Refresh token from registration, unless a check has used it.
    pub refresh_token: String,
    /// Client that sends requests as this user.
    pub client: Client,
}

impl Run {
    pub(crate) fn new(deployment: Arc<Deployment>, notes: EvidenceRecorder) -> Self {
        Self { deployment, notes }
    }

    /// Returns a client that is not signed in.
    pub fn anonymous(&self) -> Client {
        self.deployment.client(self.notes.clone())
    }

    /// Returns the account called `name` in this run. All checks that pass the same name share the account.
    /// Names consist of letters, digits and dashes.
    ///
    /// # Errors
    /// Returns [`Shortfall::Unmeasured`] if registration fails.
    pub async fn account(&self, name: &str) -> Result<SyntheticAccount, Shortfall> {
        let account = self.deployment.account(name, &self.notes).await?;
        Ok(SyntheticAccount {
            client: self.anonymous().with_token(&account.access_token),
            id: account.id,
            email: account.email,
            password: account.password,
            name: account.name,
            access_token: account.access_token,
            refresh_token: account.refresh_token,
        })
    }

    /// Returns a client that is signed in as an administrator.
    ///
    /// # Errors
    /// Returns [`Shortfall::Unmeasured`] if no administrator was given or the log-in fails.
    pub async fn admin(&self) -> Result<Client, Shortfall> {
        let token = self.deployment.admin_token(&self.notes).await?;
        Ok(self.anonymous().with_token(&token))
    }

    /// Returns the facts that the server reports to administrators.
    ///
    /// # Errors
    /// Returns a [`Shortfall`] if no administrator was given or the request fails.
    pub async fn facts(&self) -> Result<Value, Shortfall> {
        self.get_as_admin("/api/v1/admin/facts").await
    }

    /// Returns the audit entries that were written under a request id, oldest first. At most 100.
    ///
    /// # Errors
    /// Returns a [`Shortfall`] if no administrator was given or the request fails.
    pub async fn audit_entries(&self, request_id: &str) -> Result<Vec<Value>, Shortfall> {
        let path = format!("/api/v1/audit?limit=100&request_id={request_id}");
        let mut response = self.get_as_admin(&path).await?;
        let mut entries: Vec<Value> = serde_json::from_value(response["items"].take()).unwrap_or_default();
        entries.reverse();
        Ok(entries)
    }

    /// Sends a GET request as an administrator and returns the JSON body.
    ///
    /// # Errors
    /// Returns [`Shortfall::Unmeasured`] if no administrator was given or this address may not administer,
    /// and [`Shortfall::Fails`] if the status is not 200.
    pub async fn get_as_admin(&self, path: &str) -> Result<Value, Shortfall> {
        let response = self.admin().await?.get(path).await?;
        if response.code().is_some_and(|code| code == "address_not_listed") {
            return Err(Shortfall::unmeasured(
                "administration is not open to this address",
                UNLISTED_REMEDIATION,
            ));
        }
        Ok(response.expect(200)?.json())
    }

    /// Returns the URL of the first directly reachable node, or the target's URL. The counters of one node
    /// then cover all requests sent to it.
    pub fn node(&self) -> &str {
        let target = self.deployment.target();
        target.other_nodes.first().unwrap_or(&target.url)
    }

    /// Returns the current counters of [`Run::node`].
    ///
    /// # Errors
    /// Returns a [`Shortfall`] if `/api/metrics` does not return 200.
    pub async fn counters(&self) -> Result<Counters, Shortfall> {
        let response = self.anonymous().with_base_url(self.node()).get("/api/metrics").await?.expect(200)?;
        Ok(Counters::read(&response.text()))
    }

    /// Returns the OpenAPI document that the deployment serves.
    ///
    /// # Errors
    /// Returns a [`Shortfall`] if the deployment serves none.
    pub async fn document(&self) -> Result<Arc<Value>, Shortfall> {
        self.deployment.document(&self.notes).await
    }

    /// Returns the deployment.
    pub fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    /// Returns a marker that is unique to this run, to search for later.
    pub fn marker(&self, name: &str) -> String {
        format!("{name}-{}", self.deployment.run_marker())
    }

    /// Records a measured value.
    pub fn record(&self, name: &str, value: impl Into<Value>) {
        self.notes.record(name, value.into());
    }
}
