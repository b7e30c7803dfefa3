//! Tests of the demo: its data, the printed shell commands, and its page in a browser.

use std::path::Path;
use std::process::{Command, Stdio};

use kith_kernel::{Timestamp, days};
use kith_platform::config::Config;
use kith_store::testing::TestDatabase;
use serde_json::{Value, json};

use crate::support::{Browser, Engine, Kith, TestApp, kith_on, on_every_engine, successful_stdout};

/// Environment variable with a folder for screenshots of the page.
const SCREENSHOT_FOLDER: &str = "KITH_TEST_PICTURES";

const README: &str = include_str!("../../README.md");

on_every_engine! {
    with super::with_demo;
    page_shows_breakup_and_restoration,
    disabled_limits_fail_check_on_page,
    demo_accounts_have_documented_state,
    demo_page_is_self_contained,
}

on_every_engine! {
    demo_page_is_absent_without_demo_flag,
}

#[tokio::test]
async fn demo_data_is_created_once_on_sqlite() {
    demo_data_is_created_once(Engine::Sqlite).await;
}

#[tokio::test]
async fn demo_data_is_created_once_on_postgres() {
    demo_data_is_created_once(Engine::Pair).await;
}

#[tokio::test]
async fn demo_commands_work_on_sqlite() {
    demo_commands_work(Engine::Sqlite).await;
}

#[tokio::test]
async fn demo_commands_work_on_postgres() {
    demo_commands_work(Engine::Postgres).await;
}

fn with_demo(config: &mut Config) {
    config.server.demo = true;
}

/// Demo page in a browser, which shows both users side by side.
struct Page {
    browser: Browser,
    done: i64,
}

impl Page {
    fn open(app: &TestApp) -> Self {
        let mut browser = Browser::start(1200, 640);
        browser.open(&format!("http://{}/demo", app.addr()));
        let mut page = Self { browser, done: 0 };
        page.wait();
        page
    }

    /// Waits until the page has completed and rendered the last action. Returns the text of its log.
    fn wait(&mut self) -> String {
        self.done += 1;
        let shown = self.browser.run(&format!(
            "new Promise((shown) => {{
                 const look = () => Number(document.body.dataset.done) >= {} && shown(true);
                 new MutationObserver(look).observe(document.body, {{ attributes: true }});
                 look();
             }})",
            self.done
        ));
        assert_eq!(shown, true);
        self.text("#happened")
    }

    fn click(&mut self, selector: &str) -> String {
        self.browser.run(&format!("document.querySelector({selector:?}).click()"));
        self.wait()
    }

    fn type_in(&mut self, selector: &str, text: &str) {
        self.browser.run(&format!("document.querySelector({selector:?}).value = {text:?}"));
    }

    fn text(&mut self, selector: &str) -> String {
        let text = self.browser.run(&format!("document.querySelector({selector:?})?.textContent ?? ''"));
        text.as_str().expect("text").to_owned()
    }

    /// Returns the bond that both sides show.
    fn bond(&mut self) -> String {
        let both = self.browser.run("[left, right].map((side) => side.dataset.bond)");
        assert_eq!(both[0], both[1]);
        both[0].as_str().expect("the bond is a string").to_owned()
    }

    /// Returns the notes of the space, which both sides must show equally.
    fn notes(&mut self) -> Vec<String> {
        let notes = "[left, right].map((side) => [...side.querySelectorAll('[data-note]')].map((n) => n.textContent))";
        let both = self.browser.run(notes);
        assert_eq!(both[0], both[1]);
        serde_json::from_value(both[0].clone()).expect("texts")
    }

    fn write(&mut self, side: &str, text: &str) {
        self.type_in(&format!("{side} form input"), text);
        let responses = self.click(&format!("{side} [data-do=write]"));
        assert!(responses.contains("added a note"), "{responses}");
    }

    fn picture(&mut self, name: &str) {
        if let Some(folder) = std::env::var_os(SCREENSHOT_FOLDER) {
            let picture = self.browser.picture();
            std::fs::write(Path::new(&folder).join(name), picture).expect("the screenshot folder exists");
        }
    }
}

/// PRT-01: on the page, the two users form a bond, break up, and restore the bond.
async fn page_shows_breakup_and_restoration(app: &TestApp) {
    // Blocks in place, because the browser sends requests to servers of this process.
    tokio::task::block_in_place(|| break_up_and_restore(&mut Page::open(app)));
}

