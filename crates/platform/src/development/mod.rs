//! What only development mode serves: a clock that can be put forward, limits that can be lifted, and a look at what goes
//! out.

mod clock;
mod limits;
mod outbox;

pub use clock::AheadClock;

use crate::module::{Module, Routes, Tag};

/// Not part of what production mode serves.
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
