//! Tests of `kith verify` with the binary, on servers in separate processes: exit codes, scores, and
//! readiness rows that need a log, a file or a special setting.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use kith_kernel::{Clock as _, SystemClock, days};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use crate::support::{SERVE, kith};

/// Server that logs to a file. Killed when dropped.
struct ServerProcess {
    child: Child,
    addr: SocketAddr,
    folder: TempDir,
}

impl ServerProcess {
    /// Starts a server with these environment variables, and with `--config` if a file is given.
    fn start(folder: TempDir, variables: &[(&str, &str)], config: Option<&Path>) -> Self {
        // Opened for appending, because other processes write to it too.
        let log = File::options().create(true).append(true).open(folder.path().join("kith.log"));
        let mut command = kith(folder.path(), SERVE);
        command.envs(variables.iter().copied()).stderr(Stdio::from(log.expect("a log")));
        command.args(config.into_iter().flat_map(|file| [Path::new("--config"), file]));
        let mut child = command.spawn().expect("a process");
        let mut lines = BufReader::new(child.stdout.take().expect("standard output")).lines();
        let line = lines.next().expect("a line").expect("text");
        let addr = line.split("http://").nth(1).and_then(|rest| rest.split([' ', '/']).next()?.parse().ok());
        // Drains the output, so that the server never blocks on it.
        std::thread::spawn(move || lines.count());
        Self { child, addr: addr.expect("an address"), folder }
    }

    fn fresh(variables: &[(&str, &str)]) -> Self {
        Self::start(tempfile::tempdir().expect("a folder"), variables, None)
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("kith.log")
    }

    fn verify(&self, args: &[&str]) -> Command {
        let mut command = kith(self.folder.path(), &["verify", "--format", "json"]);
        command.args(args);
        command
    }

    /// Returns the outcome of `row`, and the reason.
    fn judge(&self, row: &str, args: &[&str]) -> (String, String) {
        let (report, _) = report(self.verify(&[&["--only", row], args].concat()));
        let found = &report["rows"][0];
        let text = |key: &str| found[key].as_str().expect("text").to_owned();
        assert_eq!(text("id"), row);
        (text("result"), text("reason"))
    }

    fn passes(&self, row: &str, args: &[&str]) {
        let (result, why) = self.judge(row, args);
        assert_eq!(result, "pass", "{row}: {why}");
    }

