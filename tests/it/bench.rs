//! `bench` measures a job, and writes nothing.

use serde_json::Value;

use crate::support::{Scratch, said, stderr, stdout, test_video, vidindex};

const SECONDS: &str = "6";

fn bench(job: &std::path::Path, args: &[&str], code: i32) -> std::process::Output {
    let mut command = vidindex(["bench".as_ref(), job.as_os_str()]);
    let output = command.args(["--device", "cpu", "--seconds", SECONDS]).args(args).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", said(&output));
    output
}

#[test]
fn a_job_is_measured_with_a_sample_of_its_videos_and_nothing_is_written() {
    let scratch = Scratch::new();
    for i in 0..6 {
        test_video(&scratch.videos().join(format!("{i}.mp4")), "160x120", "25", 4.0, &["-pix_fmt", "yuv420p"]);
    }
    std::fs::write(scratch.videos().join("7.mp4"), "not a video").unwrap();
    let job = scratch.job(&scratch.small_models());
    let report: Value = serde_json::from_str(&stdout(&bench(&job, &["--videos", "3", "--json"], 0))).unwrap();
    assert_eq!(report["device"], "cpu");
    assert_eq!((&report["sample"]["videos"], &report["sample"]["of"]), (&3.into(), &7.into()));
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("not a number: {value} in {report:#}"));
    for (decoding, frames) in report["decoding"].as_array().unwrap().iter().zip(["every_frame", "as_needed"]) {
        assert_eq!(decoding["frames"], frames);
        let (frames, times) = (number(&decoding["frames_per_second"]), number(&decoding["times_real_time"]));
        assert!(times > 0.0 && (frames / times - 25.0).abs() < 0.5, "{frames} frames, {times} times real time");
    }
    let models: Vec<&str> =
        report["inference"].as_array().unwrap().iter().map(|rate| rate["model"].as_str().unwrap()).collect();
    assert!(models.iter().any(|model| model.starts_with("slowfast-tiny-")), "{models:?}");
    assert!(models.iter().any(|model| model.starts_with("yolov5n-")), "{models:?}");
    for rate in report["inference"].as_array().unwrap() {
        let inputs = number(&rate["batch"]) * number(&rate["streams"]);
        let per_second = 1e3 * inputs / number(&rate["batch_ms"]);
        assert!((per_second / number(&rate["per_second"]) - 1.0).abs() < 1e-6, "{rate}");
    }
    let pipeline = &report["pipeline"];
    assert!(number(&pipeline["times_real_time"]) > 0.0 && number(&pipeline["bound"]) > 0.0);
    assert_eq!(pipeline["precision"], "fp32");
    assert!(report["cores_to_feed"].is_null(), "the device is the processor");
    assert!(!scratch.index().exists());
}

#[test]
fn people_get_a_table_and_an_input_without_videos_is_an_error() {
    let scratch = Scratch::new();
    let job = scratch.job(&scratch.small_models());
    assert!(stderr(&bench(&job, &[], 1)).contains("no video in "));
    std::fs::write(scratch.videos().join("broken.mp4"), "not a video").unwrap();
    assert!(stderr(&bench(&job, &[], 1)).contains("no video of the sample gave a frame"));
    test_video(&scratch.videos().join("1.mp4"), "160x120", "25", 4.0, &["-pix_fmt", "yuv420p"]);
    let table = stdout(&bench(&job, &[], 0));
    for part in ["sample     2 of 2 videos", "decoding alone", "inference alone", "whole job", "limit      "] {
        assert!(table.contains(part), "{part:?} is missing in\n{table}");
    }
}

#[test]
fn local_models_are_listed_with_the_time_that_they_take() {
    let scratch = Scratch::new();
    let folder = scratch.path("models");
    let folder = folder.to_str().unwrap();
    let list = |args: &[&str]| {
        vidindex(["models", "list", "--cost", "--device", "cpu", "--out", folder]).args(args).output().unwrap()
    };
    assert!(stderr(&list(&[])).contains("there are no models in"), "{}", said(&list(&[])));
    for name in ["slowfast-tiny", "slowfast-tiny-ava", "yolov5n"] {
        let built = vidindex(["models", "build", name, "--out", folder]).output().unwrap();
        assert!(built.status.success(), "{}", said(&built));
    }
    let models: Value = serde_json::from_str(&stdout(&list(&["--json"]))).unwrap();
    let measured =
        models.as_array().unwrap().iter().filter(|model| model["milliseconds"].as_f64().is_some_and(|ms| ms > 0.0));
    let measured: Vec<&str> = measured.map(|model| model["name"].as_str().unwrap()).collect();
    assert_eq!(measured, ["slowfast-tiny", "slowfast-tiny-ava", "yolov5n"]);
    let table = stdout(&list(&[]));
    let (header, line) =
        (table.lines().next().unwrap(), table.lines().find(|line| line.starts_with("yolov5n ")).unwrap());
    let at = header.find(" ms").unwrap() + 1;
    assert!(line[at - 7..at + 2].trim().parse::<f64>().is_ok(), "{table}");
}
