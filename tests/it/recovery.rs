//! Workers that are killed, compete, repeat work or do only a part of it: the rows are those of an undisturbed run,
//! without duplicates.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::archive::{Archive, decoders_of, is_alive, is_sandboxed, send, wait_until};
use crate::support::{self, run, said, tables, test_video, vidindex};

#[test]
fn a_run_whose_workers_are_killed_ten_times_has_the_rows_of_an_undisturbed_run() {
    let archive = Archive::new();
    let undisturbed = archive.undisturbed();
    // One shard per video, so that workers are killed before, between and after commits.
    let run = archive.plan(&["--set", "run.shard_bytes=1"]);
    // The time is random enough as a seed. The delays are printed, so that a failure can be reproduced.
    let mut random = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let commits = archive.scratch.index().join("_vidindex/runs").join(&run).join("shards");
    for _ in 0..10 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // The worker is killed between its start and the commit of a few shards.
        let delay = Duration::from_secs_f64(undisturbed.seconds * 0.4 * ((random >> 33) % 1000) as f64 / 1000.0);
        let mut worker = archive.command("work", &run, &[]).stderr(Stdio::null()).spawn().unwrap();
        std::thread::park_timeout(delay);
        // A stopped worker cannot start another decoder before it is killed.
        send("-STOP", worker.id());
        let decoders = decoders_of(worker.id());
        let committed = std::fs::read_dir(&commits).map_or(0, Iterator::count);
        eprintln!("killed after {delay:?} with {} decoders, {committed} shards committed", decoders.len());
        worker.kill().unwrap();
        worker.wait().unwrap();
        wait_until("the end of every decoder", || !decoders.iter().any(|decoder| is_alive(*decoder)));
    }
    archive.expect("work", &run, &[], 0);
    for delay in [0, 3, 6, 9, 12].map(Duration::from_millis) {
        let mut sealer = archive.command("seal", &run, &[]).stderr(Stdio::null()).spawn().unwrap();
        std::thread::park_timeout(delay);
        sealer.kill().unwrap();
        sealer.wait().unwrap();
    }
    archive.expect("seal", &run, &[], 0);
    archive.assert_rows(&undisturbed);
    assert_eq!(archive.attempts(&run), Vec::<PathBuf>::new());
}

#[test]
fn incomplete_files_of_killed_workers_are_deleted() {
    let archive = Archive::new();
    let run = archive.plan(&[]);
    let parts = archive.scratch.index().join("_vidindex/runs").join(&run).join("parts");
    // A complete file, an incomplete one, and an empty folder.
    let left = ["000000/attempt-a/videos/complete.parquet", "000001/attempt-b/videos/.vidindex-tmp-0a1b2c"];
    for name in left {
        std::fs::create_dir_all(parts.join(name).parent().unwrap()).unwrap();
        std::fs::write(parts.join(name), "cut off").unwrap();
    }
    std::fs::create_dir_all(parts.join("000002/attempt-c/videos")).unwrap();
    archive.expect("work", &run, &["--task", "0/2"], 0);
    archive.expect("seal", &run, &[], 3);
    assert_eq!(archive.attempts(&run), [parts.join(left[1])], "files of shard 1, which is not committed, must be kept");
    archive.expect("work", &run, &["--task", "1/2"], 0);
    archive.expect("seal", &run, &[], 0);
    assert_eq!(archive.attempts(&run), Vec::<PathBuf>::new());
    archive.assert_rows(&archive.undisturbed());
}

#[test]
fn three_concurrent_workers_on_the_same_shards_write_no_duplicates() {
    let archive = Archive::new();
    let run = archive.plan(&[]);
    let workers: Vec<_> = (0..3).map(|_| archive.command("work", &run, &[]).spawn().unwrap()).collect();
    for worker in workers {
        let output = worker.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
    archive.expect("seal", &run, &[], 0);
    archive.assert_rows(&archive.undisturbed());
}

/// Two workers process the same shards. They are killed at random and restarted, until both have finished. There are
/// five rounds, or `VIDINDEX_TEST_ROUNDS`.
#[test]
fn two_workers_that_compete_and_are_killed_at_random_write_no_duplicates() {
    let archive = Archive::of(4, 1.0);
    let undisturbed = archive.undisturbed();
    let rounds = std::env::var("VIDINDEX_TEST_ROUNDS").map_or(5, |rounds| rounds.parse().unwrap());
    let mut random = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let mut seconds = |max: f64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        max * ((random >> 33) % 1000) as f64 / 1000.0
    };
    let (mut kills, mut lost) = (0, 0);
    for round in 0..rounds {
        let _ = std::fs::remove_dir_all(archive.scratch.index());
        let run = archive.plan(&["--set", "run.shard_bytes=1"]);
        let start = || archive.command("work", &run, &[]).stderr(Stdio::null()).spawn().unwrap();
        let mut workers = [Some(start()), Some(start())];
        let mut left = 4;
        while workers.iter().any(Option::is_some) {
            if left > 0 {
                std::thread::park_timeout(Duration::from_secs_f64(seconds(undisturbed.seconds)));
            }
            for worker in &mut workers {
                let Some(process) = worker else { continue };
                let ended = if left > 0 { process.try_wait().unwrap() } else { Some(process.wait().unwrap()) };
                if let Some(status) = ended {
                    assert!(status.success(), "round {round}: {status}");
                    *worker = None;
                } else if seconds(1.0) < 0.5 {
                    process.kill().unwrap();
                    process.wait().unwrap();
                    (kills, left) = (kills + 1, left - 1);
                    *worker = Some(start());
                }
            }
        }
        let parts = archive.attempts(&run).len();
        archive.expect("seal", &run, &[], 0);
        archive.assert_rows(&undisturbed);
        tables::assert_counts(&archive.scratch.index());
        assert_eq!(archive.attempts(&run), Vec::<PathBuf>::new(), "round {round}");
        // Each of the four videos has one file in each of three tables. Further files belong to attempts that lost.
        lost += usize::from(parts > 3 * 4);
    }
    eprintln!("{rounds} rounds, {kills} kills, {lost} rounds with files of attempts that lost");
}

