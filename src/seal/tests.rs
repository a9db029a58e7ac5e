//! Tests of attempts and seals that run concurrently, fail at any point and are repeated: each row is published exactly
//! once.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::executor::block_on;
use proptest::prelude::*;

use super::*;
use crate::run::attempt::AttemptId;
use crate::run::commit::is_committed;
use crate::run::summary::{read_summary, summary_key};
use crate::run::{RunKind, RunRecord};
use crate::store::faulty::{FaultyStore, WriteFault};
use crate::store::memory::MemoryStore;
use crate::tables::part_key;
use crate::work::commit::{Committed, ShardRows, commit};
use crate::work::encode::PartFile;

const RUN: &str = "20261123T073712123Z-ab12cd";
const STARTED: DateTime<Utc> = DateTime::UNIX_EPOCH;

/// Files of an attempt, whose text identifies the attempt. Shard 0 has two partitions, the others have one.
fn parts(dir: &Path, shard: u32, attempt: &str) -> Vec<PartFile> {
    let days = if shard == 0 { vec!["dt=2026-11-01", "dt=2026-11-02"] } else { vec!["dt=2026-11-02"] };
    let tables = [(Table::Videos, None), (Table::Actions, Some("m"))];
    let all = days.iter().flat_map(|day| tables.map(|(table, model)| (*day, table, model)));
    all.map(|(day, table, model)| {
        let path = dir.join(format!("{table}-{day}-{shard}-{attempt}"));
        let text = format!("{attempt} of shard {shard}");
        std::fs::write(&path, &text).unwrap();
        PartFile {
            table,
            partition_path: day.to_owned(),
            key: part_key(table, model, day, RUN, shard),
            path,
            rows: 3,
            size_bytes: text.len() as u64,
        }
    })
    .collect()
}

fn commit_now(output: &dyn Store, dir: &Path, shard: u32, attempt: &str) -> Committed {
    let totals = ShardTotals { videos_ok: 3, ..ShardTotals::default() };
    block_on(commit(output, RUN, shard, &AttemptId::unique(), ShardRows::merged(&parts(dir, shard, attempt), totals)))
        .unwrap()
}

fn seal_now(output: &dyn Store, shards: u32) -> RunSummary {
    block_on(seal(output, RUN, shards, STARTED)).unwrap()
}

fn is_published(key: &str) -> bool {
    !key.starts_with("_vidindex/")
}

#[test]
fn a_seal_publishes_what_is_committed_and_names_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    for output in [MemoryStore::directory("/index"), MemoryStore::bucket("s3://index/")] {
        commit_now(&output, dir.path(), 0, "a");
        commit_now(&output, dir.path(), 2, "a");
        let at_work = format!("_vidindex/runs/{RUN}/parts/000001/b/videos/dt=1/part.parquet");
        output.insert(&at_work, "still uploading");
        output.insert(&format!("_vidindex/runs/{RUN}/parts/000002/zombie/videos/dt=1/part.parquet"), "too late");

        let summary = seal_now(&output, 4);
        assert_eq!(summary.missing, [1, 3]);
        assert_eq!((summary.shards_total, summary.shards_committed), (4, 2));
        assert!(!summary.is_complete());
        assert_eq!(summary.tables[&Table::Videos], TableTotals { files: 3, rows: 9, size_bytes: 36 });
        assert_eq!(summary.tables[&Table::Persons], TableTotals::default());
        assert_eq!(summary.totals.videos_ok, 6);
        assert_eq!(summary.started_at, STARTED);
        assert!(summary.finished_at.is_some());
        assert_eq!(block_on(read_summary(&output, RUN)).unwrap().as_ref(), Some(&summary));
        let contents = output.contents();
        assert_eq!(contents.keys().filter(|key| is_published(key)).count(), 6);
        let left: Vec<_> = contents.keys().filter(|key| key.contains("/parts/")).collect();
        assert_eq!(left, [&at_work]);

        commit_now(&output, dir.path(), 1, "b");
        commit_now(&output, dir.path(), 3, "b");
        let summary = seal_now(&output, 4);
        assert!(summary.is_complete() && summary.is_flawless());
        assert_eq!(summary.tables[&Table::Actions].files, 5);
        let contents = output.contents();
        assert_eq!(contents.keys().filter(|key| is_published(key)).count(), 10);
        assert_eq!(contents.keys().filter(|key| key.contains("/parts/")).count(), 0);

        let again = seal_now(&output, 4);
        assert_eq!(RunSummary { sealed_at: summary.sealed_at, ..again }, summary);
    }
}

