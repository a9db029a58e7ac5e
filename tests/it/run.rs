//! Runs over a directory: each file gets a row, regardless of its content.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use crate::support::{self, Scratch, ffmpeg, run, said, stderr, stdout, tables, test_video, vidindex};

/// The rows of `videos` by file name.
fn videos_by_name(index: &Path) -> BTreeMap<String, Map<String, Value>> {
    tables::rows(index, "videos")
        .into_iter()
        .map(|row| (row["uri"].as_str().unwrap().rsplit('/').next().unwrap().to_owned(), row))
        .collect()
}

#[test]
fn few_failures_do_not_change_the_exit_code_if_the_job_allows_them() {
    let scratch = Scratch::new();
    for name in ["a.mp4", "b.mp4"] {
        test_video(&scratch.videos().join(name), "160x120", "25", 1.0, &["-pix_fmt", "yuv420p"]);
    }
    std::fs::write(scratch.videos().join("c.mp4"), "not a video").unwrap();
    let models = scratch.small_models();
    let job = scratch.job(models.split("[persons]").next().unwrap());
    let allowed = run(&job, &["--set", "run.max_failed='34%'"], 0);
    assert!(stderr(&allowed).contains("not more than max_failed allows"), "{}", said(&allowed));
    let id = stdout(&allowed).lines().last().unwrap().to_owned();
    let seal = |max: &str, code| {
        let mut command = vidindex(["seal".as_ref(), job.as_os_str()]);
        let output = command.args(["--run", &id, "--max-failed", max]).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{max}: {}", said(&output));
    };
    seal("33%", 3);
    seal("0", 3);
    seal("1", 0);
    seal("2x", 2);
    seal("0,not_a_video=34%", 0);
    seal("100%,not_a_video=0", 3);
    run(&job, &["--reindex", "--set", "run.max_failed=0"], 3);
}

