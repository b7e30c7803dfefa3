//! Tests of schedules over HTTP and on the command line: create, change, pause, run and preview.

use std::process::Stdio;
use std::sync::Arc;

use hyper::Method;
use hyper::body::Bytes;
use hyper::header::{ETAG, IF_MATCH};
use kith_jobs::schedules::{self, DeclaredSchedule, Plan};
use kith_jobs::{Handler, JobFilter, JobOutput};
use kith_kernel::{
    Actor, Ctx, RequestId, Sources, SystemClock, SystemRandom, TimeOrderedIds, Timestamp, hours, minutes,
    seconds,
};
use kith_store::Store;
use kith_store::testing::TestDatabase;
use serde_json::{Value, json};

use crate::support::{
    Client, Engine, Kith, SERVE, TestApp, TestUser, bare_kith, failing_stderr, kith_on, on_every_engine,
    options_on, successful_stdout,
};

const SCHEDULES: &str = "/api/v1/schedules";
const QUEUE: &str = "reports";
const KIND: &str = "reports.write";

on_every_engine! {
    created_schedule_shows_next_runs,
    schedule_field_errors_are_reported,
    stale_schedule_edit_is_rejected,
    schedule_runs_once_across_nodes,
    schedule_can_be_paused_resumed_and_removed,
    schedule_can_be_run_and_backfilled,
    preview_works_without_schedule,
    schedules_are_listed_by_name_with_filters,
    declared_schedules_can_only_be_paused_and_run,
    schedule_access_follows_key_scopes,
}

fn path(name: &str) -> String {
    format!("{SCHEDULES}/{name}")
}

fn body(schedule: &str) -> Value {
    json!({ "queue": QUEUE, "kind": KIND, "schedule": schedule })
}

async fn put(admin: &TestUser, name: &str, body: Value) -> Value {
    let response = admin.put(&path(name), body).await;
    assert!([200, 201].contains(&response.status), "{response:?}");
    response.body
}

/// Fires due schedules in several tasks at the same moment, like workers. Returns the number of jobs enqueued
/// in this queue.
async fn tick_at_once(app: &TestApp, tasks: usize) -> usize {
    let before = waiting(app).await;
    let ticks = (0..tasks).map(|_| app.parts().jobs.tick());
    for tick in futures_util::future::join_all(ticks).await {
        tick.expect("schedules");
    }
    waiting(app).await - before
}

async fn tick(app: &TestApp) -> usize {
    tick_at_once(app, 1).await
}

/// Returns the number of unfinished jobs in the queue of these tests.
async fn waiting(app: &TestApp) -> usize {
    let filter = JobFilter { queue: Some(QUEUE.to_owned()), ..JobFilter::default() };
    app.db().read(move |q| kith_jobs::list_jobs(q, &filter, 1_000)).await.expect("jobs").len()
}

async fn work(app: &TestApp) -> usize {
    let handler = Handler::new(KIND, |_| async { Ok(JobOutput::default()) });
    app.parts().jobs.drain(&[handler], &[QUEUE]).await.expect("jobs")
}

fn after(app: &TestApp, n: u64) -> String {
    (app.now() + hours(n)).to_string()
}

