//! Compares the PostgreSQL backup and restore commands in a checklist. The format and the file that a backup
//! writes must be those that a restore reads. Runs no command.

use std::sync::LazyLock;

use regex::Regex;

use super::outline::Outline;
use super::report::Code;
use super::{UnlocatedFinding, pattern, quote};

/// Maximum number of backup and restore commands that are compared.
const MAX_COMMANDS: usize = 64;
/// Maximum length of a command line in bytes.
const MAX_LINE_BYTES: usize = 4096;

/// Redirections of standard error, which do not concern the backup file.
static STDERR_REDIRECTIONS: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?:\s2|\s&)>{1,2}\s*(?:&1|\S+)"));
/// Shell expansions, placeholders and numbers. They are replaced by `*` before file names are compared.
static SHELL_EXPANSIONS: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"\$\([^()]*\)|\$\{[^{}]*\}|\$\w+|`[^`]*`|<[A-Za-z_-]+>|%[YmdHMSFTs]|Y{4}|[0-9]+|\*")
});
static STARS: LazyLock<Regex> = LazyLock::new(|| pattern(r"\*(?:[-_.T]?\*)+"));
/// Options of `pg_restore` that take the next word as their value.
const WITH_VALUE: &[&str] =
    &["-d", "-h", "-p", "-U", "-j", "-n", "-N", "-t", "-T", "-L", "-P", "-S", "-I", "-F", "-f"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tool {
    Dump,
    Restore,
    Psql,
}

/// Backup or restore command in a checklist.
#[derive(Debug)]
struct PgCommand {
    tool: Tool,
    /// True if the command writes a dump in plain SQL format.
    plain: bool,
    /// Name of the file that the command writes or reads, without its folder. Shell expansions in it are
    /// replaced by `*`.
    file: Option<String>,
    offset: usize,
}

/// Reports restore commands for which there is no matching backup command.
pub(super) fn check(
    outline: &Outline,
    position: &dyn Fn(usize) -> usize,
    findings: &mut Vec<UnlocatedFinding>,
) {
    let lines = command_lines(outline);
    let mut commands = Vec::new();
    for (offset, line) in &lines {
        if ["pg_dump", "pg_restore", "psql"].iter().any(|tool| line.contains(tool)) {
            parse_line(line, *offset, &mut commands);
        }
        if commands.len() >= MAX_COMMANDS {
            break;
        }
    }
    let dumps: Vec<_> = commands.iter().filter(|command| command.tool == Tool::Dump).collect();
    for restore in commands.iter().filter(|command| command.tool != Tool::Dump && !dumps.is_empty()) {
        compare(restore, &dumps, &lines, position, findings);
    }
}

fn compare(
    restore: &PgCommand,
    dumps: &[&PgCommand],
    lines: &[(usize, String)],
    position: &dyn Fn(usize) -> usize,
    findings: &mut Vec<UnlocatedFinding>,
) {
    let same = |dump: &&&PgCommand| restore.file.is_some() && dump.file == restore.file;
    let of_this: Vec<_> = dumps.iter().filter(same).collect();
    let is_psql = restore.tool == Tool::Psql;
    let candidates: Vec<_> =
        if of_this.is_empty() && !is_psql { dumps.iter().collect() } else { of_this.clone() };
    if let Some(first) = candidates.first().filter(|_| candidates.iter().all(|dump| dump.plain != is_psql)) {
        let line = position(first.offset);
        let (message, remedy) = if is_psql {
            (
                format!("psql cannot read the archive that pg_dump writes at line {line}."),
                "Restore it with pg_restore.",
            )
        } else {
            (
                format!("pg_restore cannot read the SQL text that pg_dump writes at line {line}."),
                "Dump with `pg_dump --format=custom`, or restore with psql; then test the restore once.",
            )
        };
        findings.push(UnlocatedFinding::new(restore.offset, Code::RestoreFormat, message, remedy));
    }
    let Some(file) =
        restore.file.as_deref().filter(|file| of_this.is_empty() && file.trim_matches('*').len() > 4)
    else {
        return;
    };
    let is_a_backup =
        !is_psql || ["backup", "dump", "latest", "restore"].iter().any(|word| file.contains(word));
    let all_named = dumps.iter().all(|dump| dump.file.is_some());
    let elsewhere = || lines.iter().any(|(_, line)| !is_restore(line) && mentions_file(line, file));
    if is_a_backup && all_named && !elsewhere() {
        let dump = dumps[0];
        let written = dump.file.as_deref().unwrap_or_default();
        let line = position(dump.offset);
        let message = format!(
            "{} is restored, but no command in the document writes it; line {line} writes {}.",
            quote(file),
            quote(written)
        );
        let remedy = "Restore the file that the backup writes, or add the step between them.";
        findings.push(UnlocatedFinding::new(restore.offset, Code::RestoreFile, message, remedy));
    }
}

fn is_restore(line: &str) -> bool {
    line.contains("pg_restore") || line.contains("psql")
}

fn mentions_file(line: &str, file: &str) -> bool {
    words(line).iter().any(|word| base_name(word) == file)
}

/// Returns texts that may be command lines, with their offsets in the document. They are the code spans and
/// the lines of code blocks, in which continuation lines are joined.
fn command_lines(outline: &Outline) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    for code in &outline.codes {
        let mut open: Option<(usize, String)> = None;
        for (at, line) in code.lines() {
            let (start, mut joined) = open.take().unwrap_or_else(|| (code.offset(at), String::new()));
            let continued = line.trim_end().strip_suffix('\\');
            if joined.len() + line.len() <= MAX_LINE_BYTES {
                joined.push_str(continued.unwrap_or(line));
                joined.push(' ');
            }
            if continued.is_some() {
                open = Some((start, joined));
            } else if !line.trim_start().starts_with('#') {
                lines.push((start, joined));
            }
        }
        lines.extend(open);
    }
    for block in outline.blocks.iter().filter(|block| block.text.contains('`')) {
        let mut at = 0;
        for (index, part) in block.text.split('`').enumerate() {
            if index % 2 == 1 && part.len() <= MAX_LINE_BYTES {
                lines.push((block.offset(at), part.to_owned()));
            }
            at += part.len() + 1;
        }
    }
    lines.sort_by_key(|(offset, _)| *offset);
    lines
}

