//! Runs `kith_json_schema::fuzzing::schemas` on inputs of libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kith_json_schema::fuzzing::schemas(data));
