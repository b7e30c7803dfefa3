//! Module for development: an adjustable clock, rate limits that can be disabled, and a list of emitted
//! events.

mod clock;
mod limits;
mod outbox;

pub use clock::AdjustableClock;

use crate::module::{Module, Routes, Tag};

/// Module that production mode does not serve.
pub static DEVELOPMENT: Module = Module {
    tags: &[Tag {
        name: "Development",
        description: "Move the clock, lift limits, and read outgoing messages. Production mode does not serve these.",
    }],
    routes,
    ..Module::named("development")
};

fn routes() -> Routes {
    clock::routes().merge(limits::routes()).merge(outbox::routes())
}
