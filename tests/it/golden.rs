//! Comparison with the reference implementations: persons of YOLOv5's own code; segments, sampled frames, logits and
//! clip tensors of PyTorchVideo. The tests are skipped, with a message, if the reference data is missing.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use half::slice::HalfFloatSliceExt as _;
use prost::Message;
use serde_json::{Map, Value};
use vidindex::decode::{ClipSpec, Decoders, Decoding, Request, SampledFrame, View};
use vidindex::zoo::lower::{Lowering, lower};
use vidindex::zoo::onnx::ModelProto;

use crate::support::{self, Scratch, reference, run, said, tables, vidindex};

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn corners(value: [&Value; 4]) -> [f32; 4] {
    value.map(|v| number(v) as f32)
}

/// Compares the boxes found with the expected ones. `what` is used in messages.
fn compare_persons(what: &str, expected: &[Value], found: &[&Map<String, Value>]) {
    let mut unmatched: Vec<_> = found.to_vec();
    for person in expected {
        let xyxy = person["xyxy"].as_array().unwrap();
        let wanted = corners([&xyxy[0], &xyxy[1], &xyxy[2], &xyxy[3]]);
        let overlap = |row: &Map<String, Value>| {
            vidindex::infer::boxes::iou(&wanted, &corners(["x1", "y1", "x2", "y2"].map(|c| &row[c])))
        };
        let best = unmatched
            .iter()
            .enumerate()
            .max_by(|(_, a), (_, b)| overlap(a).total_cmp(&overlap(b)))
            .map(|(i, row)| (i, overlap(row), number(&row["confidence"])));
        let Some((i, iou, confidence)) = best else { panic!("{what}: {person} was not found") };
        let difference = (confidence - number(&person["confidence"])).abs();
        assert!(iou >= 0.9 && difference <= 0.03, "{what}: {person}: IoU {iou}, confidence {confidence}");
        unmatched.remove(i);
    }
    for row in unmatched {
        assert!(number(&row["confidence"]) <= 0.30, "{what}: unexpected person: {row:?}");
    }
}

#[test]
fn persons_in_images_and_videos_match_the_reference() {
    let Some(reference) = reference() else { return };
    let converted = tempfile::tempdir().unwrap();
    let checkpoint = reference.join("models/yolov5n.pt");
    let convert = ["models", "convert", checkpoint.to_str().unwrap(), "--out", converted.path().to_str().unwrap()];
    let output = vidindex(convert).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    for model in [reference.join("models/yolov5n.onnx"), converted.path().join("yolov5n.onnx")] {
        compare_all_persons(&reference, &model);
    }
}

fn compare_all_persons(reference: &Path, model: &Path) {
    let golden = read_json(&reference.join("golden/persons_yolov5n.json"));
    let scratch = Scratch::new();
    for folder in ["images", "videos"] {
        for file in std::fs::read_dir(reference.join(folder)).unwrap() {
            let file = file.unwrap().path();
            std::os::unix::fs::symlink(&file, scratch.videos().join(file.file_name().unwrap())).unwrap();
        }
    }
    // Slightly below the reference's threshold, so that boxes close to it are found by both.
    let persons = format!("[persons]\nmodel = \"{}\"\nconfidence = 0.22\n", model.display());
    let job = scratch.job(&persons);
    run(&job, &["--set", "input.include=[\"**/*\"]"], 0);
    let rows = tables::rows(&scratch.index(), "persons");
    let of = |name: &str| -> Vec<&Map<String, Value>> {
        rows.iter().filter(|row| row["uri"].as_str().unwrap().ends_with(name)).collect()
    };
    let mut frames = 0;
    for (image, expected) in golden["images"].as_object().unwrap() {
        compare_persons(image, expected.as_array().unwrap(), &of(image));
        frames += 1;
    }
    for (video, expected) in golden["videos"].as_object().unwrap() {
        let found = of(video);
        for frame in expected.as_array().unwrap() {
            let number = frame["frame"].as_i64().unwrap();
            let here: Vec<_> = found.iter().copied().filter(|row| row["frame"] == number).collect();
            let what = format!("{video} frame {number}");
            for row in &here {
                let difference = (row["time_seconds"].as_f64().unwrap() - frame["time"].as_f64().unwrap()).abs();
                assert!(difference < 1e-3, "{what}: at {}", row["time_seconds"]);
            }
            compare_persons(&what, frame["persons"].as_array().unwrap(), &here);
            frames += 1;
        }
    }
    assert_eq!(frames, 42);
}

