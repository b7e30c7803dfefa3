//! Asks `kith_platform::fuzzing::targets` of whatever libFuzzer makes up.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kith_platform::fuzzing::targets(data));
