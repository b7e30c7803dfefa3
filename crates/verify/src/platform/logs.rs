//! Checks of the log: lines are JSON, the level can be changed, and lines contain no secrets.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use kith_kernel::{Clock as _, SystemClock};
use kith_readiness::{Check, Client, Run, Shortfall};
use serde_json::{Value, json};

use super::machine::log_file;

pub(super) const CHECKS: &[Check] = &[
    Check {
        row: "OBS-01",
        description: "reads the last 1,000 lines of the log, changes the level and restores it, and checks which \
               requests are logged",
        remediation: "set log.format to \"json\"",
        runs_last: true,
        run: |run| Box::pin(check_log_format(run)),
    },
    Check {
        row: "OBS-02",
        description: "sends a marked password, address and token in failing requests, and searches the log for them",
        remediation: "find the line in the log, and remove the caller's data from it in the code",
        runs_last: true,
        run: |run| Box::pin(check_no_secrets_logged(run)),
    },
];

const SAMPLE_LINES: usize = 1_000;
const SAMPLE_BYTES: u64 = 2 * 1024 * 1024;
const LEVELS: [&str; 5] = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"];
/// Maximum time until a log line appears. It usually takes about 20 ms.
const LOG_TIMEOUT: Duration = Duration::from_secs(3);

/// Log file of the server, with the length that it had when it was opened.
struct ServerLog {
    file: File,
    from: u64,
}

impl ServerLog {
    fn open(path: &Path) -> Result<Self, Shortfall> {
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
        match opened {
            Ok((from, file)) => Ok(Self { file, from }),
            Err(error) => {
                let reason = format!("cannot read {}: {error}", path.display());
                Err(Shortfall::unmeasured(reason, "name the server's log file with --logs"))
            }
        }
    }