#[test]
fn videos_are_published_after_their_rows() {
    let dir = tempfile::tempdir().unwrap();
    for published in 0..5 {
        let output = MemoryStore::bucket("s3://index/");
        commit_now(&output, dir.path(), 0, "a");
        let faults = std::iter::repeat_n(None, published).chain([Some(WriteFault::OUTAGE)]);
        assert!(block_on(seal(&FaultyStore::new(output.clone()).failing_writes(faults), RUN, 1, STARTED)).is_err());
        let contents = output.contents();
        for video in contents.keys().filter(|key| key.starts_with("videos/")) {
            let actions = video.replace("videos/", "actions/model=m/");
            assert!(contents.contains_key(&actions), "{video} without {actions}");
        }
        assert_eq!(contents.keys().filter(|key| is_published(key)).count(), published.min(4));
    }
}

#[test]
fn a_committed_file_that_was_removed_is_reported_and_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for output in [MemoryStore::directory("/index"), MemoryStore::bucket("s3://index/")] {
        commit_now(&output, dir.path(), 0, "a");
        commit_now(&output, dir.path(), 1, "a");
        seal_now(&output, 2);
        let gone = part_key(Table::Videos, None, "dt=2026-11-01", RUN, 0);
        output.remove(&gone);
        let summary = seal_now(&output, 2);
        assert_eq!(summary.lost_parts, [gone]);
        assert!(!summary.is_complete() && summary.missing.is_empty());
        assert_eq!(summary.tables[&Table::Videos].files, 2);
    }
}

#[test]
fn videos_whose_rows_were_removed_are_not_published() {
    let dir = tempfile::tempdir().unwrap();
    for output in [MemoryStore::directory("/index"), MemoryStore::bucket("s3://index/")] {
        commit_now(&output, dir.path(), 0, "a");
        commit_now(&output, dir.path(), 1, "a");
        let actions = |key: &&String| key.contains("/parts/000000/") && key.contains("/actions/");
        let removed = output.contents().keys().find(actions).unwrap().clone();
        output.remove(&removed);
        let summary = seal_now(&output, 2);
        let lost = &summary.lost_parts;
        assert!(
            lost.iter().any(|key| key.starts_with("actions/")) && lost.iter().any(|key| key.starts_with("videos/"))
        );
        let published: Vec<_> = output.contents().into_keys().filter(|key| key.starts_with("videos/")).collect();
        assert!(published.iter().all(|key| key.ends_with("-000001.parquet")) && !published.is_empty(), "{published:?}");
        assert_eq!(summary.tables[&Table::Videos].files, published.len() as u64);
    }
}

#[test]
fn a_run_without_any_commit_seals_with_everything_missing() {
    let summary = seal_now(&MemoryStore::bucket("s3://index/"), 2);
    assert_eq!(summary.missing, [0, 1]);
    assert_eq!(summary.finished_at, None);
    assert!(seal_now(&MemoryStore::bucket("s3://index/"), 0).is_complete());
}

#[test]
fn records_beyond_the_plan_and_strange_files_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let output = MemoryStore::bucket("s3://index/");
    commit_now(&output, dir.path(), 1, "a");
    output.insert(&format!("_vidindex/runs/{RUN}/shards/notes.txt"), "mine");
    let before = output.contents();
    assert_eq!(seal_now(&output, 1).missing, [0]);
    let mut after = output.contents();
    after.remove(&summary_key(RUN));
    assert_eq!(after, before);
}

#[test]
fn an_unreadable_record_stops_the_seal_and_names_it() {
    let output = MemoryStore::bucket("s3://index/");
    output.insert(&format!("_vidindex/runs/{RUN}/shards/000000.json"), "{}");
    let error = block_on(seal(&output, RUN, 1, STARTED)).unwrap_err();
    assert!(error.to_string().contains("shards/000000.json"), "{error}");
}

/// A seal that lists early and writes its summary late must not leave a summary without what another seal published.
#[test]
fn the_slowest_of_two_seals_does_not_bring_back_an_old_summary() {
    let dir = tempfile::tempdir().unwrap();
    for pause in 0..40 {
        let output = MemoryStore::bucket("s3://index/");
        commit_now(&output, dir.path(), 0, "a");
        let mut slow: Task = Box::pin({
            let output = FaultyStore::new(output.clone());
            async move { drop(seal(&output, RUN, 2, STARTED).await) }
        });
        let mut over = false;
        for _ in 0..pause {
            over = over || poll(&mut slow);
        }
        commit_now(&output, dir.path(), 1, "b");
        if over {
            break;
        }
        seal_now(&output, 2);
        while !poll(&mut slow) {}
        assert_eq!(block_on(read_summary(&output, RUN)).unwrap().unwrap().missing, [0_u32; 0], "after {pause} steps");
    }
}

