//! Starts a server with or without an injected fault and runs readiness checks against it.

use std::sync::atomic::AtomicBool;

use kith::{TestOverrides, modules};
use kith_accounts::accounts::first_admin;
use kith_kernel::SystemClock;
use kith_platform::config::{Config, Mode, Secret};
use kith_platform::telemetry::machine;
use kith_readiness::{
    AdminAccess, Artefacts, Catalogue, Declared, Deployment, Gate, Plan, ProofMethod, RowResult, Target,
    verify,
};
use kith_store::EngineKind;

use super::InjectedFault;
use super::proxy::Proxy;
use crate::support::Engine;

/// Returns the kind of database that a test engine uses.
pub fn kind(engine: Engine) -> EngineKind {
    if engine == Engine::Sqlite { EngineKind::Sqlite } else { EngineKind::Postgres }
}

/// Starts a server with this fault and judges these rows by their live checks only.
pub async fn judge(engine: Engine, fault: &InjectedFault, rows: &[&str]) -> Vec<RowResult> {
    let database = engine.database().await;
    let folder = tempfile::tempdir().expect("a folder");
    // The file stays empty: the log of in-process servers is shared by all tests.
    let logs = Some(folder.path().join("kith.log")).filter(|file| file.exists());
    let mut config = config();
    config.data.folder = database.folder().unwrap_or(folder.path()).to_owned();
    config.database.url = Secret::new(database.url());
    if let InjectedFault::Setting(change) = fault {
        change(&mut config);
    }
    let running = kith::start(config, TestOverrides::default()).await.expect("a server");
    let admin = AdminAccess::synthetic();
    let made = first_admin::create_admin(&running.app, &admin.email, "kith verify", &admin.password).await;
    made.expect("an administrator");
    if let InjectedFault::Database(statements) = fault {
        for statement in statements(kind(engine)) {
            let change = running.app.db.write(move |tx| tx.exec(statement, &[]));
            change.await.expect("the statement succeeds");
        }
    }
    let proxy = match fault {
        InjectedFault::Request(_) | InjectedFault::Response(_) => {
            Some(Proxy::start(running.addr, fault).await)
        }
        InjectedFault::Setting(_) | InjectedFault::Database(_) => None,
    };
    let addr = proxy.as_ref().map_or(running.addr, |proxy| proxy.addr);
    let target = Target {
        url: format!("http://{addr}"),
        admin: Some(admin),
        logs,
        own_build: Some(modules::own_build()),
        machine: machine(),
        ..Target::default()
    };
    let report = verify(
        &plan(rows),
        Deployment::new(target).expect("a client"),
        &SystemClock,
        &|_| {},
        &AtomicBool::new(false),
    )
    .await;
    if let Some(proxy) = proxy {
        proxy.stop().await;
    }
    running.stop().await;
    drop(database);
    report.rows
}

/// Returns a plan for these rows with live checks only.
fn plan(rows: &[&str]) -> Plan {
    let mut catalogue = Catalogue::built_in();
    for row in &mut catalogue.rows {
        row.proved_by.retain(|method| *method == ProofMethod::Live);
    }
    Plan {
        catalogue,
        checks: kith_verify::checks(),
        artefacts: Artefacts::default(),
        declared: Declared::default(),
        only: rows.iter().map(|row| (*row).to_owned()).collect(),
        gate: Gate::Beta,
    }
}

/// Returns a production configuration with defaults and strong test secrets.
fn config() -> Config {
    let mut config = Config::default();
    config.server.mode = Mode::Production;
    config.outbound.allowed_networks.clear();
    config.server.listen = ([127, 0, 0, 1], 0).into();
    config.server.drain_ms = 0;
    config.database.write_threads = 4;
    config.database.read_threads = 2;
    config.auth.jwt_secret = Secret::new("a secret of twins that is long enough for anybody");
    config.auth.jwt_refresh_secret = Secret::new("another secret of twins, long enough for anybody");
    config
}
