//! Runs `kith_accounts::fuzzing::accounts` on inputs of libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kith_accounts::fuzzing::accounts(data));
