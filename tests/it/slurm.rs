//! The same job through a real Slurm: an array over S3 whose tasks are lost, doubled, cut off and cancelled.

use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::support::bucket::{Bucket, comparable};
use crate::support::s3::environment;
use crate::support::slurm::{Cluster, wait_until};
use crate::support::{Scratch, run, said, stderr, stdout, tables, test_video, vidindex};

const TABLES: [&str; 3] = ["videos", "actions", "persons"];

/// Clusters would take each other's processors.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Looking at many frames makes a task long enough for something to happen to it.
const BUSY: &str = "frames_per_second = 12\n[run]\ndevice = \"cpu\"\nshard_bytes = 1\n";

const ENGINE: &str =
    "[engine.slurm]\ngres = \"gpu:1\"\ncpus = 1\nmemory = \"300M\"\ntime = \"10\"\nlogs = \"slurm logs\"\n";

/// An archive of eight videos in a bucket, a shard for each.
struct Archive {
    bucket: Bucket,
}

/// Eight videos in a directory, and what a single process makes of them.
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

    /// Commit records alone: a worker takes its attempt's record away while we look.
    fn commits(&self, run: &str) -> usize {
        let folder = self.bucket.scratch.path("commits");
        let _ = std::fs::remove_dir_all(&folder);
        self.bucket.copy("tree", &folder, &format!("s3://index/run/_vidindex/runs/{run}/shards/"));
        std::fs::read_dir(folder).map_or(0, Iterator::count)
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

    /// Whether a task has begun with its videos: one that Slurm has just started says nothing when it is stopped.
    fn is_at_work(&self, run: &str) -> bool {
        self.log_of_each(run).iter().any(|log| log.contains("models opened") && !log.contains("shard committed"))
    }
}

#[test]
fn a_task_whose_node_is_lost_runs_elsewhere_and_the_rows_are_those_of_one_process() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(mut cluster) = Cluster::start(4) else { return };
    let Some(archive) = Archive::new() else { return };
    let run = archive.submit(&cluster, &[]);
    let lost = cluster.busy_node();
    cluster.lose_node(lost);
    eprintln!("node{lost} is lost");
    cluster.drain(180);
    eprintln!("{}", cluster.timeline());
    assert!(cluster.timeline().contains("NODE_FAIL"), "{}", archive.logs(&run));
    archive.assert_rows(&archive.bucket.index());
}

#[test]
fn a_task_that_lives_on_beside_its_second_self_leaves_its_rows_once() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(mut cluster) = Cluster::start(3) else { return };
    let Some(archive) = Archive::new() else { return };
    let run = archive.submit(&cluster, &[]);
    let lost = cluster.busy_node();
    cluster.lose_daemon(lost);
    cluster.declare_lost(lost);
    assert!(!cluster.processes_on(lost).is_empty(), "the task lives on");
    cluster.drain(180);
    eprintln!("{}", cluster.timeline());
    assert!(cluster.timeline().contains("NODE_FAIL"), "{}", archive.logs(&run));
    wait_until("the end of the task that lived on", || cluster.processes_on(lost).is_empty());
    let index = archive.bucket.index();
    archive.assert_rows(&index);
    tables::assert_counts(&index);
}

#[test]
fn what_a_cancelled_run_committed_is_not_done_again() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(cluster) = Cluster::start(2) else { return };
    let Some(archive) = Archive::new() else { return };
    let run = archive.submit(&cluster, &[]);
    wait_until("two committed shards", || archive.commits(&run) >= 2);
    wait_until("a task at work", || archive.is_at_work(&run));
    cluster.ask("scancel", &["--user=root"]);
    cluster.drain(60);
    let logs = archive.logs(&run);
    assert!(logs.contains("stopped by a signal"), "{logs}");
    let committed = archive.commits(&run);
    assert!((2..8).contains(&committed), "{committed} of 8 were committed: {logs}");
    let rest = archive.submit(&cluster, &[]);
    cluster.drain(180);
    eprintln!("{}", cluster.timeline());
    assert_eq!(archive.commits(&rest), 8 - committed, "only what was left");
    archive.assert_rows(&archive.bucket.index());
}

/// What `status` says of the run on the cluster's machines.
fn status(cluster: &Cluster, archive: &Archive, run: &str) -> serde_json::Value {
    let mut command = vidindex(["status".as_ref(), archive.bucket.job.as_os_str()]);
    cluster.reach(&mut command);
    let output = command.args(["--run", run, "--json"]).envs(environment()).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", said(&output)))
}

