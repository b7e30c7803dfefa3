//! Judges with evidence whether a deployment is ready. Contains the catalogue of rows, declarations of
//! checks, outcomes, gates and reports. The crate depends on no feature and no database, and uses only the
//! network.

mod artefact;
mod catalogue;
mod check;
mod client;
mod counters;
pub mod declared;
mod deployment;
mod evidence;
mod method_result;
pub mod observatory;
mod operation;
mod outcome;
pub mod report;
mod run;
mod score;
mod signed;
mod verify;

pub use artefact::{Artefact, ArtefactError, Artefacts, MeasurementResult, RowMeasurement};
pub use catalogue::{Area, Catalogue, CatalogueError, CatalogueRow, Gate, ProofMethod};
pub use check::{Check, CheckFuture, Shortfall};
pub use client::{CheckResponse, Client, RequestError};
pub use counters::Counters;
pub use declared::Declared;
pub use deployment::{AdminAccess, Deployment, OwnBuild, RolePermissions, Target};
pub use evidence::{Evidence, Step};
pub use operation::{NO_ID, Operation, Parameter};
pub use outcome::{RowOutcome, RowResult};
pub use report::ReadinessReport;
pub use run::{Run, SyntheticAccount};
pub use score::{AreaScore, GateVerdict, Score, Scores};
pub use signed::{EvidenceKey, SIGNED_EVIDENCE_FILE, SignedEvidenceError, sign_evidence};
pub use verify::{Identity, Plan, Progress, verify};
