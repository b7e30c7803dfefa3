//! What only development mode serves: a clock that can be put forward, limits that can be lifted, and a look at what goes
//! out.

mod clock;
mod limits;
mod outbox;

pub use clock::AheadClock;

use crate::module::{Module, Routes};

/// Not part of what production mode serves.
pub static DEVELOPMENT: Module = Module { routes, ..Module::named("development") };

fn routes() -> Routes {
    clock::routes().merge(limits::routes()).merge(outbox::routes())
}
