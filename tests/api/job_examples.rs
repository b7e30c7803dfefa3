//! Tests of the example workers in other languages against a real server.

use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::jobs::enqueue;
use crate::support::{ApiKey, Engine, MAX_WAIT, TestApp};

const JOBS: &str = "/api/v1/jobs";

#[tokio::test]
async fn python_example_worker_works() {
    run_example("python3", "worker.py").await;
}

#[tokio::test]
async fn node_example_worker_works() {
    run_example("node", "worker.mjs").await;
}

/// Runs the guide's commands in a shell.
#[tokio::test]
async fn job_guide_commands_work() {
    const GUIDE: &str = include_str!("../../docs/jobs.md");
    let blocks = GUIDE.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let lines = blocks
        .into_iter()
        .find(|block| block.starts_with("ask()"))
        .expect("the commands to paste")
        .to_owned();
    TestApp::run(
        Engine::Sqlite,
        |_| {},
        async |app| {
            let admin = app.admin("admin").await;
            let key = app.api_key(&admin, &["jobs.read", "jobs.write", "jobs.work"]).await;
            let mut bash = Command::new("bash");
            bash.args(["-euo", "pipefail", "-c", &lines]);
            bash.env("KITH", format!("http://{}", app.addr())).env("KITH_API_KEY", &key.text);
            let ran =
                tokio::task::spawn_blocking(move || bash.output().expect("bash")).await.expect("no panic");
            let output = String::from_utf8_lossy(&ran.stdout).into_owned();
            assert!(ran.status.success(), "{output} {}", String::from_utf8_lossy(&ran.stderr));
            let lines: Vec<_> = output.lines().collect();
            assert!(
                lines[0].contains("\"kind\":\"greet\"") && lines[0].contains("\"name\":\"Ada\""),
                "{output}"
            );
            assert!(lines.iter().any(|line| line.contains("\"state\":\"completed\"")), "{output}");
            assert_eq!(output.matches("Hello, Ada!").count(), 2, "{output}");
            assert!(lines.contains(&"event: job"), "{output}");
        },
    )
    .await;
}

/// Running worker process. Killed when its test ends.
struct Worker(Child);

impl Worker {
    fn start(program: &str, example: &str, app: &TestApp, key: &ApiKey) -> Self {
        let path = format!("{}/../../examples/{example}", env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new(program);
        command.args([&*path, "greetings"]).stdout(Stdio::null());
        command.env("KITH", format!("http://{}", app.addr())).env("KITH_API_KEY", &key.text);
        let child = command.spawn();
        Self(child.unwrap_or_else(|error| panic!("{program}: {error}; `cargo xtask setup` installs it")))
    }

    /// Asks the worker to stop and waits for its end.
    async fn stop(self) {
        let id = Pid::from_raw(i32::try_from(self.0.id()).expect("an id")).expect("an id");
        kill_process(id, Signal::TERM).expect("a process");
        let ended = tokio::task::spawn_blocking(move || {
            let mut worker = self;
            worker.0.wait().map(|status| status.success())
        });
        let ended = tokio::time::timeout(MAX_WAIT, ended).await.expect("the worker stops");
        assert!(ended.expect("no panic").expect("an end"), "the worker stopped with an error");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn run_example(program: &str, example: &str) {
    TestApp::run(
        Engine::Sqlite,
        |_| {},
        async |app| {
            let admin = app.admin("admin").await;
            let boss = app.api_key(&admin, &["jobs.read", "jobs.write"]).await.client;
            let key = app.api_key(&admin, &["jobs.work"]).await;
            let put = async |kind: &str, payload: Value| {
                let once = json!({ "max_attempts": 1 });
                enqueue(
                    &boss,
                    json!({ "kind": kind, "queue": "greetings", "payload": payload, "retry": once }),
                )
                .await
            };
            let greet = put("greet", json!({ "name": "Ada" })).await;
            let count = put("count", json!({ "to": 3 })).await;
            let broken = put("greet", json!({})).await;
            let unknown = put("juggle", Value::Null).await;
            let worker = Worker::start(program, example, app, &key);
            let ended = async |id: i64| {
                let show = async || loop {
                    let job = boss.get(&format!("{JOBS}/{id}")).await.expect(200);
                    if job["finished_at"].is_string() {
                        return job;
                    }
                    tokio::task::yield_now().await;
                };
                tokio::time::timeout(MAX_WAIT, show()).await.expect("the job finishes in time")
            };
            let greeted = ended(greet).await;
            assert_eq!(greeted["result"], json!({ "greeting": "Hello, Ada!" }));
            assert_eq!(greeted["log"][0]["line"], "greeting Ada");
            let counted = ended(count).await;
            assert_eq!((&counted["state"], &counted["result"]), (&json!("completed"), &json!(3)));
            assert_eq!(ended(broken).await["state"], "dead");
            let unknown = ended(unknown).await;
            assert_eq!(
                (&unknown["state"], &unknown["errors"][0]["error"]),
                (&json!("dead"), &json!("this worker has no handler for juggle"))
            );
            // The worker waits for jobs that are enqueued later.
            let late = put("greet", json!({ "name": "Ben" })).await;
            assert_eq!(ended(late).await["result"]["greeting"], "Hello, Ben!");
            worker.stop().await;
        },
    )
    .await;
}
