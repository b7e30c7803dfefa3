//! Asks `kith_accounts::fuzzing::accounts` of whatever libFuzzer makes up.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kith_accounts::fuzzing::accounts(data));
