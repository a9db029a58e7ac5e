//! Mistakes of users: the error message names the problem and the fix, before any work is done.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::{self, Scratch, stderr, test_video, vidindex};

/// Runs the job, which must fail with this exit code, and returns what it prints to stderr.
fn fails(job: &Path, args: &[&str], code: i32) -> String {
    let output = vidindex(["run".as_ref(), job.as_os_str()]).args(args).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", support::said(&output));
    stderr(&output)
}

fn assert_contains(text: &str, words: &[&str]) {
    assert!(words.iter().all(|word| text.contains(word)), "not all of {words:?} in:\n{text}");
}

#[test]
fn a_misspelled_key_is_reported_with_its_line_and_the_nearest_key() {
    let scratch = Scratch::new();
    let job = scratch.job("[persons]\nmodel = \"x.onnx\"\nconfidense = 0.5\n");
    assert_contains(&fails(&job, &[], 2), &["job.toml:7", "confidense", "[persons]", "`confidence`"]);
}

#[test]
fn a_missing_model_is_reported_with_how_to_get_it() {
    let scratch = Scratch::new();
    let job = scratch.job("[persons]\nmodel = \"nowhere/yolo.onnx\"\n");
    let message = fails(&job, &[], 2);
    assert_contains(&message, &["nowhere/yolo.onnx", "hint:", "models pull NAME", "models convert"]);
    assert!(!message.contains("build"), "a model with random weights does not help:\n{message}");
    let job = scratch.job("[actions]\nmodel = \"nowhere/slowfast-r50-8x8.onnx\"\n");
    assert_contains(&fails(&job, &[], 2), &["`vidindex models pull slowfast-r50-8x8`"]);
}

#[test]
fn a_model_of_the_wrong_kind_is_reported_before_anything_is_written() {
    let scratch = Scratch::new();
    let models = scratch.small_models();
    let yolo = models.split('"').nth(3).unwrap();
    let job = scratch.job(&format!("[actions]\nmodel = \"{yolo}\"\n"));
    assert_contains(&fails(&job, &[], 2), &["yolov5n.onnx", "SlowFast"]);
    assert!(!scratch.index().exists());
}

#[test]
fn an_unknown_device_is_reported_with_the_known_ones() {
    let scratch = Scratch::new();
    let job = scratch.job(&scratch.small_models());
    assert_contains(&fails(&job, &["--device", "gpu"], 2), &["\"gpu\"", "cuda:N", "openvino"]);
}

#[test]
fn a_device_that_the_library_does_not_support_is_reported_with_what_to_install() {
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("a.mp4"), "128x96", "25", 1.0, &["-pix_fmt", "yuv420p"]);
    let job = scratch.job(&scratch.small_models());
    assert_contains(&fails(&job, &["--device", "cuda:0"], 2), &["cuda:0", "onnxruntime-gpu"]);
    assert!(!scratch.index().exists());
}

#[test]
fn a_missing_input_folder_is_reported() {
    let scratch = Scratch::new();
    let job = scratch.job(&scratch.small_models());
    let message = fails(&job, &["--set", "input.uri=/does/not/exist"], 1);
    assert_contains(&message, &["/does/not/exist", "hint:"]);
}

#[test]
fn a_folder_without_videos_is_reported() {
    let scratch = Scratch::new();
    std::fs::write(scratch.videos().join("notes.txt"), "x").unwrap();
    let job = scratch.job(&scratch.small_models());
    assert_contains(&fails(&job, &[], 1), &["1 object", "include"]);
}

#[test]
fn an_unreachable_endpoint_is_reported_within_seconds() {
    let scratch = Scratch::new();
    let job = scratch.job(&scratch.small_models());
    let started = Instant::now();
    let output = vidindex(["run".as_ref(), job.as_os_str()])
        .args(["--set", "input.uri=s3://archive/", "--set", "store.endpoint=http://127.0.0.1:9"])
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_contains(&stderr(&output), &["s3://archive", "127.0.0.1:9", "hint:"]);
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[test]
fn a_toml_syntax_error_is_reported_with_its_line() {
    let scratch = Scratch::new();
    let job = scratch.job("[persons\n");
    assert_contains(&fails(&job, &[], 2), &["job.toml:5"]);
}

#[test]
fn an_unknown_run_is_reported_with_the_existing_ones() {
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("a.mp4"), "128x96", "25", 1.0, &["-pix_fmt", "yuv420p"]);
    let job = scratch.job(&scratch.small_models());
    let planned = vidindex(["plan".as_ref(), job.as_os_str()]).output().unwrap();
    let run = support::stdout(&planned);
    let output = vidindex(["work", job.to_str().unwrap(), "--run", "20200101T000000000Z-000000"]).output().unwrap();
    assert_ne!(output.status.code(), Some(0));
    assert_contains(&stderr(&output), &["20200101T000000000Z-000000", &run]);
}

#[test]
fn doctor_reports_the_libraries_and_devices() {
    let output = vidindex(["doctor"]).output().unwrap();
    let report = support::stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert_contains(&report, &["FFmpeg", "decoder sandbox: no files", "ONNX Runtime", "cpu"]);
}