fn break_up_and_restore(page: &mut Page) {
    page.type_in("#left form input", "Shall we?");
    assert_eq!(page.click("#left [data-do=ask]"), "Ada sent Ben a partner request.");
    assert!(page.text("#right").contains("“Shall we?”"));
    let responses = page.click("#right [data-do=accept]");
    assert!(responses.contains("a new bond, with no notes"), "{responses}");
    let first = page.bond();
    assert_ne!(first, "");
    page.write("#left", "Tickets for the opera, row 7");
    page.write("#right", "Your keys are with my sister");
    let notes = ["Your keys are with my sister", "Tickets for the opera, row 7"];
    assert_eq!(page.notes(), notes);

    let responses = page.click("#left [data-do=part]");
    assert!(responses.starts_with("Ada ended the bond with Ben."), "{responses}");
    assert_eq!((page.bond(), page.notes()), (String::new(), vec![]));
    let responses = page.click("[data-pass='29d']");
    assert!(responses.starts_with("The server clock advanced by 29 days."), "{responses}");
    page.type_in("#right form input", "I was wrong.");
    assert_eq!(page.click("#right [data-do=ask]"), "Ben sent Ada a request to restore their bond.");
    let responses = page.click("#left [data-do=accept]");
    assert!(responses.contains("the same bond, with 2 notes in its shared space"), "{responses}");
    assert_eq!((page.bond(), page.notes()), (first.clone(), notes.map(str::to_owned).to_vec()));
    page.picture("demo.png");

    page.click("#right [data-do=part]");
    page.click("[data-pass='31d']");
    assert!(page.text("#left").contains("archived"));
    assert_eq!(page.click("#left [data-do=ask]"), "Ada sent Ben a partner request.");
    let responses = page.click("#right [data-do=accept]");
    assert!(responses.contains("a new bond, with no notes"), "{responses}");
    assert_eq!(page.notes(), Vec::<String>::new());
    let fresh = page.bond();
    assert!(!fresh.is_empty() && fresh != first, "{fresh}");
    assert_eq!(page.text("#problem"), "");

    // The page shows the API's own error texts.
    page.click("#left [data-do=part]");
    page.click("[data-pass='31d']");
    page.click("#left [data-do=ask]");
    page.click("#right [data-do=reject]");
    page.click("#left [data-do=ask]");
    let problem = page.text("#problem");
    assert!(problem.starts_with("409 request_cooldown_active: "), "{problem}");
}

/// SEC-03, GAT-01: the readiness check fails while rate limits are off, and passes when they are on again.
async fn disabled_limits_fail_check_on_page(app: &TestApp) {
    tokio::task::block_in_place(|| fail_demo_check(&mut Page::open(app)));
}

fn fail_demo_check(page: &mut Page) {
    assert_eq!(page.text("#verdict"), "not run yet");
    let passes = "Check SEC-03: the live check returned “pass”, the row as a whole is “unknown”.";
    let fails = "Check SEC-03: the live check returned “fail”, the row as a whole is “fail”.";
    // The row also needs test results, which this server does not have. `kith verify --only SEC-03` prints
    // the same result.
    assert_eq!(page.click("#judge"), passes);
    let found = page.text("#found");
    assert!(found.contains("no test results were given"), "{found}");
    assert_eq!(page.click("#limits-off"), format!("Rate limits are off. {fails}"));
    let found = page.text("#found");
    assert!(found.contains("201 instead of 429"), "{found}");
    page.browser.run("document.querySelector('.readiness').scrollIntoView()");
    page.picture("readiness.png");
    assert_eq!(page.click("#limits-off"), format!("Rate limits are on. {passes}"));
    assert_eq!((page.text("#verdict"), page.text("#problem")), ("pass".to_owned(), String::new()));
}

/// The demo accounts are in the documented states.
async fn demo_accounts_have_documented_state(app: &TestApp) {
    let now = app.now();
    let state = async |name: &str, path: &str| {
        let body = json!({ "email": format!("{name}@demo.example"), "password": "demo-password" });
        let session = app.anonymous().post("/api/v1/auth/login", body).await.expect(200);
        let token = session["access_token"].as_str().expect("a token").to_owned();
        app.anonymous().with_token(&token).get(path).await.expect(200)
    };
    let emil = state("clara", "/api/v1/partners/current").await["bond"].clone();
    assert_eq!((&emil["partner"]["display_name"], &emil["restorations"]), (&json!("Emil"), &json!(0)));
    let lena = state("marek", "/api/v1/partners/current").await["bond"].clone();
    assert_eq!((&lena["partner"]["display_name"], &lena["restorations"]), (&json!("Lena"), &json!(1)));
    let david = state("david", "/api/v1/partners/history").await["items"][0].clone();
    assert!(!david["archived_at"].is_null(), "{david}");
    let fatima = state("fatima", "/api/v1/partners/history").await["items"][0].clone();
    let until: Timestamp = fatima["restorable_until"].as_str().expect("a time").parse().expect("a time");
    assert!(fatima["archived_at"].is_null() && until > now + days(19) && until < now + days(21), "{fatima}");
    let pending = state("hana", "/api/v1/partners/requests?direction=incoming&status=pending").await;
    assert_eq!(pending["items"].as_array().map(Vec::len), Some(2));
    let refused = state("ines", "/api/v1/partners/requests?status=rejected").await;
    assert_eq!(refused["items"].as_array().map(Vec::len), Some(1));
    let blocks = state("clara", "/api/v1/blocks").await;
    assert_eq!(blocks["items"].as_array().map(Vec::len), Some(1));
    let shared = state("lena", "/api/v1/spaces/bond/films").await;
    assert_eq!(shared["items"].as_array().map(Vec::len), Some(1));
    for name in ["ada", "ben"] {
        assert_eq!(state(name, "/api/v1/partners/current").await["bond"], Value::Null);
    }
}

