//! See `vidindex::fuzzing::safetensors`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vidindex::fuzzing::safetensors(data));
