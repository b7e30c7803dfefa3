//! Evidence of a build in one signed file, which a release ships beside its binary: an operator who has no clone of the
//! repository gets a verdict on the rows that need it.

use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::Artefact;

/// Name of the file beside the binary.
pub const SIGNED_EVIDENCE_FILE: &str = "kith-evidence.json";

/// As the file stands.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// The artefacts as a JSON array, exactly as they were signed.
    payload: String,
    /// Ed25519 over the bytes of `payload` (RFC 8032), in base64.
    signature: String,
}

/// The public key that evidence is verified with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvidenceKey(Vec<u8>);

/// Why signed evidence cannot be used.
#[derive(Debug, Error)]
pub enum SignedEvidenceError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no such file.
    #[error("{}: not a file of signed evidence: {source}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// It was signed by another key, or changed since.
    #[error("{}: the signature does not verify", .0.display())]
    Forged(PathBuf),
    /// A key is not 32 bytes in base64.
    #[error("the key is not an Ed25519 key in base64")]
    Key,
}

impl EvidenceKey {
    /// Reads 32 bytes in base64.
    ///
    /// # Errors
    /// [`SignedEvidenceError::Key`].
    pub fn parse(text: &str) -> Result<Self, SignedEvidenceError> {
        let bytes = BASE64.decode(text.trim()).map_err(|_| SignedEvidenceError::Key)?;
        if bytes.len() == 32 { Ok(Self(bytes)) } else { Err(SignedEvidenceError::Key) }
    }

    /// As [`EvidenceKey::parse`] reads it.
    pub fn to_text(&self) -> String {
        BASE64.encode(&self.0)
    }

    /// Reads a file of signed evidence.
    ///
    /// # Errors
    /// [`SignedEvidenceError::Forged`] if the signature does not verify; the file cannot be read, or is none.
    pub fn read(&self, path: &Path) -> Result<Vec<Artefact>, SignedEvidenceError> {
        let io = |source| SignedEvidenceError::Io { path: path.to_owned(), source };
        let malformed = |source| SignedEvidenceError::Malformed { path: path.to_owned(), source };
        let file: File = serde_json::from_slice(&std::fs::read(path).map_err(io)?).map_err(malformed)?;
        let forged = || SignedEvidenceError::Forged(path.to_owned());
        let signature = BASE64.decode(&file.signature).map_err(|_| forged())?;
        let key = UnparsedPublicKey::new(&ED25519, &self.0);
        key.verify(file.payload.as_bytes(), &signature).map_err(|_| forged())?;
        serde_json::from_str(&file.payload).map_err(malformed)
    }
}

/// Signs evidence with the key of `seed` (32 bytes). Returns the file's text and the key that verifies it.
///
/// # Errors
/// [`SignedEvidenceError::Key`] if the seed has another length.
pub fn sign_evidence(
    artefacts: &[Artefact],
    seed: &[u8],
) -> Result<(String, EvidenceKey), SignedEvidenceError> {
    let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| SignedEvidenceError::Key)?;
    let payload = serde_json::to_string(artefacts).expect("artefacts are plain data");
    let signature = BASE64.encode(pair.sign(payload.as_bytes()));
    let text = serde_json::to_string_pretty(&File { payload, signature }).expect("two texts");
    Ok((text, EvidenceKey(pair.public_key().as_ref().to_vec())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artefact() -> Artefact {
        serde_json::from_value(serde_json::json!({
            "tool": "cargo xtask test", "commit": "abc", "dirty": false, "at": "2026-11-30T00:00:00Z",
            "tests": { "a::b": "ok" },
        }))
        .unwrap()
    }

    #[test]
    fn signed_evidence_reads_back_under_its_key_only() {
        let folder = std::env::temp_dir().join(format!("kith-signed-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(SIGNED_EVIDENCE_FILE);
        let (text, key) = sign_evidence(&[artefact()], &[7; 32]).unwrap();
        std::fs::write(&path, &text).unwrap();
        assert_eq!(EvidenceKey::parse(&key.to_text()).unwrap(), key);
        assert_eq!(key.read(&path).unwrap()[0].tests["a::b"], "ok");

        let (_, other) = sign_evidence(&[], &[8; 32]).unwrap();
        assert!(matches!(other.read(&path), Err(SignedEvidenceError::Forged(_))));
        std::fs::write(&path, text.replace("a::b", "a::c")).unwrap();
        assert!(matches!(key.read(&path), Err(SignedEvidenceError::Forged(_))));
        std::fs::write(&path, "{}").unwrap();
        assert!(matches!(key.read(&path), Err(SignedEvidenceError::Malformed { .. })));
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(EvidenceKey::parse("short").is_err() && sign_evidence(&[], &[0; 5]).is_err());
    }
}
