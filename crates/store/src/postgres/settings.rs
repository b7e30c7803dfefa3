//! Settings of the connection, parsed from the database URL with its TLS parameters.
//!
//! An encrypted connection always verifies the server's certificate. Without `sslmode`, connections to
//! loopback addresses and Unix sockets are not encrypted, and all other connections are.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use sha2::{Digest, Sha256};
use tokio_postgres::Config;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::hosts::{self, settings};
use crate::OpenError;
use crate::options::DEFAULT_PLAN_MAX_AGE;

/// Time limit for connecting to one server, including TLS and authentication.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Time after the timeout of a statement at which the server counts as unresponsive. It also limits the
/// duration of a shutdown while the server does not respond.
const RESPONSE_MARGIN: Duration = Duration::from_secs(2);

/// TCP keepalive settings. With them a dead peer is detected after about ten seconds.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_RETRIES: u32 = 3;
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// SQL that configures a PostgreSQL session. The server detects a lost client and releases its locks. Commits
/// are durable even if the default of the role is `synchronous_commit = off`.
const SESSION_SETTINGS: &str =
    "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3;
    SET tcp_user_timeout = 10000;
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

/// Connection settings.
#[derive(Clone)]
pub(crate) struct Settings {
    /// Servers, in the order in which they are tried.
    pub servers: Vec<Server>,
    /// Statements that are run on each new connection.
    pub session_setup: String,
    /// Time after which a statement without a response counts as failed and its connection as lost. The
    /// timeouts of the server are shorter.
    pub response_timeout: Duration,
    /// Maximum age of cached query plans (see [`crate::PostgresOptions::plan_max_age`]).
    pub plan_max_age: Duration,
}

/// Server with its TLS configuration, if connections to it are encrypted.
#[derive(Clone)]
pub(crate) struct Server {
    pub config: Config,
    pub tls: Option<MakeRustlsConnect>,
}

impl Settings {
    /// Parses a URL such as `postgres://kith@db.example/kith?sslmode=verify-full&sslrootcert=/etc/ca.pem`.
    /// `password` is used if the URL contains no password.
    pub fn parse(url: &str, password: Option<&str>, deadline: Duration) -> Result<Self, OpenError> {
        let (mut config, tls) = parse(url)?;
        if let (None, Some(password)) = (config.get_password(), password) {
            config.password(password);
        }
        let servers = hosts::split(&config)?;
        let servers =
            servers.into_iter().map(|config| Server::new(config, &tls)).collect::<Result<_, _>>()?;
        let ms = deadline.as_millis();
        // Longer than `lock_timeout`, so that transactions that wait for a lock time out before the
        // server ends the idle session that holds the lock.
        let idle_ms = ms * 4;
        let session_setup = format!(
            "SET statement_timeout = {ms}; SET lock_timeout = {ms}; SET idle_in_transaction_session_timeout = {idle_ms};
             {SESSION_SETTINGS}"
        );
        let response_timeout = deadline + RESPONSE_MARGIN;
        Ok(Self { servers, session_setup, response_timeout, plan_max_age: DEFAULT_PLAN_MAX_AGE })
    }

    /// Returns settings with which the server ends a session that has been idle for `limit`, and releases its
    /// locks. TCP keepalives do not detect a frozen process, because its machine still responds.
    pub fn with_idle_limit(&self, limit: Duration) -> Self {
        let (ms, session_setup) = (limit.as_millis(), &self.session_setup);
        let session_setup = format!(
            "{session_setup}; SET idle_session_timeout = {ms}; SET idle_in_transaction_session_timeout = {ms}"
        );
        Self { session_setup, ..self.clone() }
    }

    /// Returns the role with which the connection authenticates.
    pub fn user(&self) -> Option<&str> {
        self.servers.first()?.config.get_user()
    }
}

impl Server {
    fn new(mut config: Config, tls: &TlsChoice) -> Result<Self, OpenError> {
        config
            .application_name("kith")
            .connect_timeout(CONNECT_TIMEOUT)
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .keepalives_retries(KEEPALIVE_RETRIES)
            .tcp_user_timeout(TCP_USER_TIMEOUT);
        let encrypts = match tls.mode.as_deref() {
            None => !hosts::is_local(&config),
            Some("disable") => false,
            Some("require" | "verify-ca" | "verify-full") => true,
            Some(other) => {
                return Err(settings(format!(
                    "unknown sslmode {other}; expected one of: disable, require, verify-ca, verify-full"
                )));
            }
        };
        config.ssl_mode(if encrypts { SslMode::Require } else { SslMode::Disable });
        let tls = encrypts.then(|| client_tls(tls.root_cert.as_deref())).transpose()?;
        Ok(Self { config, tls })
    }