    fn fails(&self, row: &str, args: &[&str], word: &str) {
        let (result, why) = self.judge(row, args);
        assert!(result == "fail" && why.contains(word), "{row} {result}: {why}");
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn report(mut command: Command) -> (Value, Option<i32>) {
    let done = command.output().expect("a process");
    let output = String::from_utf8(done.stdout).expect("text");
    let report = serde_json::from_str(&output);
    let report = report.unwrap_or_else(|e| panic!("{e}: {output}{}", String::from_utf8_lossy(&done.stderr)));
    (report, done.status.code())
}

/// GAT-01: exit code 0 means that the gate is open, 1 that rows fail, and 2 that rows could not be measured.
#[test]
fn exit_code_reflects_gate() {
    let server = ServerProcess::fresh(&[]);
    for (rows, code) in [
        (&["--only", "DAT-01"][..], 0),
        // Fails: the server runs in development mode.
        (&["--only", "DAT-01", "--only", "CFG-02"], 1),
        // Cannot be measured, because there is no attestation and there are no test results.
        (&["--only", "DAT-01", "--only", "GAT-01"], 2),
        (&["--only", "CFG-05"], 2),
        // A row of another gate does not close this gate.
        (&["--only", "DAT-01", "--only", "CFG-05"], 0),
    ] {
        let (report, exit) = report(server.verify(rows));
        assert_eq!(exit, Some(code), "{rows:?}: {:#}", report["gate"]);
        assert_eq!(report["gate"]["exit_code"], code);
        assert_eq!(report["gate"]["open"], code == 0);
    }
    let mut nowhere = server.verify(&["--only", "DAT-01", "--target", "http://127.0.0.1:1"]);
    assert_eq!(nowhere.stdout(Stdio::null()).status().expect("a process").code(), Some(2));
}

/// Proves the readiness requirements GAT-02, GAT-03.
#[test]
fn area_option_selects_security_rows() {
    let server = ServerProcess::fresh(&[]);
    let (report, _) = report(server.verify(&["--area", "security"]));
    let rows = report["rows"].as_array().expect("rows");
    let catalogue = kith_readiness::Catalogue::built_in();
    let all = catalogue.rows.iter().filter(|row| row.area() == "SEC").count();
    assert_eq!(rows.len(), all);
    assert!(rows.iter().all(|row| row["id"].as_str().is_some_and(|id| id.starts_with("SEC-"))));
    assert_score_matches_rows(&report);
}

#[test]
fn report_score_matches_rows() {
    let server = ServerProcess::fresh(&[]);
    let (report, _) = report(server.verify(&["--area", "CFG", "--area", "DAT"]));
    assert_score_matches_rows(&report);
    assert_eq!(report["scores"]["areas"].as_array().map(Vec::len), Some(2));
}

/// Recomputes the scores by the printed formula.
fn assert_score_matches_rows(report: &Value) {
    let rows = report["rows"].as_array().expect("rows");
    let counted = |area: &str| {
        let applies = rows.iter().filter(|row| {
            row["id"].as_str().is_some_and(|id| id.starts_with(area)) && row["result"] != "n/a"
        });
        let passes = applies.clone().filter(|row| row["result"] == "pass").count();
        (passes as u64, applies.count() as u64)
    };
    let counts = |score: &Value| {
        (score["pass"].as_u64().expect("a number"), score["applicable"].as_u64().expect("a number"))
    };
    let scores = &report["scores"];
    assert_eq!(counts(&scores["total"]), counted(""), "{scores:#}");
    let areas = scores["areas"].as_array().expect("areas");
    for area in areas {
        assert_eq!(counts(area), counted(&format!("{}-", area["id"].as_str().expect("an id"))), "{area}");
    }
    let lowest = areas.iter().map(|area| counts(area).0 as f64 / counts(area).1 as f64).fold(1.0, f64::min);
    let weakest = areas.iter().find(|area| area["id"] == scores["weakest"]).expect("the weakest");
    assert!((counts(weakest).0 as f64 / counts(weakest).1 as f64 - lowest).abs() < 1e-9, "{scores:#}");
    assert!(scores["formula"].as_str().is_some_and(|formula| formula.contains('÷')), "{scores:#}");
}

/// Proves the readiness requirement OBS-01.
#[test]
fn non_json_log_fails_readiness_row() {
    let server = ServerProcess::fresh(&[]);
    // The log is found automatically on the server's machine, and with `--logs`.
    server.passes("OBS-01", &[]);
    let log = server.log();
    server.passes("OBS-01", &["--logs", log.to_str().expect("text")]);
    let pretty = ServerProcess::fresh(&[("KITH__LOG__FORMAT", "pretty")]);
    pretty.fails("OBS-01", &[], "not JSON");
    let other = server.folder.path().join("other.log");
    File::create(&other).expect("a file");
    let (result, why) = pretty.judge("OBS-01", &["--logs", other.to_str().expect("text")]);
    assert_eq!(result, "unknown", "the log of another server is not judged: {why}");
}

/// OBS-02: a proxy in front of the server writes the requests that it passes on to the same log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_with_secrets_fails_readiness_row() {
    let server = ServerProcess::fresh(&[]);
    server.passes("OBS-02", &[]);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let proxy = format!("http://{}", listener.local_addr().expect("an address"));
    let (addr, log) = (server.addr, server.log());
    let passing = tokio::spawn(async move {
        while let Ok((caller, _)) = listener.accept().await {
            tokio::spawn(log_and_forward(caller, addr, log.clone()));
        }
    });
    let judged = tokio::task::spawn_blocking(move || {
        server.fails("OBS-02", &["--target", &proxy], "that was sent is in a line");
    });
    judged.await.expect("a verdict");
    passing.abort();
}

async fn log_and_forward(caller: TcpStream, server: SocketAddr, log: PathBuf) {
    let server = TcpStream::connect(server).await.expect("a server");
    let (mut request, mut response) = caller.into_split();
    let (mut answered, mut ask) = server.into_split();
    let back = tokio::spawn(async move { tokio::io::copy(&mut answered, &mut response).await });
    let mut bytes = vec![0; 65_536];
    while let Ok(n @ 1..) = tokio::io::AsyncReadExt::read(&mut request, &mut bytes).await {
        let mut log = File::options().append(true).open(&log).expect("a log");
        log.write_all(&bytes[..n]).expect("a line");
        if ask.write_all(&bytes[..n]).await.is_err() {
            break;
        }
    }
    // When one side closes, the other follows.
    let _ = ask.shutdown().await;
    let _ = back.await;
}

/// Proves the readiness requirement DRV-17.
#[test]
fn unsynced_database_fails_readiness_row() {
    ServerProcess::fresh(&[]).passes("DRV-17", &[]);
    ServerProcess::fresh(&[("KITH__DATABASE__SYNCHRONOUS", "off")]).fails(
        "DRV-17",
        &[],
        "synchronous is off",
    );
}

/// DEP-02: a debug build does not contain its commit.
#[test]
fn build_without_commit_fails_readiness_row() {
    if option_env!("KITH_COMMIT").is_none() {
        ServerProcess::fresh(&[]).fails("DEP-02", &[], "without a commit");
    }
}

/// Proves the readiness requirement CFG-05.
#[test]
fn differing_configuration_fails_readiness_row() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("meant.toml");
    std::fs::write(&file, "[log]\nlevel = \"warn\"\n").expect("a file");
    let mut command = kith(folder.path(), &["config", "check"]);
    assert!(command.arg("--config").arg(&file).stdout(Stdio::null()).status().expect("a process").success());
    // The test harness passes these settings to `serve` as flags, so the file must contain them for equal
    // digests.
    let server = ServerProcess::start(folder, &[], Some(&file));
    let named = ["--config", file.to_str().expect("text")];
    std::fs::write(
        &file,
        "[log]\nlevel = \"warn\"\n[server]\nlisten = \"127.0.0.1:0\"\ndisable_limits = true\n",
    )
    .expect("a file");
    server.passes("CFG-05", &named);
    std::fs::write(
        &file,
        "[log]\nlevel = \"info\"\n[server]\nlisten = \"127.0.0.1:0\"\ndisable_limits = true\n",
    )
    .expect("a file");
    server.fails("CFG-05", &named, "the configuration given here is");
    let (result, _) = server.judge("CFG-05", &[]);
    assert_eq!(result, "unknown", "the result is unknown without a configuration file");
}

