//! The binary itself: how it starts, what it refuses to start with, and how it stops while people use it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use kith_store::testing::TestDatabase;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::support::{Client, Engine, PASSWORD};

/// Longer than any start or stop takes; reached only when one is broken.
const PATIENCE: Duration = Duration::from_secs(30);
/// What targets.md gives a stop under load.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// `kith serve` in a process of its own; killed when dropped.
struct Kith {
    child: Child,
    addr: SocketAddr,
    /// Held open, so that what else it says on standard output has somewhere to go.
    _stdout: BufReader<ChildStdout>,
}

fn kith(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kith"));
    command.env_clear().current_dir(folder).arg("serve").args(args).arg("--data").arg(folder);
    command.env("KITH__AUTH__PASSWORD_MEMORY_KIB", "8").env("KITH__AUTH__PASSWORD_ITERATIONS", "1");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Kith {
    /// Starts it and waits for the line that says where it listens.
    fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::inherit()).spawn().expect("a process");
        let mut stdout = BufReader::new(child.stdout.take().expect("standard output"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("a line");
        let addr = line.split("http://").nth(1).and_then(|rest| {
            let addr = rest.split(|c: char| c.is_whitespace() || c == '/').next()?;
            addr.parse().ok()
        });
        let Some(addr) = addr else {
            child.kill().expect("a process of ours");
            panic!("no address in {line:?}");
        };
        Self { child, addr, _stdout: stdout }
    }

    fn terminate(&self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).expect("a process of ours");
    }

    async fn wait(mut self) -> ExitStatus {
        let waited = tokio::task::spawn_blocking(move || self.child.wait().expect("a process of ours"));
        tokio::time::timeout(PATIENCE, waited).await.expect("it ends").expect("no panic")
    }
}

impl Drop for Kith {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs it to its end, which has to be a failure, and returns what it said on standard error.
fn refusal(mut command: Command) -> String {
    let mut child = command.stdout(Stdio::null()).spawn().expect("a process");
    let mut said = String::new();
    child.stderr.take().expect("standard error").read_to_string(&mut said).expect("text");
    let status = child.wait().expect("a process of ours");
    assert!(!status.success(), "it started; it said {said}");
    said
}

#[tokio::test]
async fn it_starts_with_one_command_and_serves() {
    let database = TestDatabase::sqlite();
    let folder = database.folder().expect("a folder");
    let kith = Kith::start(kith(folder, &["--listen", "127.0.0.1:0"]));
    let client = Client::new([kith.addr]);
    client.get("/readyz").await.expect(200);
    let body = json!({ "email": "ada@example.org", "password": PASSWORD, "display_name": "Ada" });
    let answer = client.post("/api/v1/auth/register", body).await.expect(201);

    kith.terminate();
    assert!(kith.wait().await.success());

    // What it acknowledged is there after the next start.
    let kith = Kith::start(self::kith(folder, &["--listen", "127.0.0.1:0"]));
    let body = json!({ "email": "ada@example.org", "password": PASSWORD });
    let again = Client::new([kith.addr]).post("/api/v1/auth/login", body).await.expect(200);
    assert_eq!(again["user"], answer["user"]);
}

/// Registers people one after the other until an answer ends its connection, and says how many answers it got.
/// An answer that does not come, or not whole, is a panic.
async fn load(addr: SocketAddr, worker: usize) -> usize {
    let client = Client::new([addr]);
    let mut answers = 0;
    loop {
        let email = format!("w{worker}n{answers}@example.org");
        let body = json!({ "email": email, "password": PASSWORD, "display_name": "Somebody" });
        let answer = client.post("/api/v1/auth/register", body).await;
        let last = answer.header("connection") == Some("close");
        answer.expect(201);
        answers += 1;
        if last {
            return answers;
        }
    }
}

/// Nobody who was heard goes without an answer.
#[expect(clippy::disallowed_methods, reason = "measures how long the stop takes")]
async fn stops_under_load(engine: Engine) {
    if !engine.is_chosen() {
        return;
    }
    let database = engine.database().await;
    let elsewhere = TestDatabase::sqlite();
    let folder = database.folder().or(elsewhere.folder()).expect("a folder");
    let mut command = kith(folder, &["--listen", "127.0.0.1:0"]);
    command.env("KITH__DATABASE__URL", database.url());
    let kith = Kith::start(command);

    let loads: Vec<_> = (0..16).map(|worker| tokio::spawn(load(kith.addr, worker))).collect();
    // The stop comes in the midst of work: others have got answers when this one has got fifty.
    let client = Client::new([kith.addr]);
    for _ in 0..50 {
        let body = json!({ "email": "w0n0@example.org", "password": PASSWORD });
        assert!([200, 401].contains(&client.post("/api/v1/auth/login", body).await.status));
    }
    let asked = Instant::now();
    kith.terminate();
    let answers = tokio::time::timeout(PATIENCE, join_all(loads)).await.expect("every connection is ended");
    let answers: usize = answers.into_iter().map(|load| load.expect("complete answers")).sum();
    assert!(kith.wait().await.success());
    let took = asked.elapsed();
    assert!(took < STOP_WITHIN, "the stop took {took:?}");
    assert!(answers > 16, "only {answers} answers");
    println!("stopped in {took:.1?} after {answers} answers, all complete");
}

#[tokio::test]
async fn it_stops_under_load_on_sqlite() {
    stops_under_load(Engine::Sqlite).await;
}

#[tokio::test]
async fn it_stops_under_load_on_postgres() {
    stops_under_load(Engine::Postgres).await;
}

#[test]
fn a_folder_in_use_says_by_whom() {
    let database = TestDatabase::sqlite();
    let folder = database.folder().expect("a folder");
    let first = Kith::start(kith(folder, &["--listen", "127.0.0.1:0"]));
    let said = refusal(kith(folder, &["--listen", "127.0.0.1:0"]));
    assert!(said.contains("in use by") && said.contains(&first.child.id().to_string()), "{said}");
}

#[test]
fn a_taken_port_is_named() {
    let database = TestDatabase::sqlite();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = listener.local_addr().expect("an address").to_string();
    let said = refusal(kith(database.folder().expect("a folder"), &["--listen", &taken]));
    assert!(said.contains(&taken), "{said}");
}

#[test]
fn a_key_that_does_not_exist_is_fatal() {
    let database = TestDatabase::sqlite();
    let folder = database.folder().expect("a folder");
    let mut command = kith(folder, &["--listen", "127.0.0.1:0"]);
    command.env("KITH__SERVER__LISTENN", "127.0.0.1:0");
    let said = refusal(command);
    assert!(said.contains("KITH__SERVER__LISTENN"), "{said}");

    std::fs::write(folder.join("kith.toml"), "[server]\nlisten_on = \"127.0.0.1:0\"\n").expect("a file");
    let said = refusal(kith(folder, &["--listen", "127.0.0.1:0"]));
    assert!(said.contains("server.listen_on") && said.contains("kith.toml"), "{said}");
}
