//! See `vidindex::fuzzing::job`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vidindex::fuzzing::job(data));
