//! Checks of the platform on a running deployment. Each file covers one subject, each function one row.

mod api_keys;
mod bodies;
mod build;
mod caching;
mod client_hello;
mod compression;
mod database;
mod database_server;
mod document;
mod exposition;
mod headers;
mod injection;
mod jobs;
mod limits;
mod lists;
mod logs;
mod machine;
mod metrics;
mod origins;
mod problem_form;
mod schemas;
mod secrets;
mod settings;
mod surface;
mod tls;
mod tokens;
mod traces;

use kith_readiness::Check;

/// All platform checks.
pub(crate) const CHECKS: &[&[Check]] = &[
    surface::CHECKS,
    document::CHECKS,
    lists::CHECKS,
    problem_form::CHECKS,
    bodies::CHECKS,
    compression::CHECKS,
    headers::CHECKS,
    origins::CHECKS,
    tls::CHECKS,
    injection::CHECKS,
    tokens::CHECKS,
    api_keys::CHECKS,
    traces::CHECKS,
    caching::CHECKS,
    limits::CHECKS,
    secrets::CHECKS,
    settings::CHECKS,
    database::CHECKS,
    database_server::CHECKS,
    logs::CHECKS,
    metrics::CHECKS,
    jobs::CHECKS,
    build::CHECKS,
];