/// A second start finds the demo data and changes nothing.
async fn demo_data_is_created_once(engine: Engine) {
    if !engine.is_chosen() {
        return;
    }
    let app = TestApp::start_with(engine, engine.database().await, with_demo).await;
    app.events().await;
    let made = stored_rows(&app).await;
    let app = TestApp::start_with(engine, app.stop().await, with_demo).await;
    assert_eq!(stored_rows(&app).await, made);
    app.stop().await;
}

/// Returns all rows of the database, except for those that depend on the time of the run.
async fn stored_rows(app: &TestApp) -> Vec<String> {
    let mut rows = app.dump().await;
    rows.retain(|row| {
        !["server_starts:", "observed_time:", "purge_runs:", "sequencer:"]
            .iter()
            .any(|it| row.starts_with(it))
    });
    rows
}

/// The shell commands that `kith serve --demo` prints work when they are pasted into a terminal.
async fn demo_commands_work(engine: Engine) {
    if !engine.is_chosen() {
        return;
    }
    let database = engine.database().await;
    let elsewhere = TestDatabase::sqlite();
    let folder = database.folder().or(elsewhere.folder()).expect("a folder");
    let mut kith = Kith::start(kith_on(&database, folder, &["serve", "--listen", "127.0.0.1:0", "--demo"]));
    let mut printed = String::new();
    while !printed.contains("/dev/outbox") {
        printed += &kith.line();
    }
    let (_, script) = printed.split_once("into another terminal:").expect("the commands to paste");
    let (_, in_readme) =
        README.split_once("```sh\nkith=http://127.0.0.1:8080\n").expect("the same commands in the README");
    let (in_readme, _) = in_readme.split_once("```").expect("the end of the commands");
    assert!(script.contains(in_readme), "the README contains other commands: {in_readme}");
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", script]).stderr(Stdio::piped());
    let responses = successful_stdout(bash);
    let responses: Vec<Value> =
        responses.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let [sent, accepted, current, note, notes, ..] = &responses[..] else { panic!("{responses:#?}") };
    assert_eq!((&sent["status"], &accepted["status"]), (&json!("pending"), &json!("accepted")));
    assert_eq!(current["bond"]["id"], accepted["bond"]["id"]);
    assert_eq!(notes["items"][0], *note);
    let [.., restored, found, _, clock, history, outbox] = &responses[..] else { panic!("{responses:#?}") };
    assert_eq!(restored["bond"]["id"], accepted["bond"]["id"]);
    assert_eq!(found["items"][0]["data"], note["data"]);
    assert_eq!(clock["offset_ms"], 60 * 86_400_000_i64);
    assert!(!history["items"][0]["archived_at"].is_null(), "{history}");
    assert_eq!(outbox["items"].as_array().map(Vec::len), Some(3));
}

/// SEC-05: the page contains no inline scripts or styles and loads nothing from other origins. Its
/// Content-Security-Policy enforces both.
async fn demo_page_is_self_contained(app: &TestApp) {
    let client = app.anonymous();
    let page = client.get("/demo").await;
    let policy = page.header("content-security-policy").expect("a policy").to_owned();
    assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
    assert!(!policy.contains("unsafe") && !policy.contains('*') && !policy.contains("http"), "{policy}");
    let html = page.expect(200).as_str().expect("HTML").to_owned();
    assert!(
        !html.contains("<style")
            && !html.contains(" style=")
            && !html.contains(" onclick=")
            && !html.contains("<script>"),
        "{html}"
    );
    assert_eq!(html.matches("<script").count(), html.matches("<script type=\"module\" src=\"/").count());
    for part in ["page.css", "page.js", "person.js", "people.json"] {
        client.get(&format!("/demo/{part}")).await.expect(200);
    }
    client.get("/demo/page.html").await.expect_problem(404, "not_found");
}

async fn demo_page_is_absent_without_demo_flag(app: &TestApp) {
    for path in ["/demo", "/demo/people.json"] {
        app.anonymous().get(path).await.expect_problem(404, "not_found");
    }
}
