//! Runs `kith_platform::fuzzing::config_of` on inputs of libFuzzer.

#![no_main]

use kith::modules;

libfuzzer_sys::fuzz_target!(|data: &[u8]| kith_platform::fuzzing::config_of(data, &modules::sections()));
