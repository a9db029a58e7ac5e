//! What a user gets wrong: the message names the thing and the mend, before any work is done.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::{self, Scratch, stderr, test_video, vidindex};

/// Runs the job, which must fail with this code; gives what was said.
fn fails(job: &Path, args: &[&str], code: i32) -> String {
    let output = vidindex(["run".as_ref(), job.as_os_str()]).args(args).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", support::said(&output));
    stderr(&output)
}

fn assert_says(said: &str, words: &[&str]) {
    assert!(words.iter().all(|word| said.contains(word)), "not all of {words:?} in:\n{said}");
}

#[test]
fn a_misspelt_key_is_named_with_its_line_and_the_nearest() {
    let scratch = Scratch::new();
    let job = scratch.job("[persons]\nmodel = \"x.onnx\"\nconfidense = 0.5\n");
    assert_says(&fails(&job, &[], 2), &["job.toml:7", "confidense", "[persons]", "`confidence`"]);
}

#[test]
fn a_missing_model_is_named() {
    let scratch = Scratch::new();
    let job = scratch.job("[persons]\nmodel = \"nowhere/yolo.onnx\"\n");
    let said = fails(&job, &[], 2);
    assert_says(&said, &["nowhere/yolo.onnx", "hint:", "models pull NAME", "models convert"]);
    assert!(!said.contains("build"), "random weights are no answer:\n{said}");
    let job = scratch.job("[actions]\nmodel = \"nowhere/slowfast-r50-8x8.onnx\"\n");
    assert_says(&fails(&job, &[], 2), &["`vidindex models pull slowfast-r50-8x8`"]);
}

#[test]
fn a_model_of_the_wrong_shape_is_told_before_a_video_is_opened() {
    let scratch = Scratch::new();
    let models = scratch.small_models();
    let yolo = models.split('"').nth(3).unwrap();
    let job = scratch.job(&format!("[actions]\nmodel = \"{yolo}\"\n"));
    assert_says(&fails(&job, &[], 2), &["yolov5n.onnx", "SlowFast"]);
    assert!(!scratch.index().exists());
}

#[test]
fn an_unknown_device_lists_those_there_are() {
    let scratch = Scratch::new();
    let job = scratch.job(&scratch.small_models());
    assert_says(&fails(&job, &["--device", "gpu"], 2), &["\"gpu\"", "cuda:N", "openvino"]);
}

#[test]
fn a_device_that_the_library_lacks_says_what_to_install() {
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("a.mp4"), "128x96", "25", 1.0, &["-pix_fmt", "yuv420p"]);
    let job = scratch.job(&scratch.small_models());
    assert_says(&fails(&job, &["--device", "cuda:0"], 2), &["cuda:0", "onnxruntime-gpu"]);
    assert!(!scratch.index().exists());
}

#[test]
fn a_missing_input_folder_is_named() {
    let scratch = Scratch::new();
    let job = scratch.job(&scratch.small_models());
    let said = fails(&job, &["--set", "input.uri=/does/not/exist"], 1);
    assert_says(&said, &["/does/not/exist", "hint:"]);
}

#[test]
fn a_folder_without_videos_says_what_was_looked_for() {
    let scratch = Scratch::new();
    std::fs::write(scratch.videos().join("notes.txt"), "x").unwrap();
    let job = scratch.job(&scratch.small_models());
    assert_says(&fails(&job, &[], 1), &["1 object", "include"]);
}

#[test]
fn an_endpoint_that_does_not_answer_is_told_within_seconds() {
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
    assert_says(&stderr(&output), &["s3://archive", "127.0.0.1:9", "hint:"]);
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[test]
fn a_job_file_that_is_no_toml_is_told_with_its_line() {
    let scratch = Scratch::new();
    let job = scratch.job("[persons\n");
    assert_says(&fails(&job, &[], 2), &["job.toml:5"]);
}

#[test]
fn a_run_that_is_not_there_is_told_with_those_that_are() {
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("a.mp4"), "128x96", "25", 1.0, &["-pix_fmt", "yuv420p"]);
    let job = scratch.job(&scratch.small_models());
    let planned = vidindex(["plan".as_ref(), job.as_os_str()]).output().unwrap();
    let run = support::stdout(&planned);
    let output = vidindex(["work", job.to_str().unwrap(), "--run", "20200101T000000000Z-000000"]).output().unwrap();
    assert_ne!(output.status.code(), Some(0));
    assert_says(&stderr(&output), &["20200101T000000000Z-000000", &run]);
}

#[test]
fn doctor_says_what_is_there() {
    let output = vidindex(["doctor"]).output().unwrap();
    let said = support::stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_says(&said, &["FFmpeg", "decoder sandbox: no files", "ONNX Runtime", "cpu"]);
}
