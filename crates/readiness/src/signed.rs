//! Signed evidence of a build: one file that a release contains beside its binary. With it, an operator can
//! judge rows that need evidence of repository commands, without a clone of the repository.

use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::Artefact;

/// Name of the file, which is beside the binary.
pub const SIGNED_EVIDENCE_FILE: &str = "kith-evidence.json";

/// Content of the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignedEvidenceFile {
    /// JSON array of artefacts, byte for byte as it was signed.
    payload: String,
    /// Base64 of the Ed25519 signature over the bytes of `payload` (RFC 8032).
    signature: String,
}

/// Public Ed25519 key that verifies evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvidenceKey(Vec<u8>);

/// Error of reading or signing evidence.
#[derive(Debug, Error)]
pub enum SignedEvidenceError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// I/O error.
        source: std::io::Error,
    },
    /// The file is not valid JSON or does not match the format.
    #[error("{}: not a signed evidence file: {source}", path.display())]
    Malformed {
        /// Path of the file.
        path: PathBuf,
        /// JSON error.
        source: serde_json::Error,
    },
    /// The signature is not valid: the file was changed, or signed with another key.
    #[error("{}: the signature does not verify", .0.display())]
    InvalidSignature(PathBuf),
    /// A key or seed does not have 32 bytes, or is not valid base64.
    #[error("the key is not an Ed25519 key in base64")]
    InvalidKey,
}

impl EvidenceKey {
    /// Parses a key: 32 bytes in base64.
    ///
    /// # Errors
    /// Returns [`SignedEvidenceError::InvalidKey`] for any other text.
    pub fn parse(text: &str) -> Result<Self, SignedEvidenceError> {
        let bytes = BASE64.decode(text.trim()).map_err(|_| SignedEvidenceError::InvalidKey)?;
        if bytes.len() == 32 { Ok(Self(bytes)) } else { Err(SignedEvidenceError::InvalidKey) }
    }

    /// Formats the key as text that [`EvidenceKey::parse`] accepts.
    pub fn to_text(&self) -> String {
        BASE64.encode(&self.0)
    }

    /// Reads a file of signed evidence and verifies its signature.
    ///
    /// # Errors
    /// Returns [`SignedEvidenceError::Io`] if the file cannot be read, and [`SignedEvidenceError::Malformed`]
    /// if it does not match the format. Returns [`SignedEvidenceError::InvalidSignature`] if the signature is
    /// not valid.
    pub fn read(&self, path: &Path) -> Result<Vec<Artefact>, SignedEvidenceError> {
        let io = |source| SignedEvidenceError::Io { path: path.to_owned(), source };
        let malformed = |source| SignedEvidenceError::Malformed { path: path.to_owned(), source };
        let file: SignedEvidenceFile =
            serde_json::from_slice(&std::fs::read(path).map_err(io)?).map_err(malformed)?;
        let forged = || SignedEvidenceError::InvalidSignature(path.to_owned());
        let signature = BASE64.decode(&file.signature).map_err(|_| forged())?;
        let key = UnparsedPublicKey::new(&ED25519, &self.0);
        key.verify(file.payload.as_bytes(), &signature).map_err(|_| forged())?;
        serde_json::from_str(&file.payload).map_err(malformed)
    }
}

/// Signs artefacts with the key that belongs to `seed` (32 bytes). Returns the text of the file, and the key
/// that verifies it.
///
/// # Errors
/// Returns [`SignedEvidenceError::InvalidKey`] if the seed does not have 32 bytes.
pub fn sign_evidence(
    artefacts: &[Artefact],
    seed: &[u8],
) -> Result<(String, EvidenceKey), SignedEvidenceError> {
    let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| SignedEvidenceError::InvalidKey)?;
    let payload = serde_json::to_string(artefacts).expect("artefacts can be serialized");
    let signature = BASE64.encode(pair.sign(payload.as_bytes()));
    let text = serde_json::to_string_pretty(&SignedEvidenceFile { payload, signature }).expect("two texts");
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
    fn signed_evidence_verifies_with_its_key_only() {
        let folder = std::env::temp_dir().join(format!("kith-signed-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(SIGNED_EVIDENCE_FILE);
        let (text, key) = sign_evidence(&[artefact()], &[7; 32]).unwrap();
        std::fs::write(&path, &text).unwrap();
        assert_eq!(EvidenceKey::parse(&key.to_text()).unwrap(), key);
        assert_eq!(key.read(&path).unwrap()[0].tests["a::b"], "ok");

        let (_, other) = sign_evidence(&[], &[8; 32]).unwrap();
        assert!(matches!(other.read(&path), Err(SignedEvidenceError::InvalidSignature(_))));
        std::fs::write(&path, text.replace("a::b", "a::c")).unwrap();
        assert!(matches!(key.read(&path), Err(SignedEvidenceError::InvalidSignature(_))));
        std::fs::write(&path, "{}").unwrap();
        assert!(matches!(key.read(&path), Err(SignedEvidenceError::Malformed { .. })));
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(EvidenceKey::parse("short").is_err() && sign_evidence(&[], &[0; 5]).is_err());
    }
}