#[test]
fn a_partly_finished_run_can_be_sealed_and_completed_later() {
    let archive = Archive::new();
    let undisturbed = archive.undisturbed();
    let run = archive.plan(&[]);
    archive.expect("work", &run, &["--task", "0/2"], 0);
    let message = archive.expect("seal", &run, &[], 3);
    assert!(message.contains("missing") && message.contains("[1, 3]"), "{message}");
    let part = tables::stable_rows(&archive.scratch.index(), "videos");
    assert!(!part.is_empty() && part.len() < undisturbed.rows[0].len());
    assert!(part.iter().all(|row| undisturbed.rows[0].contains(row)));
    tables::assert_counts(&archive.scratch.index());
    archive.expect("work", &run, &["--task", "1/2"], 0);
    archive.expect("seal", &run, &[], 0);
    archive.assert_rows(&undisturbed);
    let files = tables::files(&archive.scratch.index());
    archive.expect("seal", &run, &[], 0);
    archive.expect("work", &run, &[], 0);
    assert_eq!(tables::files(&archive.scratch.index()), files);
    archive.assert_rows(&undisturbed);
}

#[test]
fn other_files_in_the_output_are_not_changed() {
    let archive = Archive::new();
    archive.undisturbed();
    let index = archive.scratch.index();
    let foreign = [
        "videos/dt=2020-01-01/part-other-000000.parquet",
        "_vidindex/runs/20200101T000000000Z-000000/parts/000000/x/videos/a.parquet",
        "notes.txt",
    ];
    for name in foreign {
        std::fs::create_dir_all(index.join(name).parent().unwrap()).unwrap();
        // The file must be valid Parquet, because the plan reads it.
        let any = tables::files(&archive.scratch.path("undisturbed").join("videos")).remove(0);
        std::fs::copy(any, index.join(name)).unwrap();
    }
    let before = foreign.map(|name| std::fs::read(index.join(name)).unwrap());
    run(&archive.job, &["--reindex"], 0);
    assert!(foreign.map(|name| std::fs::read(index.join(name)).unwrap()) == before);
}

#[test]
fn a_signal_stops_a_worker_within_seconds_with_its_exit_code() {
    let archive = Archive::new();
    let run = archive.plan(&[]);
    let temporary = archive.scratch.path("tmp");
    std::fs::create_dir(&temporary).unwrap();
    for (signal, code) in [("-TERM", 143), ("-INT", 130)] {
        let mut command = archive.command("work", &run, &["--task", "0/1"]);
        let mut worker = command.env("TMPDIR", &temporary).stderr(Stdio::null()).spawn().unwrap();
        wait_until("a decoder", || !decoders_of(worker.id()).is_empty());
        let decoders = decoders_of(worker.id());
        let begun = Instant::now();
        send(signal, worker.id());
        assert_eq!(worker.wait().unwrap().code(), Some(code));
        assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0, "scratch files are left");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        wait_until("the end of every decoder", || !decoders.iter().any(|decoder| is_alive(*decoder)));
    }
    archive.expect("work", &run, &[], 0);
    archive.expect("seal", &run, &[], 0);
    archive.assert_rows(&archive.undisturbed());
}

#[test]
fn settings_that_differ_from_the_plan_are_rejected() {
    let archive = Archive::new();
    let run = archive.plan(&[]);
    let message = archive.expect("work", &run, &["--set", "persons.iou=0.7"], 2);
    assert!(message.contains(&run) && message.contains("hint:"), "{message}");
}

