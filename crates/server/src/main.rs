//! The `kith` binary. It only calls the library.

const _: () = assert!(
    cfg!(debug_assertions) || !kith_store::HAS_TESTING,
    "a release must not contain the store's test code: build with `--package kith`"
);

fn main() -> std::process::ExitCode {
    kith::cli::run()
}
