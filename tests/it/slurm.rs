//! The same job on a real Slurm: an array on S3 whose tasks are lost, duplicated, timed out and cancelled.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use crate::support::bucket::{Bucket, comparable};
use crate::support::s3::environment;
use crate::support::slurm::{Cluster, wait_until};
use crate::support::{Scratch, run, said, stderr, stdout, tables, test_video, vidindex};

const TABLES: [&str; 3] = ["videos", "actions", "persons"];

/// Many frames per second make tasks long enough to be interrupted.
const BUSY: &str = "frames_per_second = 12\n[run]\ndevice = \"cpu\"\nshard_bytes = 1\n";

const ENGINE: &str =
    "[engine.slurm]\ngres = \"gpu:1\"\ncpus = 1\nmemory = \"300M\"\ntime = \"10\"\nlogs = \"slurm logs\"\n";

/// Eight videos in a bucket, with one shard for each.
struct Archive {
    bucket: Bucket,
}

/// Eight videos in a directory, and the rows that a single process writes for them.
fn undisturbed() -> &'static (Scratch, Vec<Vec<String>>) {
    static UNDISTURBED: OnceLock<(Scratch, Vec<Vec<String>>)> = OnceLock::new();
    UNDISTURBED.get_or_init(|| {
        let scratch = Scratch::new();
        for i in 0..8 {
            let file = scratch.videos().join(format!("{i}.mp4"));
            test_video(&file, "320x240", "25", 4.0 + f64::from(i) / 4.0, &["-pix_fmt", "yuv420p"]);
        }
        run(&scratch.job(&format!("{}{BUSY}", scratch.small_models())), &[], 0);
        let rows = TABLES.map(|table| comparable(&scratch.index(), table)).to_vec();
        (scratch, rows)
    })
}

impl Archive {
    fn new() -> Option<Self> {
        let scratch = Scratch::new();
        let (videos, _) = undisturbed();
        for i in 0..8 {
            let name = format!("{i}.mp4");
            std::fs::copy(videos.videos().join(&name), scratch.videos().join(&name)).unwrap();
        }
        let bucket = Bucket::with_videos(scratch)?;
        let text = std::fs::read_to_string(&bucket.job).unwrap();
        std::fs::write(&bucket.job, text.replace("[run]\ndevice = \"cpu\"\n", BUSY) + ENGINE).unwrap();
        Some(Self { bucket })
    }

    fn submit(&self, cluster: &Cluster, args: &[&str]) -> String {
        cluster.submit(&self.bucket.job, self.bucket.scratch.dir.path(), args, &environment())
    }

    /// Number of committed shards. Asks the server itself: a client takes as long to start as several shards.
    fn commits(&self, run: &str) -> usize {
        let list = format!("/index?list-type=2&prefix=run/_vidindex/runs/{run}/shards/");
        self.bucket.server.request("GET", &list, b"").unwrap().matches("<Key>").count()
    }

    fn assert_rows(&self, index: &Path) {
        for (table, expected) in TABLES.iter().zip(&undisturbed().1) {
            let found = comparable(index, table);
            assert!(&found == expected, "{table}: {found:#?}\nexpected: {expected:#?}");
        }
    }

    fn logs(&self, run: &str) -> String {
        self.log_of_each(run).concat()
    }

    fn log_of_each(&self, run: &str) -> Vec<String> {
        let folder = self.bucket.scratch.path("slurm logs").join(run);
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        files.map(|file| format!("{}\n{}", file.display(), std::fs::read_to_string(&file).unwrap())).collect()
    }

    /// Whether a task is processing its videos. A task that has just started would print nothing when it is stopped.
    fn is_at_work(&self, run: &str) -> bool {
        self.log_of_each(run).iter().any(|log| log.contains("models opened") && !log.contains("shard committed"))
    }
}

