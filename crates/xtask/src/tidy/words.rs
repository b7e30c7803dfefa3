//! Rules that search for words: unfinished code, SQL outside `rows.rs`, sleeping, undocumented handlers,
//! direct writes, and CI steps that hide failures.

use super::scan::{PieceKind, pieces};
use super::{CI, File, Finding};

/// Files in which code may sleep, each with the reason.
const FILES_ALLOWED_TO_SLEEP: &[(&str, &str)] = &[
    (
        "crates/verify/src/accounts/sessions.rs",
        "the grace period of a used token runs on the deployment's clock, which a check cannot advance",
    ),
    ("crates/consumers/src/engine.rs", "polls, because wake-ups may be lost"),
    ("crates/consumers/src/supervise.rs", "waits before it restarts a task that panicked"),
    ("crates/platform/src/consumers/routes.rs", "retries a hook that failed"),
    ("crates/jobs/src/enqueuer.rs", "retries a key that another transaction holds"),
    ("crates/jobs/src/jobs.rs", "retries the release of a claim when the database did not respond"),
    ("crates/jobs/src/workers/fetch.rs", "polls, because notifications may be lost"),
    ("crates/jobs/src/workers/mod.rs", "heartbeats are periodic"),
    ("crates/jobs/src/workers/report.rs", "retries when the database did not respond"),
    ("crates/jobs/src/workers/run.rs", "a timeout is measured in real time"),
    ("crates/readiness/src/client.rs", "retries after the Retry-After of a 429"),
    (
        "crates/jobs/benches/jobs/engine.rs",
        "a benchmark waits for worker processes and for jobs to become due",
    ),
    ("crates/xtask/src/bench/jobs/redis.rs", "Redis does not report when it listens"),
    ("crates/jobs/examples/chaos/main.rs", "jobs take time, and are enqueued at a rate"),
    ("crates/xtask/src/chaos/jobs/process_group.rs", "the time of a fault is random, and no event marks it"),
    ("crates/xtask/src/chaos/kill.rs", "the end of another's child cannot be waited for"),
    ("crates/xtask/src/chaos/rounds.rs", "the time of a fault is random, and no event marks it"),
    (
        "crates/xtask/src/chaos/stop.rs",
        "load lasts for some time between stops, and HAProxy does not report when it listens",
    ),
    ("crates/xtask/src/load/connection.rs", "retries while the server is not available yet"),
    ("crates/xtask/src/load/generator.rs", "load has a given duration"),
    (
        "crates/platform/src/http/serve.rs",
        "draining has a duration, and file descriptors become available again",
    ),
    ("crates/store/src/folder.rs", "file descriptors become available again"),
    (
        "crates/store/src/postgres/direct.rs",
        "polls if no notification arrives, and limits the rate of its own notifications",
    ),
];

/// File in which tests may be marked as ignored. `cargo xtask test` skips these tests, `cargo xtask soak`
/// runs them.
const SOAK_ONLY_FILE: &str = "tests/api/support/engine.rs";

/// Calls that register a handler without documentation.
const UNDOCUMENTED: &[&str] = &[
    ".route(",
    ".route_service(",
    ".nest(",
    ".nest_service(",
    ".fallback(",
    ".fallback_service(",
    ".method_not_allowed_fallback(",
];
/// Folder in which axum's `Router` may be used. Its handlers are not documented automatically.
const ROUTER: &str = "crates/platform/src/http/";

/// Checks one file against all rules of this module.
pub fn check(file: &File) -> Vec<Finding> {
    match file.extension() {
        "rs" => rust(file),
        _ if file.path == CI => silenced_steps(file),
        "toml" | "sql" | "c" | "yml" => undone_comments(file, 1, &file.text),
        _ => Vec::new(),
    }
}

fn rust(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    let may_hold_sql = !file.is_of_feature() || file.path.contains("/rows/") || file.name() == "rows.rs";
    for piece in pieces(&file.text) {
        match piece.kind {
            PieceKind::Code => {
                findings.extend(undone_code(file, piece.line, piece.text));
                findings.extend(sleeping(file, piece.line, piece.text));
                findings.extend(undocumented(file, piece.line, piece.text));
                findings.extend(undated_writes(file, piece.line, piece.text));
            }
            PieceKind::Comment => findings.extend(undone_comments(file, piece.line, piece.text)),
            PieceKind::Literal if !may_hold_sql && is_sql(piece.text) => {
                findings.push(file.finding(
                    piece.line,
                    "SQL",
                    "a module's SQL is in its rows.rs, a function a statement",
                ));
            }
            PieceKind::Literal => {}
        }
    }
    findings
}

fn undone_code(file: &File, from: usize, code: &str) -> Vec<Finding> {
    let undone = ["todo!", "unimplemented!", "#[ignore"];
    on_lines(from, code, |line| undone.iter().find(|word| line.contains(**word)).copied())
        .filter(|(_, word)| *word != "#[ignore" || file.path != SOAK_ONLY_FILE)
        .map(|(line, word)| file.finding(line, word, "no unfinished code and no ignored tests"))
        .collect()
}

fn undone_comments(file: &File, from: usize, comments: &str) -> Vec<Finding> {
    let marks = ["TODO", "FIXME", "XXX"];
    on_lines(from, comments, |line| {
        line.split(|c: char| !c.is_alphanumeric())
            .find_map(|word| marks.iter().find(|mark| **mark == word).copied())
    })
    .map(|(line, mark)| file.finding(line, mark, "open work is an issue, not a comment"))
    .collect()
}

