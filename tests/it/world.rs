//! What goes wrong around a run: full disks, an output that vanishes or cannot be written, wrong clocks, commands on the same index
//! at the same time, listings that lag behind. The outcomes are written down in docs/troubleshooting.md.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::compact::age_runs;
use crate::outages::Unreliable;
use crate::support::archive::{Archive, wait_until};
use crate::support::bucket::{Bucket, comparable};
use crate::support::faults::{Fault, Often, What};
use crate::support::{self, Scratch, run, said, tables, test_video, vidindex};

const TABLES: [&str; 3] = ["videos", "actions", "persons"];

/// Runs a shell script with a disk of this size, which only its own processes see. `$V` is vidindex, `$JOB` the job and `$DISK` the
/// mount point. `None` if the machine does not allow that.
fn with_small_disk(archive: &Archive, size: &str, script: &str) -> Option<Output> {
    let disk = archive.scratch.path("disk");
    std::fs::create_dir_all(&disk).unwrap();
    let mount = format!("mount -t tmpfs -o size={size} tmpfs $DISK || exit 99\n{script}");
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "bash", "-c", &mount]);
    command.env("V", env!("CARGO_BIN_EXE_vidindex")).env("JOB", &archive.job).env("DISK", &disk);
    let output = command.env("VIDINDEX_DEVICE", "cpu").output().unwrap();
    if output.status.code() == Some(99) {
        assert!(std::env::var("VIDINDEX_TEST_REQUIRE").as_deref() != Ok("1"), "{}", said(&output));
        eprintln!("skipped: this machine does not allow mounts in a namespace");
        return None;
    }
    Some(output)
}

/// The rows of the video that are current, without what differs from run to run.
fn current(index: &Path) -> Vec<String> {
    let columns = "parse_filename(uri) AS uri, status, segments, boxes, duration_seconds";
    let sql = format!("SELECT {columns} FROM current_videos ORDER BY uri");
    support::query(index, &["--format", "csv", &sql]).lines().map(str::to_owned).collect()
}

/// The only value of a query.
fn value(index: &Path, sql: &str) -> String {
    support::query(index, &["--format", "lines", sql]).trim_end().to_owned()
}

#[test]
fn a_full_scratch_disk_stops_the_run_with_a_hint_and_costs_no_row() {
    let archive = Archive::new();
    let undisturbed = archive.undisturbed();
    let script = "
        export TMPDIR=$DISK
        dd if=/dev/zero of=$DISK/filler bs=1k count=2000 2>/dev/null
        $V run $JOB; [[ $? == 1 ]] || exit 1
        rm $DISK/filler
        $V run $JOB";
    let Some(output) = with_small_disk(&archive, "2000k", script) else { return };
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("No space left on device") && said(&output).contains("TMPDIR"), "{}", said(&output));
    archive.assert_rows(&undisturbed);
}

#[test]
fn a_full_output_stops_the_run_and_the_next_one_completes_it() {
    let archive = Archive::new();
    let undisturbed = archive.undisturbed();
    let script = "
        set=\"--set output.uri=$DISK/index\"
        $V run $JOB $set; [[ $? == 1 ]] || exit 1
        mount -o remount,size=100m $DISK
        $V run $JOB $set && cp -r $DISK/index $OUT";
    // Enough for the plan and some of the rows.
    let script = format!("OUT={}\n{script}", archive.scratch.index().display());
    let Some(output) = with_small_disk(&archive, "60k", &script) else { return };
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("No space left on device"), "{}", said(&output));
    assert_eq!(current(&archive.scratch.index()), current(&archive.scratch.path("undisturbed")));
    for table in TABLES {
        assert_eq!(tables::stable_rows(&archive.scratch.index(), table).len(), undisturbed.rows_of(table).len());
    }
}

#[test]
fn a_read_only_output_is_reported_at_once_and_can_be_looked_at() {
    let archive = Archive::new();
    let script = "
        set=\"--set output.uri=$DISK/index\"
        $V run $JOB $set || exit 1
        mount -o remount,ro $DISK
        $V status $JOB $set || exit 2
        $V plan $JOB $set --dry-run --reindex || exit 3
        $V run $JOB $set || exit 4
        $V run $JOB $set --reindex; [[ $? == 1 ]] || exit 5
        $V doctor $JOB $set; [[ $? == 1 ]] || exit 6";
    let Some(output) = with_small_disk(&archive, "100m", script) else { return };
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("Read-only file system"), "{}", said(&output));
}