/// Adds a long video, starts a worker, sends a signal to the decoder of the long video, and seals the run. Checks that
/// the other videos are not affected, and returns the error kind of the long one.
fn signal_the_long_videos_decoder(signal: &str, args: &[&str]) -> String {
    let archive = Archive::new();
    let long = archive.scratch.videos().join("long.mp4");
    test_video(&long, "640x360", "30", 40.0, &["-pix_fmt", "yuv420p", "-preset", "ultrafast"]);
    let run = archive.plan(&[]);
    let mut worker = archive.command("work", &run, args).stderr(Stdio::null()).spawn().unwrap();
    // The long video is the last by name and fills its own shard. After the other shards are committed, its decoder is
    // the only one.
    let state = archive.scratch.index().join("_vidindex/runs").join(&run);
    let record: serde_json::Value = serde_json::from_slice(&std::fs::read(state.join("job.json")).unwrap()).unwrap();
    let others = record["shards"].as_u64().unwrap() as usize - 1;
    let committed = || std::fs::read_dir(state.join("shards")).map_or(0, Iterator::count);
    wait_until("the commit of the other shards", || committed() == others);
    let decoder = || decoders_of(worker.id()).into_iter().find(is_sandboxed);
    wait_until("the long video's decoder", || decoder().is_some());
    std::thread::park_timeout(Duration::from_millis(300));
    send(signal, decoder().unwrap());
    assert!(worker.wait().unwrap().success());
    archive.expect("seal", &run, &[], 3);
    tables::assert_counts(&archive.scratch.index());
    let rows = tables::rows(&archive.scratch.index(), "videos");
    assert_eq!(rows.len(), 9);
    let mut found = String::new();
    for row in rows {
        let kind = row["error_kind"].as_str().unwrap_or("none");
        if Path::new(row["uri"].as_str().unwrap()).ends_with("long.mp4") {
            found = kind.to_owned();
        } else {
            assert_eq!(kind, "none", "{row:?}");
        }
    }
    found
}

#[test]
fn a_killed_decoder_fails_only_its_video() {
    assert_eq!(signal_the_long_videos_decoder("-KILL", &[]), "decoder_crashed");
}

#[test]
fn a_decoder_that_hangs_times_out_and_fails_only_its_video() {
    assert_eq!(signal_the_long_videos_decoder("-STOP", &["--set", "run.video_timeout_seconds=4"]), "timeout");
}

#[test]
fn a_killed_template_of_the_decoders_is_replaced_and_no_video_is_affected() {
    let archive = Archive::new();
    let undisturbed = archive.undisturbed();
    let run = archive.plan(&[]);
    let mut worker = archive.command("work", &run, &[]).stderr(Stdio::null()).spawn().unwrap();
    // A decoder that has not entered the sandbox yet is younger than the template.
    let template = || decoders_of(worker.id()).into_iter().filter(|child| !is_sandboxed(child)).min();
    wait_until("a decoder", || decoders_of(worker.id()).iter().any(is_sandboxed));
    // The worker has eight more videos to decode.
    send("-KILL", template().unwrap());
    assert!(worker.wait().unwrap().success());
    archive.expect("seal", &run, &[], 0);
    archive.assert_rows(&undisturbed);
}

#[test]
fn damaged_files_do_not_stop_a_run() {
    let archive = Archive::new();
    let (videos, damaged) = (archive.scratch.videos(), archive.scratch.path("damaged"));
    std::fs::create_dir(&damaged).unwrap();
    let mut random = 12_345u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize
    };
    let mut count = 0;
    for extension in ["mp4", "mkv", "avi", "ts"] {
        let intact = archive.scratch.path(&format!("intact.{extension}"));
        support::ffmpeg(&["-i", videos.join("7.mp4").to_str().unwrap(), intact.to_str().unwrap()]);
        let intact = std::fs::read(intact).unwrap();
        for variant in 0..5 {
            let mut bytes = intact.clone();
            for _ in 0..(1 << (2 * variant)) {
                let at = next() % bytes.len();
                bytes[at] = next() as u8;
            }
            std::fs::write(damaged.join(format!("{variant}.{extension}")), bytes).unwrap();
            count += 1;
        }
    }
    let mut command = vidindex(["run".as_ref(), archive.job.as_os_str()]);
    let output = command.args(["--set", &format!("input.uri={}", damaged.display())]).output().unwrap();
    assert!(matches!(output.status.code(), Some(0 | 3)), "{}", said(&output));
    tables::assert_counts(&archive.scratch.index());
    let rows = tables::rows(&archive.scratch.index(), "videos");
    let uris: std::collections::BTreeSet<_> = rows.iter().map(|row| row["uri"].to_string()).collect();
    assert_eq!((rows.len(), uris.len()), (count, count));
    for row in rows {
        assert_ne!(row["error_kind"].as_str().unwrap_or("none"), "decoder_crashed", "{row:?}");
    }
}

#[test]
fn a_seal_without_a_run_publishes_what_unfinished_runs_committed() {
    let archive = Archive::new();
    let undisturbed = archive.undisturbed();
    let run = archive.plan(&["--set", "run.shard_bytes=1"]);
    let seal = |code: i32| {
        let sealed = vidindex(["seal".as_ref(), archive.job.as_os_str()]).output().unwrap();
        assert_eq!(sealed.status.code(), Some(code), "{}", said(&sealed));
        said(&sealed)
    };
    assert!(seal(0).contains("every committed shard is published"), "nothing is committed yet");
    archive.expect("work", &run, &["--task", "0/2"], 0);
    assert!(seal(3).contains("missing    shards"));
    archive.expect("work", &run, &["--task", "1/2"], 0);
    seal(0);
    archive.assert_rows(&undisturbed);
    assert!(seal(0).contains("every committed shard is published"));
}
