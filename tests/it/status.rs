//! `status` at each stage of a run, which it reads only from the store.

use std::process::{Output, Stdio};

use serde_json::Value;

use crate::support::{self, Scratch, run, said, stderr, stdout, tables, test_video, vidindex};

/// Four videos, with one shard for each.
fn archive() -> (Scratch, std::path::PathBuf) {
    let scratch = Scratch::new();
    for i in 0..4 {
        test_video(&scratch.videos().join(format!("{i}.mp4")), "160x120", "25", 2.0, &["-pix_fmt", "yuv420p"]);
    }
    let job = scratch.job(&format!("{}[run]\ndevice = \"cpu\"\nshard_bytes = 1\n", scratch.small_models()));
    (scratch, job)
}

fn call(args: &[&str]) -> Output {
    let output = vidindex(args).output().unwrap();
    assert!(matches!(output.status.code(), Some(0 | 3)), "{}", said(&output));
    output
}

fn of(job: &str, run: &str) -> Value {
    serde_json::from_str(&stdout(&call(&["status", job, "--run", run, "--json"]))).unwrap()
}

#[test]
fn a_run_has_a_status_from_plan_to_seal() {
    let (_scratch, job) = archive();
    let job = job.to_str().unwrap();
    assert_eq!(stdout(&call(&["status", job])), "", "there are runs before the first plan");
    let run = stdout(&call(&["plan", job]));
    let status = of(job, &run);
    assert_eq!((&status["state"], &status["shards"], &status["videos"]), (&"planned".into(), &4.into(), &4.into()));

    call(&["work", job, "--run", &run, "--task", "0/2"]);
    let status = of(job, &run);
    assert_eq!((&status["state"], &status["shards_committed"]), (&"stopped".into(), &2.into()));
    assert_eq!((&status["totals"]["videos_ok"], &status["attempts"]), (&2.into(), &Value::Array(vec![])));

    call(&["seal", job, "--run", &run]);
    assert_eq!(of(job, &run)["state"], "stopped", "the run is sealed, but not complete");
    call(&["work", job, "--run", &run]);
    assert_eq!(of(job, &run)["state"], "committed");
    call(&["seal", job, "--run", &run]);
    let status = of(job, &run);
    assert_eq!((&status["state"], &status["totals"]["videos_ok"]), (&"sealed".into(), &4.into()));
    let list = stdout(&call(&["status", job]));
    assert!(list.starts_with(&run) && list.contains("sealed") && list.contains("4 of 4"), "{list}");
}

#[test]
fn a_running_attempt_is_shown_and_a_killed_one_leaves_no_files() {
    let (scratch, job) = archive();
    let path = job.to_str().unwrap();
    let id = stdout(&call(&["plan", path]));
    let mut worker = vidindex(["work", path, "--run", &id]).stderr(Stdio::null()).spawn().unwrap();
    let status = loop {
        let status = of(path, &id);
        if status["state"] != "planned" {
            break status;
        }
        assert!(worker.try_wait().unwrap().is_none(), "the worker ended before its attempt was shown");
    };
    worker.kill().unwrap();
    worker.wait().unwrap();
    assert_eq!(status["state"], "at_work", "{status:#}");
    assert_eq!(status["attempts"][0]["kind"], "at_work");
    assert_eq!(status["attempts"][0]["videos"], 1);
    // The next plan uses only committed results, and the complete run leaves no files of the killed attempt.
    run(&job, &[], 0);
    call(&["work", path, "--run", &id]);
    call(&["seal", path, "--run", &id]);
    assert_eq!(of(path, &id)["state"], "sealed");
    let parts = scratch.index().join("_vidindex/runs").join(&id).join("parts");
    assert!(!parts.exists(), "{parts:?}");
}

/// Prints the samples of a metrics file, read with Prometheus' parser, the metrics that the dashboard queries, and the
/// ids of runs in the samples.
const READ_METRICS: &str = "
import json, re, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
families = list(text_string_to_metric_families(open(sys.argv[1]).read()))
samples = {s.name + ''.join(sorted('|' + v for k, v in s.labels.items() if k not in ('run_id', 'task'))): s.value
           for f in families for s in f.samples}
dashboard = open(sys.argv[2]).read()
print(json.dumps([samples, sorted(set(re.findall(r'vidindex_[a-z_]+', dashboard))),
                  sorted({s.labels['run_id'] for f in families for s in f.samples})]))
";

