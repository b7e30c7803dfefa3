//! Asks `kith_kernel::fuzzing::text` of whatever libFuzzer makes up.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kith_kernel::fuzzing::text(data));
