//! What shows on a running deployment that the platform does what it should. A file a subject, a function a row.

mod bodies;
mod caching;
mod client_hello;
mod compression;
mod document;
mod headers;
mod injection;
mod limits;
mod lists;
mod origins;
mod problem_form;
mod schemas;
mod surface;
mod tls;
mod tokens;
mod traces;

use kith_readiness::Check;

/// All of them.
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
    traces::CHECKS,
    caching::CHECKS,
    limits::CHECKS,
];