#[test]
fn segments_and_logits_match_the_reference_in_every_lowering() {
    let Some(reference) = reference() else { return };
    for lowering in Lowering::ALL {
        compare_segments(&reference, lowering);
    }
}

fn compare_segments(reference: &Path, lowering: Lowering) {
    let golden = read_json(&reference.join("golden/segments_r50_8x8.json"));
    let scratch = Scratch::new();
    let videos = golden["videos"].as_object().unwrap();
    for name in videos.keys() {
        std::os::unix::fs::symlink(reference.join("videos").join(name), scratch.videos().join(name)).unwrap();
    }
    // The exported model, with a descriptor that applies no activation to the logits.
    let model = scratch.path("tiny.onnx");
    let exported = std::fs::read(reference.join("models/slowfast_tiny_r50_8x8.onnx")).unwrap();
    let lowered = lower(ModelProto::decode(exported.as_slice()).unwrap(), lowering);
    std::fs::write(&model, lowered.encode_to_vec()).unwrap();
    let labels: Vec<String> = (0..10).map(|i| format!("\"class {i}\"")).collect();
    let descriptor = format!(
        "kind = \"slowfast\"\nlabels = [{}]\nframes = 32\nalpha = 4\nside = 64\ncrop = 64\nactivation = \"none\"\n",
        labels.join(", ")
    );
    std::fs::write(model.with_extension("toml"), descriptor).unwrap();
    let job = scratch.job(&format!("[actions]\nmodel = \"{}\"\nscores = \"full\"\n", model.display()));
    run(&job, &[], 0);
    let rows = tables::rows(&scratch.index(), "actions");
    let mut compared = 0;
    for (name, segments) in videos {
        let segments = segments.as_array().unwrap();
        let found: Vec<_> = rows.iter().filter(|row| row["uri"].as_str().unwrap().ends_with(name)).collect();
        assert_eq!(found.len(), segments.len(), "{name}");
        for (row, expected) in found.iter().zip(segments) {
            assert_eq!(row["segment"], expected["segment"], "{name}");
            assert!((number(&row["start_seconds"]) - number(&expected["start_s"])).abs() < 1e-4, "{name}");
            let frames = expected["last_frame"].as_i64().unwrap() - expected["first_frame"].as_i64().unwrap() + 1;
            assert_eq!(row["frames"], frames, "{name}");
            let logits: Vec<f64> = expected["logits"].as_array().unwrap().iter().map(number).collect();
            let scores: Vec<f64> = row["scores"].as_array().unwrap().iter().map(number).collect();
            let range =
                logits.iter().copied().fold(f64::MIN, f64::max) - logits.iter().copied().fold(f64::MAX, f64::min);
            let worst = logits.iter().zip(&scores).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(worst <= 0.02 * range, "{name} {}: logits off by {worst} of {range}", row["segment"]);
            compared += 1;
        }
    }
    assert_eq!(compared, 10);
}

/// The sampled frames and the clip tensor of each segment of a video, directly from the decoder process.
async fn clips(video: &Path, spec: ClipSpec) -> Vec<(Vec<i64>, Vec<f32>)> {
    let file = std::fs::File::open(video).unwrap();
    let request = Request {
        size_bytes: file.metadata().unwrap().len(),
        clips: Some(spec),
        threads: 2,
        memory_bytes: 4 << 30,
        ..Default::default()
    };
    let decoders = Decoders::new(env!("CARGO_BIN_EXE_vidindex"));
    let mut decoding = Decoding::start(&decoders, request, Arc::new(file), Duration::from_secs(60)).unwrap();
    let mut clips = Vec::new();
    while let Some(frame) = decoding.next().await.unwrap() {
        if let SampledFrame::Clip(clip) = frame {
            clips.push((clip.sampled, clip.slot.halves().to_f32_vec()));
        }
    }
    clips
}

/// Expected means in the first clip of `videos/kinetics_demo.mp4` (340x256), with whole frames at a short side of 200.
/// They were computed with PyAV and NumPy, like PyTorchVideo's transforms for AVA. The indices are: frame 0 or 31; red,
/// green or blue; upper or lower half; quarter from left to right.
const WHOLE_FRAMES: [[[[f64; 4]; 2]; 3]; 2] = [
    [
        [[0.3854, 0.0264, -1.0588, -1.6851], [1.1983, 0.6687, -0.2266, -1.3457]],
        [[0.3213, 0.2775, -0.7133, -1.7358], [0.7699, -0.4595, -0.6022, -1.5075]],
        [[0.2171, 0.2497, -0.773, -1.8058], [0.5157, -1.0268, -1.1108, -1.6459]],
    ],
    [
        [[0.1962, -0.0261, -0.8468, -1.854], [1.3942, 0.4407, 0.067, -1.4079]],
        [[-0.1792, -0.2126, -0.8002, -1.8277], [1.2294, -0.4234, -0.2801, -1.5216]],
        [[-0.4605, -0.4104, -0.9711, -1.8507], [0.9348, -0.9947, -0.9252, -1.7413]],
    ],
];

