//! What was done, what came back, and the figures that came of it.

use std::sync::{Arc, Mutex, PoisonError};

use kith_kernel::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

/// How many steps are kept one by one, from the beginning; the others are only counted.
const STEPS_KEPT: usize = 24;

/// Everything that was seen of one row in one way.
#[derive(Clone, Debug, Serialize)]
pub struct Evidence {
    /// In which way: `live`, `tests`, …
    pub kind: &'static str,
    /// What was done.
    pub did: String,
    /// The first requests and what came back, one by one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    /// How many requests were made altogether.
    pub requests: u64,
    /// What was measured.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub figures: Map<String, Value>,
    /// The deployment that was asked.
    pub target: String,
    /// Its build, as it says itself.
    pub build: String,
    /// The digest of its configuration, if it told.
    pub configuration: Option<String>,
    /// When.
    pub at: Timestamp,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

impl Evidence {
    /// What was done in one way and what came of it; of which deployment is filled in by whoever judges.
    pub(crate) fn new(kind: &'static str, did: &str, at: Timestamp, figures: Map<String, Value>) -> Self {
        Self {
            kind,
            did: did.to_owned(),
            steps: Vec::new(),
            requests: 0,
            figures,
            target: String::new(),
            build: String::new(),
            configuration: None,
            at,
            took_ms: 0,
        }
    }
}

/// A request, and what came back.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// `POST /api/v1/partners/requests`.
    pub asked: String,
    /// The status, or why there is none.
    pub answered: String,
    /// As the server calls it, to be looked up in its log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// Takes notes while a check runs. Clones write on the same sheet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes(Arc<Mutex<Sheet>>);

#[derive(Debug, Default)]
struct Sheet {
    steps: Vec<Step>,
    requests: u64,
    figures: Map<String, Value>,
}

impl Notes {
    pub(crate) fn step(&self, step: Step) {
        self.with(|sheet| {
            sheet.requests += 1;
            if sheet.steps.len() < STEPS_KEPT {
                sheet.steps.push(step);
            }
        });
    }

    pub(crate) fn figure(&self, name: &str, value: Value) {
        self.with(|sheet| sheet.figures.insert(name.to_owned(), value));
    }

    pub(crate) fn into_evidence(self, did: &str, at: Timestamp, took_ms: u64) -> Evidence {
        let Sheet { steps, requests, figures } = self.with(std::mem::take);
        Evidence { steps, requests, took_ms, ..Evidence::new("live", did, at, figures) }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Sheet) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
