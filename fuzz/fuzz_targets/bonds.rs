//! Asks `kith_bonds::fuzzing::bonds` of whatever libFuzzer makes up.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kith_bonds::fuzzing::bonds(data));
