//! The twins.

use super::{Break, Twin};

/// All of them, by row.
pub const TWINS: &[Twin] = &[
    Twin {
        row: "API-11",
        broken: "whose readiness names no dependency",
        by: Break::Answered(|asked, answer| {
            if asked.path() == "/readyz" {
                answer.set_json("/checks", serde_json::json!({}));
            }
        }),
        also: &[],
    },
    Twin {
        row: "PRT-01",
        broken: "that acknowledges a rejection and does not make it",
        by: Break::Asked(|_, asked| {
            if asked.path().ends_with("/reject") {
                let read =
                    asked.path().trim_end_matches("/reject").replace("enhanced-partners", "v1/partners");
                asked.become_get(&read);
            }
        }),
        also: &[],
    },
];
