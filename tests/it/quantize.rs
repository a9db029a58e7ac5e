//! `models quantize`: what cannot be quantised is an error and leaves nothing behind; what is quantised is a model of its own.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

use crate::support::{Scratch, query, run, said, stderr, stdout, tables, test_video, vidindex};

fn build(scratch: &Scratch, name: &str, side: &str) -> PathBuf {
    let out = scratch.path(&format!("{name}.onnx"));
    let built = vidindex(["models", "build", name, "--side", side, "--out"]).arg(&out).output().unwrap();
    assert!(built.status.success(), "{}", said(&built));
    out
}

fn quantize(model: &Path, calibrate: &Path, args: &[&str]) -> Output {
    let mut command = vidindex(["models", "quantize", "--device", "cpu", "--calibrate"]);
    command.args([calibrate, model]).args(args).output().unwrap()
}

/// Checks that the command fails with this message and hint, and writes nothing.
fn assert_refused(output: &Output, model: &Path, texts: &[&str]) {
    assert!(!output.status.success(), "{}", said(output));
    let message = stderr(output);
    texts.iter().for_each(|text| assert!(message.contains(text), "{text:?} is not in {message}"));
    let int8 = model.with_file_name(format!("{}-int8.onnx", model.file_stem().unwrap().to_str().unwrap()));
    assert!(!int8.exists() && !int8.with_extension("toml").exists());
}

fn videos(scratch: &Scratch) -> PathBuf {
    for seconds in 2..6_u8 {
        let file = scratch.videos().join(format!("{seconds}.mp4"));
        test_video(&file, "160x120", "25", f64::from(seconds), &["-pix_fmt", "yuv420p"]);
    }
    scratch.videos()
}

