//! Networks with 16-bit weights give the same results in ONNX Runtime as those with 32-bit weights.

use vidindex::infer::session::Runtime;
use vidindex::zoo::deploy::Deployment;
use vidindex::zoo::inspect::{Dim, ModelInfo};
use vidindex::zoo::lower::Lowering;
use vidindex::zoo::{self, BuildOptions};

use crate::support::{floats, runtime};

/// Runs a model on noise and returns its first output.
fn output(runtime: &Runtime, info: &ModelInfo) -> Vec<f32> {
    let mut session = runtime.open(&Deployment::read(&info.path).unwrap(), &[]).unwrap();
    let length = |dimension: &Dim| match dimension {
        Dim::Fixed(length) => *length as i64,
        Dim::Free(_) => 1,
    };
    let shapes = info.inputs.iter().map(|input| input.shape.iter().map(length).collect::<Vec<_>>());
    let noise = |index: i64| ((index as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32;
    let shapes: Vec<Vec<i64>> = shapes.collect();
    let data: Vec<Vec<f32>> = shapes.iter().map(|shape| (0..shape.iter().product()).map(noise).collect()).collect();
    let names = info.inputs.iter().map(|input| input.name.as_str());
    let inputs: Vec<_> =
        names.zip(&shapes).zip(&data).map(|((name, shape), data)| (name, shape.clone(), &data[..])).collect();
    session.run(&floats(&session, &inputs), &info.outputs[0].name, |_, data| Ok(data.to_vec())).unwrap().output
}

#[test]
fn half_precision_weights_halve_the_file_and_only_round_the_results() {
    let runtime = runtime();
    let folder = tempfile::tempdir().unwrap();
    for (name, lowering, side) in [
        ("slowfast-tiny", Lowering::Plain, 64),
        ("slowfast-tiny", Lowering::Folded, 64),
        ("slowfast-tiny", Lowering::Packed, 64),
        ("yolov5n", Lowering::Plain, 128),
        ("yolov5n-raw", Lowering::Plain, 128),
    ] {
        let [full, half] = [false, true].map(|half| {
            let out = folder.path().join(format!("{name}-{lowering}-{half}.onnx"));
            let options = BuildOptions { out, lowering, half, side: Some(side), ..BuildOptions::default() };
            zoo::build(name, &options).unwrap().info
        });
        let share = half.size_bytes as f64 / full.size_bytes as f64;
        assert!(share < 0.57, "{name}, {lowering}: {share} of the file");
        assert_eq!((half.parameters, half.multiply_adds), (full.parameters, full.multiply_adds), "{name}, {lowering}");
        let [full, half] = [full, half].map(|info| output(runtime, &info));
        let largest = full.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
        let worst = full.iter().zip(&half).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        eprintln!("{name}, {lowering}: {share:.3} of the file, off by {:.1e}", worst / largest);
        assert!(worst > 0.0 && worst < 1e-2 * largest, "{name}, {lowering}: off by {worst} of {largest}");
    }
}
