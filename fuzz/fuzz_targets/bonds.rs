//! Runs `kith_bonds::fuzzing::bonds` on inputs of libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kith_bonds::fuzzing::bonds(data));
