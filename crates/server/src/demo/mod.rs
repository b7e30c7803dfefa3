//! `kith serve --demo`: creates synthetic demo data, serves a page that shows two users side by side, and
//! prints shell commands to try.

mod backdated_server;
mod history;
mod page;
mod readiness;

use kith_platform::{Module, Routes, Tag};

pub use backdated_server::DemoError;
pub(crate) use history::create_demo_data_if_enabled;

/// Module that serves the demo page.
pub(crate) static DEMO: Module = Module {
    depends_on: &["nicknames", "spaces", "callbacks", "schedules"],
    tags: &[Tag { name: "Demo", description: "Demo page at `/demo`, with its files and checks." }],
    routes,
    ..Module::named("demo")
};

fn routes() -> Routes {
    page::routes().merge(readiness::routes())
}

/// Password of all demo accounts.
const PASSWORD: &str = "demo-password";
/// Names of the demo accounts. Their e-mail addresses are `ada@demo.example` and so on.
const PEOPLE: [&str; 12] =
    ["Ada", "Ben", "Clara", "David", "Emil", "Fatima", "Goran", "Hana", "Ines", "Jonas", "Lena", "Marek"];

fn email(name: &str) -> String {
    format!("{}@demo.example", name.to_lowercase())
}

/// Returns lines with the URL of the page and with shell commands to try.
pub(crate) fn lines(base: &str) -> String {
    include_str!("lines.txt").trim_end().replace("{base}", base)
}
