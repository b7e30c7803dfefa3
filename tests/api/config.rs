//! Tests of configurations that the binary rejects, and of generated secrets.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::{bare_kith, kith};

const SECRET: &str = "a-marked-f1rst-one-of-thirty-2-bytes";
const REFRESH_SECRET: &str = "a-marked-s3cond-one-of-thirty-2-bytes";
/// Markers that no error message may contain.
const SECRET_MARKERS: &[&str] = &["marked", "hunter2"];

/// Returns a command in production mode with all required settings and `changes` applied. An empty value
/// removes a variable.
fn command(folder: &Path, args: &[&str], changes: &[(&str, &str)]) -> Command {
    let mut command = kith(folder, args);
    command
        .env_remove("KITH__AUTH__PASSWORD_MEMORY_KIB")
        .env_remove("KITH__AUTH__PASSWORD_ITERATIONS")
        .env("KITH__SERVER__MODE", "production")
        .envs([("JWT_SECRET", SECRET), ("JWT_REFRESH_SECRET", REFRESH_SECRET)]);
    for (name, value) in changes {
        if value.is_empty() {
            command.env_remove(name)
        } else {
            command.env(name, value)
        };
    }
    command
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("text")
}

/// Expects both `kith config check` and `kith serve` to fail with exit code 2 and one line that contains all
/// of `named` and no secret.
#[track_caller]
fn expect_refusal(changes: &[(&str, &str)], named: &[&str]) {
    for verb in [&["config", "check"][..], &["serve"]] {
        let folder = tempfile::tempdir().expect("a folder");
        let Output { status, stdout, stderr } =
            command(folder.path(), verb, changes).output().expect("a process");
        let output = text(&stderr);
        assert_eq!(status.code(), Some(2), "{changes:?}: {output}");
        assert_eq!(output.lines().count(), 1, "{output}");
        for name in named {
            assert!(output.contains(name), "{changes:?}: {output:?} does not name {name}");
        }
        for marked in SECRET_MARKERS {
            assert!(!output.contains(marked), "{output}");
        }
        assert!(stdout.is_empty(), "{}", text(&stdout));
        let left = std::fs::read_dir(folder.path()).expect("a folder").count();
        assert_eq!(left, 0, "files were created before the configuration was rejected");
    }
}

/// Proves the readiness requirements CFG-02, SEC-15, SEC-16.
#[test]
fn production_mode_rejects_invalid_environment() {
    let postgres = "postgres://kith:hunter2-hunter2@127.0.0.1:1/kith";
    for (changes, named) in [
        (&[("JWT_SECRET", "")][..], &["`auth.jwt_secret`", "JWT_SECRET", "kith secrets generate"][..]),
        (&[("JWT_REFRESH_SECRET", "")], &["`auth.jwt_refresh_secret`", "JWT_REFRESH_SECRET"]),
        (&[("JWT_SECRET", ""), ("KITH__DATABASE__URL", postgres)], &["`auth.jwt_secret`"]),
        (&[("JWT_SECRET", "a-marked-one-that-is-too-short!")], &["JWT_SECRET", "at least 32 bytes"]),
        (&[("JWT_REFRESH_SECRET", "marked-8")], &["JWT_REFRESH_SECRET", "at least 32 bytes"]),
        (&[("JWT_REFRESH_SECRET", SECRET)], &["JWT_REFRESH_SECRET", "`auth.jwt_secret`", "must differ"]),
        (&[("JWT_SECRET", "secret")], &["JWT_SECRET", "well-known"]),
        (&[("JWT_SECRET", "your-secret-key-marked-marked-marked-1")], &["JWT_SECRET", "well-known"]),
        (&[("JWT_SECRET", "marked-CHANGE-ME-in-production-marked")], &["JWT_SECRET", "well-known"]),
        (&[("JWT_SECRET", "hhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhh")], &["JWT_SECRET", "5 of them distinct"]),
        (
            &[("KITH__DATABASE__URL", "postgres://kith:kithpw@127.0.0.1:1/kith")],
            &["`database.url`", "at least 12 characters"],
        ),
        (&[("JWT_SECRET", "kith-dev-marked-marked-marked-marked-1")], &["JWT_SECRET", "well-known"]),
        (
            &[("KITH__DATABASE__URL", "postgres://kith@127.0.0.1:1/kith"), ("DATABASE_PASSWORD", "postgres")],
            &["`database.password`", "DATABASE_PASSWORD", "well-known"],
        ),
        (
            &[("KITH__DATABASE__URL", "postgres://kith:changeme@127.0.0.1:1/kith")],
            &["`database.url`", "well-known"],
        ),
        (
            &[("KITH__DATABASE__URL", postgres), ("DATABASE_PASSWORD", "another-marked-one")],
            &["`database.password`", "DATABASE_PASSWORD", "`database.url`"],
        ),
        (
            &[("KITH__AUTH__JWT_SECRET", SECRET)],
            &["JWT_SECRET and KITH__AUTH__JWT_SECRET", "remove one of them"],
        ),
        (&[("JWT_SECRET", ""), ("JWT_SECRET_FILE", "/no/such/file")], &["/no/such/file", "JWT_SECRET_FILE"]),
        (&[("KITH__LOG__LEVEL", "debug")], &["`log.level`", "KITH__LOG__LEVEL"]),
        (&[("KITH__LOG__LEVEL", "info,kith=trace")], &["`log.level`", "trace"]),
        (&[("KITH__SERVER__DISABLE_LIMITS", "true")], &["`server.disable_limits`"]),
        (&[("KITH__SERVER__DEMO", "true")], &["`server.demo`"]),
        (&[("KITH__DATABASE__SYNCHRONOUS", "off")], &["`database.synchronous`"]),
        (&[("KITH__AUTH__PASSWORD_MEMORY_KIB", "1024")], &["`auth.password_memory_kib`"]),
        (&[("KITH__SERVER__LISTN", "hunter2")], &["`server.listn`", "KITH__SERVER__LISTN"]),
        (&[("KITH__SERVER__MODE", "hunter2")], &["`server.mode`", "KITH__SERVER__MODE"]),
    ] {
        expect_refusal(changes, named);
    }
}