    /// Returns a copy that also accepts a read-only server.
    pub fn accepting_read_only(&self) -> Self {
        let mut server = self.clone();
        server.config.target_session_attrs(TargetSessionAttrs::Any);
        server
    }
}

/// Returns the password in a URL, if there is one.
pub(crate) fn password_in(url: &str) -> Option<Vec<u8>> {
    parse(url).ok()?.0.get_password().map(<[u8]>::to_vec)
}

/// Returns a short name for the database and the schema in a URL. It does not depend on the server and the
/// role.
pub(crate) fn database_label(url: &str) -> Result<String, OpenError> {
    let (config, _) = parse(url)?;
    let name = config.get_dbname().or(config.get_user()).unwrap_or_default();
    // Options other than the schema do not distinguish databases.
    let schema = config.get_options().and_then(|options| options.split("search_path=").nth(1));
    let schema = schema.and_then(|rest| rest.split_whitespace().next()).unwrap_or_default();
    let digest = Sha256::new().chain_update(name).chain_update([0]).chain_update(schema).finalize();
    Ok(digest[..8].iter().map(|byte| format!("{byte:02x}")).collect())
}

pub(super) fn parse(url: &str) -> Result<(Config, TlsChoice), OpenError> {
    let (url, tls) = split_tls(url)?;
    // The parser's own error can contain the URL with its password.
    let not_an_address =
        || settings("database.url is not a PostgreSQL address: postgres://user@host/database");
    Ok((url.parse().map_err(|_| not_an_address())?, tls))
}

/// TLS parameters of a URL.
#[derive(Default)]
pub(super) struct TlsChoice {
    pub mode: Option<String>,
    pub root_cert: Option<String>,
}

/// Removes the TLS parameters from a URL and returns both. The driver parses the remaining URL.
fn split_tls(url: &str) -> Result<(String, TlsChoice), OpenError> {
    let Some((base, query)) = url.split_once('?') else {
        return Ok((url.to_owned(), TlsChoice::default()));
    };
    let mut tls = TlsChoice::default();
    let mut rest = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("sslmode", mode)) => tls.mode = Some(mode.to_owned()),
            Some(("sslrootcert", path)) => tls.root_cert = Some(path.to_owned()),
            Some(_) => rest.push(pair),
            None => return Err(settings("a parameter in database.url has no value")),
        }
    }
    let url = if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
    Ok((url, tls))
}

/// Returns a TLS configuration that trusts the authorities in `root_cert`, or those of the operating system
/// if it is `None`.
fn client_tls(root_cert: Option<&str>) -> Result<MakeRustlsConnect, OpenError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = root_cert {
        let bad = |error: &dyn std::fmt::Display| settings(format!("sslrootcert {path}: {error}"));
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| bad(&error))? {
            roots.add(certificate.map_err(|error| bad(&error))?).map_err(|error| bad(&error))?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if roots.is_empty() {
        return Err(settings("no certificate authority to trust: name one with sslrootcert in database.url"));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| settings(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Settings, OpenError> {
        Settings::parse(url, None, Duration::from_secs(5))
    }

    #[test]
    fn only_loopback_is_unencrypted_by_default() {
        let encrypts =
            |url| parse(url).unwrap().servers.iter().map(|one| one.tls.is_some()).collect::<Vec<_>>();
        assert_eq!(encrypts("postgres://a@127.0.0.1/b"), [false]);
        assert_eq!(encrypts("postgres://a@localhost,127.0.0.1/b"), [false, false]);
        assert_eq!(encrypts("postgres://a@db.example,localhost/b?sslmode=disable"), [false, false]);
        for remote in [
            "postgres://a@db.example/b",
            "postgres://a@localhost/b?hostaddr=10.0.0.5",
            "postgres://a@localhost,db.example/b",
        ] {
            // On systems without trusted authorities the URL is rejected.
            let last = |settings: Settings| settings.servers.last().unwrap().tls.is_some();
            assert!(parse(remote).map_or(true, last), "{remote}");
        }
    }

    #[test]
    fn password_in_url_is_found() {
        let found = |url| crate::PostgresOptions::password_in(url);
        assert_eq!(found("postgres://a:se%63ret@h/b?sslmode=disable").as_deref(), Some(&b"secret"[..]));
        for without in ["postgres://a@h/b", "sqlite", ""] {
            assert_eq!(found(without), None, "{without}");
        }
    }

    #[test]
    fn invalid_url_error_omits_password() {
        for url in [
            "mysql://a:secret@x/b",
            "postgres://a:secret@h:port/b",
            "postgres://a:secret@h/b?sslmode=maybe",
            "postgres://a:secret@h,i/b?hostaddr=::1",
        ] {
            let error = parse(url).err().expect(url).to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
