//! `kith serve --demo`: a small made-up world, a page that shows it from two sides, and lines to type.

mod page;
mod past;
mod readiness;
mod world;

use kith_platform::{Module, Routes, Tag};

pub use past::DemoError;
pub(crate) use world::make_world_if_asked;

/// The page; nobody else's.
pub(crate) static DEMO: Module = Module {
    needs: &["nicknames", "spaces", "callbacks", "schedules"],
    tags: &[Tag { name: "Demo", description: "The page at `/demo` and its data." }],
    routes,
    ..Module::named("demo")
};

fn routes() -> Routes {
    page::routes().merge(readiness::routes())
}

/// What everybody's password is.
const PASSWORD: &str = "demo-password";
/// Who lives in it; `ada@demo.example` and so on.
const PEOPLE: [&str; 12] =
    ["Ada", "Ben", "Clara", "David", "Emil", "Fatima", "Goran", "Hana", "Ines", "Jonas", "Lena", "Marek"];

fn email(name: &str) -> String {
    format!("{}@demo.example", name.to_lowercase())
}

/// Where the page is, and lines for another terminal.
pub(crate) fn lines(base: &str) -> String {
    include_str!("lines.txt").trim_end().replace("{base}", base)
}