#[tokio::test]
async fn the_clip_tensor_of_whole_frames_matches_the_reference() {
    let Some(reference) = reference() else { return };
    let whole = ClipSpec { view: View::Whole, ..spec(200) };
    let found = clips(&reference.join("videos/kinetics_demo.mp4"), whole).await;
    let (width, height, tensor) = (265, 200, &found[0].1);
    assert_eq!(tensor.len(), 3 * 32 * height * width);
    for (expected, t) in WHOLE_FRAMES.iter().zip([0, 31]) {
        for (c, row, quarter) in (0..24).map(|i| (i / 8, i / 4 % 2, i % 4)) {
            let (rows, columns) =
                (height * row / 2..height * (row + 1) / 2, width * quarter / 4..width * (quarter + 1) / 4);
            let count = (rows.len() * columns.len()) as f64;
            let line = |y: usize| &tensor[((c * 32 + t) * height + y) * width..][columns.clone()];
            let sum: f64 = rows.flat_map(line).map(|v| f64::from(*v)).sum();
            let difference = (sum / count - expected[c][row][quarter]).abs();
            assert!(difference < 1e-3, "frame {t}, channel {c}, {row} {quarter}: {difference}");
        }
    }
}

fn spec(side: usize) -> ClipSpec {
    let clip_seconds = 64.0 / 30.0;
    ClipSpec {
        frames: 32,
        side,
        view: View::Centre(side),
        mean: [0.45; 3],
        std: [0.225; 3],
        clip_seconds,
        stride_seconds: clip_seconds,
    }
}

#[tokio::test]
async fn sampled_frames_match_the_reference() {
    let Some(reference) = reference() else { return };
    let golden = read_json(&reference.join("golden/segments_r50_8x8.json"));
    for (name, segments) in golden["videos"].as_object().unwrap() {
        let expected: Vec<Vec<i64>> = segments
            .as_array()
            .unwrap()
            .iter()
            .map(|s| s["sampled_frames"].as_array().unwrap().iter().map(|v| v.as_i64().unwrap()).collect())
            .collect();
        let found: Vec<_> =
            clips(&reference.join("videos").join(name), spec(64)).await.into_iter().map(|c| c.0).collect();
        assert_eq!(found, expected, "{name}");
    }
}

#[tokio::test]
async fn the_clip_tensor_matches_the_reference() {
    let Some(reference) = reference() else { return };
    let Some(python) = support::python() else { return };
    let golden = reference.join("golden/clip_kinetics_test_first64.npz");
    let script =
        "import json, numpy, sys; z = numpy.load(sys.argv[1]); print(json.dumps({k: z[k].tolist() for k in z.files}))";
    let printed = Command::new(python).args(["-c", script, golden.to_str().unwrap()]).output().unwrap();
    let golden: Value = serde_json::from_slice(&printed.stdout).unwrap();
    let found = clips(&reference.join("videos/kinetics_test.mp4"), spec(256)).await;
    let (_, tensor) = &found[0];
    let at = |c: usize, t: usize, y: usize, x: usize| f64::from(tensor[((c * 32 + t) * 256 + y) * 256 + x]);
    let (mut sum, mut count) = (0.0, 0);
    for (i, frame) in golden["fast_frames"].as_array().unwrap().iter().enumerate() {
        let t = frame.as_u64().unwrap() as usize;
        for c in 0..3 {
            for y in 0..64 {
                for x in 0..64 {
                    sum += (number(&golden["values_every_4th_pixel"][c][i][y][x]) - at(c, t, 4 * y, 4 * x)).abs();
                    count += 1;
                }
            }
        }
    }
    let error = sum / f64::from(count);
    eprintln!("mean absolute difference of the clip tensor: {error:.5}");
    assert!(error <= 0.01, "mean absolute difference {error}");
    for c in 0..3 {
        let channel = &tensor[c * 32 * 65536..][..32 * 65536];
        let mean = channel.iter().map(|v| f64::from(*v)).sum::<f64>() / channel.len() as f64;
        assert!((mean - number(&golden["mean"][c])).abs() < 0.01, "channel {c}: mean {mean}");
    }
}
