//! Secrets that development mode generates once per data folder, so that users stay signed in after a
//! restart.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kith_kernel::Random;
use kith_store::create_folder;
use serde::Deserialize;
use thiserror::Error;

use super::{Config, Secret};

pub(super) const FILE: &str = "secrets.toml";
const RANDOM_BYTES: usize = 32;
/// Prefix of generated secrets. Production mode recognizes these secrets by the prefix and rejects them.
pub(super) const MARK: &str = "kith-dev-";

/// Error of reading or creating the secrets of development mode.
#[derive(Debug, Error)]
pub enum DevelopmentSecretsError {
    /// Other users of the machine can read or change the file.
    #[error(
        "{0} is readable by users other than its owner: run `chmod 600` on it, or delete it to generate a \
         new one"
    )]
    Exposed(PathBuf),
    /// The file has unexpected content.
    #[error("{0} has unexpected content: delete it to generate new secrets")]
    Malformed(PathBuf),
    /// The file cannot be read or created.
    #[error("cannot read or create {path}: {source}")]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GeneratedSecrets {
    jwt_secret: Secret,
    jwt_refresh_secret: Secret,
}

impl Config {
    /// In development mode, sets the token secrets that are not configured to the values in `secrets.toml` in
    /// the data folder. Creates the file if it does not exist. Nodes that share the folder get the same
    /// secrets, even if they start at the same time. Does nothing in production mode.
    ///
    /// # Errors
    /// Returns a [`DevelopmentSecretsError`] that names the file and the solution.
    pub fn fill_development_secrets(&mut self, random: &dyn Random) -> Result<(), DevelopmentSecretsError> {
        let is_complete = !self.auth.jwt_secret.is_empty() && !self.auth.jwt_refresh_secret.is_empty();
        if self.is_production() || is_complete {
            return Ok(());
        }
        let made = read_or_create(&self.data.folder, random)?;
        for (key, made) in [
            (&mut self.auth.jwt_secret, made.jwt_secret),
            (&mut self.auth.jwt_refresh_secret, made.jwt_refresh_secret),
        ] {
            if key.is_empty() {
                *key = made;
            }
        }
        Ok(())
    }
}

impl Config {
    /// Uses the secrets that development mode generated as the previous secrets, unless previous secrets are
    /// configured. Data that was written in development mode can then be decrypted and re-encrypted.
    ///
    /// # Errors
    /// Returns a [`DevelopmentSecretsError`] if the file exists and cannot be read.
    pub fn read_development_secrets_as_previous(&mut self) -> Result<(), DevelopmentSecretsError> {
        let auth = &mut self.auth;
        let is_set = !auth.jwt_secret_previous.is_empty() || !auth.jwt_refresh_secret_previous.is_empty();
        let path = self.data.folder.join(FILE);
        if is_set || !path.exists() {
            return Ok(());
        }
        let GeneratedSecrets { jwt_secret, jwt_refresh_secret } = read(&path)?;
        (auth.jwt_secret_previous, auth.jwt_refresh_secret_previous) = (jwt_secret, jwt_refresh_secret);
        Ok(())
    }
}

fn read_or_create(folder: &Path, random: &dyn Random) -> Result<GeneratedSecrets, DevelopmentSecretsError> {
    let path = folder.join(FILE);
    let cannot = |source| DevelopmentSecretsError::Io { path: path.clone(), source };
    match read(&path) {
        Err(DevelopmentSecretsError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            create(folder, &path, random).map_err(cannot)?;
            read(&path)
        }
        other => other,
    }
}

fn read(path: &Path) -> Result<GeneratedSecrets, DevelopmentSecretsError> {
    let cannot = |source| DevelopmentSecretsError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(cannot)?;
    if file.metadata().map_err(cannot)?.permissions().mode() & 0o077 != 0 {
        return Err(DevelopmentSecretsError::Exposed(path.to_owned()));
    }
    let text = io::read_to_string(file).map_err(cannot)?;
    let malformed = || DevelopmentSecretsError::Malformed(path.to_owned());
    let made: GeneratedSecrets = toml::from_str(&text).map_err(|_| malformed())?;
    let is_empty = made.jwt_secret.is_empty() || made.jwt_refresh_secret.is_empty();
    if is_empty { Err(malformed()) } else { Ok(made) }
}

