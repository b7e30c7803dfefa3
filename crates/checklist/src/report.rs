//! Types of the report: counts of boxes, stated and recomputed scores, and findings.

use serde::Serialize;

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal,)+) => {
        /// Kind of a finding. Scripts can rely on the codes, because they do not change.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub enum Code {
            $($(#[doc = $doc])+ #[serde(rename = $code)] $name,)+
        }

        impl Code {
            /// All codes, in the same order as in the documentation.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Returns the code as it appears in reports.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)+
                }
            }
        }
    };
}

codes! {
    /// An overall score does not match the scores of its parts.
    ScoreOfParts = "score-of-parts",
    /// A stated share of completed items does not match the boxes.
    ScoreOfBoxes = "score-of-boxes",
    /// A fraction does not match the percentage beside it, or its numerator is larger than its denominator.
    ScoreArithmetic = "score-arithmetic",
    /// An item is ticked in one place and open in another.
    TickedAndOpen = "ticked-and-open",
    /// A heading or item is ticked although boxes under it are open.
    TickedOverOpen = "ticked-over-open",
    /// The text claims "production ready", "confirmed" or "all done" although boxes are open.
    DoneBesideOpen = "done-beside-open",
    /// The text claims that all is tested, and also that only some is, as in "1 of 14 … tested".
    AllBesideSome = "all-beside-some",
    /// A placeholder is not filled in.
    Placeholder = "placeholder",
    /// A restore command cannot read the format that the backup command writes.
    RestoreFormat = "restore-format",
    /// A restore command reads a file that no backup command writes.
    RestoreFile = "restore-file",
    /// Brackets look like a box but are rendered as text.
    MalformedBox = "malformed-box",
    /// A code fence is not closed, so boxes after it count as code.
    UnclosedFence = "unclosed-fence",
    /// Characters were decoded wrongly or are unreadable.
    Encoding = "encoding",
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Numbers of boxes by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Number of boxes marked as done.
    pub ticked: usize,
    /// Number of boxes marked as not done or only partly done.
    pub open: usize,
    /// Number of boxes that are struck out or marked as not applicable. They are not part of the share.
    pub set_aside: usize,
}

impl Counts {
    /// Returns the number of boxes that are ticked or open.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.ticked + self.open
    }

    /// Returns the share of ticked boxes in percent. Returns `None` if no box is ticked or open.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts are below 2^52")]
    pub fn share(&self) -> Option<f64> {
        (self.total() > 0).then(|| 100.0 * self.ticked as f64 / self.total() as f64)
    }
}

/// Counts of the boxes under one heading, without subsections.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SectionCounts {
    /// Text of the heading. Empty for the text before the first heading.
    pub title: String,
    /// Line of the heading, from 1.
    pub line: usize,
    /// Heading level from 1 to 6, or 0 before the first heading.
    pub level: usize,
    /// Counts of the boxes, without subsections.
    pub counts: Counts,
    /// Share of ticked boxes in percent.
    pub share: Option<f64>,
}

/// Score that the document states.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StatedScore {
    /// Label in the author's words.
    pub label: String,
    /// Line, from 1.
    pub line: usize,
    /// Stated value in percent.
    pub stated: f64,
    /// Recomputed value in percent. `None` if the document does not contain enough data to compute it.
    pub recomputed: Option<f64>,
    /// Description of the data from which the score was recomputed.
    pub from: Option<String>,
}

/// Fault in the checklist, with its position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Kind of the fault.
    pub code: Code,
    /// Description of the fault as one sentence.
    pub message: String,
    /// Remedy as one sentence.
    pub remedy: String,
}

/// Report on one checklist.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ChecklistReport {
    /// Counts of all boxes.
    pub counts: Counts,
    /// Share of ticked boxes in percent.
    pub share: Option<f64>,
    /// Number of lines in code blocks that look like boxes. They are not counted as boxes.
    pub boxes_in_code: usize,
    /// Sections with boxes, in document order.
    pub sections: Vec<SectionCounts>,
    /// Stated scores, in document order.
    pub scores: Vec<StatedScore>,
    /// Findings by position, at most [`ChecklistReport::MAX_FINDINGS_PER_CODE`] for each code.
    pub findings: Vec<Finding>,
    /// Number of findings that were left out because of that limit.
    pub findings_left_out: usize,
}

impl ChecklistReport {
    /// Maximum number of findings per code in a report.
    pub const MAX_FINDINGS_PER_CODE: usize = 100;
}
