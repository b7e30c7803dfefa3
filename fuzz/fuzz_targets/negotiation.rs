//! Runs `kith_platform::fuzzing::negotiation` on inputs of libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kith_platform::fuzzing::negotiation(data));
