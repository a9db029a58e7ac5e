//! Every kind of SlowFast that `models build` writes, run by ONNX Runtime against the same network computed in NumPy.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::path::Path;
use std::process::Command;

use vidindex::infer::session::Runtime;
use vidindex::infer::{Device, DeviceChoice};
use vidindex::job::Precision;
use vidindex::zoo::descriptor::Labels;
use vidindex::zoo::{self, BuildOptions};

fn floats(path: &Path) -> Vec<f32> {
    std::fs::read(path).unwrap().as_chunks::<4>().0.iter().map(|&word| f32::from_le_bytes(word)).collect()
}

/// The largest difference of a network's logits from the reference's, by the largest of these.
fn error(runtime: &Runtime, python: &Path, name: &str) -> f32 {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/slowfast_reference.py");
    assert!(Command::new(python).arg(script).arg(name).arg(folder).status().unwrap().success(), "{name}");
    let shapes = std::fs::read(folder.join("shapes.json")).unwrap();
    let shapes: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&shapes).unwrap();
    let inputs: Vec<(&str, Vec<i64>, Vec<f32>)> = shapes
        .iter()
        .filter(|(input, _)| *input != "logits")
        .map(|(input, shape)| {
            let shape = shape.as_array().unwrap().iter().map(|length| length.as_i64().unwrap()).collect();
            (input.as_str(), shape, floats(&folder.join(format!("{input}.bin"))))
        })
        .collect();
    let options = BuildOptions {
        weights: Some(folder.join("weights.safetensors")),
        labels: Some(Labels::List((0..5).map(|class| class.to_string()).collect())),
        out: folder.into(),
        ..BuildOptions::default()
    };
    let built = zoo::build(name, &options).unwrap();
    let mut model = runtime.open(&built.onnx, &[]).unwrap();
    let inputs: Vec<_> = inputs.iter().map(|(input, shape, data)| (*input, shape.clone(), data.as_slice())).collect();
    let found = model.run(&inputs, "logits", &mut 0.0, |_, logits| Ok(logits.to_vec())).unwrap();
    let wanted = floats(&folder.join("logits.bin"));
    assert_eq!(found.len(), wanted.len(), "{name}");
    let largest = wanted.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
    found.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest
}

#[test]
fn every_kind_of_slowfast_computes_what_the_reference_does() {
    let Some(python) = support::python() else { return };
    let runtime = Runtime::load(None, DeviceChoice::Named(Device::Cpu), Precision::Fp32).unwrap();
    for name in [
        "slowfast-tiny-4x8",
        "slowfast-tiny-2x16-beta4-tconv3",
        "slowfast-tiny-4x8-alpha2-temporal2",
        "slowfast-tiny-4x8-ttoc-diff",
        "slowfast-tiny-4x8-sample-grey",
        "slowfast-tiny-4x8-nl",
        "slowfast-tiny-4x8-ava-nl-ttoc",
        "slow-tiny-4x16",
        "slow-tiny-4x16-nlsoftmax",
        "slow-tiny-4x16-ava-nlsoftmax",
        "fast-tiny-8x2-beta2-diff",
    ] {
        let error = error(&runtime, &python, name);
        println!("{name}: {error:.1e}");
        assert!(error < 1e-4, "{name}: off by {error} of the largest logit");
    }
}