async fn created_schedule_shows_next_runs(app: &TestApp) {
    let admin = app.admin("ada").await;
    let sent = json!({
        "queue": QUEUE, "kind": KIND, "payload": { "of": "yesterday" }, "priority": 2,
        "retry": { "max_attempts": 4, "base_ms": 500 }, "timeout_ms": 60_000, "schedule": "@every 1h", "time_zone": "europe/vienna", "missed": "all", "missed_cap": 3,
        "overlap": "queue", "jitter_ms": 1_000, "ends_at": after(app, 3),
    });
    let made = admin.put(&path("reports.hourly"), sent.clone()).await.expect(201);
    let expected = json!({
        "name": "reports.hourly", "owner": "admin", "declared": false, "state": "active", "queue": QUEUE, "kind": KIND,
        "payload": { "of": "yesterday" }, "priority": 2, "timeout_ms": 60_000,
        "retry": { "max_attempts": 4, "base_ms": 500, "cap_ms": 10_800_000 },
        "schedule": "@every 1h", "time_zone": "Europe/Vienna", "missed": "all", "missed_cap": 3, "overlap": "queue",
        "jitter_ms": 1_000, "starts_at": null, "ends_at": after(app, 3), "last_run_at": null,
        "upcoming": [after(app, 1), after(app, 2)], "created_at": app.now(), "updated_at": app.now(),
    });
    assert_eq!(made, expected);
    assert_eq!(admin.get(&path("reports.hourly")).await.expect(200), expected);

    let usual = put(&admin, "usual", body("0 3 * * *")).await;
    let kept = ["payload", "priority", "timeout_ms", "time_zone", "missed", "overlap"];
    let kept: Vec<_> = kept.iter().map(|field| usual[*field].clone()).collect();
    assert_eq!(json!(kept), json!([{}, 5, 0, "UTC", "latest", "allow"]));
    assert_eq!(usual["retry"], json!({ "max_attempts": 10, "base_ms": 10_000, "cap_ms": 10_800_000 }));
    let audit = app.audit().await;
    let made: Vec<_> = audit
        .iter()
        .filter(|line| line.action == "schedule.created" && line.actor.starts_with("user:"))
        .collect();
    assert_eq!(made.iter().map(|line| &*line.object).collect::<Vec<_>>(), ["reports.hourly", "usual"]);
    assert_eq!(made[0].actor, format!("user:{}", admin.id));
}

async fn schedule_field_errors_are_reported(app: &TestApp) {
    let admin = app.admin("ada").await;
    let footprint = app.footprint().await;
    for (field, value, code) in [
        ("schedule", json!("61 * * * *"), "not_a_schedule"),
        ("schedule", json!("* * * *"), "not_a_schedule"),
        ("schedule", json!("0 0 30 2 *"), "never_happens"),
        ("schedule", json!("@every 1x"), "not_a_schedule"),
        ("schedule", json!("0 0 0 1 1 * 2001"), "no_run"),
        ("schedule", json!("*".repeat(501)), "too_long"),
        ("time_zone", json!("Europe/Atlantis"), "not_a_time_zone"),
        ("queue", json!("a b"), "not_valid"),
        ("kind", json!(""), "not_valid"),
        ("priority", json!(10), "not_valid"),
        ("retry", json!({ "max_attempts": 0 }), "out_of_range"),
        ("missed_cap", json!(1_001), "not_valid"),
        ("timeout_ms", json!(-1), "out_of_range"),
        ("jitter_ms", json!(86_400_001), "out_of_range"),
        ("ends_at", json!("2001-01-01T00:00:00Z"), "no_run"),
    ] {
        let mut sent = body("@hourly");
        sent[field] = value;
        let refused = admin.put(&path("wrong"), sent).await;
        let field = match field {
            "ends_at" => "schedule",
            "retry" => "retry/max_attempts",
            field => field,
        };
        assert_eq!(refused.expect_faults(), [(format!("/{field}"), code.to_owned())]);
    }
    for (field, value) in [("missed", json!("some")), ("overlap", json!(1)), ("other", json!(1))] {
        let mut sent = body("@hourly");
        sent[field] = value;
        let refused = admin.put(&path("wrong"), sent).await;
        assert_eq!(refused.status, 422, "{field}: {refused:?}");
    }
    for name in ["a%20b", "preview", &"x".repeat(65)] {
        admin.put(&path(name), body("@hourly")).await.expect_problem(
            if name == "preview" { 405 } else { 404 },
            if name == "preview" { "method_not_allowed" } else { "not_found" },
        );
    }
    let says = admin.put(&path("wrong"), body("0 25 * * *")).await.expect_problem(422, "validation_failed");
    assert!(says["errors"][0]["detail"].as_str().expect("a text").contains("hour field: `25`"), "{says}");
    assert_eq!(app.footprint().await, footprint);
}

