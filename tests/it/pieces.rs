//! Interrupted shards: what was finished is not done again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::archive::{Archive, decoders_of, is_sandboxed, send, wait_until};
use crate::support::{self, query, run, said, tables, test_video, vidindex};

/// One shard, in which finished videos are saved every second.
const ONE_SHARD: [&str; 4] = ["--set", "run.shard_bytes=1 GiB", "--set", "run.save_seconds=1"];

/// Records of pieces, of all runs.
fn pieces(archive: &Archive) -> Vec<PathBuf> {
    let entries = walkdir::WalkDir::new(archive.scratch.index().join("_vidindex")).into_iter().filter_map(Result::ok);
    let is_record = |path: &PathBuf| {
        path.extension().is_some_and(|extension| extension == "json")
            && path.parent().is_some_and(|folder| folder.ends_with("pieces"))
    };
    entries.map(walkdir::DirEntry::into_path).filter(is_record).collect()
}

/// Number of videos in the pieces.
fn saved(archive: &Archive) -> usize {
    let count = |record: &PathBuf| {
        let record: serde_json::Value = serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
        record["videos"].as_array().unwrap().len()
    };
    pieces(archive).iter().map(count).sum()
}

/// Number of videos of the index whose rows were copied: their decoder did nothing.
fn copied(archive: &Archive) -> usize {
    let rows = tables::rows(&archive.scratch.index(), "videos");
    rows.iter().filter(|row| row["decode_seconds"] == 0.0 && row["frames_decoded"].as_u64() > Some(0)).count()
}

/// The rows that the views show, without what differs from run to run.
fn current_rows(index: &Path) -> [String; 3] {
    let volatile = "run_id, indexed_at, decode_seconds, inference_seconds, shard";
    [
        ("videos", volatile, "uri"),
        ("actions", "run_id", "uri, segment"),
        ("persons", "run_id", "uri, time_seconds, box"),
    ]
    .map(|(table, volatile, order)| {
        let sql = format!("SELECT * EXCLUDE ({volatile}) FROM current_{table} ORDER BY {order}");
        query(index, &["--format", "csv", &sql])
    })
}

#[test]
fn an_attempt_takes_over_the_videos_that_a_killed_one_saved() {
    let archive = Archive::of(24, 2.0);
    let undisturbed = archive.undisturbed();
    let run = archive.plan(&ONE_SHARD);
    let mut worker = archive.command("work", &run, &ONE_SHARD).stderr(Stdio::null()).spawn().unwrap();
    wait_until("a piece", || !pieces(&archive).is_empty());
    worker.kill().unwrap();
    assert!(!worker.wait().unwrap().success());
    let saved = saved(&archive);
    assert!(saved > 0);
    let message = archive.expect("work", &run, &ONE_SHARD, 0);
    assert!(message.contains(&format!("taking over what an earlier attempt saved videos={saved}")), "{message}");
    archive.expect("seal", &run, &[], 0);
    archive.assert_rows(&undisturbed);
    tables::assert_counts(&archive.scratch.index());
    assert_eq!(copied(&archive), saved);
    assert_eq!(archive.attempts(&run), Vec::<PathBuf>::new());
}

#[test]
fn a_stopped_worker_saves_at_once_what_it_finished_even_behind_a_long_video() {
    let archive = Archive::of(6, 2.0);
    let long = archive.scratch.videos().join("-first-and-long.mp4");
    test_video(&long, "640x360", "30", 120.0, &["-pix_fmt", "yuv420p", "-preset", "ultrafast"]);
    let undisturbed = archive.undisturbed();
    let whole = ["--set", "run.shard_bytes=1 GiB"];
    let run = archive.plan(&whole);
    let mut worker = archive.command("work", &run, &whole).spawn().unwrap();
    // Two decoders run at a time on two cores, one of them for the long video.
    let mut seen = BTreeSet::new();
    wait_until("all but the long video", || {
        let decoders: Vec<_> = decoders_of(worker.id()).into_iter().filter(is_sandboxed).collect();
        seen.extend(decoders.iter().copied());
        seen.len() > 6 && decoders.len() == 1
    });
    let begun = Instant::now();
    send("-TERM", worker.id());
    assert_eq!(worker.wait().unwrap().code(), Some(143));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let saved = saved(&archive);
    assert!(saved >= 4, "{saved} of 6 short videos");
    archive.expect("work", &run, &whole, 0);
    archive.expect("seal", &run, &[], 0);
    archive.assert_rows(&undisturbed);
    assert_eq!(copied(&archive), saved);
}

