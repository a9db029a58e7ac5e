//! See `vidindex::fuzzing::torch`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vidindex::fuzzing::torch(data));
