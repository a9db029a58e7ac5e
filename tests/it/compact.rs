//! `compact` with the real binary: what DuckDB's views show over an index of several runs, before, after, after a prune,
//! and after one that was killed; what plan, status and report make of it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use crate::support::{self, Scratch, query, run, said, stderr, stdout, tables, test_video, vidindex};

fn call(command: &str, job: &Path, args: &[&str]) -> String {
    let output = vidindex([command.as_ref(), job.as_os_str()]).args(args).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    stdout(&output)
}

/// What was sealed is a day old from now on.
fn a_day_passes(index: &Path) {
    for run in std::fs::read_dir(index.join("_vidindex/runs")).unwrap() {
        let path = run.unwrap().path().join("summary.json");
        let Ok(text) = std::fs::read(&path) else { continue };
        let mut summary: Value = serde_json::from_slice(&text).unwrap();
        summary["sealed_at"] = "2020-01-01T00:00:00Z".into();
        std::fs::write(&path, summary.to_string()).unwrap();
    }
}

/// The rows of the current views, but for which run made them and when; and what is of one run.
fn shown(index: &Path) -> Vec<String> {
    let all = "EXCLUDE (run_id, shard, indexed_at) FROM current_videos ORDER BY ALL";
    let queries = [
        format!("SELECT * {all}"),
        "SELECT * EXCLUDE run_id FROM current_actions ORDER BY ALL".to_owned(),
        "SELECT * EXCLUDE run_id FROM current_persons ORDER BY ALL".to_owned(),
        "SELECT current_actions.uri, count(*) FROM current_actions JOIN current_persons USING (video_id, run_id, segment) \
         GROUP BY ALL ORDER BY ALL"
            .to_owned(),
    ];
    queries.iter().map(|sql| query(index, &["--format", "json", sql])).collect()
}

/// Several runs: one of everything, one of another model, one that failed, one that found a video gone, one without persons.
fn archive() -> (Scratch, PathBuf) {
    let scratch = Scratch::new();
    for name in ["a", "b", "c", "d"] {
        let file = scratch.videos().join(format!("{name}.mp4"));
        test_video(&file, "128x96", "25", 2.5, &["-pix_fmt", "yuv420p"]);
    }
    let job = scratch.job(&format!("{}[report]\nthumbnails = true\n[run]\nshard_bytes = 1\n", scratch.small_models()));
    run(&job, &[], 0);
    let other = scratch.path("other.onnx");
    let built = ["models", "build", "slowfast-tiny", "--seed", "7", "--out", other.to_str().unwrap()];
    assert!(vidindex(built).output().unwrap().status.success());
    let only = |name: &str| format!("input.include=['{name}.mp4']");
    run(&job, &["--set", &format!("actions.model={}", other.display()), "--set", &only("a")], 0);
    std::fs::remove_file(scratch.videos().join("d.mp4")).unwrap();
    std::fs::write(scratch.videos().join("b.mp4"), "no video any more").unwrap();
    run(&job, &[], 3);
    let without_persons = std::fs::read_to_string(&job).unwrap();
    let (before, after) = without_persons.split_once("[persons]").unwrap();
    let actions_job = scratch.path("actions.toml");
    std::fs::write(&actions_job, format!("{before}{}", &after[after.find("[report]").unwrap()..])).unwrap();
    run(&actions_job, &["--set", &only("c")], 0);
    (scratch, job)
}

#[test]
fn small_files_become_few_and_the_views_show_the_same() {
    if support::python().is_none() {
        return;
    }
    let (scratch, job) = archive();
    let index = scratch.index();
    let before = shown(&index);
    assert!(call("compact", &job, &[]).starts_with("nothing to compact"), "runs are young");
    a_day_passes(&index);
    let first = tables::files(&index);
    let look = call("compact", &job, &["--dry-run"]);
    assert!(look.starts_with("videos: ") && look.contains("thumbnails: "), "{look}");
    assert_eq!(tables::files(&index), first, "a look writes nothing");

    let said = call("compact", &job, &[]);
    assert!(said.starts_with("videos: 5 files, ") && said.contains(", into 1 file, "), "{said}");
    assert_eq!(shown(&index), before);
    assert!(first.iter().all(|file| file.exists()), "nothing is removed");
    assert!(call("compact", &job, &[]).starts_with("nothing to compact"));
    assert!(stderr(&run(&job, &[], 0)).contains("failed before"), "a plan knows what it knew");
    let status = call("status", &job, &[]);
    assert!(status.contains(", merged"), "{status}");
    let oldest = status.split_whitespace().next().unwrap().to_owned();
    let page = scratch.path("report.html");
    let report = |run: &str| call("report", &job, &["--run", run, "-o", page.to_str().unwrap()]);
    report(&oldest);

    call("prune", &job, &["--yes"]);
    assert_eq!(shown(&index), before);
    assert!(tables::files(&index).len() < first.len() / 2, "{:?}", tables::files(&index));
    // The first job's rows of `a` are those of an older model, as any prune has it.
    let planned = call("plan", &job, &["--dry-run"]);
    assert!(planned.contains("1 video,") && planned.contains("failed before"), "{planned}");
    let newest = call("status", &job, &[]).lines().find(|line| line.ends_with("merged")).unwrap().to_owned();
    report(newest.split_whitespace().next().unwrap());

    // What comes later is merged into what was merged.
    run(&job, &["--reindex"], 3);
    let before = shown(&index);
    a_day_passes(&index);
    call("compact", &job, &[]);
    assert_eq!(shown(&index), before);
    call("prune", &job, &["--yes"]);
    assert_eq!(shown(&index), before);
}

#[test]
fn a_compaction_that_was_killed_is_mended_by_the_next() {
    if support::python().is_none() {
        return;
    }
    let (scratch, job) = archive();
    let index = scratch.index();
    a_day_passes(&index);
    let before = shown(&index);
    let mut killed = vidindex(["compact".as_ref(), job.as_os_str()]).stdout(Stdio::null()).spawn().unwrap();
    // Its first record of an attempt is there before its first file is.
    let at_work = || {
        let runs = std::fs::read_dir(index.join("_vidindex/runs")).unwrap();
        runs.flatten().any(|run| run.path().join("parts").exists())
    };
    while !at_work() && killed.try_wait().unwrap().is_none() {}
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(shown(&index), before);
    call("compact", &job, &[]);
    assert_eq!(shown(&index), before);
    call("prune", &job, &["--yes"]);
    assert_eq!(shown(&index), before);
}
