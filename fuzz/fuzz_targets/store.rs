//! Runs `kith_store::fuzzing::store` on inputs of libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kith_store::fuzzing::store(data));