/// A watcher of the run; gives what it said when it has ended.
fn watch(cluster: &Cluster, archive: &Archive, run: &str) -> Child {
    let mut command = vidindex(["status".as_ref(), archive.bucket.job.as_os_str()]);
    cluster.reach(&mut command);
    command.args(["--run", run, "--watch"]).envs(environment()).stdout(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_watcher_waits_for_tasks_that_wait_and_until_the_seal() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(cluster) = Cluster::start(2) else { return };
    let Some(archive) = Archive::new() else { return };
    cluster.ask("scontrol", &["update", "nodename=node[1-2]", "state=drain", "reason=test"]);
    let run = archive.submit(&cluster, &[]);
    let waits = status(&cluster, &archive, &run);
    assert_eq!(waits["state"], "submitted", "{waits:#}");
    // Eight tasks, and the seal.
    assert_eq!((&waits["engine"]["pending"], &waits["engine"]["running"]), (&9.into(), &0.into()), "{waits:#}");
    // Elsewhere nobody can tell.
    let mut elsewhere = vidindex(["status".as_ref(), archive.bucket.job.as_os_str(), "--run".as_ref(), run.as_ref()]);
    let told = stdout(&elsewhere.envs(environment()).env("PATH", "/nowhere").output().unwrap());
    assert!(
        told.contains("submitted") && told.contains("failed to query its tasks") && told.contains("squeue"),
        "{told}"
    );

    let mut watcher = watch(&cluster, &archive, &run);
    // More than one look.
    std::thread::sleep(Duration::from_secs(8));
    assert!(watcher.try_wait().unwrap().is_none(), "tasks wait, and the watcher has gone");
    cluster.ask("scontrol", &["update", "nodename=node[1-2]", "state=resume"]);
    cluster.drain(180);
    let watched = watcher.wait_with_output().unwrap();
    let told = stdout(&watched);
    let last = told.rsplit("run      ").next().unwrap();
    assert!(watched.status.success() && last.contains(": sealed") && told.contains("pending"), "{told}");
    archive.assert_rows(&archive.bucket.index());
}

#[test]
fn a_run_that_was_cancelled_is_not_at_work_and_not_watched() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(cluster) = Cluster::start(2) else { return };
    let Some(archive) = Archive::new() else { return };
    let run = archive.submit(&cluster, &[]);
    wait_until("a task at work", || archive.is_at_work(&run));
    wait_until("the status of it", || status(&cluster, &archive, &run)["state"] == "at_work");
    let watcher = watch(&cluster, &archive, &run);
    cluster.ask("scancel", &["--user=root"]);
    cluster.drain(60);
    let stopped = status(&cluster, &archive, &run);
    assert_eq!(stopped["state"], "stopped", "{stopped:#}");
    assert_eq!((&stopped["engine"]["pending"], &stopped["engine"]["running"]), (&0.into(), &0.into()));
    let watched = watcher.wait_with_output().unwrap();
    let told = stdout(&watched);
    assert!(told.rsplit("run      ").next().unwrap().contains(": stopped"), "{told}");

    // Cancelled before anybody began.
    cluster.ask("scontrol", &["update", "nodename=node[1-2]", "state=drain", "reason=test"]);
    let rest = archive.submit(&cluster, &[]);
    cluster.ask("scancel", &["--user=root"]);
    cluster.drain(60);
    assert_eq!(status(&cluster, &archive, &rest)["state"], "stopped");
    let watched = watch(&cluster, &archive, &rest).wait_with_output().unwrap();
    assert!(watched.status.success() && stdout(&watched).contains("no tasks are left"), "{}", said(&watched));
}

#[test]
fn a_run_whose_tasks_ran_out_of_time_is_gone_on_with() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(cluster) = Cluster::start(2) else { return };
    let Some(archive) = Archive::new() else { return };
    // One task for all shards, and a minute for it, the least that Slurm counts: it spends the rest of it asleep.
    let run = archive.submit(&cluster, &["--set", "engine.slurm.tasks=1", "--set", "engine.slurm.time=0:01"]);
    wait_until("a committed shard", || archive.commits(&run) >= 1);
    cluster.freeze(cluster.busy_node());
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
fn a_controller_that_dies_right_after_the_submission_costs_no_row() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(mut cluster) = Cluster::start(2) else { return };
    let Some(archive) = Archive::new() else { return };
    let run = archive.submit(&cluster, &[]);
    cluster.busy_node();
    cluster.restart_controller();
    cluster.drain(180);
    eprintln!("{}", cluster.timeline());
    // The controller may have forgotten the seal, the tasks, or all.
    archive.submit(&cluster, &["--run", &run]);
    cluster.drain(180);
    archive.assert_rows(&archive.bucket.index());
}

#[test]
fn a_submission_is_shown_before_it_is_made() {
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
    assert!(!scratch.index().exists(), "nothing was written");
    let failed = vidindex(["submit".as_ref(), job.as_os_str()])
        .args(["--engine", "slurm"])
        .env("PATH", "/nowhere")
        .output()
        .unwrap();
    assert_eq!(failed.status.code(), Some(1));
    assert!(stderr(&failed).contains("scontrol: failed to run"), "{}", stderr(&failed));
}