#[test]
fn a_quantised_model_is_used_like_any_other_and_rows_say_which_made_them() {
    let scratch = Scratch::new();
    let model = build(&scratch, "slowfast-tiny", "32");
    let videos = videos(&scratch);
    std::fs::write(videos.join("broken.mp4"), "not a video").unwrap();
    let output = quantize(&model, &videos, &["--samples", "16", "--max-drop", "1", "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    let message = stderr(&output);
    assert!(message.contains("skipped") && message.contains("broken.mp4"), "{message}");
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let quantised = scratch.path("slowfast-tiny-int8.onnx");
    assert_eq!(report["model"], quantised.to_str().unwrap());
    assert_eq!((&report["calibrated_with"], &report["compared_with"]), (&12.into(), &4.into()));
    assert_eq!(report["videos"], 4);
    assert!(report["layers"].as_u64().unwrap() > 100, "{report:#}");
    let sidecar = std::fs::read_to_string(quantised.with_extension("toml")).unwrap();
    assert!(sidecar.contains("\n# made from   slowfast-tiny-") && sidecar.contains("\n# accuracy "), "{sidecar}");
    let size = |file: &Path| std::fs::metadata(file).unwrap().len();
    assert!(size(&quantised) < size(&model) / 2, "{} of {} bytes", size(&quantised), size(&model));

    let job = scratch.job(&format!("[actions]\nmodel = \"{}\"\n", quantised.display()));
    run(&job, &[], 3);
    let rows = tables::rows(&scratch.index(), "videos");
    let ids: Vec<&str> = rows.iter().filter_map(|row| row["actions_model"].as_str()).collect();
    assert!(ids.iter().all(|id| *id == report["id"]) && ids.len() == 5, "{ids:?}");
    let inspected = vidindex(["models", "inspect"]).arg(&quantised).output().unwrap();
    let inspected = stdout(&inspected);
    // The counts of the original.
    assert!(inspected.contains("parameters  0.65 M") && inspected.contains("multiply-adds"), "{inspected}");
    let again = quantize(&quantised, &videos, &[]);
    assert_refused(&again, &quantised, &["it is quantised already"]);
    assert!(!query(&scratch.index(), &["select * from current_actions"]).is_empty());
}

#[test]
fn a_detector_is_quantised_with_a_jobs_videos_and_settings() {
    let scratch = Scratch::new();
    scenes::write(&scratch.videos(), 20_290, 4).unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo-yolov5.onnx");
    let job = scratch.job(&format!("[persons]\nmodel = \"{}\"\n", model.display()));
    let out = scratch.path("quantised");
    let args = ["--samples", "16", "--max-drop", "0.03", "--set", "persons.frames_per_second=2", "--out"];
    let output = quantize(&model, &job, &[&args[..], &[out.to_str().unwrap()]].concat());
    assert!(output.status.success(), "{}", said(&output));
    let report = stdout(&output);
    assert!(report.contains("57 of 57 convolutions in 8-bit integers"), "{report}");
    assert!(report.contains("% of ") && report.contains(" matched at an IoU of 0.5"), "{report}");
    assert!(out.join("demo-yolov5-int8.onnx").is_file() && out.join("demo-yolov5-int8.toml").is_file());
}

#[test]
fn a_model_that_scores_persons_is_quantised_without_a_detector_and_used_with_one() {
    let scratch = Scratch::new();
    let model = build(&scratch, "slowfast-tiny-ava", "64");
    let videos = videos(&scratch);
    let output = quantize(&model, &videos, &["--samples", "16", "--max-drop", "1"]);
    assert!(output.status.success(), "{}", said(&output));
    let report = stdout(&output);
    assert!(report.contains(" % of 16 boxes in clips"), "four samples are held out, with four boxes each: {report}");
    let quantised = scratch.path("slowfast-tiny-ava-int8.onnx");
    let detector = scratch.small_person_models();
    let detector = &detector[detector.find("[persons]").unwrap()..];
    let scores = |model: &Path| {
        // Segments in which nobody was found have no scores.
        let job = scratch.job(&format!("[actions]\nmodel = \"{}\"\nscores = \"full\"\n{detector}", model.display()));
        let index = model.with_extension("index");
        run(&job, &["--set", &format!("output.uri={}", index.display())], 0);
        let rows = tables::rows(&index, "actions");
        let scores = rows.iter().filter_map(|row| row["scores"].as_array().cloned()).flatten();
        scores.map(|score| score.as_f64().unwrap()).collect::<Vec<f64>>()
    };
    let (exact, rounded) = (scores(&model), scores(&quantised));
    assert!(exact.len() == rounded.len() && exact.len() >= 80, "{} {}", exact.len(), rounded.len());
    let mean = exact.iter().zip(&rounded).map(|(a, b)| (a - b).abs()).sum::<f64>() / exact.len() as f64;
    assert!(mean > 0.0 && mean < 0.05, "{mean}");
}

#[test]
fn what_cannot_be_quantised_is_refused_and_nothing_is_written() {
    let scratch = Scratch::new();
    let model = build(&scratch, "slowfast-tiny", "32");
    let folder = videos(&scratch);
    let refused = |args: &[&str], texts: &[&str]| assert_refused(&quantize(&model, &folder, args), &model, texts);
    refused(&["--samples", "8"], &["8 samples are too few", "16"]);
    refused(&["--max-drop", "2"], &["between 0 and 1"]);
    refused(&["--out", model.to_str().unwrap()], &["would overwrite the model itself"]);
    // Thousands of boxes of random weights are never all the same.
    let detector = build(&scratch, "yolov5n", "160");
    let job = scratch.job(&format!("[persons]\nmodel = \"{}\"\nconfidence = 0.0001\n", detector.display()));
    let texts = ["no version of the model loses at most 0 of its accuracy", "--max-drop"];
    assert_refused(&quantize(&detector, &job, &["--samples", "64", "--max-drop", "0"]), &detector, &texts);
    let job = scratch.job(&format!("[persons]\nmodel = \"{}\"\nconfidence = 0.999\n", detector.display()));
    let texts = ["finds nothing in the images that were held out"];
    assert_refused(&quantize(&detector, &job, &["--samples", "16"]), &detector, &texts);

    let unreadable = scratch.path("unreadable");
    std::fs::create_dir(&unreadable).unwrap();
    assert_refused(&quantize(&model, &unreadable, &[]), &model, &["no video in"]);
    std::fs::write(unreadable.join("a.mp4"), "not a video").unwrap();
    assert_refused(&quantize(&model, &unreadable, &[]), &model, &["none of 1 videos could be decoded", "a.mp4"]);
    std::fs::remove_file(unreadable.join("a.mp4")).unwrap();
    test_video(&unreadable.join("short.mp4"), "160x120", "25", 1.0, &["-pix_fmt", "yuv420p"]);
    assert_refused(&quantize(&model, &unreadable, &[]), &model, &["samples, but at least 16 are needed"]);

    let text = scratch.path("text.onnx");
    std::fs::write(&text, "not a model").unwrap();
    assert_refused(&quantize(&text, &folder, &[]), &text, &["not an ONNX model"]);
}
