//! Fuzz target for control-socket messages and database URLs. The `fuzz` folder runs it, and a test runs it
//! on the seed files. Release builds do not contain it.

use futures_util::FutureExt;

use kith_kernel::fuzzing::Target;

use crate::folder::read_line;
use crate::postgres::fuzzing::address;

/// Fuzz targets of this crate.
pub const TARGETS: &[Target] = &[("store", store)];

/// Fuzz target: parses `data` as database URLs and as a control-socket message. A message that parses must
/// be equal after it is written and parsed again.
pub fn store(mut data: &[u8]) {
    if let Ok(text) = str::from_utf8(data) {
        text.lines().for_each(address);
    }
    // Reading from memory completes immediately.
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
    fn seed_inputs_satisfy_properties() {
        kith_kernel::fuzzing::run_on_seeds(TARGETS);
    }
}
