//! See `vidindex::fuzzing::onnx`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vidindex::fuzzing::onnx(data));