/// SEC-17: the age of a secret is that of its file.
#[test]
fn old_secret_fails_readiness_row() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("{name} of a test, longer than 32 bytes")).expect("a file");
        path
    };
    let (secret, refresh_secret) = (write("one"), write("another"));
    let variables = [
        ("JWT_SECRET_FILE", secret.to_str().expect("text")),
        ("JWT_REFRESH_SECRET_FILE", refresh_secret.to_str().expect("text")),
    ];
    let server = ServerProcess::start(tempfile::tempdir().expect("a folder"), &variables, None);
    // The row also needs results of rotation tests, which have not run. The part that is measured passes.
    let (result, why) = server.judge("SEC-17", &[]);
    assert!(result == "unknown" && why == "no test results were given", "{result}: {why}");
    let long_ago = (SystemClock.now() - days(91)).as_millis();
    let long_ago = UNIX_EPOCH + Duration::from_millis(u64::try_from(long_ago).expect("after 1970"));
    File::options().append(true).open(&secret).expect("a file").set_modified(long_ago).expect("a date");
    server.fails("SEC-17", &[], "auth.jwt_secret has not changed for 91 days");
    let variables = [("JWT_SECRET", "in the environment, longer than 32 bytes")];
    let (result, why) = ServerProcess::fresh(&variables).judge("SEC-17", &[]);
    assert!(result == "unknown" && why.contains("auth.jwt_secret"), "{result}: {why}");
}

