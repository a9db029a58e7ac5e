//! Attempts at one shard, in turn and against each other. Random interleavings are with the seal's tests.

#![expect(clippy::unwrap_used, reason = "tests")]

use futures::executor::block_on;

use super::*;
use crate::device::Precision;
use crate::run::commit::is_committed;
use crate::store::faulty::{FaultyStore, WriteFault};
use crate::store::memory::MemoryStore;
use crate::tables::Table;

const RUN: &str = "20261123T073712123Z-ab12cd";

fn part(dir: &std::path::Path, table: Table, text: &str) -> PartFile {
    let path = dir.join(format!("{table}-{text}"));
    std::fs::write(&path, text).unwrap();
    let partition_path = "dt=2026-11-01".to_owned();
    let key = crate::tables::part_key(table, None, &partition_path, RUN, 0);
    PartFile { table, partition_path, key, path, rows: 2, size_bytes: text.len() as u64 }
}

fn commit_now(output: &dyn Store, attempt: &AttemptId, parts: &[PartFile]) -> Result<Committed> {
    let computed = Some(Computed { device: "cpu".to_owned(), precision: Precision::Fp32 });
    block_on(commit(output, RUN, 0, attempt, ShardRows { parts, totals: ShardTotals::default(), computed }))
}

#[test]
fn the_first_attempt_wins_and_the_second_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let output = MemoryStore::bucket("s3://index/");
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
    let output = MemoryStore::bucket("s3://index/");
    let attempt = AttemptId::unique();
    let parts = [part(dir.path(), Table::Videos, "rows")];
    let failing = FaultyStore::new(output.clone()).failing_writes([None, Some(WriteFault::AnswerLost)]);
    assert_eq!(commit_now(&failing, &attempt, &parts).unwrap(), Committed::Ours);
    let record = block_on(read_commit(&output, RUN, 0)).unwrap().unwrap();
    assert_eq!(output.contents()[&record.parts[0].from], "rows");
}

#[test]
fn a_failed_commit_can_be_tried_again_by_the_same_attempt() {
    let dir = tempfile::tempdir().unwrap();
    let attempt = AttemptId::unique();
    let parts = [part(dir.path(), Table::Videos, "v"), part(dir.path(), Table::Actions, "a")];
    for faults in
        [vec![Some(WriteFault::OUTAGE)], vec![Some(WriteFault::AnswerLost)], vec![None, None, Some(WriteFault::OUTAGE)]]
    {
        let output = MemoryStore::directory("/index");
        assert!(commit_now(&FaultyStore::new(output.clone()).failing_writes(faults), &attempt, &parts).is_err());
        assert_eq!(commit_now(&output, &attempt, &parts).unwrap(), Committed::Ours);
        assert_eq!(commit_now(&output, &attempt, &parts).unwrap(), Committed::Ours);
        assert_eq!(output.contents().len(), 3);
    }
}

#[test]
fn a_loser_that_cannot_clear_its_files_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let output = MemoryStore::bucket("s3://index/");
    commit_now(&output, &AttemptId::unique(), &[part(dir.path(), Table::Videos, "first")]).unwrap();
    let failing = FaultyStore::new(output.clone()).failing_writes([Some(WriteFault::OUTAGE)]);
    let second = [part(dir.path(), Table::Videos, "second")];
    assert_eq!(commit_now(&failing, &AttemptId::unique(), &second).unwrap(), Committed::Theirs);
}

#[test]
fn a_shard_without_videos_commits_no_files() {
    let output = MemoryStore::bucket("s3://index/");
    assert_eq!(commit_now(&output, &AttemptId::unique(), &[]).unwrap(), Committed::Ours);
    assert_eq!(block_on(read_commit(&output, RUN, 0)).unwrap().unwrap().parts, []);
}

#[test]
fn a_record_that_moves_other_files_is_not_gone_by() {
    let dir = tempfile::tempdir().unwrap();
    let output = MemoryStore::bucket("s3://index/");
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
        output.insert(&commit_key(RUN, 0), serde_json::to_string(&record).unwrap());
        let error = block_on(read_commit(&output, RUN, 0)).unwrap_err();
        assert!(error.to_string().contains("shards/000000.json"), "{error}");
        assert!(error.hint().is_some());
    }
    output.insert(&commit_key(RUN, 0), "{}");
    assert!(block_on(read_commit(&output, RUN, 0)).is_err());
}