#[test]
fn each_file_of_a_mixed_folder_has_a_row() {
    let scratch = Scratch::new();
    let videos = scratch.videos();
    let file = |name: &str| videos.join(name);
    test_video(&file("good.mp4"), "320x240", "30", 5.0, &["-pix_fmt", "yuv420p"]);
    test_video(&file("three_frames.mp4"), "128x96", "25", 0.12, &["-pix_fmt", "yuv420p"]);
    test_video(&file("cut.mkv"), "320x240", "30", 8.0, &["-pix_fmt", "yuv420p"]);
    test_video(&file("cut_faststart.mp4"), "320x240", "30", 8.0, &["-pix_fmt", "yuv420p", "-movflags", "+faststart"]);
    test_video(&file("cut_no_index.mp4"), "320x240", "30", 8.0, &["-pix_fmt", "yuv420p"]);
    for name in ["cut.mkv", "cut_faststart.mp4", "cut_no_index.mp4"] {
        let complete = std::fs::read(file(name)).unwrap();
        std::fs::write(file(name), &complete[..complete.len() / 2]).unwrap();
    }
    std::fs::write(file("empty.mp4"), b"").unwrap();
    std::fs::write(file("text.mp4"), "this is not a video\n".repeat(100)).unwrap();
    let noise: Vec<u8> = (0..200_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    std::fs::write(file("noise.mp4"), noise).unwrap();
    ffmpeg(&["-f", "lavfi", "-i", "sine=duration=3", file("audio.mp4").to_str().unwrap()]);
    test_video(&file("upright.mp4"), "320x240", "30", 2.0, &["-pix_fmt", "yuv420p"]);
    let (from, to) = (file("upright.mp4"), file("rotated.mp4"));
    ffmpeg(&["-i", from.to_str().unwrap(), "-c", "copy", "-metadata:s:v", "rotate=90", to.to_str().unwrap()]);

    let job = scratch.job(&scratch.small_models());
    let output = run(&job, &[], 3);
    let rows = videos_by_name(&scratch.index());
    let status = |name: &str| rows[name]["status"].as_str().unwrap();
    let kind = |name: &str| rows[name]["error_kind"].as_str().unwrap_or("none");
    assert_eq!(rows.len(), std::fs::read_dir(&videos).unwrap().count());

    for (name, segments, frames) in [("good.mp4", 3, 150), ("three_frames.mp4", 1, 3), ("upright.mp4", 1, 60)] {
        let row = &rows[name];
        assert_eq!(
            (status(name), row["segments"].as_i64(), row["frames_presented"].as_i64()),
            ("ok", Some(segments), Some(frames)),
            "{row:?}"
        );
    }
    let rotated = &rows["rotated.mp4"];
    assert_eq!((rotated["width"].as_i64(), rotated["height"].as_i64()), (Some(240), Some(320)), "{rotated:?}");
    assert_eq!((status("rotated.mp4"), rotated["rotation"].as_i64().unwrap() % 180), ("ok", 90));
    for name in ["cut.mkv", "cut_faststart.mp4"] {
        assert_eq!((status(name), kind(name)), ("partial", "corrupt"), "{:?}", rows[name]);
        assert!(
            rows[name]["segments"].as_i64().unwrap() >= 1 && rows[name]["frames_presented"].as_i64().unwrap() < 240
        );
    }
    for (name, expected) in [
        ("cut_no_index.mp4", "corrupt"),
        ("empty.mp4", "not_a_video"),
        ("text.mp4", "not_a_video"),
        ("noise.mp4", "not_a_video"),
        ("audio.mp4", "no_video_stream"),
    ] {
        assert_eq!((status(name), kind(name)), ("failed", expected), "{:?}", rows[name]);
        assert_eq!(rows[name]["segments"].as_i64(), Some(0));
        assert!(!rows[name]["error_message"].as_str().unwrap().is_empty());
    }
    // Standard output contains only the id of the run. Failures are reported on standard error.
    assert!(stdout(&output).starts_with("20") && stdout(&output).lines().count() == 1);
    assert!(stderr(&output).contains("not_a_video"));
}

#[test]
fn unusual_streams_are_decoded_completely() {
    let scratch = Scratch::new();
    let videos = scratch.videos();
    let file = |name: &str| videos.join(name);
    let yuv420 = ["-pix_fmt", "yuv420p"];
    test_video(
        &file("ten_bit.mkv"),
        "320x240",
        "25",
        3.0,
        &["-c:v", "libx265", "-pix_fmt", "yuv420p10le", "-x265-params", "log-level=error"],
    );
    test_video(&file("interlaced.mpg"), "352x288", "25", 3.0, &["-c:v", "mpeg2video", "-flags", "+ildct+ilme"]);
    test_video(
        &file("odd_size.webm"),
        "319x241",
        "25",
        3.0,
        &["-vf", "scale=319:241", "-c:v", "libvpx", "-b:v", "300k"],
    );
    test_video(&file("transport.ts"), "320x240", "25", 3.0, &yuv420);
    test_video(&file("rgb.avi"), "160x120", "25", 3.0, &["-c:v", "ffv1", "-pix_fmt", "gbrp"]);
    // A variable frame rate: every third frame is dropped, and the others keep their timestamps.
    test_video(
        &file("vfr.mp4"),
        "320x240",
        "30",
        3.0,
        &["-vf", "select='mod(n,3)'", "-vsync", "vfr", "-pix_fmt", "yuv420p"],
    );
    let (a, b) = (file("transport.ts"), file("ten_bit.mkv"));
    let many = file("many_streams.mkv");
    ffmpeg(&[
        "-f",
        "lavfi",
        "-i",
        "sine=duration=3",
        "-i",
        a.to_str().unwrap(),
        "-i",
        b.to_str().unwrap(),
        "-map",
        "0",
        "-map",
        "1:v",
        "-map",
        "2:v",
        "-map",
        "0",
        "-c:v",
        "copy",
        many.to_str().unwrap(),
    ]);
    let job = scratch.job(&scratch.small_models());
    run(&job, &[], 0);
    let rows = videos_by_name(&scratch.index());
    for (name, row) in &rows {
        let frames = if name == "vfr.mp4" { 60 } else { 75 };
        assert_eq!(row["frames_presented"].as_i64(), Some(frames), "{name}: {row:?}");
        assert_eq!(row["segments"].as_i64(), Some(2), "{name}: {row:?}");
    }
    assert_eq!(rows.len(), 7);
    assert_eq!(
        (rows["odd_size.webm"]["width"].as_i64(), rows["odd_size.webm"]["height"].as_i64()),
        (Some(319), Some(241))
    );
}

#[test]
fn a_second_run_skips_indexed_videos_and_indexes_changed_ones_again() {
    let scratch = Scratch::new();
    let videos = scratch.videos();
    for name in ["a.mp4", "b.mp4"] {
        test_video(&videos.join(name), "128x96", "25", 2.5, &["-pix_fmt", "yuv420p"]);
    }
    let job = scratch.job(&scratch.small_models());
    run(&job, &[], 0);
    let before = tables::files(&scratch.index());
    let again = run(&job, &[], 0);
    assert!(stderr(&again).contains("already indexed"), "{}", stderr(&again));
    assert_eq!(tables::files(&scratch.index()), before);

    test_video(&videos.join("b.mp4"), "128x96", "25", 3.5, &["-pix_fmt", "yuv420p"]);
    let plan = vidindex(["plan", job.to_str().unwrap(), "--dry-run"]).output().unwrap();
    assert!(stdout(&plan).contains("1 video,"), "{}", stdout(&plan));
    assert_eq!(tables::files(&scratch.index()), before, "a dry run wrote files");
    run(&job, &[], 0);
    assert_eq!(tables::rows(&scratch.index(), "videos").len(), 3);
    run(&job, &["--reindex"], 0);
    assert_eq!(tables::rows(&scratch.index(), "videos").len(), 5);
    // The files of earlier runs are kept.
    assert!(before.iter().all(|file| file.exists()));
}

#[test]
fn prune_removes_replaced_files_on_request_after_a_day() {
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("a.mp4"), "128x96", "25", 2.5, &["-pix_fmt", "yuv420p"]);
    let job = scratch.job(&scratch.small_models());
    run(&job, &[], 0);
    let first = tables::files(&scratch.index());
    run(&job, &["--reindex"], 0);
    let prune = |args: &[&str]| {
        let output = vidindex(["prune".as_ref(), job.as_os_str()]).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output)
    };
    assert!(prune(&["--yes"]).starts_with("nothing to prune"));

    for run in std::fs::read_dir(scratch.index().join("_vidindex/runs")).unwrap() {
        let path = run.unwrap().path().join("summary.json");
        let mut summary: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        summary["sealed_at"] = "2020-01-01T00:00:00Z".into();
        std::fs::write(&path, summary.to_string()).unwrap();
    }
    let shown = prune(&[]);
    assert!(shown.contains("videos: 1 file,") && shown.contains("1 run with nothing left"), "{shown}");
    assert!(first.iter().all(|file| file.exists()), "prune without --yes removed files");
    assert_eq!(prune(&["--yes"]), shown);
    assert!(!first.iter().any(|file| file.exists()));
    assert_eq!(tables::rows(&scratch.index(), "videos").len(), 1);
    assert!(stderr(&run(&job, &[], 0)).contains("already indexed"));
}

