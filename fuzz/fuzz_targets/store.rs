//! Asks `kith_store::fuzzing::store` of whatever libFuzzer makes up.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kith_store::fuzzing::store(data));
