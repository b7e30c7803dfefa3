//! Asks `kith_jobs::fuzzing::schedules` of whatever libFuzzer makes up.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kith_jobs::fuzzing::schedules(data));
