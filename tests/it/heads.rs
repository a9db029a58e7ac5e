//! Detectors with every supported head and export option: the rows match what the official predictors compute for the
//! same picture (`support/heads.py`), and class names come from the model.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use prost::Message;
use serde_json::{Value, json};
use vidindex::zoo::onnx::{ModelProto, StringStringEntryProto};

use crate::support::{self, Scratch, ffmpeg, run, said, stderr, stdout, tables, test_video, vidindex};

const NAMES: [&str; 3] = ["cat", "person", "it's \"a\" \\ dog"];

/// A detector and its export options. Seeds and thresholds are chosen to give some dozen boxes.
fn case(name: &str, head: &str, size: [usize; 2], confidence: f64, more: &Value) -> Value {
    let mut case = json!({
        "name": name, "head": head, "height": size[0], "width": size[1], "names": NAMES, "strides": [8, 16, 32],
        "seed": 1, "confidence": confidence, "iou": 0.45,
    });
    case.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    case
}

fn cases() -> Vec<Value> {
    let (square, wide, tall) = ([128, 128], [96, 160], [160, 96]);
    vec![
        case("v5", "yolov5", square, 0.6, &json!({})),
        case("v5-wide", "yolov5", wide, 0.6, &json!({"seed": 2})),
        case("v5-p6", "yolov5", square, 0.6, &json!({"strides": [8, 16, 32, 64], "seed": 3})),
        case("v5-batch", "yolov5", square, 0.6, &json!({"batch": 4, "seed": 4})),
        case("v5-dynamic", "yolov5", square, 0.6, &json!({"dynamic": "some", "seed": 5})),
        case("v5-half", "yolov5", square, 0.6, &json!({"half": true, "iou": 1.0, "seed": 6})),
        case("v8", "yolov8", square, 0.7, &json!({"seed": 7})),
        case("v8-one", "yolov8", tall, 0.7, &json!({"names": ["person"], "seed": 8})),
        case("v8-batch", "yolov8", wide, 0.7, &json!({"batch": 4, "seed": 9})),
        case("v8-dynamic", "yolov8", tall, 0.7, &json!({"dynamic": "some", "seed": 10})),
        case("v8-open", "yolov8", square, 0.7, &json!({"dynamic": "all", "seed": 11})),
        case("v8-half", "yolov8", square, 0.7, &json!({"half": true, "iou": 1.0, "seed": 12})),
        case("v10", "yolov10", square, 0.8, &json!({"seed": 13})),
        case("v10-batch", "yolov10", wide, 0.8, &json!({"batch": 4, "seed": 14})),
        case("v10-dynamic", "yolov10", square, 0.8, &json!({"dynamic": "some", "seed": 15})),
        case("v10-half", "yolov10", square, 0.8, &json!({"half": true, "seed": 16})),
    ]
}

