//! Tests of `kith checklist lint` with the binary: exit codes and output. Findings are tested in the crate
//! `checklist`.

use std::io::Write as _;
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::Value;

use crate::support::bare_kith;

const FAULTY: &str = "# Launch\n\nStatus: CONFIRMED\n\n- [x] Lights\n- [ ] Brakes\n";
const SOUND: &str = "# Launch\n\n- [x] Lights\n- [ ] Brakes\n";

fn lint(folder: &Path, args: &[&str], input: &[u8]) -> (i32, String, String) {
    let mut command = bare_kith();
    command.current_dir(folder).args(["checklist", "lint"]).args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("a process");
    // The process may have ended without reading its input.
    _ = child.stdin.take().expect("a pipe").write_all(input);
    let Output { status, stdout, stderr } = child.wait_with_output().expect("an end");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code().expect("no signal"), text(stdout), text(stderr))
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("faulty.md"), FAULTY).expect("a file");
    std::fs::write(folder.path().join("sound.md"), SOUND).expect("a file");
    folder
}

#[test]
fn exit_codes_distinguish_clean_faulty_and_unreadable() {
    let folder = folder();
    for (args, code) in [
        (&["sound.md"][..], 0),
        (&["faulty.md"], 1),
        (&["sound.md", "faulty.md"], 1),
        (&["no-such.md"], 2),
        (&["faulty.md", "no-such.md", "sound.md"], 2),
        (&["."], 2),
        (&[], 2),
        (&["--format", "xml", "sound.md"], 2),
    ] {
        assert_eq!(lint(folder.path(), args, b"").0, code, "{args:?}");
    }
    let left = std::fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(left, 2, "linting creates no files");
}

#[test]
fn unreadable_file_is_named_and_others_are_linted() {
    let (_, output, complaint) = lint(folder().path(), &["no-such.md", "faulty.md"], b"");
    assert!(complaint.starts_with("kith: cannot read no-such.md: "), "{complaint}");
    assert!(output.contains("faulty.md:3:1: done-beside-open: "), "{output}");
}

#[test]
fn oversized_file_is_rejected() {
    let folder = folder();
    let large = std::fs::File::create(folder.path().join("large.md")).expect("a file");
    large.set_len(16 * 1024 * 1024 + 1).expect("a length");
    let (code, _, complaint) = lint(folder.path(), &["large.md"], b"");
    assert_eq!((code, complaint.as_str()), (2, "kith: cannot read large.md: larger than 16 MiB\n"));
}

#[test]
fn stdin_is_linted_and_json_is_complete() {
    let folder = folder();
    let (code, output, _) = lint(folder.path(), &["--format", "json", "-", "sound.md"], FAULTY.as_bytes());
    let report: Value = serde_json::from_str(&output).expect("JSON");
    assert_eq!(code, 1);
    let [faulty, sound] = report["files"].as_array().expect("a list").as_slice() else { panic!("{report}") };
    assert_eq!(faulty["file"], "standard input");
    assert_eq!(faulty["counts"], serde_json::json!({ "ticked": 1, "open": 1, "set_aside": 0 }));
    assert_eq!(faulty["share"], 50.0);
    assert_eq!(faulty["sections"][0]["title"], "Launch");
    let finding = &faulty["findings"][0];
    assert_eq!((&finding["code"], &finding["line"]), (&"done-beside-open".into(), &3.into()));
    assert!(finding["message"].is_string() && finding["remedy"].is_string());
    assert_eq!((&sound["file"], &sound["findings"]), (&"sound.md".into(), &serde_json::json!([])));
}

#[test]
fn markdown_is_printed_for_each_file() {
    let (code, output, _) = lint(folder().path(), &["--format", "markdown", "sound.md", "faulty.md"], b"");
    assert_eq!(code, 1);
    assert!(output.contains("## sound.md\n") && output.contains("| 3 | `done-beside-open` | "), "{output}");
}