/// Creates the file with its complete content in one atomic step. Keeps the existing file if another node has
/// created it first.
fn create(folder: &Path, path: &Path, random: &dyn Random) -> io::Result<()> {
    create_folder(folder)?;
    let unfinished = folder.join(format!(".{FILE}.{}", random_text(random)));
    let text = format!(
        "# Generated by Kith for development mode. Deleting it signs out all users; production mode rejects \
         it.\njwt_secret = \"{MARK}{}\"\njwt_refresh_secret = \"{MARK}{}\"\n",
        random_text(random),
        random_text(random)
    );
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    let placed =
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).and_then(
            |()| match std::fs::hard_link(&unfinished, path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                _ => Ok(()),
            },
        );
    std::fs::remove_file(&unfinished)?;
    placed?;
    File::open(folder)?.sync_all()
}

fn random_text(random: &dyn Random) -> String {
    let mut bytes = [0; RANDOM_BYTES];
    random.fill(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs::Permissions;

    use kith_kernel::SystemRandom;

    use super::*;
    use crate::config::Mode;

    fn config(folder: &Path) -> Config {
        let mut config = Config::default();
        config.data.folder = folder.join("data");
        config
    }

    fn filled_secrets(folder: &Path) -> Result<(String, String), String> {
        let mut config = config(folder);
        config.fill_development_secrets(&SystemRandom).map_err(|error| error.to_string())?;
        let text = |secret: &Secret| secret.expose().to_owned();
        Ok((text(&config.auth.jwt_secret), text(&config.auth.jwt_refresh_secret)))
    }

    #[test]
    fn concurrent_nodes_share_generated_secrets() {
        let root = tempfile::tempdir().unwrap();
        let seen: BTreeSet<_> = std::thread::scope(|scope| {
            let nodes: Vec<_> =
                (0..8).map(|_| scope.spawn(|| filled_secrets(root.path()).unwrap())).collect();
            nodes.into_iter().map(|node| node.join().unwrap()).collect()
        });
        assert_eq!(seen.len(), 1);
        let (secret, refresh_secret) = seen.first().unwrap();
        assert_ne!(secret, refresh_secret);
        for secret in [secret, refresh_secret] {
            let random = URL_SAFE_NO_PAD.decode(secret.strip_prefix(MARK).unwrap()).unwrap();
            assert_eq!(random.len(), RANDOM_BYTES);
        }
        let files: Vec<_> =
            std::fs::read_dir(root.path().join("data")).unwrap().map(Result::unwrap).collect();
        let [file] = &files[..] else { panic!("{files:?}") };
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn exposed_or_malformed_secrets_file_is_rejected() {
        let root = tempfile::tempdir().unwrap();
        filled_secrets(root.path()).unwrap();
        let path = root.path().join("data").join(FILE);
        for mode in [0o640, 0o604, 0o620] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let refused = filled_secrets(root.path()).unwrap_err();
            assert!(refused.contains(FILE) && refused.contains("chmod 600"), "{refused}");
        }
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        for text in
            ["", "jwt_secret = \"x\"", "jwt_secret = \"hunter2\"\njwt_refresh_secret = \"\"", "hunter2"]
        {
            std::fs::write(&path, text).unwrap();
            let refused = filled_secrets(root.path()).unwrap_err();
            assert!(refused.contains("unexpected content") && !refused.contains("hunter2"), "{refused}");
        }
    }

    #[test]
    fn configured_secrets_are_kept_and_production_generates_none() {
        let root = tempfile::tempdir().unwrap();
        let mut set = config(root.path());
        set.auth.jwt_secret = Secret::new("mine");
        set.fill_development_secrets(&SystemRandom).unwrap();
        assert_eq!(set.auth.jwt_secret.expose(), "mine");
        assert_eq!(set.auth.jwt_refresh_secret.expose(), filled_secrets(root.path()).unwrap().1);

        let other = tempfile::tempdir().unwrap();
        let mut production = config(other.path());
        production.server.mode = Mode::Production;
        production.fill_development_secrets(&SystemRandom).unwrap();
        assert!(production.auth.jwt_secret.is_empty());
        assert!(!other.path().join("data").exists());
    }
}
