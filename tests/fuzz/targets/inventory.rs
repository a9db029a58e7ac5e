//! See `vidindex::fuzzing::inventory`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vidindex::fuzzing::inventory(data));
