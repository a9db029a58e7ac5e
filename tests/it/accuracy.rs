//! Whether the tables are correct: drawn clips with ground truth are indexed with the demo's models.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use crate::decoding;
use crate::support::bucket::{Bucket, comparable};
use crate::support::s3::S3Server;
use crate::support::{Scratch, copy_drawn_clips, drawn_clips, python, run, said, stdout, vidindex};

const STRIDE_SECONDS: f64 = 0.5;
const FRAMES_PER_SECOND: f64 = 2.0;
/// Expected delay of transitions: people take a quarter of a second to change their pose.
const LATE_SECONDS: f64 = 0.05;
/// Expected offsets of the model's boxes from the visible part of a person (left, top, right, bottom), with the current
/// weights.
const OFFSET_PIXELS: [f64; 4] = [-0.3, 0.4, 0.6, -0.1];

/// The job's sections for the demo's models, or for versions of them in another folder.
fn models_in(folder: &Path, suffix: &str) -> String {
    let model = |name: &str| folder.join(format!("{name}{suffix}.onnx")).display().to_string();
    format!(
        "[actions]\nmodel = \"{}\"\nstride_seconds = {STRIDE_SECONDS}\n\
         [persons]\nmodel = \"{}\"\nframes_per_second = {FRAMES_PER_SECOND}\niou = 0.6\n",
        model("demo-slowfast"),
        model("demo-yolov5")
    )
}

fn demo_models() -> String {
    models_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models"), "")
}

/// How well the demo's models do on the drawn clips in 32-bit floats. `None` without Python.
fn with_demo_models() -> Option<&'static Value> {
    static FOUND: OnceLock<Option<Value>> = OnceLock::new();
    FOUND.get_or_init(|| Some(measure(python()?, &demo_models()))).as_ref()
}

/// Indexes the drawn clips on OpenVINO, which is several times faster with these models, and compares the tables with the
/// ground truth: by a script, which `vidindex eval` must agree with.
fn measure(python: PathBuf, models: &str) -> Value {
    let scratch = Scratch::new();
    let job = scratch.job(models);
    let mut command = vidindex(["run".as_ref(), job.as_os_str()]);
    command.args(["--device", "openvino", "--set", "run.precision=fp32", "--set"]);
    let output = command.arg(format!("input.uri={}", drawn_clips().display())).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let truth = drawn_clips().join("truth.json");
    let mut command = vidindex(["eval".as_ref(), job.as_os_str(), "--truth".as_ref(), truth.as_os_str()]);
    command.args(["--format", "scenes", "--json"]).env("VIDINDEX_DUCKDB", python.with_file_name("duckdb"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = compare(python, &truth, &scratch.index());
    for (own, name) in [(&report["actions"], "top1"), (&report["persons"], "ap50")] {
        assert!((number(own, name) - number(&found["all"], name)).abs() < 1e-9, "{name}: {report:#}");
    }
    found
}

fn number(of: &Value, name: &str) -> f64 {
    of[name].as_f64().unwrap_or(f64::NAN)
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
    let Some(found) = with_demo_models() else { return };
    println!("{found:#}");
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
fn quantised_models_lose_at_most_a_point_of_accuracy() {
    let Some((exact, python)) = with_demo_models().zip(python()) else { return };
    let others = Scratch::new();
    scenes::write(&others.videos(), 20_262, 6).unwrap();
    let folder = others.path("models");
    for name in ["demo-slowfast", "demo-yolov5"] {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("models/{name}.onnx"));
        let mut command =
            vidindex(["models", "quantize", "--device", "openvino", "--samples", "32", "--json", "--out"]);
        command.args([&folder, &model]).arg("--calibrate").arg(others.videos());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        println!("{}", stdout(&output));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(number(&report, "drop") <= 0.01, "{report:#}");
        assert!(report["layers"].as_u64().unwrap() > 50 && report["in_float"].as_array().unwrap().len() < 10);
    }
    let found = measure(python, &models_in(&folder, "-int8"));
    println!("{:#}", found["all"]);
    for metric in ["ap50", "top1"] {
        let (exact, found) = (number(&exact["all"], metric), number(&found["all"], metric));
        assert!(found >= exact - 0.01, "{metric}: {found} instead of {exact}");
    }
}

#[test]
fn drawn_clips_give_the_same_rows_from_a_bucket() {
    let Some(server) = S3Server::start() else { return };
    let scratch = Scratch::new();
    copy_drawn_clips(&scratch.videos());
    // What the models see matters here, not what they say.
    let models = decoding::sections((Some(FRAMES_PER_SECOND), Some(STRIDE_SECONDS)));
    run(&scratch.job(&models), &[], 0);
    let bucket = Bucket::with_models(server, scratch, &models);
    bucket.vidindex(&["run"], 0);
    let downloaded = bucket.index();
    for table in ["videos", "actions", "persons"] {
        let expected = comparable(&bucket.scratch.index(), table);
        assert!(expected.len() >= 12, "{table}");
        assert_eq!(comparable(&downloaded, table), expected, "{table}");
    }
}
