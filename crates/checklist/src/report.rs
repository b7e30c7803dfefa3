//! What is said of a checklist: counts, stated scores beside recomputed ones, findings. It decides nothing.

use serde::Serialize;

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal,)+) => {
        /// What kind of fault a finding is. The codes are stable: scripts may name them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub enum Code {
            $($(#[doc = $doc])+ #[serde(rename = $code)] $name,)+
        }

        impl Code {
            /// All there are, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// As it is written in reports.
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
    /// An overall score is not what its parts give.
    ScoreOfParts = "score-of-parts",
    /// A stated share is not what the boxes give.
    ScoreOfBoxes = "score-of-boxes",
    /// A fraction and the percentage beside it differ, or a part is larger than its whole.
    ScoreArithmetic = "score-arithmetic",
    /// The same item is ticked in one place and open in another.
    TickedAndOpen = "ticked-and-open",
    /// A heading or an item is ticked, and boxes under it are open.
    TickedOverOpen = "ticked-over-open",
    /// "Production ready", "confirmed", "all done" beside open boxes.
    DoneBesideOpen = "done-beside-open",
    /// "All … tested" beside "1 of 14 … tested".
    AllBesideSome = "all-beside-some",
    /// Something that was to be filled in.
    Placeholder = "placeholder",
    /// A restore command that cannot read what the backup command writes.
    RestoreFormat = "restore-format",
    /// A restore command that reads a file which no command writes.
    RestoreFile = "restore-file",
    /// Brackets that look like a box and are shown as text.
    MalformedBox = "malformed-box",
    /// A code fence without an end, so that boxes after it are code.
    UnclosedFence = "unclosed-fence",
    /// Characters that were mis-encoded, or cannot be read at all.
    Encoding = "encoding",
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// How many boxes there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Boxes that say done.
    pub ticked: usize,
    /// Boxes that say not done, or not wholly.
    pub open: usize,
    /// Boxes that are struck out or marked as not applicable; they are in no share.
    pub set_aside: usize,
}

impl Counts {
    /// Ticked and open ones.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.ticked + self.open
    }

    /// The ticked ones' share in percent; none without boxes.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "nobody ticks 2^52 boxes")]
    pub fn share(&self) -> Option<f64> {
        (self.total() > 0).then(|| 100.0 * self.ticked as f64 / self.total() as f64)
    }
}

/// The boxes directly under one heading.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SectionCounts {
    /// The heading's text; empty for what stands before the first one.
    pub title: String,
    /// The heading's line, from 1.
    pub line: usize,
    /// From 1 to 6; 0 before the first heading.
    pub level: usize,
    /// Its boxes, without those of the sections under it.
    pub counts: Counts,
    /// The ticked ones' share in percent.
    pub share: Option<f64>,
}

/// A score that the document states.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StatedScore {
    /// What it is the score of, in the author's words.
    pub label: String,
    /// Its line, from 1.
    pub line: usize,
    /// In percent.
    pub stated: f64,
    /// In percent; none where the document holds nothing to compute it from.
    pub recomputed: Option<f64>,
    /// What it was recomputed from, in words.
    pub from: Option<String>,
}

/// A fault, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its line, from 1.
    pub line: usize,
    /// Its column in characters, from 1.
    pub column: usize,
    /// What kind of fault it is.
    pub code: Code,
    /// What is wrong, a sentence.
    pub message: String,
    /// How to mend it, a sentence.
    pub remedy: String,
}

/// What is said of one checklist.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// All its boxes.
    pub counts: Counts,
    /// The ticked ones' share in percent.
    pub share: Option<f64>,
    /// What looks like boxes in blocks of code, which are not counted.
    pub boxes_in_code: usize,
    /// Sections that have boxes, in their order.
    pub sections: Vec<SectionCounts>,
    /// Scores that the document states, in their order.
    pub scores: Vec<StatedScore>,
    /// What is wrong, by line; of each code at most [`Report::MOST_OF_A_CODE`].
    pub findings: Vec<Finding>,
    /// Findings beyond that number.
    pub findings_left_out: usize,
}

impl Report {
    /// How many findings of one code a report lists.
    pub const MOST_OF_A_CODE: usize = 100;
}
