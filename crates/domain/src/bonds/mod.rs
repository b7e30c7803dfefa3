//! Partner requests and the bonds that come of them: one partner at a time, and it always takes both.
//! Never who people are (`accounts`), nor what two people keep together.

mod commands;
mod events;
mod http;
mod leaving;
mod model;
mod queries;
mod rows;
mod rules;

use kith_platform::Module;
use kith_store::Migration;

pub use model::BondId;

/// What the server mounts.
pub static MODULE: Module = Module {
    routes: http::routes,
    migrations: &[Migration { version: 1, name: "bonds", sql: include_str!("migrations/0001_bonds.sql") }],
    problems: http::PROBLEMS,
    events: events::KINDS,
    personal: Some(leaving::PERSONAL),
    ..Module::named("bonds")
};
