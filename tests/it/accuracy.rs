//! Whether the tables are correct: drawn clips with ground truth are indexed with the demo's models.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::bucket::{Bucket, comparable};
use crate::support::s3::S3Server;
use crate::support::{Scratch, python, run, said};

/// The demo's models were not trained on scenes of this seed.
const SEED: u64 = 20_260;
const STRIDE_SECONDS: f64 = 0.5;
const FRAMES_PER_SECOND: f64 = 2.0;
/// Expected delay of transitions: people take a quarter of a second to change their pose.
const LATE_SECONDS: f64 = 0.05;
/// Expected offsets of the model's boxes from the visible part of a person (left, top, right, bottom), with the current
/// weights.
const OFFSET_PIXELS: [f64; 4] = [-0.3, 0.4, 0.6, -0.1];

/// The job's sections for the demo's models.
fn demo_models() -> String {
    let model = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name).display().to_string();
    format!(
        "[actions]\nmodel = \"{}\"\nstride_seconds = {STRIDE_SECONDS}\n\
         [persons]\nmodel = \"{}\"\nframes_per_second = {FRAMES_PER_SECOND}\niou = 0.6\n",
        model("demo-slowfast.onnx"),
        model("demo-yolov5.onnx")
    )
}

/// Runs `truth.py` and returns its results.
fn compare(python: PathBuf, truth: &Path, index: &Path) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/truth.py");
    let mut command = Command::new(python);
    command.args([&script, truth, index]).args([STRIDE_SECONDS.to_string(), FRAMES_PER_SECOND.to_string()]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn drawn_actions_and_persons_are_found_at_the_right_time_and_place() {
    let Some(python) = python() else { return };
    let scratch = Scratch::new();
    scenes::write(&scratch.videos(), SEED, 24).unwrap();
    run(&scratch.job(&demo_models()), &[], 0);
    let found = compare(python, &scratch.videos().join("truth.json"), &scratch.index());
    println!("{found:#}");
    let number = |of: &Value, name: &str| of[name].as_f64().unwrap_or(f64::NAN);
    let all = &found["all"];
    assert!(number(all, "ap50") >= 0.95, "average precision {}", all["ap50"]);
    assert!(number(all, "top1") >= 0.90, "top-1 {}", all["top1"]);
    assert!(number(all, "boundaries") >= 0.90, "boundaries within a stride {}", all["boundaries"]);
    // The known errors of the models are subtracted, so that an error of one frame, or of half a pixel of the
    // detector's picture, is detected.
    assert!((number(all, "late_seconds") - LATE_SECONDS).abs() < 0.025, "delay {}", all["late_seconds"]);
    for (edge, own) in all["offset_pixels"].as_array().unwrap().iter().zip(OFFSET_PIXELS) {
        assert!((edge.as_f64().unwrap() - own).abs() < 0.3, "offsets of boxes {}", all["offset_pixels"]);
    }
    // If a codec or a rotation is handled incorrectly, the results for its kind are much worse.
    for (kind, of_kind) in found.as_object().unwrap() {
        assert!(number(of_kind, "ap50") >= 0.90, "{kind}: average precision {}", of_kind["ap50"]);
        assert!(number(of_kind, "top1") >= 0.75, "{kind}: top-1 {}", of_kind["top1"]);
    }
    assert_eq!(found.as_object().unwrap().len(), 13, "not twelve kinds and the total");
}

#[test]
fn drawn_clips_give_the_same_rows_from_a_bucket() {
    let Some(server) = S3Server::start() else { return };
    let scratch = Scratch::new();
    scenes::write(&scratch.videos(), SEED + 1, 12).unwrap();
    run(&scratch.job(&demo_models()), &[], 0);
    let bucket = Bucket::with_models(server, scratch, &demo_models());
    bucket.vidindex(&["run"], 0);
    let downloaded = bucket.index();
    for table in ["videos", "actions", "persons"] {
        let expected = comparable(&bucket.scratch.index(), table);
        assert!(expected.len() >= 12, "{table}");
        assert_eq!(comparable(&downloaded, table), expected, "{table}");
    }
}
