//! Clients that send requests during a round. Each sends one request after another until it is stopped or its
//! connection breaks.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::journal::{CoupleScenario, Journal, SentRequest, WriteOutcome};
use crate::load::Connection;
use crate::load::http::encode_request;

pub const CLIENTS: usize = 48;
/// Number of partner requests that a client sends between two couple scenarios.
const PLAIN_BETWEEN_COUPLES: usize = 6;

/// Connection of a client to the server.
struct ClientConnection {
    connection: Connection,
    journal: Rc<RefCell<Journal>>,
    /// False after the connection broke. The outcome of the request in progress is then unknown.
    up: bool,
}

/// Starts the clients. Each ends soon after `stop` is set.
pub fn start(
    server: SocketAddr,
    journal: &Rc<RefCell<Journal>>,
    stop: &Rc<Cell<bool>>,
) -> JoinSet<Result<()>> {
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let (journal, stop) = (Rc::clone(journal), Rc::clone(stop));
        clients.spawn_local(async move {
            // The server may be killed before all clients have connected.
            let Ok(connection) = Connection::open(server).await else { return Ok(()) };
            let mut line = ClientConnection { connection, journal, up: true };
            let mut turn = number;
            while line.up && !stop.get() {
                turn += 1;
                if turn % (PLAIN_BETWEEN_COUPLES + 1) == 0 {
                    line.couple().await?
                } else {
                    line.send_request().await?
                }
            }
            Ok(())
        });
    }
    clients
}

impl ClientConnection {
    async fn send_request(&mut self) -> Result<()> {
        let Some((from, to)) = self.journal.borrow_mut().next_pair() else { bail!("the pairs are used up") };
        let outcome = self.ask(from, to).await?;
        self.journal.borrow_mut().sent_requests.push(SentRequest { from, to, outcome });
        Ok(())
    }

    async fn couple(&mut self) -> Result<()> {
        let Some((sender, a, b)) = self.journal.borrow_mut().next_couple() else {
            return self.send_request().await;
        };
        let senders_request = SentRequest { from: sender, to: a, outcome: self.ask(sender, a).await? };
        let request_outcome = if self.up { self.ask(a, b).await? } else { WriteOutcome::NotApplied };
        let accepted = match &request_outcome {
            WriteOutcome::Acknowledged(id) => self.accept(b, id).await?,
            _ => WriteOutcome::NotApplied,
        };
        self.journal.borrow_mut().couples.push(CoupleScenario {
            a,
            b,
            senders_request,
            request_outcome,
            accepted,
        });
        Ok(())
    }

    async fn ask(&mut self, from: usize, to: usize) -> Result<WriteOutcome> {
        let request = {
            let journal = self.journal.borrow();
            let body = json!({"to": {"user_id": journal.accounts[to].id}}).to_string();
            let token = &journal.accounts[from].token;
            encode_request("POST", "/api/v1/partners/requests", Some(token), Some(body.as_bytes()))
        };
        self.record("request", &request, "/id").await
    }

    async fn accept(&mut self, by: usize, id: &str) -> Result<WriteOutcome> {
        let path = format!("/api/v1/partners/requests/{id}/accept");
        let request = encode_request("POST", &path, Some(&self.journal.borrow().accounts[by].token), None);
        self.record("bond", &request, "/bond/id").await
    }

    async fn record(&mut self, what: &str, request: &[u8], id_at: &str) -> Result<WriteOutcome> {
        let outcome = match self.connection.call(request).await {
            Ok(status) => judge(status, &self.connection.json(), id_at),
            Err(_) => {
                self.up = false;
                Ok(WriteOutcome::Unknown)
            }
        };
        let mut journal = self.journal.borrow_mut();
        let outcome = outcome.unwrap_or_else(|surprise| {
            journal.invalid_responses.push(surprise);
            WriteOutcome::Unknown
        });
        journal.record_outcome(what, &outcome)?;
        Ok(outcome)
    }
}

/// Returns the outcome of a write according to its response. Returns an error if Kith must not send such a
/// response.
fn judge(status: u16, body: &Value, id_at: &str) -> Result<WriteOutcome, String> {
    let id = body.pointer(id_at).and_then(Value::as_str);
    match (status, body["code"].as_str(), id) {
        (200..=299, _, Some(id)) => Ok(WriteOutcome::Acknowledged(id.to_owned())),
        (503, Some("outcome_unknown"), _) => Ok(WriteOutcome::Unknown),
        (503, _, _) => Ok(WriteOutcome::NotApplied),
        _ => Err(format!("{status}: {body}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_2xx_with_id_is_acknowledged() {
        let judge = |status, body| judge(status, &body, "/bond/id");
        assert_eq!(judge(200, json!({"bond": {"id": "x"}})), Ok(WriteOutcome::Acknowledged("x".into())));
        assert_eq!(judge(503, json!({"code": "outcome_unknown"})), Ok(WriteOutcome::Unknown));
        assert_eq!(judge(503, json!({"code": "unavailable"})), Ok(WriteOutcome::NotApplied));
        assert!(judge(200, json!({"bond": null})).is_err());
        assert!(judge(409, json!({"code": "conflict"})).is_err());
        assert!(judge(500, Value::Null).is_err());
    }
}
