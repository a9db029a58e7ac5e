//! Attempts at one shard, in turn and against each other. Random interleavings are with the seal's tests.

#![expect(clippy::unwrap_used, reason = "tests")]

use futures::executor::block_on;

use super::*;
use crate::seal::testing::{Fault, MemoryStore};

const RUN: &str = "20261123T073712123Z-ab12cd";

fn part(dir: &std::path::Path, table: Table, text: &str) -> PartFile {
    let path = dir.join(format!("{table}-{text}"));
    std::fs::write(&path, text).unwrap();
    let partition_path = "dt=2026-11-01".to_owned();
    let key = crate::tables::part_key(table, None, &partition_path, RUN, 0);
    PartFile { table, partition_path, key, path, rows: 2, size_bytes: text.len() as u64 }
}

fn commit_now(output: &MemoryStore, attempt: &AttemptId, parts: &[PartFile]) -> Result<Committed> {
    block_on(commit(output, RUN, 0, attempt, parts, ShardTotals::default()))
}

#[test]
fn the_first_attempt_wins_and_the_second_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let output = MemoryStore::bucket();
    let (first, second) = (AttemptId::unique(), AttemptId::unique());
    assert!(!block_on(is_committed(&output, RUN, 0)).unwrap());
    assert_eq!(commit_now(&output, &first, &[part(dir.path(), Table::Videos, "first")]).unwrap(), Committed::Ours);
    assert!(block_on(is_committed(&output, RUN, 0)).unwrap());
    assert_eq!(commit_now(&output, &second, &[part(dir.path(), Table::Videos, "second")]).unwrap(), Committed::Theirs);

    let record = block_on(read_commit(&output, RUN, 0)).unwrap().unwrap();
    assert_eq!(record.attempt, first);
    assert_eq!(record.parts.len(), 1);
    let contents = output.contents();
    let keys: Vec<_> = contents.keys().map(String::as_str).collect();
    assert_eq!(keys, [record.parts[0].from.as_str(), &format!("_vidindex/runs/{RUN}/shards/000000.json")]);
    assert_eq!(contents[&record.parts[0].from], "first");
}

#[test]
fn a_put_whose_answer_was_lost_is_still_ours() {
    let dir = tempfile::tempdir().unwrap();
    let output = MemoryStore::bucket();
    let attempt = AttemptId::unique();
    let parts = [part(dir.path(), Table::Videos, "rows")];
    let failing = output.failing([Fault::None, Fault::After]);
    assert_eq!(commit_now(&failing, &attempt, &parts).unwrap(), Committed::Ours);
    let record = block_on(read_commit(&output, RUN, 0)).unwrap().unwrap();
    assert_eq!(output.contents()[&record.parts[0].from], "rows");
}

#[test]
fn a_failed_commit_can_be_tried_again_by_the_same_attempt() {
    let dir = tempfile::tempdir().unwrap();
    let attempt = AttemptId::unique();
    let parts = [part(dir.path(), Table::Videos, "v"), part(dir.path(), Table::Actions, "a")];
    for faults in [vec![Fault::Before], vec![Fault::After], vec![Fault::None, Fault::None, Fault::Before]] {
        let output = MemoryStore::directory();
        assert!(commit_now(&output.failing(faults), &attempt, &parts).is_err());
        assert_eq!(commit_now(&output, &attempt, &parts).unwrap(), Committed::Ours);
        assert_eq!(commit_now(&output, &attempt, &parts).unwrap(), Committed::Ours);
        assert_eq!(output.contents().len(), 3);
    }
}

#[test]
fn a_loser_that_cannot_clear_its_files_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let output = MemoryStore::bucket();
    commit_now(&output, &AttemptId::unique(), &[part(dir.path(), Table::Videos, "first")]).unwrap();
    let failing = output.failing([Fault::Before]);
    let second = [part(dir.path(), Table::Videos, "second")];
    assert_eq!(commit_now(&failing, &AttemptId::unique(), &second).unwrap(), Committed::Theirs);
}

#[test]
fn a_shard_without_videos_commits_no_files() {
    let output = MemoryStore::bucket();
    assert_eq!(commit_now(&output, &AttemptId::unique(), &[]).unwrap(), Committed::Ours);
    assert_eq!(block_on(read_commit(&output, RUN, 0)).unwrap().unwrap().parts, []);
}

