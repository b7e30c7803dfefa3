//! Evidence of a check: requests, responses and measured values.

use std::sync::{Arc, Mutex, PoisonError};

use kith_kernel::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

/// Maximum number of requests that are recorded individually. Further requests are only counted.
const MAX_RECORDED_STEPS: usize = 24;

/// Evidence that one method produced for one row.
#[derive(Clone, Debug, Serialize)]
pub struct Evidence {
    /// Method: `live`, `tests`, and so on.
    pub kind: &'static str,
    /// Description of what was done.
    pub action: String,
    /// The first requests, each with its response.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    /// Total number of requests.
    pub requests: u64,
    /// Measured values, by name.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub figures: Map<String, Value>,
    /// URL of the deployment.
    pub target: String,
    /// Name of the build that the deployment reports.
    pub build: String,
    /// Digest of the configuration, if the deployment reports it.
    pub configuration: Option<String>,
    /// Time of the measurement.
    pub at: Timestamp,
    /// Duration in milliseconds.
    pub duration_ms: u64,
}

impl Evidence {
    /// Creates evidence without information about the deployment. The caller fills in target, build and
    /// configuration.
    pub(crate) fn new(kind: &'static str, action: &str, at: Timestamp, figures: Map<String, Value>) -> Self {
        Self {
            kind,
            action: action.to_owned(),
            steps: Vec::new(),
            requests: 0,
            figures,
            target: String::new(),
            build: String::new(),
            configuration: None,
            at,
            duration_ms: 0,
        }
    }
}

/// Request that was sent, with its response.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// Method and path, such as `POST /api/v1/partners/requests`.
    pub request: String,
    /// Status of the response, or the reason why there was no response.
    pub response: String,
    /// Request id that the server reported. It can be searched for in the server's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Duration in milliseconds.
    pub duration_ms: u64,
}

/// Recorder of a running check. All clones add to the same record.
#[derive(Clone, Debug, Default)]
pub(crate) struct EvidenceRecorder(Arc<Mutex<RecordedEvidence>>);

#[derive(Debug, Default)]
struct RecordedEvidence {
    steps: Vec<Step>,
    requests: u64,
    figures: Map<String, Value>,
}

impl EvidenceRecorder {
    pub(crate) fn step(&self, step: Step) {
        self.with(|sheet| {
            sheet.requests += 1;
            if sheet.steps.len() < MAX_RECORDED_STEPS {
                sheet.steps.push(step);
            }
        });
    }

    pub(crate) fn record(&self, name: &str, value: Value) {
        self.with(|sheet| sheet.figures.insert(name.to_owned(), value));
    }

    pub(crate) fn into_evidence(self, action: &str, at: Timestamp, duration_ms: u64) -> Evidence {
        let RecordedEvidence { steps, requests, figures } = self.with(std::mem::take);
        Evidence { steps, requests, duration_ms, ..Evidence::new("live", action, at, figures) }
    }

    fn with<T>(&self, f: impl FnOnce(&mut RecordedEvidence) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