fn sleeping(file: &File, from: usize, code: &str) -> Vec<Finding> {
    if FILES_ALLOWED_TO_SLEEP.iter().any(|(path, _)| *path == file.path) {
        return Vec::new();
    }
    let sleeps = |line: &str| ["sleep(", "sleep_until("].into_iter().find(|call| line.contains(call));
    on_lines(from, code, sleeps)
        .map(|(line, call)| file.finding(line, call, "wait for the event, do not sleep"))
        .collect()
}

/// Reports handlers that would be missing in the OpenAPI document.
fn undocumented(file: &File, from: usize, code: &str) -> Vec<Finding> {
    if !file.is_of_feature() && !matches!(file.krate(), Some("platform" | "server")) {
        return Vec::new();
    }
    let at_the_edge = file.path.starts_with(ROUTER);
    on_lines(from, code, |line| {
        let mut words = line.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        let router = !at_the_edge && words.any(|word| word == "Router");
        UNDOCUMENTED.iter().find(|call| line.contains(**call)).copied().or(router.then_some("Router"))
    })
    .map(|(line, way)| {
        file.finding(line, way, "handlers are registered by `.routes(routes!(…))`, with their documentation")
    })
    .collect()
}

/// Reports writes that features send to the database directly. They bypass `App::write`, which takes the
/// timestamp when the transaction starts.
fn undated_writes(file: &File, from: usize, code: &str) -> Vec<Finding> {
    if !file.is_of_feature() {
        return Vec::new();
    }
    let writes = |line: &str| line.contains(".db.write").then_some(".db.write");
    on_lines(from, code, writes)
        .map(|(line, call)| file.finding(line, call, "run commands with `App::write`, which sets their time"))
        .collect()
}

/// Reports CI steps that hide output or failures.
fn silenced_steps(file: &File) -> Vec<Finding> {
    let ways = ["/dev/null", "|| true", "|| :", "set +e", ">&-", "--quiet", " -q"];
    on_lines(1, &file.text, |line| ways.iter().find(|way| line.contains(**way)).copied())
        .map(|(line, way)| {
            file.finding(line, way, "every CI step shows its output and fails with its command")
        })
        .collect()
}

fn is_sql(literal: &str) -> bool {
    let update = literal.find("UPDATE ").is_some_and(|at| literal[at..].contains(" SET"));
    update || ["SELECT ", "INSERT INTO", "DELETE FROM"].iter().any(|words| literal.contains(words))
}

fn on_lines<'a, T>(
    from: usize,
    text: &'a str,
    find: impl Fn(&'a str) -> Option<T> + 'a,
) -> impl Iterator<Item = (usize, T)> + 'a {
    (from..).zip(text.split('\n')).filter_map(move |(line, text)| Some((line, find(text)?)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{formatted, tree};
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        formatted(&check(&tree(&[(path, text)])[0]))
    }

    #[test]
    fn unfinished_code_is_reported() {
        let source = "//! a\nfn f() {\n    todo!()\n}\n#[ignore = \"slow\"]\n// FIXME later\nconst A: &str = \"TODO\";\n";
        let expected = ["a.rs:3: todo!", "a.rs:5: #[ignore", "a.rs:6: FIXME"];
        assert_eq!(found("a.rs", source), expected);
        assert!(!found(SOAK_ONLY_FILE, source).iter().any(|finding| finding.contains("#[ignore")));
        assert_eq!(found("a.sql", "-- TODO: an index\n"), ["a.sql:1: TODO"]);
    }

    #[test]
    fn sql_outside_rows_is_reported_in_literals_only() {
        let source =
            "//! SELECT a\nconst A: &str = \"UPDATE a\n SET b = $1\";\nconst B: &str = r\"SELECT 1\";\n";
        let expected = ["crates/bonds/src/a/queries.rs:2: SQL", "crates/bonds/src/a/queries.rs:4: SQL"];
        assert_eq!(found("crates/bonds/src/a/queries.rs", source), expected);
        assert_eq!(found("crates/bonds/src/a/rows.rs", source), [""; 0]);
        assert_eq!(found("crates/platform/src/a.rs", source), [""; 0]);
    }

    #[test]
    fn silenced_ci_step_is_reported() {
        let expected = [".ci/run:2: /dev/null", ".ci/run:3: || true"];
        assert_eq!(found(".ci/run", "cargo test\ncargo a > /dev/null\ncargo b || true\n"), expected);
    }

    #[test]
    fn undocumented_handlers_are_reported() {
        let source =
            "//! a\nfn r() -> Routes {\n    Routes::new().routes(routes!(a)).route(\"/b\", get(b))\n}\n";
        let expected = ["crates/bonds/src/a/http.rs:3: .route("];
        assert_eq!(found("crates/bonds/src/a/http.rs", source), expected);
        assert_eq!(found("tests/api/a.rs", source), [""; 0]);
        let source = "//! a\nuse axum::Router;\nuse utoipa_axum::router::OpenApiRouter;\n";
        assert_eq!(found("crates/server/src/a.rs", source), ["crates/server/src/a.rs:2: Router"]);
        assert_eq!(found("crates/platform/src/http/mod.rs", source), [""; 0]);
    }

    #[test]
    fn direct_db_write_is_reported() {
        let source = "//! a\nasync fn f() {\n    app.db.write(g).await;\n    app.write(&ctx, g).await;\n}\n";
        let expected = ["crates/bonds/src/a/http.rs:3: .db.write"];
        assert_eq!(found("crates/bonds/src/a/http.rs", source), expected);
        assert_eq!(found("crates/platform/src/app.rs", source), [""; 0]);
    }

    #[test]
    fn sleeping_is_reported() {
        let source = "//! sleep(1)\nasync fn f() {\n    tokio::time::sleep(D).await;\n}\n";
        assert_eq!(found("tests/api/a.rs", source), ["tests/api/a.rs:3: sleep("]);
    }
}
