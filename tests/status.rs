//! `status` at every stage of a run, from the store alone.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::process::{Output, Stdio};

use serde_json::Value;
use support::{Scratch, run, said, stdout, test_video, vidindex};

/// Four videos, a shard for each.
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
fn a_run_is_told_from_its_plan_to_its_seal() {
    let (_scratch, job) = archive();
    let job = job.to_str().unwrap();
    assert_eq!(stdout(&call(&["status", job])), "", "no runs yet");
    let run = stdout(&call(&["plan", job]));
    let status = of(job, &run);
    assert_eq!((&status["state"], &status["shards"], &status["videos"]), (&"planned".into(), &4.into(), &4.into()));

    call(&["work", job, "--run", &run, "--task", "0/2"]);
    let status = of(job, &run);
    assert_eq!((&status["state"], &status["shards_committed"]), (&"stopped".into(), &2.into()));
    assert_eq!((&status["totals"]["videos_ok"], &status["attempts"]), (&2.into(), &Value::Array(vec![])));

    call(&["seal", job, "--run", &run]);
    assert_eq!(of(job, &run)["state"], "stopped", "sealed in part");
    call(&["work", job, "--run", &run]);
    assert_eq!(of(job, &run)["state"], "committed");
    call(&["seal", job, "--run", &run]);
    let status = of(job, &run);
    assert_eq!((&status["state"], &status["totals"]["videos_ok"]), (&"sealed".into(), &4.into()));
    let list = stdout(&call(&["status", job]));
    assert!(list.starts_with(&run) && list.contains("sealed") && list.contains("4 of 4"), "{list}");
}

#[test]
fn a_worker_is_seen_at_work_and_its_absence_too() {
    let (scratch, job) = archive();
    let path = job.to_str().unwrap();
    let id = stdout(&call(&["plan", path]));
    let mut worker = vidindex(["work", path, "--run", &id]).stderr(Stdio::null()).spawn().unwrap();
    let status = loop {
        let status = of(path, &id);
        if status["state"] != "planned" {
            break status;
        }
        assert!(worker.try_wait().unwrap().is_none(), "the worker ended unseen");
    };
    worker.kill().unwrap();
    worker.wait().unwrap();
    assert_eq!(status["state"], "at_work", "{status:#}");
    assert_eq!(status["attempts"][0]["kind"], "at_work");
    assert_eq!(status["attempts"][0]["videos"], 1);
    // The next plan goes by what is committed alone, and the whole run leaves nothing of the killed attempt.
    run(&job, &[], 0);
    call(&["work", path, "--run", &id]);
    call(&["seal", path, "--run", &id]);
    assert_eq!(of(path, &id)["state"], "sealed");
    let parts = scratch.index().join("_vidindex/runs").join(&id).join("parts");
    assert!(!parts.exists(), "{parts:?}");
}
