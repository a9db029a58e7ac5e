//! Models that were changed for a device give the same results in ONNX Runtime as their files.

use std::path::Path;

use half::f16;
use prost::Message;
use vidindex::infer::memory::InputTensor;
use vidindex::infer::session::Model;
use vidindex::zoo::deploy::{CANDIDATES, CLIPS, Deployment, IMAGES, PLACES, SHAPE};
use vidindex::zoo::detector::Head;
use vidindex::zoo::inspect::ModelInfo;
use vidindex::zoo::onnx::{ModelProto, StringStringEntryProto};
use vidindex::zoo::{self, BuildOptions};

use crate::support::{Scratch, floats, runtime, said, stdout, tables, test_video, vidindex};

const SIDE: usize = 128;
const CLIPS_SHAPE: [usize; 5] = [2, 3, 32, SIDE, SIDE];
/// The frames of the Slow pathway, in an order that no other code computes.
const SLOW: [usize; 8] = [0, 5, 9, 12, 17, 21, 27, 31];

fn noise(index: usize) -> u8 {
    ((index as u32).wrapping_mul(2_654_435_761) >> 24) as u8
}

/// The shape and the elements of each output.
type Outputs = Vec<(Vec<i64>, Vec<f32>)>;

/// Runs a model. `inputs` makes its inputs.
fn outputs(deployment: &Deployment, names: &[&str], inputs: impl FnOnce(&Model) -> Vec<InputTensor>) -> Outputs {
    let mut model = runtime().open(deployment, &[]).unwrap();
    let inputs = inputs(&model);
    let owned = |(shape, data): &(&[i64], &[f32])| (shape.to_vec(), data.to_vec());
    model.run_for(&inputs, names, |outputs| Ok(outputs.iter().map(owned).collect())).unwrap().output
}

/// The largest difference, as a share of the largest value.
fn error(expected: &[f32], found: &[f32]) -> f32 {
    assert_eq!(expected.len(), found.len());
    let largest = expected.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
    expected.iter().zip(found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest
}

fn build(folder: &Path, name: &str) -> ModelInfo {
    let options = BuildOptions { out: folder.into(), side: Some(SIDE), ..BuildOptions::default() };
    zoo::build(name, &options).unwrap().info
}

/// The output of a detector for two images, and its deployment that takes bytes, with an input of the same images.
fn detector(info: &ModelInfo) -> ((Vec<i64>, Vec<f32>), Deployment, Vec<u8>) {
    let bytes: Vec<u8> = (0..2 * SIDE * SIDE * 3).map(noise).collect();
    let mut planes = Vec::new();
    for image in bytes.chunks_exact(SIDE * SIDE * 3) {
        for channel in 0..3 {
            planes.extend(image[channel..].iter().step_by(3).map(|&byte| f32::from(byte) / 255.0));
        }
    }
    let mut deployment = Deployment::read(&info.path).unwrap();
    let (input, output) = (info.inputs[0].name.as_str(), info.outputs[0].name.as_str());
    let shape = vec![2, 3, SIDE as i64, SIDE as i64];
    let mut whole = outputs(&deployment, &[output], |model| floats(model, &[(input, shape, &planes)]));
    deployment.take_bytes(input);
    (whole.remove(0), deployment, bytes)
}

fn images(bytes: &[u8]) -> impl FnOnce(&Model) -> Vec<InputTensor> {
    move |model| {
        let fill = |values: &mut [u8]| values.copy_from_slice(bytes);
        vec![model.memory().input(IMAGES, &[2, SIDE, SIDE, 3], fill).unwrap()]
    }
}

#[test]
fn a_detector_that_takes_bytes_computes_the_same_boxes_and_in_16_bits_nearly_the_same() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["yolov5n", "yolov5n-raw"] {
        let info = build(folder.path(), name);
        let ((_, whole), mut deployment, bytes) = detector(&info);
        let output = info.outputs[0].name.as_str();
        let found = outputs(&deployment, &[output], images(&bytes)).remove(0).1;
        let exact = error(&whole, &found);
        assert!(deployment.compute_in_half() > 0);
        let found = outputs(&deployment, &[output], images(&bytes)).remove(0).1;
        let half = error(&whole, &found);
        eprintln!("{name}: bytes {exact:.1e}, 16 bits {half:.1e} of the largest value");
        assert!(exact <= 1e-6, "{name}: {exact}");
        assert!(half > 0.0 && half <= 2e-3, "{name}: {half}");
    }
}

#[test]
fn the_candidates_of_a_detector_are_its_boxes_above_the_confidence() {
    let folder = tempfile::tempdir().unwrap();
    let info = build(folder.path(), "yolov5n");
    let ((shape, whole), deployment, bytes) = detector(&info);
    let [_, rows, values] = [shape[0], shape[1], shape[2]].map(|length| length as usize);
    let mut scores: Vec<f32> = whole.chunks_exact(values).map(|row| row[4]).collect();
    scores.sort_by(f32::total_cmp);
    // All, some and none.
    for confidence in [-1.0, scores[scores.len() * 99 / 100], 2.0] {
        let mut deployment = deployment.clone();
        assert!(deployment.keep_candidates(Head::Yolov5, &info.outputs[0].name, confidence));
        let found = outputs(&deployment, &[CANDIDATES, PLACES, SHAPE], images(&bytes));
        let [(of_candidates, candidates), (_, places), (_, lengths)] = &found[..] else { panic!() };
        let expected: Vec<(usize, &[f32])> =
            whole.chunks_exact(values).enumerate().filter(|(_, row)| row[4] > confidence).collect();
        assert_eq!(of_candidates[..], [expected.len() as i64, values as i64]);
        assert_eq!(lengths[..], [2.0, rows as f32, values as f32]);
        let expected_places: Vec<f32> =
            expected.iter().flat_map(|(at, _)| [(at / rows) as f32, (at % rows) as f32]).collect();
        assert_eq!(*places, expected_places);
        let expected: Vec<f32> = expected.iter().flat_map(|(_, row)| row.iter().copied()).collect();
        assert!(expected.is_empty() || error(&expected, candidates) <= 1e-6);
    }
}