async fn stale_schedule_edit_is_rejected(app: &TestApp) {
    let admin = app.admin("ada").await;
    put(&admin, "nightly", body("@every 10h")).await;
    let read = admin.get(&path("nightly")).await.header(ETAG.as_str()).expect("a tag").to_owned();
    app.advance(hours(2));
    let meant_for = admin.signed_in().await.with_header(IF_MATCH, &read);
    let mut otherwise = body("@every 10h");
    otherwise["payload"] = json!({ "n": 2 });
    let send = async |client: &Client, method: Method, name: &str, body: &Value| {
        client.send(method, &path(name), body.to_string().into()).await
    };
    let changed = send(&meant_for, Method::PUT, "nightly", &otherwise).await.expect(200);
    assert_eq!(changed["upcoming"][0], after(app, 8), "the next run time is unchanged");
    let footprint = app.footprint().await;
    for method in [Method::PUT, Method::DELETE] {
        let refused = send(&meant_for, method, "nightly", &body("@daily")).await;
        refused.expect_problem(412, "precondition_failed");
    }
    let absent = send(&meant_for, Method::PUT, "other", &body("@daily")).await;
    absent.expect_problem(412, "precondition_failed");
    assert_eq!(app.footprint().await, footprint);
    let rescheduled = put(&admin, "nightly", body("@every 1h")).await;
    assert_eq!(rescheduled["upcoming"][0], after(app, 1), "a changed schedule starts from now");
}

async fn schedule_runs_once_across_nodes(app: &TestApp) {
    let admin = app.admin("ada").await;
    let mut sent = body("@every 10m");
    sent["overlap"] = "skip".into();
    put(&admin, "often", sent).await;
    let start = app.now();
    let mut jobs = 0;
    for n in 1..=4 {
        app.advance(minutes(10));
        jobs += tick_at_once(app, 6).await;
        if n == 2 {
            assert_eq!(work(app).await, 1);
        }
    }
    assert_eq!(jobs, 2, "the second and the fourth run are skipped as overlaps");
    let page = admin.get(&format!("{}/runs?limit=3", path("often"))).await.expect(200);
    let at = |n: u64| (start + minutes(10 * n)).to_string();
    let runs = page["items"].as_array().expect("runs");
    let listed: Vec<_> = runs.iter().map(|run| (run["at"].clone(), run["job_state"].clone())).collect();
    assert_eq!(
        listed,
        [(json!(at(4)), Value::Null), (json!(at(3)), json!("ready")), (json!(at(2)), Value::Null)]
    );
    let cursor = page["next_cursor"].as_str().expect("a cursor");
    let rest = admin.get(&format!("{}/runs?cursor={cursor}", path("often"))).await.expect(200);
    let first = &rest["items"][0];
    assert_eq!(rest["items"].as_array().map(Vec::len), Some(1));
    assert_eq!((&first["at"], &first["origin"]), (&json!(at(1)), &json!("due")));
    assert_eq!((&first["job_state"], &first["finished_at"]), (&json!("completed"), &json!(at(2))));
    let shown = admin.get(&path("often")).await.expect(200);
    assert_eq!((&shown["last_run_at"], &shown["upcoming"][0]), (&json!(at(4)), &json!(at(5))));
    admin.get(&format!("{}/runs", path("other"))).await.expect_problem(404, "not_found");
}

