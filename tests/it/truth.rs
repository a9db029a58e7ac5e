//! Whether what the tables say is true: drawn clips whose truth is known, through the whole job, with the demo's models.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::bucket::{Bucket, comparable};
use crate::support::s3::S3Server;
use crate::support::{Scratch, python, run, said, scenes};

/// None of the demo's models was trained on scenes of this seed.
const SEED: u64 = 20_260;
const STRIDE_SECONDS: f64 = 0.5;
const FRAMES_PER_SECOND: f64 = 2.0;
/// How much later than it begins the model sees an action: people take a quarter of a second to change their pose.
const LATE_SECONDS: f64 = 0.05;
/// How far the model's boxes lie beside what is seen of a person, left, top, right, bottom: those of the present weights.
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

/// What `truth.py` finds.
fn compare(python: PathBuf, truth: &Path, index: &Path) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/truth.py");
    let mut command = Command::new(python);
    command.args([&script, truth, index]).args([STRIDE_SECONDS.to_string(), FRAMES_PER_SECOND.to_string()]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn what_was_drawn_is_found_where_and_when_it_was_drawn() {
    let Some(python) = python() else { return };
    let scratch = Scratch::new();
    scenes::write(&scratch.videos(), SEED, 36).unwrap();
    run(&scratch.job(&demo_models()), &[], 0);
    let found = compare(python, &scratch.videos().join("truth.json"), &scratch.index());
    println!("{found:#}");
    let number = |of: &Value, name: &str| of[name].as_f64().unwrap_or(f64::NAN);
    let all = &found["all"];
    assert!(number(all, "ap50") >= 0.95, "average precision {}", all["ap50"]);
    assert!(number(all, "top1") >= 0.90, "top-1 {}", all["top1"]);
    assert!(number(all, "boundaries") >= 0.90, "boundaries within a stride {}", all["boundaries"]);
    // An error of one frame in time, or of half a pixel of the detector's picture, shows here: the models' own are known.
    assert!((number(all, "late_seconds") - LATE_SECONDS).abs() < 0.025, "late by {}", all["late_seconds"]);
    for (edge, own) in all["offset_pixels"].as_array().unwrap().iter().zip(OFFSET_PIXELS) {
        assert!((edge.as_f64().unwrap() - own).abs() < 0.3, "boxes lie {} beside the persons", all["offset_pixels"]);
    }
    // A codec or a rotation that is read wrongly leaves little of this.
    for (kind, of_kind) in found.as_object().unwrap() {
        assert!(number(of_kind, "ap50") >= 0.90, "{kind}: average precision {}", of_kind["ap50"]);
        assert!(number(of_kind, "top1") >= 0.75, "{kind}: top-1 {}", of_kind["top1"]);
    }
    assert_eq!(found.as_object().unwrap().len(), 13, "twelve kinds, and all");
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