#[test]
fn the_next_run_copies_what_an_interrupted_run_saved_and_never_reads_those_videos() {
    let archive = Archive::of(24, 2.0);
    let undisturbed = archive.undisturbed();
    let interrupted = |signal: &str, code: Option<i32>| {
        let before = pieces(&archive).len();
        let mut command = vidindex(["run".as_ref(), archive.job.as_os_str()]);
        let mut run = command.args(ONE_SHARD).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until("a piece", || pieces(&archive).len() > before);
        send(signal, run.id());
        assert_eq!(run.wait().unwrap().code(), code);
        saved(&archive)
    };
    let saved = interrupted("-KILL", None);
    let planned = vidindex(["plan".as_ref(), archive.job.as_os_str(), "--dry-run".as_ref()]).output().unwrap();
    let text = said(&planned);
    let left = format!("{} videos, ", 24 - saved);
    assert!(text.contains(&left) && text.contains("finished by an interrupted run"), "{text}");
    run(&archive.job, &ONE_SHARD, 0);
    archive.assert_rows(&undisturbed);
    assert_eq!(copied(&archive), saved);
    // Once published, they are simply indexed.
    let again = vidindex(["plan".as_ref(), archive.job.as_os_str(), "--dry-run".as_ref()]).output().unwrap();
    assert!(!said(&again).contains("interrupted") && said(&again).contains("skipped 24 objects"), "{}", said(&again));
    // With other settings, the saved rows are of no use.
    std::fs::remove_dir_all(archive.scratch.index()).unwrap();
    interrupted("-TERM", Some(143));
    let mut other = vidindex(["plan".as_ref(), archive.job.as_os_str()]);
    let other = other.args(["--dry-run", "--set", "persons.iou=0.7"]).output().unwrap();
    assert!(other.status.success() && !said(&other).contains("interrupted"), "{}", said(&other));
}

/// Runs, workers, seals and compactions are killed at random, until `VIDINDEX_TEST_ROUNDS` of them (5) were. Each kill costs
/// at most the work that no piece holds, and the next command removes what is left on the scratch disk.
#[test]
fn a_campaign_of_kills_leaves_the_rows_of_an_undisturbed_run_and_nothing_on_the_scratch_disk() {
    if support::python().is_none() {
        return;
    }
    let archive = Archive::of(12, 1.0);
    let undisturbed = archive.undisturbed();
    let expected = current_rows(&archive.scratch.path("undisturbed"));
    let kills: u32 = std::env::var("VIDINDEX_TEST_ROUNDS").map_or(5, |rounds| rounds.parse().unwrap());
    let disk = archive.scratch.path("disk");
    std::fs::create_dir(&disk).unwrap();
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    eprintln!("seed {seed}");
    let mut random = seed;
    let mut below = |limit: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % limit
    };
    let index = archive.scratch.index();
    let start = |name: &str, args: &[&str]| {
        let mut command = vidindex([name.as_ref(), archive.job.as_os_str()]);
        command.args(args).env("TMPDIR", &disk).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let newest_run = || {
        let runs = std::fs::read_dir(index.join("_vidindex/runs")).ok()?.filter_map(Result::ok);
        runs.filter(|run| run.path().join("job.json").exists()).map(|run| run.file_name().into_string().unwrap()).max()
    };
    let (mut killed, mut finished, mut most_left) = (BTreeMap::new(), 0, 0);
    while killed.values().sum::<u32>() < kills {
        let run = newest_run();
        let name = match (below(8), &run) {
            (0..=2, _) | (_, None) => "run",
            (3..=5, _) => "work",
            (6, _) => "seal",
            _ => "compact",
        };
        let mut args: Vec<&str> = match name {
            "compact" => vec![],
            "run" => vec!["--set", "run.save_seconds=1", "--set", "run.shard_bytes=400 KiB"],
            "work" => vec!["--set", "run.save_seconds=1", "--task", "0/1", "--run"],
            _ => vec!["--run"],
        };
        if matches!(name, "work" | "seal") {
            args.extend(run.as_deref());
        }
        let mut process = start(name, &args);
        let most = if matches!(name, "run" | "work") { 1000.0 * undisturbed.seconds } else { 60.0 };
        std::thread::park_timeout(Duration::from_millis(below(most as u64)));
        if let Some(status) = process.try_wait().unwrap() {
            if name == "run" {
                assert!(status.success(), "{status}");
                assert_eq!(current_rows(&index), expected);
                std::fs::remove_dir_all(&index).unwrap();
                finished += 1;
            }
            continue;
        }
        process.kill().unwrap();
        process.wait().unwrap();
        *killed.entry(name).or_insert(0) += 1;
        most_left = most_left.max(std::fs::read_dir(&disk).unwrap().count());
    }
    let finish = start("run", &["--set", "run.save_seconds=1"]).wait().unwrap();
    assert!(finish.success(), "{finish}");
    assert_eq!(current_rows(&index), expected);
    assert_eq!(std::fs::read_dir(&disk).unwrap().count(), 0, "left on the scratch disk");
    eprintln!(
        "killed {killed:?}, {finished} runs ended before; at most {most_left} folders were left by kills at a time"
    );
}