async fn schedule_can_be_paused_resumed_and_removed(app: &TestApp) {
    let admin = app.admin("ada").await;
    put(&admin, "often", body("@every 1h")).await;
    let paused = admin.post(&format!("{}/pause", path("often")), Value::Null).await.expect(200);
    assert_eq!((&paused["state"], &paused["upcoming"]), (&json!("paused"), &json!([])));
    app.advance(minutes(150));
    assert_eq!(tick(app).await, 0);
    let resumed = admin.post(&format!("{}/resume", path("often")), Value::Null).await.expect(200);
    let next: Timestamp = resumed["upcoming"][0].as_str().expect("a time").parse().expect("a time");
    assert_eq!(next, app.now() + minutes(30), "the schedule continues from its anchor");
    app.advance(minutes(30));
    assert_eq!(tick(app).await, 1);
    admin.delete(&path("often"), Value::Null).await.expect(204);
    app.advance(hours(1));
    assert_eq!(tick(app).await, 0);
    assert_eq!(work(app).await, 1, "jobs that are already enqueued are kept");
    for (method, rest) in
        [(Method::GET, ""), (Method::DELETE, ""), (Method::POST, "/pause"), (Method::POST, "/run")]
    {
        let response = admin.send(method, &format!("{}{rest}", path("often")), Bytes::new()).await;
        response.expect_problem(404, "not_found");
    }
    let actions: Vec<_> = app.audit().await.into_iter().map(|line| line.action).collect();
    for action in ["schedule.paused", "schedule.resumed", "schedule.deleted"] {
        assert_eq!(actions.iter().filter(|one| *one == action).count(), 1, "{actions:?}");
    }
}

async fn schedule_can_be_run_and_backfilled(app: &TestApp) {
    let admin = app.admin("ada").await;
    put(&admin, "often", body("@every 1h")).await;
    let job = admin.post(&format!("{}/run", path("often")), Value::Null).await.expect(201);
    assert!(job["job_id"].is_i64());
    let start = app.now();
    app.advance(hours(5));
    assert_eq!(tick(app).await, 1, "the latest missed run is enqueued");
    let backfill = async |from: Timestamp, to: Timestamp| {
        admin.post(&format!("{}/backfill", path("often")), json!({ "from": from, "to": to })).await
    };
    let done = backfill(start, app.now()).await.expect(201);
    assert_eq!((done["job_ids"].as_array().map(Vec::len), &done["already_recorded"]), (Some(4), &json!(0)));
    let again = backfill(start, app.now()).await.expect(201);
    assert_eq!((again["job_ids"].as_array().map(Vec::len), &again["already_recorded"]), (Some(0), &json!(4)));
    let future = backfill(start, app.now() + seconds(1)).await;
    assert_eq!(future.expect_faults(), [("/to".to_owned(), "too_many".to_owned())]);
    assert_eq!(work(app).await, 6);
}

async fn preview_works_without_schedule(app: &TestApp) {
    let admin = app.admin("ada").await;
    let preview = async |query: &str| admin.get(&format!("{SCHEDULES}/preview?{query}")).await;
    let spring = "schedule=30%202%20*%20*%20*&time_zone=Europe/Vienna&after=2027-03-27T00:00:00Z&count=3";
    assert_eq!(
        preview(spring).await.expect(200),
        json!({
            "time_zone": "Europe/Vienna",
            "upcoming": ["2027-03-27T01:30:00.000Z", "2027-03-28T01:00:00.000Z", "2027-03-29T00:30:00.000Z"],
        })
    );
    let usual = preview("schedule=@every%2090s").await.expect(200);
    assert_eq!(usual["upcoming"].as_array().map(Vec::len), Some(10));
    assert_eq!(usual["upcoming"][0], (app.now() + seconds(90)).to_string());
    for (query, pointer, code) in [
        ("schedule=0%200%2030%202%20*", "?schedule", "never_happens"),
        ("schedule=@daily&time_zone=Atlantis", "?time_zone", "not_a_time_zone"),
        ("schedule=@daily&count=101", "?count", "out_of_range"),
    ] {
        assert_eq!(preview(query).await.expect_faults(), [(pointer.to_owned(), code.to_owned())]);
    }
}

