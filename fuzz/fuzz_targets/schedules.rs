//! Runs `kith_jobs::fuzzing::schedules` on inputs of libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kith_jobs::fuzzing::schedules(data));
