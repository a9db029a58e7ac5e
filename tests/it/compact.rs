//! `compact` with the real binary: DuckDB's views of an index with several runs show the same rows before and after it,
//! after a prune, and after a compaction that was killed; `plan`, `status` and `report` work on merged runs.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use crate::support::{self, Scratch, query, run, said, stderr, stdout, tables, test_video, vidindex};

fn call(command: &str, job: &Path, args: &[&str]) -> String {
    let output = vidindex([command.as_ref(), job.as_os_str()]).args(args).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    stdout(&output)
}

/// Changes the seal time of all runs, so that they are old enough for `compact`.
pub(crate) fn age_runs(index: &Path) {
    for run in std::fs::read_dir(index.join("_vidindex/runs")).unwrap() {
        let path = run.unwrap().path().join("summary.json");
        let Ok(text) = std::fs::read(&path) else { continue };
        let mut summary: Value = serde_json::from_slice(&text).unwrap();
        summary["sealed_at"] = "2020-01-01T00:00:00Z".into();
        std::fs::write(&path, summary.to_string()).unwrap();
    }
}

/// The rows of the current views, without the columns that name the run and its time; and a join within runs.
fn view_rows(index: &Path) -> Vec<String> {
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

/// An index of several runs: one of all videos, one with another model, one with a damaged and a deleted video, and one
/// without persons.
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
    std::fs::write(scratch.videos().join("b.mp4"), "not a video any more").unwrap();
    run(&job, &[], 3);
    let without_persons = std::fs::read_to_string(&job).unwrap();
    let (before, after) = without_persons.split_once("[persons]").unwrap();
    let actions_job = scratch.path("actions.toml");
    std::fs::write(&actions_job, format!("{before}{}", &after[after.find("[report]").unwrap()..])).unwrap();
    run(&actions_job, &["--set", &only("c")], 0);
    (scratch, job)
}

#[test]
fn compact_merges_small_files_and_the_views_show_the_same_rows() {
    if support::python().is_none() {
        return;
    }
    let (scratch, job) = archive();
    let index = scratch.index();
    let before = view_rows(&index);
    assert!(call("compact", &job, &[]).starts_with("nothing to compact"), "the runs are too recent");
    age_runs(&index);
    let first = tables::files(&index);
    let dry_run = call("compact", &job, &["--dry-run"]);
    assert!(dry_run.starts_with("videos: ") && dry_run.contains("thumbnails: "), "{dry_run}");
    assert_eq!(tables::files(&index), first, "a dry run writes nothing");

    let report = call("compact", &job, &[]);
    assert!(report.starts_with("videos: 5 files, ") && report.contains(", into 1 file, "), "{report}");
    assert_eq!(view_rows(&index), before);
    assert!(first.iter().all(|file| file.exists()), "compact deletes no files");
    assert!(call("compact", &job, &[]).starts_with("nothing to compact"));
    assert!(stderr(&run(&job, &[], 0)).contains("failed before"), "plan knows that the video failed");
    let status = call("status", &job, &[]);
    assert!(status.contains(", merged"), "{status}");
    let oldest = status.split_whitespace().next().unwrap().to_owned();
    let page = scratch.path("report.html");
    let report = |run: &str| call("report", &job, &["--run", run, "-o", page.to_str().unwrap()]);
    report(&oldest);

    call("prune", &job, &["--yes"]);
    assert_eq!(view_rows(&index), before);
    assert!(tables::files(&index).len() < first.len() / 2, "{:?}", tables::files(&index));
    // The prune deleted the rows of `a` with this job's model, because those of the other model are newer.
    let planned = call("plan", &job, &["--dry-run"]);
    assert!(planned.contains("1 video,") && planned.contains("failed before"), "{planned}");
    let newest = call("status", &job, &[]).lines().find(|line| line.ends_with("merged")).unwrap().to_owned();
    report(newest.split_whitespace().next().unwrap());
    // All runs that indexed videos may be gone: their rows are now those of merged runs.
    for run in call("status", &job, &[]).lines().filter(|line| !line.ends_with("merged")) {
        let run = run.split_whitespace().next().unwrap();
        let _ = std::fs::remove_dir_all(index.join("_vidindex/runs").join(run));
    }
    call("report", &job, &["--current", "-o", page.to_str().unwrap()]);

    // The files of a later run are merged with those that were merged before.
    run(&job, &["--reindex"], 3);
    let before = view_rows(&index);
    age_runs(&index);
    call("compact", &job, &[]);
    assert_eq!(view_rows(&index), before);
    call("prune", &job, &["--yes"]);
    assert_eq!(view_rows(&index), before);
}

#[test]
fn a_killed_compaction_is_completed_by_the_next_one() {
    if support::python().is_none() {
        return;
    }
    let (scratch, job) = archive();
    let index = scratch.index();
    age_runs(&index);
    let before = view_rows(&index);
    let mut killed = vidindex(["compact".as_ref(), job.as_os_str()]).stdout(Stdio::null()).spawn().unwrap();
    // The record of an attempt, below `parts`, is written before its first file.
    let has_started = || {
        let runs = std::fs::read_dir(index.join("_vidindex/runs")).unwrap();
        runs.flatten().any(|run| run.path().join("parts").exists())
    };
    while !has_started() && killed.try_wait().unwrap().is_none() {}
    killed.kill().unwrap();
    assert_eq!(killed.wait().unwrap().signal(), Some(libc::SIGKILL), "it had already ended");
    assert_eq!(view_rows(&index), before);
    call("compact", &job, &[]);
    assert_eq!(view_rows(&index), before);
    call("prune", &job, &["--yes"]);
    assert_eq!(view_rows(&index), before);
}