async fn schedules_are_listed_by_name_with_filters(app: &TestApp) {
    let admin = app.admin("ada").await;
    for name in ["c", "a", "d", "b"] {
        let mut sent = body("@daily");
        sent["kind"] = format!("{KIND}.{name}").into();
        put(&admin, name, sent).await;
    }
    admin.post(&format!("{}/pause", path("d")), Value::Null).await.expect(200);
    let names = async |query: &str| {
        let page = admin.get(&format!("{SCHEDULES}?{query}")).await.expect(200);
        let items = page["items"].as_array().expect("items").iter();
        let names: Vec<_> = items.map(|one| one["name"].as_str().expect("a name").to_owned()).collect();
        (names.join(" "), page["next_cursor"].as_str().map(str::to_owned))
    };
    let (first, cursor) = names("declared=false&limit=3").await;
    assert_eq!(first, "a b c");
    let cursor = cursor.expect("a cursor");
    assert_eq!(names(&format!("declared=false&limit=3&cursor={cursor}")).await, ("d".to_owned(), None));
    assert_eq!(names("paused=true&declared=false").await.0, "d");
    assert_eq!(names(&format!("kind={KIND}.b")).await.0, "b");
    assert_eq!(names(&format!("queue={QUEUE}&paused=false")).await.0, "a b c");
    assert_eq!(names("queue=other").await.0, "");
}

static DECLARED: &[DeclaredSchedule] = &[DeclaredSchedule::new("reports.declared", QUEUE, KIND, "@every 1h")];

async fn declared_schedules_can_only_be_paused_and_run(app: &TestApp) {
    let admin = app.admin("ada").await;
    app.parts().jobs.declare(vec![("reports", DECLARED)]).await.expect("the schedules are declared");
    let shown = admin.get(&path("reports.declared")).await.expect(200);
    assert_eq!((&shown["owner"], &shown["declared"]), (&json!("module:reports"), &json!(true)));
    let footprint = app.footprint().await;
    admin.put(&path("reports.declared"), body("@daily")).await.expect_problem(409, "schedule_declared");
    admin.delete(&path("reports.declared"), Value::Null).await.expect_problem(409, "schedule_declared");
    assert_eq!(app.footprint().await, footprint);
    admin.post(&format!("{}/pause", path("reports.declared")), Value::Null).await.expect(200);
    admin.post(&format!("{}/run", path("reports.declared")), Value::Null).await.expect(201);
    app.parts().jobs.declare(Vec::new()).await.expect("the schedules are declared");
    admin.get(&path("reports.declared")).await.expect_problem(404, "not_found");
}

async fn schedule_access_follows_key_scopes(app: &TestApp) {
    let admin = app.admin("ada").await;
    let reader = app.api_key(&admin, &["schedules.read"]).await;
    let writer = app.api_key(&admin, &["schedules.read", "schedules.write"]).await;
    let send = async |client: &Client| {
        client.send(Method::PUT, &path("nightly"), body("@daily").to_string().into()).await
    };
    send(&reader.client).await.expect_problem(403, "forbidden");
    send(&writer.client).await.expect(201);
    assert_eq!(reader.client.get(&path("nightly")).await.expect(200)["owner"], "admin");
    let ben = app.user("ben").await;
    ben.get(SCHEDULES).await.expect_problem(403, "forbidden");
}

#[tokio::test]
async fn schedule_commands_work_on_sqlite() {
    schedule_commands_work(Engine::Sqlite).await;
}

#[tokio::test]
async fn schedule_commands_work_on_postgres() {
    schedule_commands_work(Engine::Postgres).await;
}

