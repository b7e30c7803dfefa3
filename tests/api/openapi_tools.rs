//! Tests of the OpenAPI document with common tools: a linter, a generator of TypeScript types with the
//! compiler, and a validator of examples. The tools are npm packages, pinned in `tests/openapi`.

use std::path::{Path, PathBuf};
use std::process::Command;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/openapi")
}

fn document() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json")
}

/// Runs a program in `tests/openapi` and returns its output.
fn run(program: &str, args: &[&str]) -> String {
    let output =
        Command::new(program).args(args).current_dir(folder()).output().expect("the program can be run");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {text}");
    text
}

/// Returns the path of a tool. Installs all tools first if `cargo xtask setup` has not done so.
fn tool(name: &str) -> String {
    if !folder().join("node_modules").exists() {
        run("npm", &["ci", "--no-audit", "--no-fund"]);
    }
    format!("node_modules/.bin/{name}")
}

/// The tools share a folder, so one test runs all of them.
#[test]
fn document_works_with_linter_type_generator_and_validator() {
    let document = document();
    let document = document.to_str().expect("a path in UTF-8");
    run(&tool("redocly"), &["lint", "--config", "redocly.yaml", document]);

    let types = tempfile::tempdir().expect("a folder");
    let generated = types.path().join("api.d.ts");
    run(&tool("openapi-typescript"), &[document, "-o", generated.to_str().expect("a path in UTF-8")]);
    std::fs::copy(folder().join("client.ts"), types.path().join("client.ts")).expect("a copy");
    let client = types.path().join("client.ts");
    let args = ["--noEmit", "--strict", "--module", "nodenext", "--target", "es2022"];
    run(&tool("tsc"), &[&args[..], &[client.to_str().expect("a path in UTF-8")]].concat());

    let checked = run("node", &["examples.mjs", document]);
    assert!(checked.contains(", 0 of them invalid"), "{checked}");
}