#[test]
fn a_slowfast_that_takes_clips_in_16_bits_computes_the_same_logits() {
    let folder = tempfile::tempdir().unwrap();
    let info = build(folder.path(), "slowfast-tiny");
    let clips: Vec<f16> =
        (0..CLIPS_SHAPE.iter().product()).map(|i| f16::from_f32(f32::from(noise(i)) / 64.0 - 2.0)).collect();
    let fast: Vec<f32> = clips.iter().map(|value| value.to_f32()).collect();
    let mut slow = Vec::new();
    for channel in fast.chunks_exact(32 * SIDE * SIDE) {
        SLOW.iter().for_each(|frame| slow.extend_from_slice(&channel[frame * SIDE * SIDE..][..SIDE * SIDE]));
    }
    let mut deployment = Deployment::read(&info.path).unwrap();
    let side = SIDE as i64;
    let inputs = [("slow", vec![2, 3, 8, side, side], &slow[..]), ("fast", vec![2, 3, 32, side, side], &fast[..])];
    let expected = outputs(&deployment, &["logits"], |model| floats(model, &inputs)).remove(0).1;
    let halves = |model: &Model| {
        let fill = |values: &mut [f16]| values.copy_from_slice(&clips);
        vec![model.memory().input(CLIPS, &CLIPS_SHAPE, fill).unwrap()]
    };
    deployment.take_clips("fast", Some(("slow", &SLOW)));
    let exact = error(&expected, &outputs(&deployment, &["logits"], halves).remove(0).1);
    assert!(deployment.compute_in_half() > 0);
    let half = error(&expected, &outputs(&deployment, &["logits"], halves).remove(0).1);
    eprintln!("clips {exact:.1e}, 16 bits {half:.1e} of the largest logit");
    assert!(exact <= 1e-6, "{exact}");
    assert!(half > 0.0 && half <= 2e-3, "{half}");
}

/// Writes a copy of a model whose large weights are in another file beside it.
fn move_weights(from: &Path, to: &Path) {
    let mut model = ModelProto::decode(&*std::fs::read(from).unwrap()).unwrap();
    let mut weights = Vec::new();
    for tensor in &mut model.graph.as_mut().unwrap().initializer {
        let Some(raw) = tensor.raw_data.take_if(|raw| raw.len() > 1024) else { continue };
        let place = [
            ("location", "weights.bin".to_owned()),
            ("offset", weights.len().to_string()),
            ("length", raw.len().to_string()),
        ];
        tensor.external_data = place.map(|(key, value)| StringStringEntryProto { key: key.into(), value }).into();
        tensor.data_location = 1;
        weights.extend_from_slice(&raw);
    }
    std::fs::write(to, model.encode_to_vec()).unwrap();
    std::fs::write(to.with_file_name("weights.bin"), weights).unwrap();
}

#[test]
fn a_model_with_weights_in_another_file_gives_the_same_rows() {
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("a.mp4"), "160x120", "25", 2.0, &["-pix_fmt", "yuv420p"]);
    let folder = scratch.path("models");
    std::fs::create_dir_all(&folder).unwrap();
    let info = build(&folder, "yolov5n");
    let external = scratch.path("external.onnx");
    move_weights(&info.path, &external);
    assert!(std::fs::metadata(&external).unwrap().len() < info.size_bytes / 10);
    let [inside, outside] = [info.path.to_str().unwrap(), "external.onnx"].map(|model| {
        let job = scratch.job(&format!("[persons]\nmodel = \"{model}\"\nconfidence = 0.0001\n"));
        let index = scratch.path(if model == "external.onnx" { "outside" } else { "inside" });
        let mut command = vidindex(["run".as_ref(), job.as_os_str()]);
        command.args(["--device", "cpu", "--set", &format!("output.uri={}", index.display())]);
        // A path without a folder.
        let output = command.current_dir(scratch.dir.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        tables::stable_rows(&index, "persons")
    });
    assert!(!inside.is_empty());
    assert_eq!(inside, outside);
}

#[test]
fn inspect_says_which_convolutions_run_in_16_bits_on_a_gpu() {
    let folder = tempfile::tempdir().unwrap();
    let info = build(folder.path(), "yolov5n");
    let inspect = |args: &[&str]| {
        let output = vidindex(["models", "inspect", info.path.to_str().unwrap()]).args(args).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        stdout(&output)
    };
    let json: serde_json::Value = serde_json::from_str(&inspect(&["--json"])).unwrap();
    assert_eq!(json["convolutions"], serde_json::json!({"all": 60, "in_16_bits_on_cuda": 60}));
    let text = inspect(&[]);
    assert!(text.contains("on cuda     60 of 60 convolutions in 16-bit floats"), "{text}");
}