#[test]
fn totals_count_videos_and_tell_the_first_failures() {
    let row = |uri: &str, status, error_kind: Option<VideoErrorKind>| VideoRow {
        video_id: uri.into(),
        uri: uri.into(),
        etag: String::new(),
        size_bytes: 0,
        last_modified: DateTime::UNIX_EPOCH,
        status,
        error_kind,
        error_message: error_kind.map(|kind| format!("{kind} seen")),
        failures: None,
        container: None,
        codec: None,
        width: None,
        height: None,
        rotation: None,
        mirrored: None,
        frames_per_second: None,
        start_seconds: None,
        duration_seconds: Some(2.5),
        frames_decoded: 10,
        segments: 2,
        boxes: 3,
        actions_model: None,
        persons_model: None,
        fingerprint: String::new(),
        run_id: RUN.into(),
        shard: 0,
        indexed_at: DateTime::UNIX_EPOCH,
        decode_seconds: 0.5,
        inference_seconds: 0.25,
    };
    let mut totals = ShardTotals { wall_seconds: 4.0, ..ShardTotals::default() };
    totals.add(&row("a", VideoStatus::Ok, None));
    totals.add(&row("b", VideoStatus::Partial, Some(VideoErrorKind::Corrupt)));
    for i in 0..7 {
        totals.add(&row(&format!("c{i}"), VideoStatus::Failed, Some(VideoErrorKind::Timeout)));
    }
    let mut run = totals.clone();
    run.merge(&totals);

    assert_eq!((run.videos_ok, run.videos_partial, run.videos_failed, run.videos()), (2, 2, 14, 18));
    assert_eq!((run.segments, run.boxes, run.frames_decoded), (36, 54, 180));
    assert_eq!((run.video_seconds, run.decode_seconds, run.inference_seconds, run.wall_seconds), (45.0, 9.0, 4.5, 8.0));
    assert_eq!(run.failures[&VideoErrorKind::Corrupt].examples.len(), 2);
    assert_eq!(run.failures[&VideoErrorKind::Timeout].videos, 14);
    assert_eq!(run.failures[&VideoErrorKind::Timeout].examples.len(), EXAMPLES_MAX);
    assert_eq!(
        run.failures[&VideoErrorKind::Timeout].examples[0],
        Failure { uri: "c0".into(), message: "timeout seen".into() }
    );
    let json = serde_json::to_string(&run).unwrap();
    assert!(json.contains("\"timeout\":{\"videos\":14"), "{json}");
    assert_eq!(serde_json::from_str::<ShardTotals>(&json).unwrap(), run);
}

#[test]
fn a_record_that_moves_other_files_is_not_gone_by() {
    let dir = tempfile::tempdir().unwrap();
    let output = MemoryStore::bucket();
    commit_now(&output, &AttemptId::unique(), &[part(dir.path(), Table::Videos, "rows")]).unwrap();
    let good = block_on(read_commit(&output, RUN, 0)).unwrap().unwrap();
    let (from, to) = (good.parts[0].from.clone(), good.parts[0].to.clone());
    let attempt = from.strip_suffix(&to).unwrap().to_owned();
    let moved = |from: String, to: String| ShardCommit {
        parts: vec![CommittedPart { from, to, ..good.parts[0].clone() }],
        ..good.clone()
    };
    let bad = [
        moved(from.clone(), to.replace("videos/", "actions/")),
        moved(from.replace(RUN, "20250101T000000000Z-000000"), to.clone()),
        moved(format!("{attempt}videos/../../../x"), "videos/../../../x".into()),
        moved(
            format!("{attempt}{}", to.replace("000000.parquet", "000001.parquet")),
            to.replace("000000.parquet", "000001.parquet"),
        ),
        ShardCommit { shard: 1, ..good.clone() },
        ShardCommit { run_id: "other".into(), ..good.clone() },
        ShardCommit { schema_version: 2, ..good.clone() },
    ];
    for record in bad {
        output.add(&commit_key(RUN, 0), &serde_json::to_string(&record).unwrap());
        let error = block_on(read_commit(&output, RUN, 0)).unwrap_err();
        assert!(error.to_string().contains("shards/000000.json"), "{error}");
        assert!(error.hint().is_some());
    }
    output.add(&commit_key(RUN, 0), "{}");
    assert!(block_on(read_commit(&output, RUN, 0)).is_err());
}

#[tokio::test]
async fn a_record_that_breaks_off_each_time_is_an_outage() {
    let output = MemoryStore::bucket();
    output.add(&commit_key(RUN, 0), "{");
    match read_commit(&output, RUN, 0).await {
        Err(Error::Store(error)) => assert_eq!(error.kind, StoreErrorKind::Transient),
        read => panic!("{read:?}"),
    }
}

#[test]
fn keys_of_shards_are_told_from_other_files() {
    assert_eq!(committed_shard("r", "_vidindex/runs/r/shards/000012.json"), Some(12));
    assert_eq!(committed_shard("r", "_vidindex/runs/r/shards/1234567.json"), Some(1_234_567));
    for other in [
        "_vidindex/runs/r/shards/12.json",
        "_vidindex/runs/r/shards/.000012.json.tmp",
        "_vidindex/runs/s/shards/000012.json",
    ] {
        assert_eq!(committed_shard("r", other), None, "{other}");
    }
    assert_eq!(attempted_shard("r", "_vidindex/runs/r/parts/000012/a/videos/x.parquet"), Some(12));
    assert_eq!(attempted_shard("r", "_vidindex/runs/r/parts/x"), None);
}

#[test]
fn attempts_never_share_a_name() {
    let names: std::collections::BTreeSet<String> = (0..1000).map(|_| AttemptId::unique().to_string()).collect();
    assert_eq!(names.len(), 1000);
}
