//! `vidindex eval`: the index of a few videos and ground truth in the formats of data sets.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

use crate::support::{Scratch, python, run, said, tables, test_video, vidindex};

const VIDEOS: [&str; 3] = ["first", "second", "third"];

/// Indexes three videos with a model that has random weights. Returns the job and DuckDB, or `None` without it.
fn indexed(scratch: &Scratch) -> Option<(PathBuf, PathBuf)> {
    let duckdb = python()?.with_file_name("duckdb");
    for (seconds, name) in (2..).zip(VIDEOS) {
        let video = scratch.videos().join(format!("{name}.mp4"));
        test_video(&video, "160x120", "25", f64::from(seconds), &["-pix_fmt", "yuv420p"]);
    }
    let models = scratch.small_models();
    let (actions, _) = models.split_once("[persons]").unwrap();
    let job = scratch.job(&format!("{actions}stride_seconds = 1\nscores = \"full\"\ntop_k = 400\n"));
    std::fs::write(scratch.videos().join("damaged.mp4"), "not a video").unwrap();
    run(&job, &[], 3);
    Some((job, duckdb))
}

fn eval(job: &Path, duckdb: &Path, truth: &Path, format: &str) -> Output {
    let mut command = vidindex(["eval".as_ref(), job.as_os_str(), "--truth".as_ref(), truth.as_os_str()]);
    command.args(["--format", format, "--json"]).env("VIDINDEX_DUCKDB", duckdb).output().unwrap()
}

/// The labels of a video by the mean of its segments' scores, the best first.
fn ranked(index: &Path, video: &str) -> Vec<String> {
    let rows = tables::rows(index, "actions");
    let rows: Vec<_> = rows.iter().filter(|row| row["uri"].as_str().unwrap().contains(video)).collect();
    assert!(rows.len() > 1, "{video}: {} segments", rows.len());
    let mut sums = std::collections::BTreeMap::<&str, f64>::new();
    for entry in rows.iter().flat_map(|row| row["top"].as_array().unwrap()) {
        *sums.entry(entry["label"].as_str().unwrap()).or_default() += entry["score"].as_f64().unwrap();
    }
    let mut labels: Vec<_> = sums.into_iter().collect();
    labels.sort_by(|a, b| b.1.total_cmp(&a.1));
    labels.into_iter().map(|(label, _)| label.to_owned()).collect()
}

#[test]
fn labels_of_whole_videos_are_compared_with_the_mean_of_their_segments() {
    let scratch = Scratch::new();
    let Some((job, duckdb)) = indexed(&scratch) else { return };
    let [first, second, third] = VIDEOS.map(|video| ranked(&scratch.index(), video));
    // The best label in another spelling, the third best, and one beyond the fifth.
    let spelled = first[0].to_uppercase().replace(' ', "_");
    let truth = scratch.path("truth.csv");
    let text = format!(
        "label,video\n\"{spelled}\",first.avi\n\"{}\",second\n\"{}\",third\nx,absent\nriding a bike,damaged\n",
        second[2], third[7]
    );
    std::fs::write(&truth, text).unwrap();
    let output = eval(&job, &duckdb, &truth, "csv");
    assert!(output.status.success(), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["videos"], &report["indexed"]), (&5.into(), &4.into()), "{report:#}");
    let actions = &report["actions"];
    let near = |name: &str, expected: f64| {
        assert!((actions[name].as_f64().unwrap() - expected).abs() < 1e-9, "{name}: {report:#}");
    };
    // A video without rows is not found.
    assert_eq!(actions["items"], 4);
    near("top1", 1.0 / 4.0);
    near("top5", 2.0 / 4.0);
    near("mean_class_accuracy", 1.0 / 4.0);
    let confused = actions["most_confused"].as_array().unwrap();
    let wrong = |of: &str, as_: &str| confused.iter().any(|pair| pair["truth"] == of && pair["predicted"] == as_);
    assert!(
        confused.len() == 3
            && wrong("ridingabike", "nothing")
            && wrong(&second[2], &second[0])
            && wrong(&third[7], &third[0]),
        "{report:#}"
    );
}

