//! Renders a report for people: as text for a terminal, and as Markdown. Quoted texts in the report are
//! already free of control characters.

use std::fmt::Write as _;

use super::report::{ChecklistReport, Counts};
use super::scores::percent;

impl ChecklistReport {
    /// Renders counts, sections and scores, followed by one line per finding in the format that compilers
    /// use.
    #[must_use]
    pub fn to_terminal(&self, name: &str) -> String {
        let mut text = format!("{name}: {}\n", self.summary());
        let width =
            self.sections.iter().map(|section| section.title.chars().count()).max().unwrap_or(0).clamp(8, 40);
        for section in &self.sections {
            let title = if section.title.is_empty() { "(no heading)" } else { &section.title };
            let title: String = title.chars().take(40).collect();
            let of = format!("{} of {}", section.counts.ticked, section.counts.total());
            let share = section.share.map(percent).unwrap_or_default();
            let line = format!("  {title:<width$}  {of:>10}  {share:>7}{}", set_aside(section.counts));
            _ = writeln!(text, "{}", line.trim_end());
        }
        if !self.scores.is_empty() {
            text.push_str("stated scores\n");
        }
        for score in &self.scores {
            let label: String = score.label.chars().take(40).collect();
            let stated = percent(score.stated);
            _ = writeln!(
                text,
                "  line {:<4} {label}: {stated}, {}",
                score.line,
                recomputed(score.recomputed, &score.from)
            );
        }
        for finding in &self.findings {
            let (line, column) = (finding.line, finding.column);
            _ = writeln!(text, "{name}:{line}:{column}: {}: {}", finding.code, finding.message);
            _ = writeln!(text, "    {}", finding.remedy);
        }
        text.push_str(&self.conclusion());
        text
    }

    /// Renders Markdown with headings of level two, and tables.
    #[must_use]
    pub fn to_markdown(&self, name: &str) -> String {
        let mut text = format!("## {}\n\n{}\n", escape_markdown(name), escape_markdown(&self.summary()));
        if !self.sections.is_empty() {
            text.push_str("\n| section | ticked | open | share |\n|---|---|---|---|\n");
        }
        for section in &self.sections {
            let Counts { ticked, open, .. } = section.counts;
            let share = section.share.map(percent).unwrap_or_default();
            _ = writeln!(text, "| {} | {ticked} | {open} | {share} |", escape_markdown(&section.title));
        }
        if !self.scores.is_empty() {
            text.push_str("\n| line | score | stated | recomputed |\n|---|---|---|---|\n");
        }
        for score in &self.scores {
            let (label, stated) = (escape_markdown(&score.label), percent(score.stated));
            let recomputed = recomputed(score.recomputed, &score.from);
            _ = writeln!(text, "| {} | {label} | {stated} | {recomputed} |", score.line);
        }
        if !self.findings.is_empty() {
            text.push_str("\n| line | code | finding | remedy |\n|---|---|---|---|\n");
        }
        for finding in &self.findings {
            let (line, code) = (finding.line, finding.code);
            let (message, remedy) = (escape_markdown(&finding.message), escape_markdown(&finding.remedy));
            _ = writeln!(text, "| {line} | `{code}` | {message} | {remedy} |");
        }
        _ = write!(text, "\n{}", self.conclusion());
        text
    }

    fn summary(&self) -> String {
        let Counts { ticked, open, .. } = self.counts;
        let mut text = match self.share {
            Some(share) => {
                let boxes = if ticked + open == 1 { "box" } else { "boxes" };
                format!("{} {boxes}, {ticked} ticked, {open} open ({})", ticked + open, percent(share))
            }
            None => "no boxes".to_owned(),
        };
        text.push_str(&set_aside(self.counts));
        match self.boxes_in_code {
            0 => {}
            1 => text.push_str("; 1 in code is not counted"),
            more => _ = write!(text, "; {more} in code are not counted"),
        }
        text
    }

    fn conclusion(&self) -> String {
        match (self.findings.len(), self.findings_left_out) {
            (0, _) => "nothing found\n".to_owned(),
            (1, 0) => "1 finding\n".to_owned(),
            (listed, 0) => format!("{listed} findings\n"),
            (listed, more) => format!("{listed} findings, and {more} more of the same codes\n"),
        }
    }
}

fn set_aside(counts: Counts) -> String {
    if counts.set_aside == 0 { String::new() } else { format!(", {} set aside", counts.set_aside) }
}

fn recomputed(value: Option<f64>, from: &Option<String>) -> String {
    match (value, from) {
        (Some(value), Some(from)) => format!("recomputed {} from {from}", percent(value)),
        _ => "cannot be recomputed".to_owned(),
    }
}

/// Escapes the characters that have a meaning in Markdown.
fn escape_markdown(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '|' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '\\' | '#' | '~') {
            plain.push('\\');
        }
        plain.push(if c == '\n' { ' ' } else { c });
    }
    plain
}