/// Writes the models of these cases; returns the boxes that the reference finds in the picture.
fn export(python: &Path, cases: &[Value], picture: &Path, models: &Path) -> HashMap<String, Vec<[f64; 6]>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/heads.py");
    let mut command = Command::new(python);
    command.args([&script, picture, models]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(json!(cases).to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The boxes in each frame: left, top, right, bottom, confidence, class.
fn found(index: &Path, names: &[Value]) -> Vec<Vec<[f64; 6]>> {
    let mut frames: Vec<Vec<[f64; 6]>> = Vec::new();
    for row in tables::rows(index, "persons") {
        let class = names.iter().position(|name| *name == row["label"]).unwrap();
        let [x1, y1, x2, y2, confidence] = ["x1", "y1", "x2", "y2", "confidence"].map(|c| row[c].as_f64().unwrap());
        let frame = row["frame"].as_i64().unwrap() as usize;
        frames.resize(frames.len().max(frame + 1), Vec::new());
        frames[frame].push([x1, y1, x2, y2, confidence, class as f64]);
    }
    frames
}

/// Each box has a counterpart in the other list, except those close to the threshold.
fn assert_alike(what: &str, expected: &[[f64; 6]], found: &[[f64; 6]], threshold: f64, (pixels, score): (f64, f64)) {
    let mut remaining = found.to_vec();
    for expected in expected {
        let off = |found: &[f64; 6]| (0..4).map(|i| (expected[i] - found[i]).abs()).fold(0.0, f64::max);
        let is_like = |found: &[f64; 6]| {
            found[5] == expected[5] && off(found) <= pixels && (found[4] - expected[4]).abs() <= score
        };
        let nearest = remaining.iter().enumerate().filter(|(_, found)| is_like(found));
        match nearest.min_by(|a, b| off(a.1).total_cmp(&off(b.1))).map(|(at, _)| at) {
            Some(at) => drop(remaining.remove(at)),
            None => assert!(expected[4] <= threshold + score, "{what}: {expected:?} is not among {found:?}"),
        }
    }
    for found in remaining {
        assert!(found[4] <= threshold + score, "{what}: {found:?} is unexpected");
    }
}

#[test]
fn every_head_matches_its_official_predictor() {
    let Some(python) = support::python() else { return };
    let scratch = Scratch::new();
    let (picture, cases) = (scratch.path("picture.ppm"), cases());
    ffmpeg(&["-f", "lavfi", "-i", "mandelbrot=size=200x150:rate=1", "-frames:v", "1", picture.to_str().unwrap()]);
    let video = scratch.videos().join("a.mkv");
    let looped = ["-loop", "1", "-framerate", "1", "-i", picture.to_str().unwrap(), "-frames:v", "3"];
    ffmpeg(&[&looped[..], &["-c:v", "ffv1", "-pix_fmt", "bgr0", video.to_str().unwrap()]].concat());
    let expected_boxes = export(&python, &cases, &picture, scratch.dir.path());
    // YOLOv5's exporter does not write the size, so a descriptor gives it.
    std::fs::write(scratch.path("v5-dynamic.toml"), "kind = \"yolov5\"\nside = 128\n").unwrap();
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let (names, is_half) = (case["names"].as_array().unwrap(), case["half"] == true);
        let model = scratch.path(&format!("{name}.onnx"));
        let (confidence, iou) = (case["confidence"].as_f64().unwrap(), case["iou"].as_f64().unwrap());
        let job = scratch.job(&format!(
            "[persons]\nmodel = \"{}\"\nclasses = {}\nconfidence = {confidence}\niou = {iou:?}\n",
            model.display(),
            case["names"],
        ));
        let index = scratch.path(&format!("index-{name}"));
        let output = run(&job, &["--set", &format!("output.uri={}", index.display())], 0);
        assert!(!stderr(&output).contains("in the TOML file beside it"), "{}", said(&output));
        let frames = found(&index, names);
        assert_eq!(frames.len(), 3, "{name}");
        let expected = &expected_boxes[name];
        println!("{name}: {} boxes", expected.len());
        // At the limit of 300, boxes with nearly equal scores may be cut differently.
        assert!((8..300).contains(&expected.len()), "{name}: {} boxes", expected.len());
        let tolerance = if is_half { (1.0, 0.02) } else { (0.1, 2e-3) };
        for frame in frames {
            assert_alike(name, expected, &frame, confidence, tolerance);
        }
    }
}

/// A YOLOv5 with random weights and 64-pixel input, with this metadata and without a descriptor.
fn with_metadata(scratch: &Scratch, classes: usize, metadata: &[(&str, &str)]) -> PathBuf {
    let labels = scratch.path("labels.txt");
    std::fs::write(&labels, (0..classes).map(|class| format!("any {class}\n")).collect::<String>()).unwrap();
    let (model, labels) = (scratch.path("mine.onnx"), labels.to_str().unwrap().to_owned());
    let out = model.to_str().unwrap();
    let output = vidindex(["models", "build", "yolov5n", "--side", "64", "--labels", &labels, "--out", out]).output();
    assert!(output.as_ref().unwrap().status.success(), "{}", said(&output.unwrap()));
    std::fs::remove_file(model.with_extension("toml")).unwrap();
    let mut proto = ModelProto::decode(std::fs::read(&model).unwrap().as_slice()).unwrap();
    let entry = |&(key, value): &(&str, &str)| StringStringEntryProto { key: key.into(), value: value.into() };
    proto.metadata_props.extend(metadata.iter().map(entry));
    std::fs::write(&model, proto.encode_to_vec()).unwrap();
    model
}

fn job(scratch: &Scratch, model: &Path, more: &str) -> PathBuf {
    test_video(&scratch.videos().join("a.mp4"), "64x64", "5", 1.0, &["-pix_fmt", "yuv420p"]);
    scratch.job(&format!("[persons]\nmodel = \"{}\"\nconfidence = 0.0001\n{more}", model.display()))
}

#[test]
fn an_unknown_class_is_rejected_with_a_list_of_the_models_classes() {
    let scratch = Scratch::new();
    // As many classes as COCO, but the first is not `person`.
    let names: Vec<String> = (0..80).map(|class| format!("{class}: 'thing {class}'")).collect();
    let model = with_metadata(&scratch, 80, &[("stride", "32"), ("names", &format!("{{{}}}", names.join(", ")))]);
    let output = run(&job(&scratch, &model, ""), &[], 2);
    let message = stderr(&output);
    assert!(message.contains("mine.onnx has no class `person`: its classes are `thing 0`, `thing 1`, "), "{message}");
    assert!(message.contains("`thing 79`") && message.contains("hint:"), "{message}");
    assert!(!scratch.index().exists());
}

#[test]
fn the_models_class_names_are_used_and_a_conflicting_descriptor_causes_a_warning() {
    let scratch = Scratch::new();
    let model = with_metadata(&scratch, 2, &[("names", r#"{0: "it's", 1: 'person'}"#)]);
    let toml = "kind = \"yolov5\"\nlabels = [\"person\", \"person\"]\n";
    std::fs::write(model.with_extension("toml"), toml).unwrap();
    let job = job(&scratch, &model, "classes = [\"person\", \"it's\"]\n");
    for reindex in [&[][..], &["--reindex"]] {
        let message = stderr(&run(&job, reindex, 0));
        assert!(message.contains("class 0 is `it's` in its own metadata, which is used, but `person` in"), "{message}");
    }
    let rows = tables::rows(&scratch.index(), "persons");
    let count = |label: &str| rows.iter().filter(|row| row["label"] == label).count();
    assert!(count("it's") > 0 && count("person") > 0 && count("it's") + count("person") == rows.len());
}

#[test]
fn classes_without_names_cause_a_warning_in_every_run() {
    let scratch = Scratch::new();
    let model = with_metadata(&scratch, 2, &[]);
    let job = job(&scratch, &model, "classes = [\"class_1\"]\n");
    for reindex in [&[][..], &["--reindex"]] {
        let message = stderr(&run(&job, reindex, 0));
        assert!(message.contains("its 2 classes have no names, so their labels are their numbers"), "{message}");
    }
    let output = run(&job, &["--set", "persons.classes=[\"person\"]"], 2);
    assert!(stderr(&output).contains("its classes are `class_0`, `class_1`"), "{}", said(&output));
}

#[test]
fn a_model_for_another_task_is_rejected_before_anything_is_written() {
    let scratch = Scratch::new();
    for (task, what) in [
        ("segment", "a segmentation model"),
        ("obb", "a model of oriented boxes (OBB)"),
        ("pose", "a pose model"),
        ("classify", "a classifier of whole pictures"),
    ] {
        let model = with_metadata(&scratch, 2, &[("names", "['person', 'dog']"), ("task", task)]);
        let output = run(&job(&scratch, &model, ""), &[], 2);
        let message = stderr(&output);
        assert!(
            message.contains(&format!("mine.onnx: it is {what}")) && message.contains("task `detect`"),
            "{message}"
        );
        let shown = vidindex(["models", "inspect", model.to_str().unwrap()]).output().unwrap();
        assert!(stdout(&shown).contains(what), "{}", said(&shown));
    }
    assert!(!scratch.index().exists());
}