#[test]
fn the_metrics_match_the_tables_and_include_those_of_the_dashboard() {
    let Some(python) = support::python() else { return };
    let scratch = Scratch::new();
    for name in ["a.mp4", "b.mp4"] {
        test_video(&scratch.videos().join(name), "160x120", "25", 5.0, &["-pix_fmt", "yuv420p"]);
    }
    std::fs::write(scratch.videos().join("bad.mp4"), "no video").unwrap();
    let metrics = scratch.path("vidindex.prom");
    let job = scratch.job(&scratch.small_models());
    let run_id = stdout(&run(&job, &["--metrics", metrics.to_str().unwrap()], 3));
    let dashboard = concat!(env!("CARGO_MANIFEST_DIR"), "/jobs/grafana.json");
    let mut command = std::process::Command::new(python);
    let output = command.args(["-c", READ_METRICS, metrics.to_str().unwrap(), dashboard]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let [samples, queried, runs]: [Value; 3] = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(runs, serde_json::json!([run_id]));
    let rows = |table: &str| tables::rows(&scratch.index(), table).len() as f64;
    let videos = tables::rows(&scratch.index(), "videos");
    let frames_decoded = videos.iter().map(|row| row["frames_decoded"].as_f64().unwrap()).sum::<f64>();
    assert!(frames_decoded > 0.0 && videos[0]["frames_presented"] == 125, "{videos:?}");
    for (sample, expected) in [
        ("vidindex_videos_total|ok", 2.0),
        ("vidindex_videos_total|failed", 1.0),
        ("vidindex_videos_expected", 3.0),
        ("vidindex_video_errors_total|not_a_video", 1.0),
        ("vidindex_segments_total", rows("actions")),
        ("vidindex_boxes_total", rows("persons")),
        ("vidindex_frames_total", frames_decoded),
        ("vidindex_video_seconds_total", 10.0),
    ] {
        assert_eq!(samples[sample], expected, "{sample}: {samples}");
    }
    for stage in ["decode", "infer_actions", "infer_persons", "write"] {
        assert!(samples[format!("vidindex_stage_busy_seconds_total|{stage}")].as_f64().unwrap() > 0.0, "{stage}");
    }
    let known = |name: &str| samples.as_object().unwrap().keys().any(|key| key.split('|').next() == Some(name));
    let unknown: Vec<_> = queried.as_array().unwrap().iter().filter(|name| !known(name.as_str().unwrap())).collect();
    assert!(unknown.is_empty(), "the dashboard queries unknown metrics: {unknown:?}");

    let nowhere = run(&job, &["--reindex", "--metrics", "/nowhere/x.prom"], 1);
    assert!(stderr(&nowhere).contains("failed to write the metrics to /nowhere/x.prom"), "{}", stderr(&nowhere));
}

#[test]
fn tasks_that_share_a_directory_and_a_log_can_be_told_apart() {
    let scratch = Scratch::new();
    for i in 0..4 {
        test_video(&scratch.videos().join(format!("{i}.mp4")), "160x120", "25", 2.0, &["-pix_fmt", "yuv420p"]);
    }
    std::fs::write(scratch.videos().join("bad.mp4"), "no video").unwrap();
    let job = scratch.job(&scratch.small_models());
    let planned = vidindex(["plan".as_ref(), job.as_os_str()]).args(["--set", "run.shard_bytes=1"]).output().unwrap();
    let run_id = stdout(&planned);
    let metrics = scratch.path("metrics");
    std::fs::create_dir(&metrics).unwrap();
    let old = metrics.join("vidindex-old-0.prom");
    for name in ["vidindex-old-0.prom", "vidindex-young-0.prom", "another.prom"] {
        std::fs::write(metrics.join(name), "").unwrap();
    }
    let two_days_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(2 * 86_400);
    std::fs::File::open(&old).unwrap().set_modified(two_days_ago).unwrap();
    for task in 0..2 {
        let mut work = vidindex(["work".as_ref(), job.as_os_str()]);
        work.args(["--run", &run_id, "--task", &format!("{task}/2"), "--log-format", "json", "--metrics"]);
        let output = work.arg(&metrics).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        let lines: Vec<Value> = stderr(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let of = |message: &str| lines.iter().filter(|line| line["fields"]["message"] == message).collect::<Vec<_>>();
        let committed = of("shard committed");
        assert_eq!(committed.len(), if task == 0 { 3 } else { 2 });
        for line in &committed {
            assert_eq!(
                (&line["run_id"], &line["task"], &line["tasks"]),
                (&run_id.as_str().into(), &task.into(), &2.into())
            );
            assert!(line["host"].is_string() && line["level"] == "INFO" && line["timestamp"].is_string(), "{line}");
        }
        let shards: Vec<_> = committed.iter().map(|line| line["shard"].as_i64().unwrap() % 2).collect();
        assert!(shards.iter().all(|shard| *shard == task), "{shards:?}");
        for line in of("video not indexed completely") {
            assert_eq!(line["shard"].as_i64().map(|shard| shard % 2), Some(task), "{line}");
            assert!(line["fields"]["uri"].as_str().unwrap().ends_with("bad.mp4"), "{line}");
        }
    }
    let names = ["another.prom", "vidindex-young-0.prom"].map(str::to_owned);
    let own = [0, 1].map(|task| format!("vidindex-{run_id}-{task}.prom"));
    let mut expected: Vec<_> = names.into_iter().chain(own.clone()).collect();
    expected.sort_unstable();
    let mut found: Vec<_> =
        std::fs::read_dir(&metrics).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort_unstable();
    assert_eq!(found, expected);
    for (task, videos) in [(0, 3), (1, 2)] {
        let text = std::fs::read_to_string(metrics.join(&own[task])).unwrap();
        let expected = format!("vidindex_videos_expected{{run_id=\"{run_id}\",task=\"{task}\"}} {videos}");
        assert!(text.contains(&expected), "{text}");
    }
}