#[test]
fn a_task_of_a_lost_node_is_requeued_and_the_rows_are_complete() {
    let Some(mut cluster) = Cluster::start(4) else { return };
    let Some(archive) = Archive::new() else { return };
    let run = archive.submit(&cluster, &[]);
    let lost = cluster.busy_node();
    cluster.kill_node(lost);
    eprintln!("node{lost} is lost");
    cluster.drain(180);
    eprintln!("{}", cluster.timeline());
    assert!(cluster.timeline().contains("NODE_FAIL"), "{}", archive.logs(&run));
    archive.assert_rows(&archive.bucket.index());
}

#[test]
fn a_task_that_continues_beside_its_requeued_copy_writes_no_duplicates() {
    let Some(mut cluster) = Cluster::start(3) else { return };
    let Some(archive) = Archive::new() else { return };
    let run = archive.submit(&cluster, &[]);
    let lost = cluster.busy_node();
    cluster.kill_daemon(lost);
    cluster.mark_down(lost);
    assert!(!cluster.processes_on(lost).is_empty(), "the task has ended");
    cluster.drain(180);
    eprintln!("{}", cluster.timeline());
    assert!(cluster.timeline().contains("NODE_FAIL"), "{}", archive.logs(&run));
    wait_until("the end of the first task", || cluster.processes_on(lost).is_empty());
    let index = archive.bucket.index();
    archive.assert_rows(&index);
    tables::assert_counts(&index);
}

#[test]
fn shards_that_a_cancelled_run_committed_are_not_repeated() {
    let Some(cluster) = Cluster::start(2) else { return };
    let Some(archive) = Archive::new() else { return };
    let run = archive.submit(&cluster, &[]);
    wait_until("two committed shards", || archive.commits(&run) >= 2);
    wait_until("a running task", || archive.is_at_work(&run));
    cluster.output("scancel", &["--user=root"]);
    cluster.drain(60);
    let logs = archive.logs(&run);
    assert!(logs.contains("stopped by a signal"), "{logs}");
    let committed = archive.commits(&run);
    assert!((2..8).contains(&committed), "{committed} of 8 were committed: {logs}");
    let rest = archive.submit(&cluster, &[]);
    cluster.drain(180);
    eprintln!("{}", cluster.timeline());
    assert_eq!(archive.commits(&rest), 8 - committed, "the second run did not process exactly the rest");
    archive.assert_rows(&archive.bucket.index());
}

/// The status of the run, as reported on the cluster.
fn status(cluster: &Cluster, archive: &Archive, run: &str) -> serde_json::Value {
    let mut command = vidindex(["status".as_ref(), archive.bucket.job.as_os_str()]);
    cluster.configure(&mut command);
    let output = command.args(["--run", run, "--json"]).envs(environment()).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", said(&output)))
}

/// Starts `status --watch` for the run.
fn watch(cluster: &Cluster, archive: &Archive, run: &str) -> Child {
    let mut command = vidindex(["status".as_ref(), archive.bucket.job.as_os_str()]);
    cluster.configure(&mut command);
    command.args(["--run", run, "--watch"]).envs(environment()).stdout(Stdio::piped()).spawn().unwrap()
}

