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

#[test]
fn only_as_many_evenly_spread_clips_count_as_the_test_has() {
    let scratch = Scratch::new();
    let Some((job, duckdb)) = indexed(&scratch) else { return };
    // Segments of the longest video, a second apart. Two clips are the first and the last whole one.
    let rows = tables::rows(&scratch.index(), "actions");
    let third: Vec<_> = rows.iter().filter(|row| row["uri"].as_str().unwrap().contains("third")).collect();
    let second = |row: &Value, name: &str| row[name].as_f64().unwrap();
    let length = |row: &Value| second(row, "end_seconds") - second(row, "start_seconds");
    let third: Vec<Value> = third.into_iter().cloned().map(Value::Object).collect();
    let longest = third.iter().map(length).fold(0.0, f64::max);
    let whole: Vec<&Value> = third.iter().filter(|row| length(row) >= longest - 1e-3).collect();
    assert!(whole.len() >= 2 && whole.len() < third.len(), "{} of {}", whole.len(), third.len());
    let score = |row: &Value, label: usize| row["scores"][label].as_f64().unwrap();
    let of_two = |label| (score(whole[0], label) + score(whole[whole.len() - 1], label)) / 2.0;
    let best = (0..400).max_by(|&a, &b| of_two(a).total_cmp(&of_two(b))).unwrap();
    let label =
        whole[0]["top"].as_array().unwrap().iter().find(|entry| entry["label_id"] == best).unwrap()["label"].clone();
    let truth = scratch.path("truth.csv");
    std::fs::write(&truth, format!("video,label\nthird,\"{}\"\n", label.as_str().unwrap())).unwrap();
    let eval = |views: &str| {
        let mut command = vidindex(["eval".as_ref(), job.as_os_str(), "--truth".as_ref(), truth.as_os_str()]);
        command.args(["--json", "--views", views]).env("VIDINDEX_DUCKDB", &duckdb).output().unwrap()
    };
    let output = eval("2x1");
    assert!(output.status.success(), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["actions"]["top1"], 1.0, "{report:#}");
    assert!(said(&eval("10x3")).contains("index with `view = \"three-crops\"`"));
    assert_eq!(eval("10x2").status.code(), Some(2));
}

#[test]
fn two_runs_of_an_index_are_compared_segment_by_segment_and_box_by_box() {
    let scratch = Scratch::new();
    let Some(duckdb) = python().map(|python| python.with_file_name("duckdb")) else { return };
    let clips = [0, 9].map(crate::support::drawn_clip);
    for clip in &clips {
        std::fs::copy(clip, scratch.videos().join(clip.file_name().unwrap())).unwrap();
    }
    // Labels by chance, and people that are there.
    let models = scratch.small_models();
    let (actions, _) = models.split_once("[persons]").unwrap();
    let detector = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo-yolov5.onnx");
    let job = scratch.job(&format!("{actions}[persons]\nmodel = \"{}\"\n", detector.display()));
    let run_id = |args: &[&str]| crate::support::stdout(&run(&job, args, 0));
    let first = run_id(&[]);
    let second = run_id(&["--reindex"]);
    let eval = |against: &str| {
        let mut command = vidindex(["eval".as_ref(), scratch.index().as_os_str()]);
        command.args(["--json", "--against", against]).env("VIDINDEX_DUCKDB", &duckdb).output().unwrap()
    };
    // The same models: nothing changed.
    let report: Value = serde_json::from_slice(&eval(&first).stdout).unwrap();
    assert_eq!((&report["indexed"], &report["actions"]["top1"]), (&2.into(), &1.0.into()), "{report:#}");
    assert_eq!(report["actions"]["differences"]["largest"], 0.0);
    assert_eq!(report["persons"]["ap50"], 1.0, "{report:#}");
    assert!(said(&eval(&second)).contains("give the older run"), "{}", said(&eval(&second)));
    // Fewer boxes are found with a higher confidence, and other parts of the frames are seen.
    run_id(&["--set", "persons.confidence=0.9", "--set", "actions.view='whole'"]);
    let report: Value = serde_json::from_slice(&eval(&second).stdout).unwrap();
    assert!(report["actions"]["differences"]["largest"].as_f64().unwrap() > 0.0, "{report:#}");
    assert!(report["persons"]["ap50"].as_f64().unwrap() < 0.99, "{report:#}");
    assert!(
        said(&eval("20000101T000000000Z-000000")).contains("no video of"),
        "{}",
        said(&eval("20000101T000000000Z-000000"))
    );
}

