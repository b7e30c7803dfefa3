//! What must hold of commands through the socket and of addresses of databases, whatever they are: asked by the fuzz targets
//! of the folder `fuzz`, and of their seeds by a test. Never part of a release build.

use futures_util::FutureExt;

use kith_kernel::fuzzing::Target;

use crate::folder::read_line;
use crate::postgres::fuzzing::address;

/// The targets of this crate.
pub const TARGETS: &[Target] = &[("store", store)];

/// The control socket's lines, and addresses of databases.
pub fn store(mut data: &[u8]) {
    if let Ok(text) = str::from_utf8(data) {
        text.lines().for_each(address);
    }
    // What is in memory is read at once.
    let message = read_line(&mut data).now_or_never().expect("at once");
    if let Ok(value) = message {
        let line = format!("{value}\n");
        assert_eq!(read_line(&mut line.as_bytes()).now_or_never().expect("at once").expect("our own"), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_hold_holds_of_the_seeds() {
        kith_kernel::fuzzing::ask_of_seeds(TARGETS);
    }
}
