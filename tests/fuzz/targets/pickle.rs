//! See `vidindex::fuzzing::pickle`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vidindex::fuzzing::pickle(data));
