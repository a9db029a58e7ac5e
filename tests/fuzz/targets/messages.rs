//! See `vidindex::fuzzing::messages`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vidindex::fuzzing::messages(data));
