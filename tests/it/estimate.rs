//! What a plan would do, why, and what it would take.

use serde_json::Value;

use crate::support::{Scratch, run, said, stdout, test_video, vidindex};

/// Eight videos of 2 to 9 seconds.
fn archive() -> (Scratch, std::path::PathBuf) {
    let scratch = Scratch::new();
    for i in 0..8 {
        let file = scratch.videos().join(format!("{i}.mp4"));
        test_video(&file, "160x120", "25", f64::from(2 + i), &["-pix_fmt", "yuv420p"]);
    }
    let job = scratch.job(&scratch.small_models());
    let prices = "[prices]\ncurrency = \"EUR\"\ntask_hour = 3600\nthousand_reads = 1000\n";
    let text = std::fs::read_to_string(&job).unwrap();
    std::fs::write(&job, text + "[run]\ndevice = \"cpu\"\n" + prices).unwrap();
    (scratch, job)
}

fn plan(job: &std::path::Path, args: &[&str]) -> String {
    let mut command = vidindex(["plan".as_ref(), job.as_os_str()]);
    let output = command.args(args).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    stdout(&output)
}

#[test]
fn an_estimate_goes_by_headers_by_the_last_run_and_by_the_jobs_prices() {
    let (scratch, job) = archive();
    let estimate = |args: &[&str]| -> Value {
        serde_json::from_str(&plan(&job, &[&["--estimate", "--json"], args].concat())).unwrap()
    };
    let close = |value: &Value, to: f64| {
        let value = value.as_f64().unwrap();
        assert!((value - to).abs() < 1e-6 * to.abs().max(1.0), "{value} is not {to}");
    };
    let first = estimate(&[]);
    let seconds = f64::from((2..10).sum::<i32>());
    close(&first["length"]["hours"], seconds / 3600.0);
    assert_eq!((&first["length"]["error"], &first["length"]["headers"]), (&0.0.into(), &8.into()));
    assert!(first["speed"].is_null() && first["time"].is_null() && first["cost"]["tasks"].is_null(), "{first}");
    // Each has fewer than 4 MiB.
    assert_eq!(first["requests"]["reads"], 8 * 3 + 1);
    close(&first["cost"]["requests"], 25.0);
    assert!(plan(&job, &["--estimate"]).contains("time       unknown: there is no run of this job"));
    assert!(!scratch.index().exists(), "an estimate writes nothing");

    run(&job, &[], 0);
    let nothing = plan(&job, &["--dry-run"]);
    assert!(!nothing.contains("estimate"), "{nothing}");
    let again = estimate(&["--reindex", "--tasks", "3"]);
    let source = again["speed"]["source"].as_str().unwrap();
    assert!(source.starts_with("run ") && source.ends_with(" on cpu"), "{source}");
    let runs = std::fs::read_dir(scratch.index().join("_vidindex/runs")).unwrap();
    let summary = runs.last().unwrap().unwrap().path().join("summary.json");
    let summary: Value = serde_json::from_slice(&std::fs::read(summary).unwrap()).unwrap();
    close(&again["time"]["task_hours"], summary["totals"]["wall_seconds"].as_f64().unwrap() / 3600.0);
    close(&again["time"]["inference_hours"], summary["totals"]["inference_seconds"].as_f64().unwrap() / 3600.0);
    // One shard cannot be divided.
    assert_eq!(again["time"]["hours"], again["time"]["task_hours"]);
    close(&again["cost"]["tasks"], again["time"]["task_hours"].as_f64().unwrap() * 3600.0);
    let other = estimate(&["--set", "persons.iou=0.7"]);
    assert!(other["speed"]["source"].as_str().unwrap().ends_with(", with other settings"), "{other}");
}

#[test]
fn an_estimate_goes_by_the_report_of_bench() {
    let (scratch, job) = archive();
    let measured = vidindex(["bench".as_ref(), job.as_os_str()]).args(["--seconds", "16", "--json"]).output().unwrap();
    let report: Value = serde_json::from_str(&stdout(&measured)).unwrap();
    let file = scratch.path("bench.json");
    std::fs::write(&file, stdout(&measured)).unwrap();
    let name = file.to_str().unwrap();
    let estimate: Value = serde_json::from_str(&plan(&job, &["--estimate", "--json", "--bench", name])).unwrap();
    let hours = 44.0 / 3600.0 / report["pipeline"]["times_real_time"].as_f64().unwrap();
    assert!((estimate["time"]["task_hours"].as_f64().unwrap() / hours - 1.0).abs() < 1e-6, "{estimate}");
    assert!(estimate["speed"]["source"].as_str().unwrap().starts_with(name), "{estimate}");
    std::fs::write(&file, "{}").unwrap();
    let mut wrong = vidindex(["plan".as_ref(), job.as_os_str()]);
    let wrong = wrong.args(["--estimate", "--bench", name]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    assert!(said(&wrong).contains("is not a report of `vidindex bench`"), "{}", said(&wrong));
}

#[test]
fn a_plan_lists_the_videos_with_what_is_different() {
    let (scratch, job) = archive();
    assert_eq!(plan(&job, &["--list"]).lines().count(), 8);
    run(&job, &[], 0);
    assert_eq!(plan(&job, &["--list"]), "");
    std::fs::remove_file(scratch.videos().join("0.mp4")).unwrap();
    test_video(&scratch.videos().join("1.mp4"), "160x120", "25", 3.5, &["-pix_fmt", "yuv420p"]);
    std::fs::copy(scratch.videos().join("2.mp4"), scratch.videos().join("9.mp4")).unwrap();
    let list = plan(&job, &["--list"]);
    let mut lines: Vec<_> = list.lines().collect();
    lines.sort_unstable();
    let expected = [
        "changed\t1.mp4\tchanged after they were indexed",
        "deleted\t0.mp4\tmissing from the input: their rows are no longer current",
        "new\t9.mp4\tnot indexed before",
    ];
    assert_eq!(lines, expected);
    let other = ["--list", "--set", "persons.confidence=0.5", "--set", "actions.top_k=3"];
    let again = plan(&job, &other);
    let reason = "\tindexed with other settings: actions.top_k 10 -> 3, persons.confidence 0.0001 -> 0.5";
    assert_eq!(
        again.lines().filter(|line| line.starts_with("again\t") && line.ends_with(reason)).count(),
        6,
        "{again}"
    );
}