    fn read(&mut self, from: u64) -> Result<String, Shortfall> {
        let mut bytes = Vec::new();
        let read = self.file.seek(SeekFrom::Start(from)).and_then(|_| self.file.read_to_end(&mut bytes));
        let cannot = |error| Shortfall::unmeasured(format!("cannot read the log: {error}"), "try again");
        read.map_err(cannot)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Returns the text that was written since the file was opened.
    fn read_new_text(&mut self) -> Result<String, Shortfall> {
        self.read(self.from)
    }

    /// Waits until the new text contains `word`. Returns false if it does not within [`LOG_TIMEOUT`].
    async fn wait_for(&mut self, word: &str) -> Result<bool, Shortfall> {
        let begin = SystemClock.now();
        let mut interval = tokio::time::interval(Duration::from_millis(20));
        while !self.read_new_text()?.contains(word) {
            if SystemClock.now().since(begin) > LOG_TIMEOUT {
                return Ok(false);
            }
            interval.tick().await;
        }
        Ok(true)
    }

    /// Returns the last complete lines that were written before the file was opened.
    fn tail(&mut self) -> Result<Vec<String>, Shortfall> {
        let from = self.from.saturating_sub(SAMPLE_BYTES);
        let text = self.read(from)?;
        // The first and the last line may be incomplete, so they are removed.
        let text = if from > 0 { text.split_once('\n').map_or("", |(_, rest)| rest) } else { &*text };
        let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
        let lines: Vec<_> = complete.lines().map(str::to_owned).collect();
        Ok(lines[lines.len().saturating_sub(SAMPLE_LINES)..].to_vec())
    }
}

const LEVEL: &str = "/api/v1/admin/log-level";

/// Sets the log level, runs `work`, and restores the previous level even if `work` fails.
async fn with_log_level<T>(
    admin: &Client,
    level: &str,
    work: impl Future<Output = Result<T, Shortfall>>,
) -> Result<T, Shortfall> {
    let before = admin.get(LEVEL).await?.expect(200)?.text_at("/level")?;
    let done = match set_level(admin, level).await {
        Ok(()) => work.await,
        Err(shortfall) => Err(shortfall),
    };
    set_level(admin, &before).await?;
    let now = admin.get(LEVEL).await?.expect(200)?.text_at("/level")?;
    let done = done?;
    if now != before {
        return Err(Shortfall::fails(format!("the level was {before}, but is {now} after it was restored")));
    }
    Ok(done)
}

async fn set_level(admin: &Client, level: &str) -> Result<(), Shortfall> {
    admin.put(LEVEL, json!({ "level": level })).await?.expect(200).map(drop)
}

/// Sends a request with the request id `id`, which can then be found in the log.
async fn send_marked_request(run: &Run, id: &str) -> Result<(), Shortfall> {
    run.anonymous().with("x-request-id", id).get("/api/v1/ping").await?.expect(204).map(drop)
}

async fn check_log_format(run: &Run) -> Result<String, Shortfall> {
    let path = log_file(run).await?;
    let mut log = ServerLog::open(&path)?;
    let admin = run.admin().await?;
    let (logged, suppressed, logged_again) =
        (run.marker("heard"), run.marker("unheard"), run.marker("again"));
    let levels = async {
        send_marked_request(run, &logged).await?;
        if !log.wait_for(&logged).await? {
            return Err(Shortfall::unmeasured(
                format!("{} does not contain the requests of this run", path.display()),
                "name the log of the verified server with --logs",
            ));
        }
        set_level(&admin, "error").await?;
        send_marked_request(run, &suppressed).await?;
        set_level(&admin, "info").await?;
        send_marked_request(run, &logged_again).await?;
        let is_logged_again = log.wait_for(&logged_again).await?;
        Ok((is_logged_again, log.read_new_text()?.contains(&suppressed)))
    };
    let (is_logged_again, is_suppressed_logged) = with_log_level(&admin, "info", levels).await?;
    if is_suppressed_logged {
        return Err(Shortfall::fails("a request is logged at level error"));
    }
    if !is_logged_again {
        return Err(Shortfall::fails("requests are not logged after the level is back at info"));
    }
    let sample = ServerLog::open(&path)?.tail()?;
    run.record("lines", sample.len());
    let mut counts = serde_json::Map::new();
    for line in &sample {
        let parsed: Value = serde_json::from_str(line)
            .map_err(|_| Shortfall::fails(format!("a line is not JSON: {}", first_chars(line))))?;
        let level = parsed["level"].as_str().unwrap_or_default();
        if !LEVELS.contains(&level) || !parsed["timestamp"].is_string() {
            return Err(Shortfall::fails(format!(
                "a line has no level or no timestamp: {}",
                first_chars(line)
            )));
        }
        let count = counts.get(level).and_then(Value::as_u64).unwrap_or_default();
        counts.insert(level.to_owned(), (count + 1).into());
    }
    let levels: Vec<_> = counts.iter().map(|(level, count)| format!("{count} {level}")).collect();
    run.record("levels", Value::Object(counts.clone()));
    Ok(format!(
        "all {} lines of the sample are JSON with a level ({}); changes of the level took effect, and the \
         level was restored",
        sample.len(),
        levels.join(", ")
    ))
}

/// Returns the first 80 characters of a line, for use in a message. The line must not contain a secret.
fn first_chars(line: &str) -> String {
    line.chars().take(80).collect()
}

async fn check_no_secrets_logged(run: &Run) -> Result<String, Shortfall> {
    let path = log_file(run).await?;
    let mut log = ServerLog::open(&path)?;
    let admin = run.admin().await?;
    let markers = [run.marker("leaked-secret"), run.marker("leaked-address"), run.marker("leaked-token")];
    let (opening, closing) = (run.marker("opening"), run.marker("closing"));
    let sent = with_log_level(&admin, "info", async {
        send_marked_request(run, &opening).await?;
        let sent = probe(run, &markers).await?;
        send_marked_request(run, &closing).await?;
        let shown = log.wait_for(&closing).await? && log.read_new_text()?.contains(&opening);
        if shown {
            Ok(sent)
        } else {
            Err(Shortfall::unmeasured(
                format!("{} does not contain the requests of this run", path.display()),
                "name the log of the verified server with --logs",
            ))
        }
    })
    .await?;
    let new_text = log.read_new_text()?;
    let lines = new_text.lines().count();
    run.record("sent", sent);
    run.record("lines", lines);
    for (marker, what) in markers.iter().zip(["password", "address", "token"]) {
        if let Some(line) = new_text.lines().find(|line| line.contains(&**marker)) {
            let parsed: Value = serde_json::from_str(line).unwrap_or_default();
            let target = parsed["target"].as_str().unwrap_or("an unknown target").to_owned();
            return Err(Shortfall::fails(format!("the {what} that was sent is in a line of {target}")));
        }
    }
    Ok(format!(
        "{sent} requests contained a marked password, address or token; none of them is in the {lines} lines \
         logged since"
    ))
}

/// Sends requests that fail and contain the given markers. Returns the number of requests.
async fn probe(run: &Run, [secret, address, token]: &[String; 3]) -> Result<usize, Shortfall> {
    let anonymous = run.anonymous();
    let email = format!("{address}@kith-verify.invalid");
    let jwt = format!("eyJhbGciOiJFZERTQSJ9.{token}.{token}");
    let login = "/api/v1/auth/login";
    let refused = [
        anonymous.post(login, json!({ "email": email, "password": secret })).await?,
        anonymous.post(login, json!({ "email": email, "password": [secret] })).await?,
        anonymous
            .post(
                "/api/v1/auth/register",
                json!({ "email": address, "password": secret, "display_name": "x" }),
            )
            .await?,
        anonymous.post("/api/v1/auth/refresh", json!({ "refresh_token": token })).await?,
        anonymous
            .send(
                Method::POST,
                login,
                Bytes::from(format!("{{\"email\": \"{email}\", \"password\": \"{secret}")),
            )
            .await?,
        anonymous.with_token(&jwt).get("/api/v1/me").await?,
        anonymous.with_token(token).get("/api/v1/me").await?,
        anonymous.with("authorization", &format!("Basic {secret}")).get("/api/v1/me").await?,
        anonymous.with("cookie", &format!("session={token}")).get("/api/v1/me").await?,
        anonymous.get(&format!("/api/v1/me?token={token}&email={email}")).await?,
        anonymous.get(&format!("/api/v1/{token}/{address}")).await?,
        anonymous.get(&format!("/api/v1/partners/invites/{token}")).await?,
    ];
    if let Some(let_in) =
        refused.iter().find(|response| !(400..500).contains(&response.status) && response.status != 200)
    {
        return Err(Shortfall::fails(format!(
            "{} returned {}",
            let_in.request.replace(&**token, "…").replace(&**address, "…"),
            let_in.status
        )));
    }
    Ok(refused.len())
}
