//! Server inside this process that uses the database of the real server. Its clock is set manually and starts
//! in the past, so that the demo data gets a history.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use kith_kernel::{Clock, ManualClock, Sources, SystemRandom, TimeOrderedIds, Timestamp, days, minutes};
use kith_platform::http::InProcess;
use kith_platform::{App, MaintenanceError, Program, StartError};
use serde_json::{Value, json};
use thiserror::Error;

use super::{PASSWORD, email};

/// Age at which an access token is replaced by a new one. It is shorter than the lifetime of a token.
const TOKEN_RENEWAL_AGE: Duration = minutes(10);
const MAX_RESPONSE_BYTES: usize = 1024 * 1024;

/// Error of creating the demo data.
#[derive(Debug, Error)]
pub enum DemoError {
    /// A request was rejected.
    #[error("cannot create the demo data: {step} returned {response}")]
    Refused {
        /// Method and path of the request.
        step: String,
        /// Status and body of the response.
        response: String,
    },
    /// The database failed.
    #[error("cannot create the demo data: {0}")]
    Store(#[from] kith_store::Error),
    /// The in-process server did not start.
    #[error("cannot create the demo data: {0}")]
    Start(#[from] StartError),
    /// A job that was due failed.
    #[error("cannot create the demo data: {0}")]
    Maintenance(MaintenanceError),
}

pub(super) struct BackdatedServer {
    app: App,
    client: InProcess,
    clock: Arc<ManualClock>,
    present: Timestamp,
    users: HashMap<&'static str, DemoSession>,
}

struct DemoSession {
    id: String,
    token: String,
    at: Timestamp,
}

impl BackdatedServer {
    /// Creates a server on the database of `app`. Its clock starts `begins_days_ago` days before that of
    /// `app`.
    pub async fn of(app: &App, begins_days_ago: u64) -> Result<Self, DemoError> {
        let present = app.sources.clock.now();
        let clock = Arc::new(ManualClock::at(present - days(begins_days_ago)));
        let sources = Sources {
            clock: clock.clone(),
            ids: Arc::new(TimeOrderedIds::new(SystemRandom)),
            random: Arc::clone(&app.sources.random),
        };
        let mut config = app.config.clone();
        // All requests come from one client, which would exceed its rate limits.
        config.server.disable_limits = true;
        let program = Program { modules: app.modules, installed: app.installed, build: app.build };
        let app = App::new(app.db.clone(), config, sources, None, None, None, program).await?;
        Ok(Self { client: InProcess::new(&app), app, clock, present, users: HashMap::new() })
    }

    /// Advances the clock to `days_ago` days before the current time, and runs all work that is due.
    pub async fn advance_to_days_ago(&self, days_ago: u64) -> Result<(), DemoError> {
        let day = self.present - days(days_ago);
        self.clock.set(self.clock.now().max(day));
        self.app.run_maintenance().await.map_err(DemoError::Maintenance)
    }

    pub async fn register(&mut self, name: &'static str) -> Result<(), DemoError> {
        let body = json!({ "email": email(name), "password": PASSWORD, "display_name": name });
        let response = self.send(None, "POST", "/api/v1/auth/register", body).await?;
        self.remember(name, &response);
        let body = json!({ "email": email(name) });
        self.send(None, "POST", "/dev/verify-email", body).await.map(drop)
    }

    pub fn id(&self, name: &str) -> &str {
        &self.users[name].id
    }

    /// Sends a request as the user called `name`. Returns an error unless the status is a success.
    pub async fn send_as(
        &mut self,
        name: &'static str,
        method: &str,
        path: &str,
        body: Value,
    ) -> Result<Value, DemoError> {
        if self.clock.now().since(self.users[name].at) > TOKEN_RENEWAL_AGE {
            let body = json!({ "email": email(name), "password": PASSWORD });
            let response = self.send(None, "POST", "/api/v1/auth/login", body).await?;
            self.remember(name, &response);
        }
        // Advances the clock, so that each request has a different time.
        self.clock.advance(minutes(1));
        self.send(Some(&self.users[name].token), method, path, body).await
    }

    fn remember(&mut self, name: &'static str, response: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (id, token) = (text(&response["user"]["id"]), text(&response["access_token"]));
        self.users.insert(name, DemoSession { id, token, at: self.clock.now() });
    }

    async fn send(
        &self,
        token: Option<&str>,
        method: &str,
        path: &str,
        body: Value,
    ) -> Result<Value, DemoError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let response = self.client.answer(request.body(body).expect("the paths of the demo are valid")).await;
        let status = response.status();
        let bytes = to_bytes(response.into_body(), MAX_RESPONSE_BYTES).await.unwrap_or_default();
        let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if status.is_success() {
            return Ok(body);
        }
        Err(DemoError::Refused { step: format!("{method} {path}"), response: format!("{status}: {body}") })
    }
}