#[test]
fn an_output_that_is_removed_in_the_middle_fails_the_run_and_the_next_one_indexes_everything() {
    let archive = Archive::new();
    let undisturbed = archive.undisturbed();
    let plan = archive.plan(&["--set", "run.shard_bytes=1"]);
    let index = archive.scratch.index();
    let mut worker = archive.command("work", &plan, &[]).stderr(Stdio::null()).spawn().unwrap();
    let commits = index.join("_vidindex/runs").join(&plan).join("shards");
    wait_until("the first commit", || std::fs::read_dir(&commits).is_ok_and(|files| files.count() > 0));
    while std::fs::remove_dir_all(&index).is_err() {}
    worker.wait().unwrap();
    let sealed = archive.command("seal", &plan, &[]).output().unwrap();
    assert!(matches!(sealed.status.code(), Some(1 | 2)), "{}", said(&sealed));
    run(&archive.job, &[], 0);
    assert_eq!(current(&index), current(&archive.scratch.path("undisturbed")));
    assert_eq!(tables::stable_rows(&index, "persons"), undisturbed.rows_of("persons"));
}

/// A library that shifts the clock of a process by `$SHIFT` seconds.
fn clock(scratch: &Scratch) -> PathBuf {
    let (source, library) = (scratch.path("clock.c"), scratch.path("clock.so"));
    let text = "
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <stdlib.h>
        #include <time.h>
        int clock_gettime(clockid_t id, struct timespec *now) {
            static int (*real)(clockid_t, struct timespec *);
            if (!real) real = dlsym(RTLD_NEXT, \"clock_gettime\");
            int result = real(id, now);
            const char *shift = getenv(\"SHIFT\");
            if (id == CLOCK_REALTIME && shift) now->tv_sec += atol(shift);
            return result;
        }";
    std::fs::write(&source, text).unwrap();
    let status =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).args([&library, &source]).arg("-ldl").status();
    assert!(status.unwrap().success());
    library
}

#[test]
fn rows_of_a_later_run_are_current_even_if_the_clock_was_set_back() {
    let scratch = Scratch::new();
    let clip =
        |seconds: f64| test_video(&scratch.videos().join("a.mp4"), "128x96", "25", seconds, &["-pix_fmt", "yuv420p"]);
    let job = scratch.job(&scratch.small_models());
    let library = clock(&scratch);
    let run_at = |shift: &str, args: &[&str]| {
        let mut command = vidindex(["run".as_ref(), job.as_os_str(), "--device".as_ref(), "cpu".as_ref()]);
        let output = command.args(args).env("LD_PRELOAD", &library).env("SHIFT", shift).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        said(&output)
    };
    let shown = || value(&scratch.index(), "SELECT duration_seconds FROM current_videos");
    clip(3.0);
    run_at("172800", &[]);
    assert_eq!(shown(), "3.0");
    clip(2.0);
    assert!(run_at("0", &[]).contains("the index has rows from the future"));
    assert_eq!(shown(), "2.0", "the newer content");
    assert!(run_at("0", &[]).contains("already indexed"));
    clip(1.0);
    run_at("-172800", &["--reindex"]);
    assert_eq!(shown(), "1.0");
    std::fs::remove_file(scratch.videos().join("a.mp4")).unwrap();
    test_video(&scratch.videos().join("b.mp4"), "128x96", "25", 1.0, &["-pix_fmt", "yuv420p"]);
    run_at("0", &[]);
    let uris = value(&scratch.index(), "SELECT parse_filename(uri) FROM current_videos");
    assert_eq!(uris, "b.mp4", "the deleted one is hidden");
}

#[test]
fn runs_of_two_jobs_on_one_index_at_the_same_time_show_every_video_once() {
    let archive = Archive::new();
    archive.undisturbed();
    let index = archive.scratch.index();
    let start = |args: &[&str]| {
        let mut command = vidindex(["run".as_ref(), archive.job.as_os_str()]);
        command.args(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    // The same job twice, and another one, which sees less.
    let runs = [start(&[]), start(&[]), start(&["--set", "persons.iou=0.5", "--set", "input.include=[\"0.mp4\"]"])];
    for run in runs {
        let output = run.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
    run(&archive.job, &[], 0);
    assert_eq!(current(&index), current(&archive.scratch.path("undisturbed")));
    let counts = "SELECT count(*), count(DISTINCT video_id) FROM current_videos";
    assert_eq!(value(&index, counts), "8\t8");
    for table in ["actions", "persons"] {
        let doubled = format!(
            "SELECT count(*) FROM (SELECT video_id, count(DISTINCT run_id) AS n FROM current_{table} GROUP BY 1) WHERE n > 1"
        );
        assert_eq!(value(&index, &doubled), "0", "{table}");
    }
}

#[test]
fn plan_prune_and_compact_during_a_run_lose_and_double_nothing() {
    let archive = Archive::new();
    let undisturbed = archive.undisturbed();
    let index = archive.scratch.index();
    // An older run whose rows the other replaces, so that there is something to prune and to merge.
    run(&archive.job, &["--set", "persons.iou=0.5"], 0);
    age_runs(&index);
    let plan = archive.plan(&["--set", "run.shard_bytes=1"]);
    let mut worker = archive.command("work", &plan, &[]).stderr(Stdio::null()).spawn().unwrap();
    let mut rounds = 0;
    while worker.try_wait().unwrap().is_none() {
        for command in [&["prune", "--yes"][..], &["compact"], &["plan", "--dry-run"], &["seal"]] {
            let output = vidindex([command[0].as_ref(), archive.job.as_os_str()]).args(&command[1..]).output().unwrap();
            assert!(matches!(output.status.code(), Some(0 | 3)), "{command:?}: {}", said(&output));
        }
        rounds += 1;
    }
    assert!(rounds > 0);
    // Plans while the seal publishes.
    let mut seal = archive.command("seal", &plan, &[]).stderr(Stdio::null()).spawn().unwrap();
    let planned = vidindex(["plan".as_ref(), archive.job.as_os_str()]).output().unwrap();
    assert!(planned.status.success(), "{}", said(&planned));
    assert!(seal.wait().unwrap().success());
    run(&archive.job, &[], 0);
    assert_eq!(current(&index), current(&archive.scratch.path("undisturbed")));
    let persons = value(&index, "SELECT count(*) FROM current_persons");
    assert_eq!(persons.parse::<usize>().unwrap(), undisturbed.rows_of("persons").len());
}

#[test]
fn a_store_whose_listings_lag_behind_costs_time_and_no_rows() {
    let Some(server) = Unreliable::start() else { return };
    let scratch = Scratch::new();
    for n in 0..4 {
        test_video(&scratch.videos().join(format!("{n}.mp4")), "128x96", "25", 2.0, &["-pix_fmt", "yuv420p"]);
    }
    run(&scratch.job(&scratch.small_models()), &[], 0);
    let expected = TABLES.map(|table| comparable(&scratch.index(), table));
    let bucket = Bucket::on(server, scratch);
    let lag = Duration::from_secs(3);
    let is_list = |method: &str, target: &str| method == "GET" && target.contains("list-type=2");
    bucket.server.proxy.set(vec![Fault::new(is_list, What::Stale(lag), Often::Always)]);
    let mut command = vidindex(["run".as_ref(), bucket.job.as_os_str()]);
    command.args(["--set", "run.shard_bytes=1"]).envs(crate::support::s3::environment());
    let output = command.output().unwrap();
    println!("{}", said(&output));
    // It may not see all of its own commits yet. It knows, and says so.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{}", said(&output));
    std::thread::sleep(lag);
    bucket.vidindex(&["seal"], 0);
    bucket.vidindex(&["run"], 0);
    bucket.server.proxy.set(Vec::new());
    let index = bucket.index();
    assert_eq!(TABLES.map(|table| comparable(&index, table)), expected);
}