#[test]
fn watch_waits_for_pending_tasks_and_ends_after_the_seal() {
    let Some(cluster) = Cluster::start(2) else { return };
    let Some(archive) = Archive::new() else { return };
    cluster.output("scontrol", &["update", "nodename=node[1-2]", "state=drain", "reason=test"]);
    let run = archive.submit(&cluster, &[]);
    let pending = status(&cluster, &archive, &run);
    assert_eq!(pending["state"], "submitted", "{pending:#}");
    // Eight tasks and the seal.
    assert_eq!((&pending["engine"]["pending"], &pending["engine"]["running"]), (&9.into(), &0.into()), "{pending:#}");
    // On a machine without Slurm, the tasks are unknown.
    let mut elsewhere = vidindex(["status".as_ref(), archive.bucket.job.as_os_str(), "--run".as_ref(), run.as_ref()]);
    let text = stdout(&elsewhere.envs(environment()).env("PATH", "/nowhere").output().unwrap());
    assert!(
        text.contains("submitted") && text.contains("failed to query its tasks") && text.contains("squeue"),
        "{text}"
    );

    let mut watcher = watch(&cluster, &archive, &run);
    // Long enough for several polls.
    std::thread::sleep(Duration::from_secs(8));
    assert!(watcher.try_wait().unwrap().is_none(), "the watcher ended although tasks are pending");
    cluster.output("scontrol", &["update", "nodename=node[1-2]", "state=resume"]);
    cluster.drain(180);
    let watched = watcher.wait_with_output().unwrap();
    let text = stdout(&watched);
    let last = text.rsplit("run      ").next().unwrap();
    assert!(watched.status.success() && last.contains(": sealed") && text.contains("pending"), "{text}");
    archive.assert_rows(&archive.bucket.index());
}

#[test]
fn a_run_that_is_sealed_while_its_engine_is_queried_is_reported_as_sealed() {
    let Some(cluster) = Cluster::start(1) else { return };
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("a.mp4"), "160x120", "25", 1.0, &["-pix_fmt", "yuv420p"]);
    let job = scratch.job(&format!("{}{ENGINE}", scratch.small_models()));
    let run = cluster.submit(&job, scratch.dir.path(), &[], &[]);
    cluster.drain(180);
    let summary = scratch.index().join(format!("_vidindex/runs/{run}/summary.json"));
    let kept = scratch.path("summary.json");
    std::fs::rename(&summary, &kept).unwrap();
    // The seal ends after `status` has read the output, before Slurm responds.
    let folder = scratch.path("bin");
    std::fs::create_dir(&folder).unwrap();
    let squeue = folder.join("squeue");
    std::fs::write(&squeue, format!("#!/bin/sh\nmv '{}' '{}'\n", kept.display(), summary.display())).unwrap();
    std::fs::set_permissions(&squeue, PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let mut command = vidindex(["status".as_ref(), job.as_os_str(), "--run".as_ref(), run.as_ref()]);
    let text = stdout(&command.env("PATH", path).output().unwrap());
    assert!(text.contains(": sealed") && summary.exists(), "{text}");
}

#[test]
fn a_cancelled_run_is_stopped_and_ends_watch() {
    let Some(cluster) = Cluster::start(2) else { return };
    let Some(archive) = Archive::new() else { return };
    let run = archive.submit(&cluster, &[]);
    wait_until("a running task", || archive.is_at_work(&run));
    wait_until("the status `at_work`", || status(&cluster, &archive, &run)["state"] == "at_work");
    let watcher = watch(&cluster, &archive, &run);
    cluster.output("scancel", &["--user=root"]);
    cluster.drain(60);
    let stopped = status(&cluster, &archive, &run);
    assert_eq!(stopped["state"], "stopped", "{stopped:#}");
    assert_eq!((&stopped["engine"]["pending"], &stopped["engine"]["running"]), (&0.into(), &0.into()));
    let watched = watcher.wait_with_output().unwrap();
    let text = stdout(&watched);
    assert!(text.rsplit("run      ").next().unwrap().contains(": stopped"), "{text}");

    // A run that is cancelled before its first task starts.
    cluster.output("scontrol", &["update", "nodename=node[1-2]", "state=drain", "reason=test"]);
    let rest = archive.submit(&cluster, &[]);
    cluster.output("scancel", &["--user=root"]);
    cluster.drain(60);
    assert_eq!(status(&cluster, &archive, &rest)["state"], "stopped");
    let watched = watch(&cluster, &archive, &rest).wait_with_output().unwrap();
    assert!(watched.status.success() && stdout(&watched).contains("no tasks are left"), "{}", said(&watched));
}

