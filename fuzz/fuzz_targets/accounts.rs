//! Asks `kith_domain::fuzzing::accounts` of whatever libFuzzer makes up.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kith_domain::fuzzing::accounts(data));