/// Splits a command line into words. Quotes are removed, shell expansions are replaced by `*`, and operators
/// become words of their own.
fn words(line: &str) -> Vec<String> {
    let line = line.replace(['"', '\'', '[', ']', ','], " ").replace("\\%", "%");
    let line = STDERR_REDIRECTIONS.replace_all(&line, " ");
    let line = SHELL_EXPANSIONS.replace_all(&line, "*");
    let line = STARS.replace_all(&line, "*");
    let mut spaced = String::with_capacity(line.len() + 8);
    for c in line.chars() {
        if matches!(c, '|' | '>' | '<' | ';' | '&' | '(' | ')') {
            spaced.extend([' ', c, ' ']);
        } else {
            spaced.push(c);
        }
    }
    spaced.split_whitespace().map(str::to_owned).collect()
}

/// Returns the name of a file without its folder, and without suffixes of compression or encryption.
fn base_name(path: &str) -> &str {
    let name = path.rsplit(['/', '=']).next().unwrap_or(path);
    [".gz", ".zst", ".bz2", ".xz", ".gpg", ".enc"]
        .iter()
        .fold(name, |name, end| name.strip_suffix(end).unwrap_or(name))
}

fn parse_line(line: &str, offset: usize, commands: &mut Vec<PgCommand>) {
    let words = words(line);
    let ends = |word: &String| matches!(word.as_str(), ";" | "&");
    for command in words.split(ends) {
        let piped: Vec<_> = command.split(|word| word == "|").collect();
        for (at, part) in piped.iter().enumerate() {
            let Some(start) = part.iter().position(|word| tool(word).is_some()) else { continue };
            let Some(tool) = tool(&part[start]) else { continue };
            let options = &part[start + 1..];
            let file = match tool {
                Tool::Dump => output_file(options, &piped[at..]),
                Tool::Restore | Tool::Psql => read(tool, options, &piped[..at]),
            };
            if tool == Tool::Restore && options.iter().any(|word| word == "--version" || word == "--help") {
                continue;
            }
            let is_named = part[start].ends_with("pg_dumpall");
            commands.push(PgCommand { tool, plain: is_named || is_plain_format(options), file, offset });
        }
    }
}

fn tool(word: &str) -> Option<Tool> {
    match word.rsplit('/').next()? {
        "pg_dump" | "pg_dumpall" => Some(Tool::Dump),
        "pg_restore" => Some(Tool::Restore),
        "psql" => Some(Tool::Psql),
        _ => None,
    }
}

/// Returns true if these options make pg_dump write plain SQL, which is its default format.
fn is_plain_format(options: &[String]) -> bool {
    let mut options = options.iter();
    while let Some(option) = options.next() {
        let format = match option.as_str() {
            "-F" | "--format" => options.next().map(String::as_str),
            _ => option.strip_prefix("--format=").or_else(|| packed_format(option)),
        };
        if let Some(format) = format {
            return format.starts_with('p');
        }
    }
    true
}

/// Returns the format in a group of short options, such as `-Fc` or `-vFc`.
fn packed_format(option: &str) -> Option<&str> {
    let flags = option.strip_prefix('-').filter(|flags| !flags.starts_with('-'))?;
    flags.split_once('F').map(|(_, format)| format).filter(|format| !format.is_empty())
}

/// Returns the word that follows the last of the operators or options `marks`.
fn operand_after<'w>(words: &'w [String], marks: &[&str]) -> Option<&'w str> {
    let at = words.iter().rposition(|word| marks.contains(&word.as_str()))?;
    words[at + 1..].iter().map(String::as_str).find(|word| *word != ">")
}

fn output_file(options: &[String], piped: &[&[String]]) -> Option<String> {
    let named = options.iter().find_map(|word| word.strip_prefix("--file="));
    let named = named.or_else(|| operand_after(options, &["-f", "--file"]));
    let file =
        named.or_else(|| piped.last().and_then(|last| operand_after(last, &[">", "tee", "-o", "--output"])));
    file.map(|file| base_name(file).to_owned())
}

fn read(tool: Tool, options: &[String], before: &[&[String]]) -> Option<String> {
    if let Some(file) = operand_after(options, &["<"]) {
        return Some(base_name(file).to_owned());
    }
    if let Some(first) = before.first() {
        let file = first.iter().rev().find(|word| word.contains('.') && !word.starts_with('-'));
        return file.map(|file| base_name(file).to_owned());
    }
    if tool == Tool::Psql {
        let named = options.iter().find_map(|word| word.strip_prefix("--file="));
        return named
            .or_else(|| operand_after(options, &["-f", "--file"]))
            .map(|file| base_name(file).to_owned());
    }
    let mut file = None;
    let mut options = options.iter().take_while(|word| !matches!(word.as_str(), ">" | ")" | "("));
    while let Some(word) = options.next() {
        if WITH_VALUE.contains(&word.as_str()) {
            options.next();
        } else if !word.starts_with('-') {
            file = Some(base_name(word).to_owned());
        }
    }
    file
}
