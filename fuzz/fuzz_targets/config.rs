//! Asks `kith_platform::fuzzing::config_of` of whatever libFuzzer makes up.

#![no_main]

use kith::modules;

libfuzzer_sys::fuzz_target!(|data: &[u8]| kith_platform::fuzzing::config_of(data, &modules::sections()));
