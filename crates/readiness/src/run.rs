//! Context of a running check: access to the deployment and to synthetic accounts, and recording of evidence.

use std::sync::Arc;

use serde_json::Value;

use crate::evidence::EvidenceRecorder;
use crate::{Client, Counters, Deployment, Shortfall};

const UNLISTED_REMEDIATION: &str = "run it from an address that server.admin_addresses lists";

/// Context that is passed to a running check.
#[derive(Debug)]
pub struct Run {
    deployment: Arc<Deployment>,
    notes: EvidenceRecorder,
}

/// Synthetic account that was registered for this run and is signed in.
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
    /// Access token that the registration returned.
    pub access_token: String,
    /// Refresh token that the registration returned. A check may have used it already.
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

    /// Returns the account called `name` in this run. All checks that pass the same name get the same
    /// account. A name consists of letters, digits and dashes.
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

    /// Returns the facts that the server reports to administrators at `/api/v1/admin/facts`.
    ///
    /// # Errors
    /// Returns a [`Shortfall`] if no administrator was given or the request fails.
    pub async fn facts(&self) -> Result<Value, Shortfall> {
        self.get_as_admin("/api/v1/admin/facts").await
    }

    /// Returns the audit entries with this request id, oldest first. Returns at most 100 entries.
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
    /// Returns [`Shortfall::Unmeasured`] if no administrator was given or the server rejects administration
    /// from this address. Returns [`Shortfall::Fails`] if the status is not 200.
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

    /// Returns the URL of the first other node in the target, or else the URL of the target. If all requests
    /// of a check go to one node, the counters of this node include all of them.
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
    /// Returns a [`Shortfall`] if the deployment serves no OpenAPI document.
    pub async fn document(&self) -> Result<Arc<Value>, Shortfall> {
        self.deployment.document(&self.notes).await
    }

    /// Returns the deployment under test.
    pub fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    /// Returns a text that contains `name` and is unique to this run. A check can search for it later.
    pub fn marker(&self, name: &str) -> String {
        format!("{name}-{}", self.deployment.run_marker())
    }

    /// Records a measured value as evidence.
    pub fn record(&self, name: &str, value: impl Into<Value>) {
        self.notes.record(name, value.into());
    }
}