#[test]
fn partition_columns_come_from_the_key() {
    let scratch = Scratch::new();
    for camera in ["cam-1", "cam-2"] {
        std::fs::create_dir_all(scratch.videos().join(camera)).unwrap();
        test_video(&scratch.videos().join(camera).join("a.mp4"), "128x96", "25", 1.0, &["-pix_fmt", "yuv420p"]);
    }
    let job = scratch.job(&scratch.small_models());
    run(&job, &["--set", "input.partition='(?<camera>cam-[^/]+)/'"], 0);
    let folders: Vec<String> = tables::files(&scratch.index().join("actions"))
        .iter()
        .map(|file| file.strip_prefix(scratch.index()).unwrap().parent().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(folders.len(), 2);
    assert!(
        folders[0].starts_with("actions/model=slowfast-tiny-") && folders[0].contains("/camera=cam-1/dt=20"),
        "{folders:?}"
    );
}

/// Parses the JSON report on standard output, and checks its exit code and its keys.
fn report(output: &std::process::Output) -> Value {
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", said(output)));
    assert_eq!(report["exit_code"].as_i64(), output.status.code().map(i64::from), "{report:#}");
    let schema: Value =
        serde_json::from_str(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/records.json"))).unwrap();
    let keys = |of: &Value| of.as_object().unwrap().keys().cloned().collect::<std::collections::BTreeSet<_>>();
    assert_eq!(keys(&report), keys(&schema["$defs"]["run_report"]["properties"]));
    report
}

#[test]
fn a_json_report_is_printed_for_each_outcome_of_a_run() {
    let scratch = Scratch::new();
    for i in 0..2 {
        test_video(&scratch.videos().join(format!("{i}.mp4")), "160x120", "25", 2.0, &["-pix_fmt", "yuv420p"]);
    }
    let job = scratch.job(&format!("{}[run]\nshard_bytes = 1\n", scratch.small_models()));
    let first = report(&run(&job, &["--json"], 0));
    assert_eq!((&first["outcome"], &first["shards_committed"]), (&"finished".into(), &2.into()));
    assert_eq!((&first["totals"]["videos_ok"], &first["tables"]["videos"]["rows"]), (&2.into(), &2.into()));
    assert!(first["run_id"].is_string() && first["sealed_at"].is_string() && first["error"].is_null());

    let nothing = report(&run(&job, &["--json"], 0));
    assert_eq!((&nothing["outcome"], &nothing["shards_total"]), (&"nothing_to_do".into(), &0.into()));
    assert_eq!((&nothing["run_id"], &nothing["totals"]["videos_ok"]), (&Value::Null, &0.into()));

    // A failure after the plan and before the first commit.
    let failed = report(&run(&job, &["--json", "--reindex", "--metrics", "/nowhere/x.prom"], 1));
    assert_eq!((&failed["outcome"], &failed["shards_total"]), (&"failed".into(), &2.into()));
    assert_eq!((&failed["shards_committed"], &failed["missing"]), (&0.into(), &serde_json::json!([0, 1])));
    assert!(failed["error"].as_str().unwrap().contains("/nowhere/x.prom"), "{failed:#}");
    assert!(failed["run_id"].is_string() && failed["run_id"] != first["run_id"]);

    // Failures before the plan.
    let no_model = report(&run(&job, &["--json", "--set", "actions.model=nowhere.onnx"], 2));
    assert_eq!((&no_model["outcome"], &no_model["run_id"]), (&"failed".into(), &Value::Null));
    assert!(no_model["hint"].is_string(), "{no_model:#}");
    let no_job = vidindex(["run", "nowhere.toml", "--json"]).output().unwrap();
    assert_eq!((no_job.status.code(), &report(&no_job)["outcome"]), (Some(2), &"failed".into()));
    let no_match = report(&run(&job, &["--json", "--set", "input.include=['*.none']"], 1));
    assert_eq!(no_match["outcome"], "failed", "{no_match:#}");

    std::fs::write(scratch.videos().join("bad.mp4"), "no video").unwrap();
    let bad = report(&run(&job, &["--json"], 3));
    assert_eq!((&bad["outcome"], &bad["totals"]["videos_failed"]), (&"finished".into(), &1.into()));
    assert_eq!(bad["totals"]["failures"]["not_a_video"]["videos"], 1);
}

#[test]
fn a_run_that_is_stopped_by_a_signal_is_reported_as_stopped() {
    let scratch = Scratch::new();
    for i in 0..2 {
        test_video(&scratch.videos().join(format!("{i}.mp4")), "320x240", "25", 60.0, &["-pix_fmt", "yuv420p"]);
    }
    let job = scratch.job(&format!("{}frames_per_second = 12\n[run]\ndevice = \"cpu\"\n", scratch.small_models()));
    let mut command = vidindex(["run".as_ref(), job.as_os_str(), "--json".as_ref()]);
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let status = || -> Value {
        let output = vidindex(["status".as_ref(), job.as_os_str(), "--json".as_ref()]).output().unwrap();
        let runs: Value = serde_json::from_slice(&output.stdout).unwrap();
        runs[0].clone()
    };
    support::slurm::wait_until("a running run", || status()["state"] == "at_work");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{}", said(&output));
    let report = report(&output);
    assert_eq!((&report["outcome"], &report["shards_committed"]), (&"stopped".into(), &0.into()));
    assert_eq!((&report["sealed_at"], &report["missing"]), (&Value::Null, &serde_json::json!([0])));
    let status = status();
    assert_eq!((&status["run_id"], &status["state"]), (&report["run_id"], &"stopped".into()));
    assert_eq!(status["attempts"][0]["failure"], "stopped by a signal");
}

#[test]
fn one_file_is_indexed_without_the_others_of_its_folder() {
    let scratch = Scratch::new();
    let folder = scratch.videos();
    std::fs::create_dir(folder.join("below")).unwrap();
    let names = ["a [1].mp4", "b.mp4", "below/a [1].mp4"];
    for name in names {
        test_video(&folder.join(name), "160x120", "25", 1.0, &["-pix_fmt", "yuv420p"]);
    }
    let job = scratch.job(&scratch.small_models());
    let only = format!("input.uri={}", folder.join(names[0]).display());
    run(&job, &["--set", &only], 0);
    let rows = tables::rows(&scratch.index(), "videos");
    let uris: Vec<&str> = rows.iter().map(|row| row["uri"].as_str().unwrap()).collect();
    assert_eq!(uris, [folder.join(names[0]).to_str().unwrap()]);
    // The whole folder adds the others, and the file alone removes none of them.
    run(&job, &[], 0);
    run(&job, &["--set", &only], 0);
    let rows = tables::rows(&scratch.index(), "videos");
    assert_eq!((rows.len(), rows.iter().filter(|row| row["status"] == "ok").count()), (3, 3), "{rows:?}");
}