#[test]
fn videos_with_several_labels_are_judged_by_the_mean_average_precision() {
    let scratch = Scratch::new();
    let Some((job, duckdb)) = indexed(&scratch) else { return };
    let truth = scratch.path("charades.csv");
    // A video without labels is not compared.
    let text =
        "id,actions\nFIRST,c003 0.00 1.00;c007 0.50 2.00\nsecond,c007 0.00 1.00\nthird,c003 0 1;c003 2 3\ndamaged,\n";
    std::fs::write(&truth, text).unwrap();
    let output = eval(&job, &duckdb, &truth, "charades");
    assert!(output.status.success(), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    // The largest score of each of the two classes in each video, and the average precision by its definition.
    let rows = tables::rows(&scratch.index(), "actions");
    let best = |class: usize| {
        VIDEOS.map(|video| {
            let of_video = rows.iter().filter(|row| row["uri"].as_str().unwrap().contains(video));
            of_video.map(|row| row["scores"][class].as_f64().unwrap()).fold(0.0, f64::max)
        })
    };
    let precision = |class: usize, own: [bool; 3]| {
        let scores = best(class);
        let better = |i: usize| (0..3).filter(move |&j| scores[j] >= scores[i]);
        let at = |i: usize| better(i).filter(|&j| own[j]).count() as f64 / better(i).count() as f64;
        (0..3).filter(|&i| own[i]).map(at).sum::<f64>() / own.iter().filter(|own| **own).count() as f64
    };
    let expected = (precision(3, [true, false, true]) + precision(7, [true, true, false])) / 2.0;
    let found = report["actions"]["mean_average_precision"].as_f64().unwrap();
    assert!((found - expected).abs() < 1e-6, "{found}, not {expected}: {report:#}");
}

#[test]
fn truth_that_does_not_fit_is_an_error_that_says_why() {
    let scratch = Scratch::new();
    let Some((job, duckdb)) = indexed(&scratch) else { return };
    let truth = scratch.path("truth.txt");
    let cases = [
        ("csv", "video,label\nelsewhere,wave\n", "none of the 1 videos"),
        ("csv", "video;label\n", "no column `video`"),
        ("kinetics", "label,youtube_id\n", "no column `time_start`"),
        ("ucf101", "no slash\n", "line 1 is not CLASS/VIDEO: no slash"),
        ("scenes", "{}", "missing field `videos`"),
        ("csv", "video,label\n", "it names no video"),
    ];
    for (format, text, expected) in cases {
        std::fs::write(&truth, text).unwrap();
        let output = eval(&job, &duckdb, &truth, format);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{format}: {}", said(&output));
        assert!(said(&output).contains(expected), "{format}: {}", said(&output));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn files_of_the_same_name_are_told_apart_by_their_folders() {
    let scratch = Scratch::new();
    let Some(duckdb) = python().map(|python| python.with_file_name("duckdb")) else { return };
    for folder in ["wave", "run"] {
        std::fs::create_dir_all(scratch.videos().join(folder)).unwrap();
        let video = scratch.videos().join(folder).join("001.mp4");
        test_video(&video, "160x120", "25", 2.0, &["-pix_fmt", "yuv420p"]);
    }
    let models = scratch.small_models();
    let job = scratch.job(models.split_once("[persons]").unwrap().0);
    run(&job, &[], 0);
    let truth = scratch.path("truth.csv");
    std::fs::write(&truth, "video,label\nwave/001.avi,wave\nRUN/001.mp4,run\n").unwrap();
    let output = eval(&job, &duckdb, &truth, "csv");
    assert!(output.status.success(), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["indexed"], &report["actions"]["items"]), (&2.into(), &2.into()), "{report:#}");
    for (text, expected) in [
        ("video,label\n001,wave\n", "001 can be two videos of the index"),
        ("video,label\nwave/001,wave\nwave/001.avi,run\n", "the truth has two videos that"),
    ] {
        std::fs::write(&truth, text).unwrap();
        let output = eval(&job, &duckdb, &truth, "csv");
        assert!(output.status.code() == Some(2) && said(&output).contains(expected), "{}", said(&output));
    }
}