#[test]
fn still_images_are_compared_with_the_boxes_of_object_detection() {
    let scratch = Scratch::new();
    let Some(duckdb) = python().map(|python| python.with_file_name("duckdb")) else { return };
    let clip = crate::support::drawn_clip(0);
    for (number, at) in [(1, "1"), (2, "4")] {
        let image = scratch.videos().join(format!("{number:012}.jpg"));
        crate::support::ffmpeg(&["-ss", at, "-i", clip.to_str().unwrap(), "-frames:v", "1", image.to_str().unwrap()]);
    }
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo-yolov5.onnx");
    let job = scratch.job(&format!("[persons]\nmodel = \"{}\"\nconfidence = 0.25\n", model.display()));
    run(&job, &["--set", "input.include=['**/*.jpg']"], 0);
    let boxes: Vec<Value> = tables::rows(&scratch.index(), "persons").into_iter().map(Value::Object).collect();
    assert!(boxes.len() >= 2, "{boxes:?}");
    let annotation = |(id, row): (usize, &Value)| {
        let [x1, y1, x2, y2] = ["x1", "y1", "x2", "y2"].map(|edge| row[edge].as_f64().unwrap());
        let image: i64 = if row["uri"].as_str().unwrap().contains("001.jpg") { 1 } else { 2 };
        serde_json::json!({"id": id, "image_id": image, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0})
    };
    let mut annotations: Vec<Value> = boxes.iter().enumerate().map(annotation).collect();
    let images: Vec<Value> =
        [1, 2].map(|id| serde_json::json!({"id": id, "file_name": format!("{id:012}.jpg")})).to_vec();
    let truth = scratch.path("instances.json");
    let ap = |annotations: &[Value]| {
        let text = serde_json::json!({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]});
        std::fs::write(&truth, text.to_string()).unwrap();
        let output = eval(&job, &duckdb, &truth, "coco");
        assert!(output.status.success(), "{}", said(&output));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(report["actions"].is_null());
        (report["persons"]["ap"].as_f64().unwrap(), report["persons"]["frames"].clone())
    };
    assert_eq!(ap(&annotations), (1.0, 2.into()));
    let missed = serde_json::json!({"id": 99, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "iscrowd": 0});
    annotations.push(missed);
    assert!(ap(&annotations).0 < 1.0);
}

#[test]
fn actions_of_persons_are_compared_on_avas_key_frames() {
    let scratch = Scratch::new();
    let Some(duckdb) = python().map(|python| python.with_file_name("duckdb")) else { return };
    test_video(&scratch.videos().join("movie.mp4"), "160x120", "25", 6.0, &["-pix_fmt", "yuv420p"]);
    let models = scratch
        .small_person_models()
        .replace("[persons]", "clip_seconds = 2\nstride_seconds = 1\ntop_k = 80\n[persons]");
    let job = scratch.job(&models);
    run(&job, &["--set", "persons.frames_per_second=5"], 0);
    let rows: Vec<Value> = tables::rows(&scratch.index(), "persons").into_iter().map(Value::Object).collect();
    let scored: Vec<&Value> = rows.iter().filter(|row| !row["actions"].is_null()).collect();
    let seconds: std::collections::BTreeSet<i64> =
        scored.iter().map(|row| row["time_seconds"].as_f64().unwrap().round() as i64).collect();
    assert!(seconds.len() >= 3, "{seconds:?}");
    // The truth: action 12 (stand) of the box that scores highest for it in each second, and one that is not there.
    let best = |second: i64| {
        let here = scored.iter().filter(|row| (row["time_seconds"].as_f64().unwrap() - second as f64).abs() < 0.3);
        let score = |row: &&&Value| {
            let entry = row["actions"].as_array().unwrap().iter().find(|entry| entry["label_id"] == 11).unwrap();
            entry["score"].as_f64().unwrap()
        };
        *here.max_by(|a, b| score(a).total_cmp(&score(b))).unwrap()
    };
    let mut text = String::new();
    for &second in &seconds {
        let row = best(second);
        let [x1, y1, x2, y2] = [("x1", 160.0), ("y1", 120.0), ("x2", 160.0), ("y2", 120.0)]
            .map(|(edge, length)| row[edge].as_f64().unwrap() / length);
        text.push_str(&format!("movie,{:04},{x1},{y1},{x2},{y2},12,1\n", 900 + second));
    }
    text.push_str("movie,0902,0.001,0.001,0.002,0.002,17,2\n");
    let truth = scratch.path("ava.csv");
    std::fs::write(&truth, &text).unwrap();
    let report = |more: &[&std::ffi::OsStr]| -> Value {
        let mut command = vidindex(["eval".as_ref(), job.as_os_str(), "--truth".as_ref(), truth.as_os_str()]);
        let output =
            command.args(["--format", "ava", "--json"]).args(more).env("VIDINDEX_DUCKDB", &duckdb).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let found = report(&[]);
    let class = |report: &Value, label: &str| {
        let classes = report["actions"]["classes"].as_array().unwrap();
        classes.iter().find(|class| class["label"] == label).map(|class| class["value"].as_f64().unwrap())
    };
    assert!(class(&found, "stand").unwrap() > 0.2, "{found:#}");
    let labels = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/models/labels/ava80.txt")).unwrap();
    let absent = labels.lines().nth(16).unwrap();
    assert_eq!(class(&found, absent), Some(0.0), "{found:#}");
    // Without that key frame, the class has no boxes.
    let excluded = scratch.path("excluded.csv");
    std::fs::write(&excluded, "movie,0902\n").unwrap();
    let without = report(&["--exclude".as_ref(), excluded.as_os_str()]);
    assert_eq!(class(&without, absent), None, "{without:#}");
}