/// Proves the readiness requirement CFG-02.
#[test]
fn development_mode_rejects_public_addresses() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:8080"] {
        expect_refusal(
            &[("KITH__SERVER__MODE", "development"), ("KITH__SERVER__LISTEN", address)],
            &["`server.listen`", "KITH__SERVER__LISTEN", "loopback"],
        );
    }
}

/// Proves the readiness requirement SEC-14.
#[test]
fn production_mode_rejects_password_on_command_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let args = ["config", "check", "--database", "postgres://kith:hunter2-hunter2@127.0.0.1:1/kith"];
    let refused = command(folder.path(), &args, &[]).output().expect("a process");
    let output = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{output}");
    assert!(output.contains("--database") && output.contains("DATABASE_PASSWORD"), "{output}");
    assert!(!output.contains("hunter2"), "{output}");
}

/// Proves the readiness requirement SEC-15.
#[test]
fn secrets_are_reported_without_value() {
    let folder = tempfile::tempdir().expect("a folder");
    let checked = command(folder.path(), &["config", "check"], &[]).output().expect("a process");
    let output = text(&checked.stdout);
    assert!(checked.status.success() && checked.stderr.is_empty(), "{}", text(&checked.stderr));
    for line in [
        "auth.jwt_secret           32 bytes or more  from environment variable JWT_SECRET",
        "database.password         not set           (DATABASE_PASSWORD or KITH__DATABASE__PASSWORD)",
    ] {
        assert!(output.lines().any(|one| one == line), "{line:?} is missing in {output}");
    }
    assert!(!output.contains("marked"), "{output}");
}

/// Proves the readiness requirement CFG-07.
#[test]
fn generated_secrets_pass_the_check() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = folder.path().join("files");
    let generate = |args: &[&str]| {
        let made = bare_kith().args(["secrets", "generate"]).args(args).output().expect("a process");
        (made.status.success(), text(&made.stdout).to_owned())
    };
    let as_files = ["--format", "files", files.to_str().expect("text")];
    for args in [&[][..], &as_files] {
        let (made, lines) = generate(args);
        assert!(made, "{args:?}");
        let variables: Vec<_> = lines.lines().map(|line| line.split_once('=').expect("a variable")).collect();
        assert_eq!(variables.len(), 3);
        let changes: Vec<_> =
            [("JWT_SECRET", ""), ("JWT_REFRESH_SECRET", "")].into_iter().chain(variables.clone()).collect();
        let checked = command(folder.path(), &["config", "check"], &changes).output().expect("a process");
        assert!(checked.status.success(), "{}", text(&checked.stderr));
        assert!(!text(&checked.stdout).contains("well-known"));
        if args.is_empty() {
            assert!(variables.iter().all(|(_, secret)| !text(&checked.stdout).contains(secret)));
            assert_ne!(generate(args).1, lines);
        }
    }
    for file in std::fs::read_dir(&files).expect("files") {
        let mode = file.expect("a file").metadata().expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    assert!(!generate(&as_files).0, "existing files must not be overwritten");
    assert!(!generate(&["--format", "files"]).0);
}