#[test]
fn a_run_whose_tasks_timed_out_can_be_resumed() {
    let Some(cluster) = Cluster::start(2) else { return };
    let Some(archive) = Archive::new() else { return };
    // One task for all shards, with Slurm's minimum time limit of a minute. The task is stopped until it times out.
    let run = archive.submit(&cluster, &["--set", "engine.slurm.tasks=1", "--set", "engine.slurm.time=0:01"]);
    wait_until("a committed shard", || archive.commits(&run) >= 1);
    cluster.stop_tasks(cluster.busy_node());
    cluster.drain(180);
    eprintln!("{}", cluster.timeline());
    assert!(cluster.timeline().contains("TIMEOUT"), "{}", archive.logs(&run));
    assert!((1..8).contains(&archive.commits(&run)));
    let again = archive.submit(&cluster, &["--run", &run]);
    assert_eq!(again, run);
    cluster.drain(180);
    archive.assert_rows(&archive.bucket.index());
}

#[test]
fn a_controller_crash_right_after_the_submission_loses_no_rows() {
    let Some(mut cluster) = Cluster::start(2) else { return };
    let Some(archive) = Archive::new() else { return };
    let run = archive.submit(&cluster, &[]);
    cluster.busy_node();
    cluster.restart_controller();
    cluster.drain(180);
    eprintln!("{}", cluster.timeline());
    // The controller may have lost the seal, the tasks or all jobs.
    archive.submit(&cluster, &["--run", &run]);
    cluster.drain(180);
    archive.assert_rows(&archive.bucket.index());
}

#[test]
fn a_dry_run_prints_the_submission() {
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("a b.mp4"), "160x120", "25", 1.0, &["-pix_fmt", "yuv420p"]);
    let engine = "[engine.slurm]\npartition = \"gpu\"\ngres = \"gpu:1\"\noptions = [\"--qos=low\"]\n";
    let job = scratch.job(&format!("{}{engine}", scratch.small_models()));
    let shown = vidindex(["submit".as_ref(), job.as_os_str()])
        .args(["--engine", "slurm", "--dry-run", "--set", "persons.iou=0.5"])
        .env("PATH", "/nowhere")
        .output()
        .unwrap();
    let text = stdout(&shown);
    for expected in [
        "--array=0-0",
        "--gres=gpu:1",
        "--partition=gpu",
        "--qos=low",
        "--dependency=afterany:ARRAY",
        "exec ",
        " work ",
        " seal ",
        "persons.iou=0.5",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(!scratch.index().exists(), "files were written");
    let failed = vidindex(["submit".as_ref(), job.as_os_str()])
        .args(["--engine", "slurm"])
        .env("PATH", "/nowhere")
        .output()
        .unwrap();
    assert_eq!(failed.status.code(), Some(1));
    assert!(stderr(&failed).contains("scontrol: failed to run"), "{}", stderr(&failed));
}

#[test]
fn a_finished_run_is_not_submitted_again() {
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("a.mp4"), "160x120", "25", 1.0, &["-pix_fmt", "yuv420p"]);
    let job = scratch.job(&scratch.small_models());
    let submit = |run: &str| {
        let mut command = vidindex(["submit".as_ref(), job.as_os_str()]);
        command.args(["--engine", "slurm", "--run", run]).env("PATH", "/nowhere").output().unwrap()
    };
    // Only a run that is sealed is finished.
    let planned = vidindex(["plan".as_ref(), job.as_os_str()]).output().unwrap();
    let run = stdout(&planned);
    assert!(stderr(&submit(&run)).contains("scontrol: failed to run"));
    for command in ["work", "seal"] {
        let output = vidindex([command.as_ref(), job.as_os_str()]).args(["--run", &run]).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
    let again = submit(&run);
    assert_eq!((again.status.code(), stdout(&again)), (Some(0), run.clone()), "{}", said(&again));
    assert!(stderr(&again).contains("there is nothing to submit"), "{}", said(&again));
}