/// With an invalid declaration, `kith verify` exits with 2, because 1 would mean that the gate is closed.
#[test]
fn invalid_declaration_exits_with_2() {
    let server = ServerProcess::fresh(&[]);
    let file = server.folder.path().join("checks.toml");
    for (text, word) in [
        ("[[check]]\nid = \"SHOP-01\"\nrequirement = \"w\"\ngate = \"beta\"\nkind = \"guess\"", "guess"),
        (
            "[[check]]\nid = \"OPS-01\"\nkind = \"attestation\"\nstatement = \"\"\nowner = \"\"\nuntil = \"2027-01-01T00:00:00Z\"",
            "a statement and an owner",
        ),
        (
            "[[check]]\nid = \"SHOP-01\"\nrequirement = \"w\"\ngate = \"beta\"\nkind = \"http\"\npath = \"@other.example/\"",
            "begin with one slash",
        ),
    ] {
        std::fs::write(&file, text).expect("a file");
        let done = server.verify(&["--checks", file.to_str().expect("text")]).output().expect("a process");
        let output = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{output}");
        assert!(output.contains(word), "{word} is missing in {output}");
    }
}

/// Signed evidence lets an operator with only the binary judge rows that need evidence of the build.
#[test]
fn only_signed_evidence_is_accepted() {
    let server = ServerProcess::fresh(&[]);
    let folder = server.folder.path();
    let at = |name: &str| folder.join(name).to_str().expect("text").to_owned();
    std::fs::create_dir(folder.join("evidence")).expect("a folder");
    let artefact = r#"{"tool":"cargo xtask test","commit":"abc","dirty":false,"at":"2026-01-01T00:00:00Z","tests":{"a":"ok"}}"#;
    std::fs::write(folder.join("evidence/tests.json"), artefact).expect("a file");
    let kith = |args: &[&str]| {
        let done = crate::support::bare_kith().args(args).output().expect("a process");
        (done.status.code(), String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned())
    };
    let (code, key) = kith(&["evidence", "key", &at("seed")]);
    assert_eq!(code, Some(0), "{key}");
    let sign =
        ["evidence", "sign", "--key", &at("seed"), "--from", &at("evidence"), "--to", &at("signed.json")];
    let (code, output) = kith(&sign);
    assert!(code == Some(0) && output.contains("1 artefacts signed"), "{output}");

    let (signed, key) = (at("signed.json"), key.trim());
    let (_, without) = server.judge("ACC-03", &["--evidence", &at("nothing")]);
    assert!(without.contains("no test results"), "{without}");
    let (_, with) = server.judge("ACC-03", &["--evidence", &signed, "--evidence-key", key]);
    assert!(!with.contains("no test results"), "{with}");

    let altered = std::fs::read_to_string(&signed).expect("text").replace("abc", "abd");
    std::fs::write(&signed, altered).expect("a file");
    let done = server.verify(&["--evidence", &signed, "--evidence-key", key]).output().expect("a process");
    let output = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.code() == Some(2) && output.contains("does not verify"), "{output}");
    let done = server.verify(&["--evidence", &signed]).output().expect("a process");
    assert_eq!(done.status.code(), Some(2), "a signed file is rejected without a key");
}
