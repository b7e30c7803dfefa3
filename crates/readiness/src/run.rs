//! What a check has at hand: the deployment, people made up for it, and a sheet for its notes.

use std::sync::Arc;

use serde_json::Value;

use crate::evidence::Notes;
use crate::{Client, Counters, Deployment, Shortfall};

const UNLISTED: &str = "run it from an address that server.admin_addresses lists";

/// One check under way.
#[derive(Debug)]
pub struct Run {
    deployment: Arc<Deployment>,
    notes: Notes,
}

/// Somebody made up for this run, signed in.
#[derive(Clone, Debug)]
pub struct Person {
    /// Their id.
    pub id: String,
    /// Their address.
    pub email: String,
    /// Their password.
    pub password: String,
    /// Their name, as others see it.
    pub name: String,
    /// What they registered with.
    pub access_token: String,
    /// What renews it, unless a check has used it.
    pub refresh_token: String,
    /// Asks in their name.
    pub client: Client,
}

impl Run {
    pub(crate) fn new(deployment: Arc<Deployment>, notes: Notes) -> Self {
        Self { deployment, notes }
    }

    /// Nobody who is known.
    pub fn anonymous(&self) -> Client {
        self.deployment.client(self.notes.clone())
    }

    /// The person called `name` in this run: every check that asks for that name gets the same one. Letters, digits
    /// and dashes.
    ///
    /// # Errors
    /// If nobody can register.
    pub async fn person(&self, name: &str) -> Result<Person, Shortfall> {
        let account = self.deployment.account(name, &self.notes).await?;
        Ok(Person {
            client: self.anonymous().with_token(&account.access_token),
            id: account.id,
            email: account.email,
            password: account.password,
            name: account.name,
            access_token: account.access_token,
            refresh_token: account.refresh_token,
        })
    }

    /// An administrator.
    ///
    /// # Errors
    /// If none was given, or they cannot sign in.
    pub async fn admin(&self) -> Result<Client, Shortfall> {
        let token = self.deployment.admin_token(&self.notes).await?;
        Ok(self.anonymous().with_token(&token))
    }

    /// What the server says of itself to administrators.
    ///
    /// # Errors
    /// If no administrator was given, or it does not tell.
    pub async fn facts(&self) -> Result<Value, Shortfall> {
        self.as_admin("/api/v1/admin/facts").await
    }

    /// The entries of the audit log that were written under a request's id, the oldest first.
    ///
    /// # Errors
    /// If no administrator was given, or it does not tell.
    pub async fn audit_of(&self, request_id: &str) -> Result<Vec<Value>, Shortfall> {
        let path = format!("/api/v1/audit?limit=100&request_id={request_id}");
        let mut answer = self.as_admin(&path).await?;
        let mut entries: Vec<Value> = serde_json::from_value(answer["items"].take()).unwrap_or_default();
        entries.reverse();
        Ok(entries)
    }

    /// What an administrator reads there.
    ///
    /// # Errors
    /// If no administrator was given, this address may not administer, or it does not tell.
    pub async fn as_admin(&self, path: &str) -> Result<Value, Shortfall> {
        let answer = self.admin().await?.get(path).await?;
        if answer.code().is_some_and(|code| code == "address_not_listed") {
            return Err(Shortfall::unmeasured("administration is not open to this address", UNLISTED));
        }
        Ok(answer.expect(200)?.json())
    }

    /// A node that is asked directly, where one is known, so that what it counts is what was asked of it.
    pub fn node(&self) -> &str {
        let target = self.deployment.target();
        target.others.first().unwrap_or(&target.url)
    }

    /// What that node counts now.
    ///
    /// # Errors
    /// If it does not tell.
    pub async fn counters(&self) -> Result<Counters, Shortfall> {
        let answer = self.anonymous().at(self.node()).get("/api/metrics").await?.expect(200)?;
        Ok(Counters::read(&answer.text()))
    }

    /// The OpenAPI document that the deployment serves.
    ///
    /// # Errors
    /// If it serves none.
    pub async fn document(&self) -> Result<Arc<Value>, Shortfall> {
        self.deployment.document(&self.notes).await
    }

    /// The deployment.
    pub fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    /// A word that occurs nowhere else, to be looked for afterwards.
    pub fn mark(&self, name: &str) -> String {
        format!("{name}-{}", self.deployment.run_word())
    }

    /// Notes a figure.
    pub fn figure(&self, name: &str, value: impl Into<Value>) {
        self.notes.figure(name, value.into());
    }
}
