//! Asks `kith_json_schema::fuzzing::schemas` of whatever libFuzzer makes up.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kith_json_schema::fuzzing::schemas(data));
