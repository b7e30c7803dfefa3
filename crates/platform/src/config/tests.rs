//! Tests of the precedence of configuration sources, and of the error for each invalid configuration.

use std::net::SocketAddr;

use super::*;
use crate::config::{EngineOptions, LogFormat, Mode, Secret};

/// Loads a configuration from `toml`, `env` and `flags`.
fn load(toml: &str, env: &[(&str, &str)], flags: &[(&'static str, Value)]) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kith.toml");
    std::fs::write(&file, toml).unwrap();
    let inputs = Inputs {
        file: Some(file),
        env: env.iter().map(|(name, value)| (name.into(), value.into())).collect(),
        flags: flags.iter().map(|(key, value)| Flag { name: "--flag", key, value: value.clone() }).collect(),
    };
    Config::load(&inputs, &[]).map_err(|error| error.to_string())
}

#[test]
fn later_source_takes_precedence() {
    let toml = "server.drain_ms = 1\nserver.keep_alive_ms = 1\nserver.head_timeout_ms = 1";
    let env =
        [("KITH__SERVER__KEEP_ALIVE_MS", "2"), ("KITH__SERVER__HEAD_TIMEOUT_MS", "2"), ("PATH", "/bin")];
    let config = load(toml, &env, &[("server.head_timeout_ms", Value::Integer(3))]).unwrap();
    let server = &config.server;
    assert_eq!((server.drain_ms, server.keep_alive_ms, server.head_timeout_ms), (1, 2, 3));
    assert_eq!(server.body_timeout_ms, Config::default().server.body_timeout_ms);
    assert!(config.is_default("server.body_timeout_ms") && !config.is_default("server.drain_ms"));
}

#[test]
fn environment_text_is_converted_to_key_type() {
    let env = [
        ("KITH__SERVER__DISABLE_LIMITS", "true"),
        ("KITH__SERVER__LISTEN", "[::1]:9000"),
        ("KITH__LOG__FORMAT", "json"),
        ("KITH__DATA__FOLDER", "12"),
    ];
    let config = load("", &env, &[]).unwrap();
    assert!(config.server.disable_limits);
    assert_eq!(config.server.listen, "[::1]:9000".parse::<SocketAddr>().unwrap());
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.data.folder, Path::new("12"));
}

#[test]
fn environment_list_is_split_and_validated() {
    let proxies = |value| load("", &[("KITH__SERVER__TRUSTED_PROXIES", value)], &[]);
    let list = proxies("10.0.0.0/8, ::1,").unwrap().server.trusted_proxies;
    assert_eq!(list, ["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
    assert_eq!(proxies("").unwrap().server.trusted_proxies, []);
    for wrong in ["10.0.0.0/33", "proxy.example.org", "10.0.0.0/8 ::1", "*"] {
        let error = proxies(wrong).unwrap_err();
        for named in ["`server.trusted_proxies`", "KITH__SERVER__TRUSTED_PROXIES", "10.0.0.0/8"] {
            assert!(error.contains(named), "{error}");
        }
    }
}

#[test]
fn file_variable_reads_value_from_file() {
    let folder = tempfile::tempdir().unwrap();
    for (text, kept) in [
        ("postgres://x", "postgres://x"),
        ("postgres://x\n", "postgres://x"),
        ("postgres://x\r\n", "postgres://x"),
    ] {
        let path = folder.path().join("url");
        std::fs::write(&path, text).unwrap();
        let config = load("", &[("KITH__DATABASE__URL_FILE", path.to_str().unwrap())], &[]).unwrap();
        assert_eq!(config.database.url.expose(), kept);
    }
    let missing = load("", &[("KITH__DATABASE__URL_FILE", "/no/such/file")], &[]).unwrap_err();
    assert!(missing.contains("/no/such/file") && missing.contains("KITH__DATABASE__URL_FILE"), "{missing}");
}

#[test]
fn errors_name_key_and_source() {
    let production = "server.mode = \"production\"\n";
    for (toml, env, named) in [
        ("[server]\nlistn = 1", None, vec!["`server.listn`", "kith.toml"]),
        ("[sever]\nlisten = 1", None, vec!["`sever`", "kith.toml"]),
        ("server = 1", None, vec!["`server`", "a table", "an integer"]),
        (
            "[server]\ndrain_ms = \"1\"",
            None,
            vec!["`server.drain_ms`", "an integer", "a string", "kith.toml"],
        ),
        ("[server]\ndrain_ms = -1", None, vec!["`server.drain_ms`", "kith.toml"]),
        ("[server]\nmode = \"prod\"", None, vec!["`server.mode`", "development", "production"]),
        ("\n\nserver = {", None, vec!["kith.toml", "line 3"]),
        ("", Some(("KITH__SERVER__LISTN", "1")), vec!["`server.listn`", "KITH__SERVER__LISTN"]),
        ("", Some(("KITH__SERVER", "1")), vec!["KITH__SERVER"]),
        ("", Some(("KITH__server__listen", "127.0.0.1:1")), vec!["KITH__server__listen"]),
        (
            "",
            Some(("KITH__SERVER__DRAIN_MS", "soon")),
            vec!["`server.drain_ms`", "an integer", "KITH__SERVER__DRAIN_MS"],
        ),
        ("", Some(("KITH__SERVER__DISABLE_LIMITS", "yes")), vec!["`server.disable_limits`", "true or false"]),
        ("", Some(("KITH__SERVER__LISTEN", "localhost")), vec!["`server.listen`", "KITH__SERVER__LISTEN"]),
        (
            "",
            Some(("KITH__SERVER__LISTEN", "0.0.0.0:8080")),
            vec!["`server.listen`", "loopback", "server.mode"],
        ),
        ("", Some(("KITH__DATABASE__URL", "mysql://x")), vec!["`database.url`", "KITH__DATABASE__URL"]),
        ("[database]\nmigrate_url = \"postgres://x\"", None, vec!["`database.migrate_url`", "sqlite"]),
        ("[auth]\npassword_memory_kib = 7", None, vec!["`auth.password_memory_kib`", "at least 8"]),
        ("[log]\nlevel = \"a=b=c\"", None, vec!["`log.level`"]),
        ("[log]\nlevel = \"inof\"", None, vec!["`log.level`"]),
        ("[log]\nlevel = \"info,=debug\"", None, vec!["`log.level`"]),
        ("[log]\nlevel = \"\"", None, vec!["`log.level`"]),
        (
            &format!("{production}[database]\nsynchronous = \"off\""),
            None,
            vec!["`database.synchronous`", "full"],
        ),
        (
            &format!("{production}[auth]\npassword_memory_kib = 1024"),
            None,
            vec!["`auth.password_memory_kib`", "19456"],
        ),
        (&format!("{production}[auth]\npassword_iterations = 1"), None, vec!["`auth.password_iterations`"]),
        (
            production,
            Some(("KITH__SERVER__DISABLE_LIMITS", "true")),
            vec!["`server.disable_limits`", "production"],
        ),
    ] {
        let error = load(toml, env.as_slice(), &[]).unwrap_err();
        for name in named {
            assert!(error.contains(name), "{toml:?} {env:?}: {error:?} does not name {name}");
        }
    }
}

#[test]
fn two_variables_for_one_key_are_rejected() {
    for (first, second) in [
        ("KITH__DATABASE__URL", "KITH__DATABASE__URL_FILE"),
        ("JWT_SECRET", "JWT_SECRET_FILE"),
        ("JWT_SECRET", "KITH__AUTH__JWT_SECRET"),
        ("JWT_SECRET_FILE", "KITH__AUTH__JWT_SECRET_FILE"),
    ] {
        let env = [(first, "/dev/null"), (second, "/dev/null")];
        for env in [env, [env[1], env[0]]] {
            let error = load("", &env, &[]).unwrap_err();
            assert_eq!(error, format!("{first} and {second} set the same key: remove one of them"));
        }
    }
}

/// Proves the readiness requirement SEC-15.
#[test]
fn env_aliases_set_secret_settings() {
    let folder = tempfile::tempdir().unwrap();
    for (n, (alias, key)) in env::ALIASES.iter().enumerate() {
        let value = format!("value-{n}");
        let path = folder.path().join(alias);
        std::fs::write(&path, format!("{value}\n")).unwrap();
        let file = format!("{alias}_FILE");
        for env in [(*alias, &*value), (&*file, path.to_str().unwrap())] {
            let config = load("", &[env], &[]).unwrap();
            let secrets = config.secrets();
            let (_, secret) =
                secrets.iter().find(|(of, _)| of == key).expect("the key is in the list of secrets");
            assert_eq!(secret.expose(), value, "{env:?}");
            assert_eq!(config.origin(key), Origin::Env(env.0.to_owned()));
        }
    }
    assert!(
        load("", &[("JWT_SECRET_", "x"), ("MY_JWT_SECRET", "x")], &[]).unwrap().auth.jwt_secret.is_empty()
    );
}

#[test]
fn password_applies_to_url_without_password() {
    let (bare, full) = ("postgres://kith@db/kith", "postgres://kith:s3cret@db/kith");
    let load_with =
        |url: &str, password| load("", &[("KITH__DATABASE__URL", url), ("DATABASE_PASSWORD", password)], &[]);
    let EngineOptions::Postgres(options) = load_with(bare, "s3cret").unwrap().store_options().engine else {
        panic!("the engine is not PostgreSQL")
    };
    assert_eq!((options.url.as_str(), options.password.as_deref()), (bare, Some("s3cret")));
    assert!(load_with(full, "s3cret").is_ok() && load_with("sqlite", "of something else").is_ok());
    let error = load_with(full, "another").unwrap_err();
    for name in ["`database.password`", "DATABASE_PASSWORD", "`database.url`"] {
        assert!(error.contains(name), "{error}");
    }
    assert!(!error.contains("another") && !error.contains("s3cret"), "{error}");
}

#[test]
fn secret_report_does_not_reveal_secret() {
    let env = [
        ("JWT_SECRET", "changeme"),
        ("KITH__DATABASE__URL", "postgres://kith:hunter2-hunter2-hunter2@db/kith"),
        ("JWT_SECRET_PREVIOUS", "x-7Qm2_kLp9-Zr4_wTn8-Vb3_cJd6-Hs"),
    ];
    let config = load("", &env, &[]).unwrap();
    let lines: Vec<_> = config.secret_reports().iter().map(ToString::to_string).collect();
    for (key, words) in [
        ("auth.jwt_secret ", &["under 16 bytes", "variable JWT_SECRET,", "a well-known value"][..]),
        ("auth.jwt_refresh_secret ", &["not set", "JWT_REFRESH_SECRET", "KITH__AUTH__JWT_REFRESH_SECRET"]),
        ("database.url ", &["16 to 31 bytes", "KITH__DATABASE__URL"]),
        ("auth.jwt_secret_previous ", &["32 bytes or more", "JWT_SECRET_PREVIOUS"]),
    ] {
        let line = lines.iter().find(|line| line.starts_with(key)).unwrap();
        assert!(words.iter().all(|word| line.contains(word)), "{line}");
    }
    let all = lines.concat();
    assert!(env.iter().all(|(_, value)| !all.contains(value)) && !all.contains("hunter2"), "{all}");
}

/// Proves the readiness requirements CFG-05, SEC-17.
#[test]
fn digest_covers_settings_and_report_has_file_age() {
    let digest = |toml: &str, env: &[(&str, &str)]| load(toml, env, &[]).unwrap().digest();
    assert_eq!(digest("", &[]), digest("log.level = \"info\"", &[]));
    assert_ne!(digest("", &[]), digest("log.level = \"warn\"", &[]));
    assert_ne!(digest("", &[]), digest("", &[("DATABASE_PASSWORD", "x-7Qm2_kLp9")]));
    let mut made = Config::default();
    made.auth.jwt_secret = Secret::new("kith-dev-made");
    assert_eq!(digest("", &[]), made.digest(), "generated development secrets do not change the digest");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    std::fs::write(&path, "x-7Qm2_kLp9-Zr4_wTn8-Vb3_cJd6-Hs").unwrap();
    let report = |env: &[(&str, &str)]| {
        let config = load("", env, &[]).unwrap();
        config.secret_reports().into_iter().find(|report| report.key == "auth.jwt_secret").unwrap()
    };
    let from_file = report(&[("JWT_SECRET_FILE", path.to_str().unwrap())]);
    assert!(from_file.unchanged_since.is_some() && from_file.entropy == "128 bits or more", "{from_file:?}");
    assert!(report(&[("JWT_SECRET", "x")]).unchanged_since.is_none());
}

#[test]
fn named_file_is_required_and_default_file_optional() {
    let named = Inputs { file: Some("/no/such/kith.toml".into()), ..Inputs::default() };
    let error = Config::load(&named, &[]).unwrap_err().to_string();
    assert!(error.contains("/no/such/kith.toml") && error.contains("--config"), "{error}");
    assert!(Config::load(&Inputs::default(), &[]).is_ok());
}

#[test]
fn secrets_are_masked_in_output_and_errors() {
    let config = load("database.url = \"postgres://kith:s3cret@db/kith\"", &[], &[]).unwrap();
    assert!(!format!("{config:?}").contains("s3cret"));
    let error = load("database.url = \"mysql://kith:s3cret@db\"", &[], &[]).unwrap_err();
    assert!(!error.contains("s3cret"), "{error}");
    for (toml, value) in [
        ("server.mode = \"hunter2\"", "hunter2"),
        ("log.format = \"expected hunter2\"", "hunter2"),
        ("server.listen = \"hunter2\"", "hunter2"),
        ("server.drain_ms = -4711", "4711"),
        ("auth.hash_threads = 4711000", "4711000"),
    ] {
        let error = load(toml, &[], &[]).unwrap_err();
        assert!(!error.contains(value) && error.contains("is not valid"), "{error}");
    }
    let error = load("database.url = 5", &[], &[]).unwrap_err();
    assert!(error.contains("a string"), "{error}");
}

#[test]
fn defaults_are_safe() {
    let config = Config::default();
    assert_eq!(config.server.mode, Mode::Development);
    assert!(config.is_sqlite() && config.server.listen.ip().is_loopback());
    let mut production = config.clone();
    production.server.mode = Mode::Production;
    production.auth.jwt_secret = Secret::new("x-7Qm2_kLp9-Zr4_wTn8-Vb3_cJd6-Hs");
    production.auth.jwt_refresh_secret = Secret::new("y-7Qm2_kLp9-Zr4_wTn8-Vb3_cJd6-Hs");
    assert!(check::check(&production).is_ok(), "the defaults must be safe enough for production");
}

/// Regression: callbacks to a receiver on the same machine were rejected in development mode.
#[test]
fn development_mode_allows_loopback_callbacks_unless_networks_are_set() {
    let allowed = |toml: &str| {
        let config = load(toml, &[], &[]).expect("a configuration");
        let ip = "127.0.0.1".parse().expect("an address");
        config.outbound.allowed_networks.iter().any(|network| network.allows(ip, 5_173))
    };
    assert!(allowed(""));
    assert!(!allowed("[outbound]\nallowed_networks = []"));
    assert!(!allowed("[outbound]\nallowed_networks = [\"10.0.0.0/8\"]"));
    let production = "[server]\nmode = \"production\"\n[auth]\n\
                      jwt_secret = \"6pK2vQ9xZr4tLm8wYc3bNs7dHf5gJ1a0\"\n\
                      jwt_refresh_secret = \"0aJ1g5fHd7sNb3cYw8mLt4rZx9Qv2Kp6\"";
    assert!(!allowed(production));
}
