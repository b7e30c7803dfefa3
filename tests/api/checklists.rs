//! Tests of `docs/from-the-checklists.md`, row by row: every path is requested, every variable set, every
//! command run.

use std::process::{Command, Stdio};

use kith_platform::config::{Config, Inputs};
use serde_json::json;
use tempfile::TempDir;

use crate::support::{PASSWORD, TestApp, bare_kith, on_every_engine, restore_limits, successful_stdout};

const PAGE: &str = include_str!("../../docs/from-the-checklists.md");
const SECRET: &str = "a secret of thirty-two bytes or more";
/// Number of requests that `ab` sends.
const AB_REQUESTS: u32 = 1000;

on_every_engine! {
    checklist_paths_are_served,
}

on_every_engine! {
    with super::with_limits;
    checklist_commands_work
}

fn with_limits(config: &mut Config) {
    restore_limits(config);
}

/// Returns the rows of the page: the text that a checklist prints, and the page's statement about it.
fn rows() -> Vec<(&'static str, &'static str)> {
    let lines = PAGE.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |"));
    let rows: Vec<_> = lines.map(|line| line.split_once("` | ").expect("two cells")).collect();
    let lines = PAGE.lines().filter(|line| line.starts_with('|')).count();
    // Each table has two heading lines.
    assert_eq!(rows.len(), lines - 2 * PAGE.matches("\n|---").count());
    rows
}

/// Returns the texts between backticks.
fn quoted(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.split('`').skip(1).step_by(2)
}

fn is_variable(text: &str) -> bool {
    text.contains('_') && text.chars().all(|c| c.is_ascii_uppercase() || c == '_')
}

/// Parses an operation such as `GET /api/health`.
fn as_operation(text: &'static str) -> Option<(&'static str, &'static str)> {
    text.split_once(' ').filter(|(_, path)| path.starts_with('/'))
}

/// DRV-41: each row works as printed or names a replacement, and a test covers its kind.
#[test]
fn each_row_works_or_names_replacement() {
    let rows = rows();
    assert!(rows.len() > 20, "{rows:?}");
    for (printed, here) in rows {
        let works = here.starts_with("works as printed");
        let walked = as_operation(printed).is_some()
            || is_variable(printed)
            || ["curl ", "ab "].iter().any(|program| printed.starts_with(program));
        let replaced = here.strip_prefix("replaced by `").is_some();
        assert!(works && walked || replaced, "{printed}: {here}");
    }
}

/// DRV-41: every path on the page succeeds, old and new.
async fn checklist_paths_are_served(app: &TestApp) {
    let operations = app.operations().await;
    let named = rows().into_iter().flat_map(|(printed, here)| [printed].into_iter().chain(quoted(here)));
    let named: std::collections::BTreeSet<_> = named.filter_map(as_operation).collect();
    assert!(named.len() > 20, "{named:?}");
    for (n, (method, path)) in named.into_iter().enumerate() {
        let operation = operations
            .iter()
            .find(|one| one.method.as_str() == method && one.path.trim_end_matches('/') == path);
        let operation = operation.unwrap_or_else(|| panic!("{method} {path} is not served"));
        let request = app.request_for(operation, &format!("row{n}")).await;
        let path = request.path(operation);
        let response = request.by.send(operation.method.clone(), &path, request.bytes()).await;
        assert!(operation.successes.contains(&response.status), "{method} {path}: {response:?}");
    }
}

/// DRV-41: each variable is read from the environment, and with `_FILE` from the file that it names.
#[test]
fn checklist_variables_are_read() {
    let named = rows().into_iter().flat_map(|(printed, here)| [printed].into_iter().chain(quoted(here)));
    let named: Vec<_> = named.filter(|name| is_variable(name)).collect();
    assert_eq!(named.len(), 6, "{named:?}");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("secret");
    std::fs::write(&file, format!("{SECRET}\n")).expect("a file");
    for name in named {
        let is_file = name.ends_with("_FILE");
        let value = if is_file { file.clone().into() } else { SECRET.into() };
        let inputs = Inputs { file: Some("".into()), env: vec![(name.into(), value)], flags: vec![] };
        let config = Config::load(&inputs, &[]).expect("a configuration");
        let reports = config.secret_reports();
        let set: Vec<_> = reports.iter().filter(|one| one.length == "32 bytes or more").collect();
        let [only] = set[..] else { panic!("{name}: {reports:?}") };
        assert_eq!(only.origin.to_string(), format!("environment variable {name}"));
    }
}

/// DRV-41: every replacement command exists.
#[test]
fn replacement_commands_exist() {
    let folder = tempfile::tempdir().expect("a folder");
    let named = rows().into_iter().flat_map(|(_, here)| quoted(here));
    let named: Vec<_> = named.filter_map(|text| text.strip_prefix("kith ")).collect();
    assert!(named.len() > 2, "{named:?}");
    for command in named {
        let mut kith = bare_kith();
        kith.current_dir(&folder).args(command.split(' ')).arg("--help");
        successful_stdout(kith);
    }
}

/// Runs a command as printed, except for the address, and returns its output.
fn type_in(command: &str, app: &TestApp, folder: &TempDir, token: &str) -> String {
    let command = command.replace("localhost:8080", &app.addr().to_string());
    let mut bash = Command::new("bash");
    bash.args(["-euc", &command]).current_dir(folder).env("TOKEN", token).stderr(Stdio::piped());
    tokio::task::block_in_place(|| successful_stdout(bash))
}

/// DRV-41: a load test with one token and one address reaches the limit; requests within the limit succeed.
async fn checklist_commands_work(app: &TestApp) {
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("request.json"), json!({ "partnerId": ben.id }).to_string())
        .expect("a file");
    let body = json!({ "email": ada.email, "password": PASSWORD });
    let session = app.anonymous().post("/api/v1/auth/login", body).await.expect(200);
    let token = session["access_token"].as_str().expect("a token");
    let typed =
        |program: &'static str| rows().into_iter().filter(move |(printed, _)| printed.starts_with(program));
    for (command, _) in typed("curl ") {
        let output = type_in(command, app, &folder, token);
        let sound = if command.ends_with("health") {
            output.contains(r#""status":"pass""#)
        } else {
            output.ends_with("# EOF\n")
        };
        assert!(sound, "{command}: {output}");
    }
    let mut limits = Vec::new();
    for (command, here) in typed("ab ") {
        let output = type_in(command, app, &folder, token);
        let number = |of: &str| {
            let line = output.lines().find_map(|line| line.strip_prefix(of)).unwrap_or("0");
            line.trim().parse::<u32>().expect("a number")
        };
        let succeeded = AB_REQUESTS - number("Non-2xx responses:");
        assert_eq!(number("Complete requests:"), AB_REQUESTS, "{output}");
        assert!(
            here.contains(&format!(" {succeeded} a minute")),
            "{succeeded} requests succeeded, but the page says {here}"
        );
        limits.push(succeeded);
    }
    assert_eq!(limits, [60, 600]);
    // All rejections came from a limit, and all successes created one request.
    let limited = async |policy: &str| {
        app.metric(&format!(r#"kith_http_requests_limited_total{{policy="{policy}"}}"#)).await
    };
    assert_eq!((limited("partner-lists").await, limited("requests").await), (940.0, 400.0));
    assert_eq!(app.metric(r#"kith_events_total{kind="partner_request.created"}"#).await, 1.0);
}
