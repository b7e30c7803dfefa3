//! Whether a deployment is ready, with evidence: the catalogue of rows, the checks that measure them, verdicts, gates
//! and reports. It knows no feature and no database; it asks over the network, as anybody could.
