//! Runs `kith_kernel::fuzzing::text` on inputs of libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kith_kernel::fuzzing::text(data));