#[test]
fn a_runtime_may_move_commits_and_seals_between_threads() {
    fn is_send(_: impl Send) {}
    let output = MemoryStore::bucket("s3://index/");
    let (attempt, parts) = (AttemptId::unique(), []);
    is_send(seal(&output, RUN, 1, STARTED));
    is_send(commit(&output, RUN, 0, &attempt, ShardRows::merged(&parts, ShardTotals::default())));
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Runs one step. Returns whether it was the last.
fn poll(task: &mut Task) -> bool {
    let mut context = Context::from_waker(std::task::Waker::noop());
    matches!(task.as_mut().poll(&mut context), Poll::Ready(()))
}

const SHARDS: u32 = 2;
const ATTEMPTS: [&str; 2] = ["a", "b"];
const SEALS: usize = 2;
const TASKS: usize = SHARDS as usize * ATTEMPTS.len() + SEALS;

#[derive(Debug, Clone, Copy)]
enum Step {
    /// Run a number of steps of a task.
    Run(usize, u8),
    /// The task's machine dies.
    Crash(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        9 => (0..TASKS, 1_u8..20).prop_map(|(task, steps)| Step::Run(task, steps)),
        1 => (0..TASKS).prop_map(Step::Crash),
    ]
}

fn faults() -> impl Strategy<Value = Vec<Option<WriteFault>>> {
    let fault =
        prop_oneof![8 => Just(None), 1 => Just(Some(WriteFault::OUTAGE)), 1 => Just(Some(WriteFault::AnswerLost))];
    proptest::collection::vec(fault, 0..24)
}

/// Files of other runs and other files of this run, which must not be touched.
fn foreign() -> BTreeMap<String, String> {
    let keys = [
        "_vidindex/runs/20250101T000000000Z-000000/parts/000000/x/videos/dt=2026-11-01/part.parquet".to_owned(),
        "_vidindex/runs/20250101T000000000Z-000000/shards/000000.json".to_owned(),
        format!("_vidindex/runs/{RUN}0/parts/000000/x/videos/dt=2026-11-01/part.parquet"),
        format!("_vidindex/runs/{RUN}/job.json"),
        format!("_vidindex/runs/{RUN}/plan.parquet"),
        "videos/dt=2026-11-01/part-20250101T000000000Z-000000-000000.parquet".to_owned(),
        "notes.txt".to_owned(),
    ];
    keys.into_iter().map(|key| (key, "foreign".to_owned())).collect()
}

/// Each shard's published files must come from a single attempt, the one that its record names.
fn check_readers_view(output: &MemoryStore) {
    let contents = output.contents();
    for (key, text) in &foreign() {
        assert!(contents.get(key).is_some_and(|body| body == text), "{key} was touched");
    }
    for shard in 0..SHARDS {
        let ending = format!("part-{RUN}-{shard:06}.parquet");
        let published = contents.iter().filter(|(key, _)| is_published(key) && key.ends_with(&ending));
        let mut texts: Vec<_> = published.map(|(_, text)| text).collect();
        texts.dedup();
        assert!(texts.len() <= 1, "shard {shard} holds rows of {texts:?}");
        let record = contents.get(&format!("_vidindex/runs/{RUN}/shards/{shard:06}.json"));
        assert!(texts.is_empty() || record.is_some(), "shard {shard} was published before its commit");
    }
}

fn attempt_task(
    output: FaultyStore,
    shard: u32,
    parts: Vec<PartFile>,
    wins: std::rc::Rc<std::cell::Cell<u32>>,
) -> Task {
    Box::pin(async move {
        let attempt = AttemptId::unique();
        for _ in 0..3 {
            match commit(&output, RUN, shard, &attempt, ShardRows::merged(&parts, ShardTotals::default())).await {
                Ok(Committed::Ours) => return wins.set(wins.get() + 1),
                Ok(Committed::Theirs) => return,
                Err(_) => {}
            }
        }
    })
}

fn seal_task(output: FaultyStore) -> Task {
    Box::pin(async move {
        for _ in 0..2 {
            if seal(&output, RUN, SHARDS, STARTED).await.is_ok() {
                return;
            }
        }
    })
}

static SCRATCH: std::sync::LazyLock<(tempfile::TempDir, PathBuf)> = std::sync::LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    (dir, path)
});

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_row_is_published_once_despite_crashes_and_races(
        renames in any::<bool>(),
        faults in proptest::collection::vec(faults(), TASKS),
        steps in proptest::collection::vec(step(), 0..120),
    ) {
        let output = if renames { MemoryStore::directory("/index") } else { MemoryStore::bucket("s3://index/") };
        for (key, text) in foreign() {
            output.insert(&key, text);
        }
        let scratch = &SCRATCH.1;
        let wins: Vec<_> = (0..SHARDS).map(|_| std::rc::Rc::<std::cell::Cell<u32>>::default()).collect();
        let mut faults = faults.into_iter();
        let mut handle = || FaultyStore::new(output.clone()).failing_writes(faults.next().unwrap_or_default());
        let mut tasks: Vec<Option<Task>> = Vec::new();
        for shard in 0..SHARDS {
            for attempt in ATTEMPTS {
                let wins = std::rc::Rc::clone(&wins[shard as usize]);
                tasks.push(Some(attempt_task(handle(), shard, parts(scratch, shard, attempt), wins)));
            }
        }
        for _ in 0..SEALS {
            tasks.push(Some(seal_task(handle())));
        }

        for step in steps {
            match step {
                Step::Crash(task) => tasks[task] = None,
                Step::Run(task, steps) => {
                    for _ in 0..steps {
                        let Some(running) = &mut tasks[task] else { break };
                        if poll(running) {
                            tasks[task] = None;
                        }
                        check_readers_view(&output);
                    }
                }
            }
        }
        tasks.clear();
        for shard in 0..SHARDS {
            prop_assert!(wins[shard as usize].get() <= 1);
        }

        // The engine restarts what failed, and then the seal.
        for shard in 0..SHARDS {
            if !block_on(is_committed(&output, RUN, shard)).unwrap() {
                prop_assert_eq!(wins[shard as usize].get(), 0);
                prop_assert_eq!(commit_now(&output, scratch, shard, "c"), Committed::Ours);
            }
        }
        let summary = seal_now(&output, SHARDS);
        check_readers_view(&output);
        prop_assert!(summary.is_complete(), "{:?}", summary);
        let mut expected: Vec<String> = foreign().into_keys().collect();
        for shard in 0..SHARDS {
            expected.push(format!("_vidindex/runs/{RUN}/shards/{shard:06}.json"));
            expected.extend(parts(scratch, shard, "c").into_iter().map(|part| part.key));
        }
        expected.push(summary_key(RUN));
        expected.sort();
        prop_assert_eq!(output.contents().into_keys().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn a_plan_catches_up_on_what_unfinished_runs_of_its_kind_committed() {
    let dir = tempfile::tempdir().unwrap();
    let output = MemoryStore::bucket("s3://index/");
    let record = |fingerprint: &str| RunRecord {
        run_id: RUN.parse().unwrap(),
        created_at: STARTED,
        newest_row: None,
        version: String::new(),
        fingerprint: fingerprint.to_owned(),
        actions_model: None,
        persons_model: None,
        shards: 3,
        videos: 9,
        bytes: 9,
        job: crate::plan::testing::job(),
    };
    let text = serde_json::to_vec(&record("ours")).unwrap();
    block_on(output.put(&record::job_key(&RUN.parse().unwrap()), text.into())).unwrap();
    let published = || block_on(read_summary(&output, RUN)).unwrap().map(|summary| summary.shards_committed);
    block_on(catch_up(&output, RunKind::Index { fingerprint: "ours" }, STARTED)).unwrap();
    assert_eq!(published(), None, "nothing is committed");
    commit_now(&output, dir.path(), 0, "a");
    block_on(catch_up(&output, RunKind::Index { fingerprint: "another" }, STARTED)).unwrap();
    assert_eq!(published(), None, "another job's run");
    block_on(catch_up(&output, RunKind::Index { fingerprint: "ours" }, STARTED + chrono::TimeDelta::microseconds(1)))
        .unwrap();
    assert_eq!(published(), None, "an older one");
    block_on(catch_up(&output, RunKind::Index { fingerprint: "ours" }, STARTED)).unwrap();
    assert_eq!(published(), Some(1));
    commit_now(&output, dir.path(), 2, "a");
    block_on(catch_up(&output, RunKind::Index { fingerprint: "ours" }, STARTED)).unwrap();
    assert_eq!(published(), Some(2));
}