/// The schedule commands work with and without a running server.
async fn schedule_commands_work(engine: Engine) {
    if !engine.is_chosen() {
        return;
    }
    let (database, elsewhere) = (engine.empty_database().await, TestDatabase::sqlite());
    let folder = database.folder().or(elsewhere.folder()).expect("a folder");
    let kith = |args: &[&str]| kith_on(&database, folder, args);
    successful_stdout(kith(&["migrate", "up"]));
    let kith_alone = |args: &[&str]| {
        let mut command = bare_kith();
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let spring = ["schedules", "preview", "30 2 * * *", "--time-zone", "Europe/Vienna", "--count", "2"];
    let spring = [&spring[..], &["--after", "2027-03-27T12:00:00Z"]].concat();
    let listed = successful_stdout(kith_alone(&spring));
    assert_eq!(listed, "2027-03-28T01:00:00.000Z\n2027-03-29T00:30:00.000Z\n");
    let refused = failing_stderr(kith_alone(&["schedules", "preview", "0 0 30 2 *"]));
    assert!(refused.contains("never happens"), "{refused}");

    add_nightly(&database).await;
    for running in [false, true] {
        let server = running.then(|| Kith::start(kith(SERVE)));
        let listed = successful_stdout(kith(&["schedules", "list", "--queue", QUEUE]));
        assert!(
            listed.starts_with("nightly next ") && listed.contains("30 2 * * * (Europe/Vienna)"),
            "{listed}"
        );
        let paused = successful_stdout(kith(&["schedules", "pause", "nightly"]));
        assert!(paused.contains("paused; runs reports.write"), "{paused}");
        assert!(successful_stdout(kith(&["schedules", "list", "--paused"])).contains("nightly paused"));
        let resumed = successful_stdout(kith(&["schedules", "resume", "nightly"]));
        assert_eq!(resumed.matches("\n  next ").count(), 5, "{resumed}");
        let job = successful_stdout(kith(&["schedules", "run", "nightly"]));
        let shown = successful_stdout(kith(&["schedules", "show", "nightly"]));
        assert!(shown.contains(&format!(" now job {} ", job.trim())), "{shown}");
        let past = ["schedules", "backfill", "nightly", "--from", "2026-03-01T00:00:00Z", "--to"];
        let jobs = successful_stdout(kith(&[&past[..], &["2026-03-11T00:00:00Z"]].concat()));
        assert_eq!(jobs.lines().count(), if running { 0 } else { 10 }, "{jobs}");
        let create =
            ["schedules", "create", "weekly", "--schedule", "0 9 * * MON", "--kind", KIND, "--queue"];
        let created =
            successful_stdout(kith(&[&create[..], &[QUEUE, "--time-zone", "Europe/Vienna"]].concat()));
        assert!(created.contains("0 9 * * MON (Europe/Vienna)"), "{created}");
        let reserved = failing_stderr(kith(&[&create[..], &["maintenance"]].concat()));
        assert!(reserved.contains("Reserved name"), "{reserved}");
        assert_eq!(successful_stdout(kith(&["schedules", "delete", "weekly"])), "");
        let gone = failing_stderr(kith(&["schedules", "delete", "weekly"]));
        assert!(gone.contains("No schedule has this name"), "{gone}");
        let unknown = failing_stderr(kith(&["schedules", "show", "other"]));
        assert!(unknown.contains("No schedule has this name"), "{unknown}");
        drop(server);
    }
}

/// Creates the schedule `nightly` in a database that no server uses.
async fn add_nightly(database: &TestDatabase) {
    let store = Store::open(options_on(database)).await.expect("a store");
    let sources = Sources {
        clock: Arc::new(SystemClock),
        ids: Arc::new(TimeOrderedIds::new(SystemRandom)),
        random: Arc::new(SystemRandom),
    };
    let ctx = Ctx::new(sources, Actor::System("test"), RequestId::accept("schedules").expect("an id"));
    let made = store.write(move |tx| {
        let plan = Plan { zone: "Europe/Vienna".to_owned(), ..Plan::new(QUEUE, KIND, "30 2 * * *") };
        schedules::create(tx, &ctx, "nightly", plan, false)
    });
    made.await.expect("a schedule");
    store.close().await;
}
