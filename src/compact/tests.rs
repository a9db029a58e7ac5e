//! Compactions of an index in memory whose files are written as workers write them. The views show the same rows and plans
//! decide the same before and after, also if compactions are interrupted or run at the same time.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Int64Type, Schema, TimestampMicrosecondType};
use chrono::TimeDelta;
use futures::TryStreamExt;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;

use super::*;
use crate::plan::testing::job;
use crate::prune;
use crate::run::summary;
use crate::store::faulty::{FaultyStore, WriteFault};
use crate::store::memory::MemoryStore;
use crate::tables::current::{Age, Current, HistoryRow};
use crate::tables::read::optional_value;
use crate::tables::{ActionRow, PersonRow, ThumbnailRow, VideoRow, VideoStatus};
use crate::work::encode::ShardEncoder;
use crate::work::restore::Restorer;

/// A run's row of a video.
#[derive(Debug, Clone, Copy)]
struct Indexing {
    video: u32,
    status: VideoStatus,
}

/// A run that was sealed at midnight of its day in January. Its videos are in two shards and two partitions.
#[derive(Debug, Clone)]
struct Run {
    actions: bool,
    persons: bool,
    thumbnails: bool,
    whole: bool,
    videos: Vec<Indexing>,
}

fn ok(videos: impl IntoIterator<Item = u32>) -> Run {
    let videos = videos.into_iter().map(|video| Indexing { video, status: VideoStatus::Ok }).collect();
    Run { actions: true, persons: true, thumbnails: true, whole: true, videos }
}

fn partition(video: u32) -> &'static str {
    if video < 4 { "camera=a/dt=2020-01-01" } else { "camera=b/dt=2020-01-01" }
}

fn video_row(indexing: Indexing, n: usize, run: &Run, shard: u32) -> VideoRow {
    let good = matches!(indexing.status, VideoStatus::Ok | VideoStatus::Partial);
    let model = |has: bool, name: &str| (good && has).then(|| format!("{name}/{}", n % 2));
    let rows = |has: bool| if good && has { rows_of(indexing.video) } else { 0 };
    VideoRow {
        video_id: format!("{:032x}", indexing.video + 1).into(),
        uri: format!("s3://archive/{}.mp4", indexing.video).into(),
        etag: format!("etag {n}"),
        size_bytes: 1,
        status: indexing.status,
        duration_seconds: Some(1.0),
        segments: rows(run.actions),
        boxes: rows(run.persons),
        actions_model: model(run.actions, "a"),
        persons_model: model(run.persons, "p"),
        fingerprint: format!("{}{}{}", run.actions, run.persons, n % 2),
        run_id: run_id(n).into(),
        shard,
        indexed_at: DateTime::from_timestamp_micros(1000 * i64::try_from(n).unwrap()).unwrap(),
        ..VideoRow::default()
    }
}

/// Rows of a video in each of the other tables.
fn rows_of(video: u32) -> i64 {
    i64::from(video % 3) + 1
}

fn run_id(n: usize) -> String {
    format!("202001{:02}T000000000Z-{n:06}", n + 1)
}

async fn write_run(output: &MemoryStore, n: usize, run: &Run) {
    let run_id = run_id(n);
    for shard in 0..2 {
        let scratch = tempfile::tempdir().unwrap();
        let provenance = Provenance {
            run_id: run_id.clone(),
            shard,
            fingerprint: String::new(),
            actions_model: run.actions.then(|| format!("a/{}", n % 2)),
            persons_model: run.persons.then(|| format!("p/{}", n % 2)),
        };
        let mut encoder = ShardEncoder::new(scratch.path(), provenance);
        for indexing in run.videos.iter().filter(|indexing| indexing.video % 2 == shard) {
            let video = video_row(*indexing, n, run, shard);
            let (video_id, uri, run_id) = (video.video_id.clone(), video.uri.clone(), video.run_id.clone());
            // A failed video may have left rows.
            let rows = if indexing.status == VideoStatus::Deleted { 0 } else { rows_of(indexing.video) };
            let actions = (0..rows).filter(|_| run.actions).map(|segment| ActionRow {
                video_id: video_id.clone(),
                uri: uri.clone(),
                segment,
                start_seconds: segment as f64,
                end_seconds: segment as f64 + 1.0,
                frames: 1,
                top_label: Some(format!("label {n}").into()),
                top_score: None,
                top: Vec::new(),
                scores: None,
                embedding: (segment == 1).then(|| vec![0.5, n as f32]),
                run_id: run_id.clone(),
            });
            let persons = (0..rows).filter(|_| run.persons).map(|frame| PersonRow {
                video_id: video_id.clone(),
                uri: uri.clone(),
                segment: None,
                time_seconds: frame as f64,
                frame,
                r#box: 0,
                label: format!("label {n}").into(),
                x1: 0.0,
                y1: 0.0,
                x2: 0.0,
                y2: 0.0,
                confidence: 0.5,
                actions: None,
                track_id: Some(1),
                run_id: run_id.clone(),
            });
            let thumbnails = (0..rows).filter(|_| run.thumbnails).map(|frame| ThumbnailRow {
                video_id: video_id.clone(),
                uri: uri.clone(),
                segment: None,
                time_seconds: frame as f64,
                frame,
                width: i32::try_from(n).unwrap(),
                height: 1,
                jpeg: vec![1, 2, 3],
                run_id: run_id.clone(),
            });
            let path = partition(indexing.video);
            encoder.push_rows(path, &uri, &actions.collect::<Vec<_>>()).unwrap();
            encoder.push_rows(path, &uri, &persons.collect::<Vec<_>>()).unwrap();
            encoder.push_rows(path, &uri, &thumbnails.collect::<Vec<_>>()).unwrap();
            encoder.push(path, video).unwrap();
        }
        for part in encoder.finish().unwrap() {
            output.put_file(&part.key, &part.path).await.unwrap();
        }
    }
    let summary = RunSummary {
        schema_version: 1,
        run_id: run_id.clone(),
        tool_version: String::new(),
        shards_total: 2,
        shards_committed: 2,
        missing: if run.whole { vec![] } else { vec![1] },
        lost_parts: vec![],
        tables: BTreeMap::new(),
        totals: ShardTotals::default(),
        started_at: DateTime::UNIX_EPOCH,
        finished_at: None,
        sealed_at: format!("2020-01-{:02}T00:00:00Z", n + 1).parse().unwrap(),
    };
    output.put(&summary::summary_key(&run_id), serde_json::to_vec(&summary).unwrap().into()).await.unwrap();
}

/// A row of a table without the columns in which a copy differs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Shown {
    video_id: String,
    run_id: String,
    /// The folder of its file, and its other columns.
    rest: String,
}

/// Every row of a table, in the order of its files.
async fn rows(output: &MemoryStore, table: Table) -> Vec<(Shown, RecordBatch)> {
    let files: Vec<_> = output.list(&format!("{table}/")).try_collect().await.unwrap();
    let mut rows = Vec::new();
    for file in files {
        let folder = file.key.rsplit_once('/').unwrap().0.to_owned();
        let reader = ParquetRecordBatchReaderBuilder::try_new(output.get(&file.key).await.unwrap()).unwrap();
        let mut last = (String::new(), i64::MIN);
        for batch in reader.build().unwrap() {
            let batch = batch.unwrap();
            for at in 0..batch.num_rows() {
                let row = batch.slice(at, 1);
                let text = |name| value(&text_column(&row, name).unwrap(), 0).to_owned();
                let order = ["segment", "frame"].map(|name| {
                    let of_time = name == "frame" || table == Table::Actions;
                    row.column_by_name(name).filter(|_| of_time).map(|c| c.as_primitive::<Int64Type>().value(0))
                });
                let place = (text("uri"), order[0].or(order[1]).unwrap_or(0));
                assert!(place >= last, "{} is sorted", file.key);
                last = place;
                let kept: Vec<usize> = (0..row.num_columns())
                    .filter(|c| !["run_id", "shard", "indexed_at"].contains(&row.schema().field(*c).name().as_str()))
                    .collect();
                let rest = format!("{folder} {:?}", row.project(&kept).unwrap().columns());
                rows.push((Shown { video_id: text("video_id"), run_id: text("run_id"), rest }, row));
            }
        }
    }
    rows
}

/// The rows that the views show, and for each which tables have current rows of the same run.
async fn views(output: &MemoryStore) -> Vec<(Table, String, Vec<bool>)> {
    let videos = rows(output, Table::Videos).await;
    let mut histories: BTreeMap<&str, Vec<HistoryRow<'_>>> = BTreeMap::new();
    for (shown, row) in &videos {
        let indexed_at = row.column_by_name("indexed_at").unwrap().as_primitive::<TimestampMicrosecondType>().value(0);
        let [status, actions, persons] =
            ["status", "actions_model", "persons_model"].map(|name| text_column(row, name).unwrap());
        let kind = RowKind::of(status.value(0), optional_value(&actions, 0), optional_value(&persons, 0));
        let age = Age { indexed_at, run_id: &shown.run_id };
        histories.entry(&shown.video_id).or_default().push(HistoryRow { age, kind, fingerprint: 0 });
    }
    let current: BTreeMap<_, _> = histories.iter().map(|(video, history)| (*video, Current::of(history))).collect();
    let mut views = Vec::new();
    for table in Table::ALL {
        let of = if table == Table::Videos { videos.clone() } else { rows(output, table).await };
        for (shown, row) in of {
            let run = |table| current.get(shown.video_id.as_str()).and_then(|current| current.run(table));
            let failed = table == Table::Videos && text_column(&row, "status").unwrap().value(0) == "failed";
            if run(table) == Some(&shown.run_id) && !failed {
                let together = Table::ALL.map(|other| run(other) == run(table)).to_vec();
                views.push((table, shown.rest.clone(), together));
            }
        }
    }
    views.sort();
    views
}

/// By (video, fingerprint): the row that decides what a plan does, and whether it is in use. Without a row the plan indexes the
/// video.
async fn plans(output: &MemoryStore) -> BTreeMap<(String, String), (String, bool)> {
    let mut known = Vec::new();
    let mut good: BTreeMap<String, i64> = BTreeMap::new();
    for (shown, row) in rows(output, Table::Videos).await {
        let text = |name| value(&text_column(&row, name).unwrap(), 0).to_owned();
        let at = row.column_by_name("indexed_at").unwrap().as_primitive::<TimestampMicrosecondType>().value(0);
        if text("status") != "failed" {
            let latest = good.entry(shown.video_id.clone()).or_insert(at);
            *latest = at.max(*latest);
        }
        known.push((at, shown.video_id, text("fingerprint"), text("status"), text("etag")));
    }
    known.sort();
    let fingerprints: BTreeSet<_> = known.iter().map(|row| row.2.clone()).collect();
    let mut plans = BTreeMap::new();
    for (at, video, fingerprint, status, etag) in known {
        let in_use = good.get(&video).is_none_or(|good| at >= *good);
        for of in fingerprints.iter().filter(|of| **of == fingerprint || status == "deleted") {
            plans.insert((video.clone(), of.clone()), (format!("{status} {etag}"), in_use));
        }
    }
    plans.retain(|_, (decision, _)| !decision.starts_with("deleted"));
    plans
}

async fn find_now(output: &MemoryStore) -> Compaction {
    find(output, Utc::now(), TARGET_BYTES).await.unwrap()
}

async fn compact(output: &MemoryStore) -> Compacted {
    catch_up(output, Utc::now()).await.unwrap();
    let store: Arc<dyn Store> = Arc::new(output.clone());
    find_now(output).await.run(&store, &job()).await.unwrap()
}

async fn prune_at(output: &MemoryStore, now: DateTime<Utc>) {
    prune::find(output, now).await.unwrap().remove(output).await.unwrap();
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn a_run() -> impl Strategy<Value = Run> {
    let status = prop_oneof![
        4 => Just(VideoStatus::Ok), 1 => Just(VideoStatus::Partial), 2 => Just(VideoStatus::Failed),
        1 => Just(VideoStatus::Deleted),
    ];
    let videos = prop::collection::btree_map(0_u32..7, status, 0..7);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), prop::bool::weighted(0.9));
    (flags, videos).prop_map(|((actions, persons, thumbnails, whole), videos)| Run {
        actions,
        persons,
        thumbnails,
        whole,
        videos: videos.into_iter().map(|(video, status)| Indexing { video, status }).collect(),
    })
}

async fn written(runs: &[Run]) -> MemoryStore {
    let output = MemoryStore::bucket("s3://index/");
    for (n, run) in runs.iter().enumerate() {
        write_run(&output, n, run).await;
    }
    output
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn views_and_plans_are_the_same_after_a_compaction_and_after_a_prune(
        before in prop::collection::vec(a_run(), 0..6), after in a_run(),
    ) {
        wait(async {
            let output = written(&before).await;
            let (shown, planned) = (views(&output).await, plans(&output).await);
            compact(&output).await;
            assert_eq!(views(&output).await, shown);
            let decisions = |plans: &BTreeMap<(String, String), (String, bool)>, all: bool| {
                let plans = plans.iter().filter(|(_, (_, in_use))| all || *in_use);
                plans.map(|(key, (decision, _))| (key.clone(), decision.clone())).collect::<BTreeMap<_, _>>()
            };
            assert_eq!(decisions(&plans(&output).await, true), decisions(&planned, true));
            assert!(find_now(&output).await.is_empty());
            let later = Utc::now() + TimeDelta::days(2);
            assert!(find(&output, later, TARGET_BYTES).await.unwrap().is_empty());

            for _ in 0..3 {
                prune_at(&output, Utc::now()).await;
                assert_eq!(views(&output).await, shown);
                assert_eq!(decisions(&plans(&output).await, false), decisions(&planned, false));
            }
            // Later rows are merged with merged ones.
            write_run(&output, before.len(), &after).await;
            let shown = views(&output).await;
            let store: Arc<dyn Store> = Arc::new(output.clone());
            find(&output, later, TARGET_BYTES).await.unwrap().run(&store, &job()).await.unwrap();
            prune_at(&output, later).await;
            assert_eq!(views(&output).await, shown);
        });
    }
}

/// The rows of each table that run `n` wrote of a video, without the columns in which a copy differs.
async fn rows_written(output: &MemoryStore, video_id: &str, n: usize) -> BTreeMap<Table, Vec<String>> {
    let mut written: BTreeMap<Table, Vec<String>> = BTreeMap::new();
    for table in [Table::Actions, Table::Persons, Table::Thumbnails] {
        let of_run = rows(output, table).await.into_iter().map(|(shown, _)| shown);
        for shown in of_run.filter(|shown| shown.video_id == video_id && shown.run_id == run_id(n)) {
            written.entry(table).or_default().push(shown.rest);
        }
    }
    written
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Some videos are deleted, then runs are merged and pruned in any order, then one video is back.
    #[test]
    fn a_video_that_is_back_gets_all_rows_of_an_earlier_run_or_none(
        before in prop::collection::vec(a_run(), 1..5),
        deleted in prop::collection::btree_set(0_u32..7, 0..8),
        compacts in prop::collection::vec(any::<bool>(), 0..4),
        choice in any::<prop::sample::Index>(),
    ) {
        wait(async {
            let (output, originals) = (written(&before).await, written(&before).await);
            let goes = |video| Indexing { video, status: VideoStatus::Deleted };
            let marks = Run { actions: false, persons: false, thumbnails: false, ..ok([]) };
            write_run(&output, before.len(), &Run { videos: deleted.into_iter().map(goes).collect(), ..marks }).await;
            for compacts in &compacts {
                if *compacts {
                    compact(&output).await;
                } else {
                    prune_at(&output, Utc::now()).await;
                }
            }
            let all = rows(&output, Table::Videos).await;
            let is_good = |row: &RecordBatch| ["ok", "partial"].contains(&text_column(row, "status").unwrap().value(0));
            let good: Vec<_> = all.iter().filter(|(_, row)| is_good(row)).collect();
            if good.is_empty() {
                return;
            }
            let (shown, row) = choice.get(&good);
            let text = |name| text_column(row, name).unwrap().value(0).to_owned();
            let n: usize = text("etag").strip_prefix("etag ").unwrap().parse().unwrap();
            let video = u32::from_str_radix(&shown.video_id, 16).unwrap() - 1;
            let shard = row.column_by_name("shard").unwrap().as_primitive::<Int64Type>().value(0);
            let place = format!("{}/{}", partition(video), part_name(&shown.run_id, u32::try_from(shard).unwrap()));

            let now = before.len() + 2 + n % 2;
            let indexing = Indexing { video, status: VideoStatus::Ok };
            let mut back = video_row(indexing, now, &before[n], 0);
            (back.etag, back.fingerprint) = (text("etag"), text("fingerprint"));
            (back.actions_model, back.persons_model) =
                (before[n].actions.then(|| format!("a/{}", n % 2)), before[n].persons.then(|| format!("p/{}", n % 2)));
            let store: Arc<dyn Store> = Arc::new(output.clone());
            let Some(copies) = Restorer::new(store).copies(&back, &place).await.unwrap() else {
                assert!(compacts.contains(&false), "nothing was pruned");
                return;
            };
            let provenance = Provenance {
                run_id: run_id(now),
                shard: 0,
                fingerprint: String::new(),
                actions_model: back.actions_model.clone(),
                persons_model: back.persons_model.clone(),
            };
            let scratch = tempfile::tempdir().unwrap();
            let mut encoder = ShardEncoder::new(scratch.path(), provenance);
            encoder.push_copies(partition(video), &back.uri, &copies.tables).unwrap();
            for part in encoder.finish().unwrap() {
                output.put_file(&part.key, &part.path).await.unwrap();
            }
            let of_video = format!("\"{}\"", back.uri);
            let mut current: BTreeMap<Table, Vec<String>> = BTreeMap::new();
            for (table, rest, _) in views(&output).await.into_iter().filter(|(_, rest, _)| rest.contains(&of_video)) {
                current.entry(table).or_default().push(rest);
            }
            assert_eq!(current.remove(&Table::Videos).unwrap().len(), 1);
            let expected = rows_written(&originals, &shown.video_id, n).await;
            for (table, had) in [(Table::Actions, before[n].actions), (Table::Persons, before[n].persons)] {
                if had {
                    assert_eq!(current.get(&table), expected.get(&table), "{table}");
                }
            }
            // Plans do not ask for thumbnails, which can be pruned alone.
            if let Some(pictures) = current.get(&Table::Thumbnails) {
                assert_eq!(Some(pictures), expected.get(&Table::Thumbnails));
            }
        });
    }
}

/// Two partitions with several files each; actions and persons of different runs; a failure and a deletion.
fn several() -> [Run; 5] {
    let status = |video, status| Indexing { video, status };
    [
        ok(0..7),
        Run { persons: false, thumbnails: false, ..ok([0, 1, 4]) },
        Run { actions: false, ..ok([1, 2]) },
        Run { videos: vec![status(2, VideoStatus::Failed), status(3, VideoStatus::Deleted)], ..ok([]) },
        ok([6]),
    ]
}

fn files(output: &MemoryStore, table: &str) -> Vec<String> {
    output.contents().into_keys().filter(|key| key.starts_with(&format!("{table}/"))).collect()
}

#[test]
fn the_files_of_a_partition_become_one_of_each_table_and_model_and_run() {
    wait(async {
        let output = written(&several()).await;
        let shown = views(&output).await;
        let text = find_now(&output).await.to_string();
        assert!(text.starts_with("videos: 10 files, ") && text.contains(", into 3\nactions: "), "{text}");
        assert_eq!(output.contents().len(), written(&several()).await.contents().len(), "a look writes nothing");
        let text = compact(&output).await.to_string();
        assert!(text.starts_with("videos: 10 files, ") && text.contains(", into 3 files, "), "{text}");
        prune_at(&output, Utc::now()).await;
        assert_eq!(views(&output).await, shown);
        // One run has the latest rows of both partitions, another those of which only actions or persons are current. In the
        // second partition, the latter are half of the rows of a single file, which stays.
        let left = format!("videos/camera=b/dt=2020-01-01/part-{}-000000.parquet", run_id(0));
        let after = files(&output, "videos");
        assert!(after.len() == 4 && after.contains(&left), "{after:?}");
        let runs = record::runs(&output).await.unwrap();
        assert_eq!(runs.len(), 3, "{runs:?}");
        for run in &runs[1..] {
            let record = record::read_record(&output, run).await.unwrap();
            assert_eq!(record.kind(), RunKind::Merge);
            let summary = summary::read_summary(&output, run.as_str()).await.unwrap().unwrap();
            assert!(summary.is_complete() && summary.totals.videos() == record.videos, "{summary:?}");
            let status = crate::status::of_run(&output, run).await.unwrap();
            assert!(status.line().ends_with("videos, merged"), "{}", status.line());
            assert!(record::read(&output, run).await.unwrap_err().to_string().contains("nothing to index"));
        }
        assert!(output.contents().keys().all(|key| !key.contains("/parts/")), "{:?}", output.contents().keys());
    });
}

#[test]
fn a_compaction_that_is_interrupted_anywhere_is_completed_by_the_next() {
    wait(async {
        let whole = written(&several()).await;
        let shown = views(&whole).await;
        for writes in 0.. {
            let fault = [Some(WriteFault::OUTAGE), Some(WriteFault::AnswerLost)][writes % 2];
            let output = whole.copied();
            let mut faults = vec![None; writes];
            faults.extend([fault; 200]);
            let failing: Arc<dyn Store> = Arc::new(FaultyStore::new(output.clone()).failing_writes(faults));
            let done = find_now(&output).await.run(&failing, &job()).await.is_ok();
            assert_eq!(views(&output).await, shown, "after {writes} writes and {fault:?}");
            if done {
                assert!(writes > 40, "{writes}");
                return;
            }
            compact(&output).await;
            assert_eq!(views(&output).await, shown, "after {writes} writes and {fault:?}");
            assert!(find_now(&output).await.is_empty());
            // A day later, prune removes what the interrupted compaction left.
            prune_at(&output, Utc::now() + TimeDelta::days(2)).await;
            assert_eq!(views(&output).await, shown);
            assert_eq!(files(&output, "videos").len(), 4, "after {writes} writes and {fault:?}");
            assert_eq!(record::runs(&output).await.unwrap().len(), output_runs(&output).len());
        }
    });
}

/// Runs that have rows in the tables.
fn output_runs(output: &MemoryStore) -> BTreeSet<String> {
    let names = files(output, "videos").into_iter().map(|key| key.rsplit_once("part-").unwrap().1.to_owned());
    names.map(|name| name.rsplit_once('-').unwrap().0.to_owned()).collect()
}

#[test]
fn two_compactions_at_once_change_nothing_that_is_shown_and_are_merged_a_day_later() {
    wait(async {
        let output = written(&several()).await;
        let shown = views(&output).await;
        let store: Arc<dyn Store> = Arc::new(FaultyStore::new(output.clone()));
        let (one, other) = (find_now(&output).await, find_now(&output).await);
        let job = job();
        let (one, other) = futures::join!(one.run(&store, &job), other.run(&store, &job));
        assert!(one.is_ok() && other.is_ok());
        assert_eq!(views(&output).await, shown);
        prune_at(&output, Utc::now()).await;
        assert_eq!(files(&output, "videos").len(), 7);
        let later = Utc::now() + TimeDelta::days(2);
        find(&output, later, TARGET_BYTES).await.unwrap().run(&store, &job).await.unwrap();
        prune_at(&output, later).await;
        assert_eq!(views(&output).await, shown);
        assert_eq!(files(&output, "videos").len(), 4);
    });
}

/// For example if another tool rewrote a table, or an operator moved a broken file away. A copy without these rows would hide
/// them permanently.
#[test]
fn videos_whose_rows_lie_elsewhere_are_not_copied() {
    wait(async {
        for table in ["actions", "persons"] {
            let output = written(&several()).await;
            let moved: Vec<_> = files(&output, table).into_iter().filter(|key| key.contains(&run_id(0))).collect();
            for key in &moved {
                let elsewhere = key.replace("part-", "merged-");
                let body = output.get(key).await.unwrap();
                output.put(&elsewhere, body).await.unwrap();
                output.remove(key);
            }
            let shown = views(&output).await;
            compact(&output).await;
            assert_eq!(views(&output).await, shown, "{table}");
            prune_at(&output, Utc::now()).await;
            assert_eq!(views(&output).await, shown, "{table}");
        }
    });
}

/// Its originals, and the later rows that hid them, may have been removed.
#[test]
fn commits_of_a_compaction_of_a_day_ago_are_no_longer_published() {
    wait(async {
        let output = written(&several()).await;
        let shown = views(&output).await;
        let names = |output: &MemoryStore| files(output, "videos");
        let before = names(&output);
        // The first publication and all later writes fail.
        let store: Arc<dyn Store> = Arc::new(output.clone());
        for writes in 0.. {
            let mut faults = vec![None; writes];
            faults.extend([Some(WriteFault::OUTAGE); 200]);
            let failing: Arc<dyn Store> = Arc::new(FaultyStore::new(output.clone()).failing_writes(faults));
            assert!(find_now(&output).await.run(&failing, &job()).await.is_err());
            if output.contents().keys().filter(|key| key.contains("/shards/")).count() > 0 {
                break;
            }
        }
        assert_eq!(names(&output), before);
        catch_up(&output, Utc::now() + TimeDelta::days(1)).await.unwrap();
        assert_eq!(names(&output), before, "too old");
        catch_up(&output, Utc::now()).await.unwrap();
        assert!(names(&output).len() > before.len());
        assert_eq!(views(&output).await, shown);
        find_now(&output).await.run(&store, &job()).await.unwrap();
        assert_eq!(views(&output).await, shown);
    });
}

#[test]
fn large_files_lone_files_and_young_runs_are_left_alone() {
    wait(async {
        let output = written(&[ok([0, 1])]).await;
        let largest = {
            let all: Vec<_> = output.list("").try_collect().await.unwrap();
            all.into_iter().map(|file| file.size_bytes).max().unwrap()
        };
        let is_empty = async |target| find(&output, Utc::now(), target).await.unwrap().is_empty();
        assert!(is_empty(largest / 2).await, "each is large");
        assert!(!is_empty(largest * 4).await);
        let at_once = "2020-01-01T12:00:00Z".parse().unwrap();
        assert!(find(&output, at_once, TARGET_BYTES).await.unwrap().is_empty(), "sealed half a day ago");

        let alone = written(&[ok([0, 2])]).await;
        assert!(find_now(&alone).await.is_empty(), "one shard, one partition");
        write_run(&alone, 1, &ok([0])).await;
        compact(&alone).await;
        prune_at(&alone, Utc::now()).await;
        assert_eq!(files(&alone, "videos").len(), 1);

        // The rows of the first run are superseded, and the second run is not sealed completely.
        let output = written(&[ok([0, 2])]).await;
        let newer = Run { whole: false, ..ok([0, 2]) };
        write_run(&output, 1, &newer).await;
        assert!(find_now(&output).await.is_empty(), "none is in use");
    });
}

/// Rewrites the first file of persons as another version of vidindex wrote it.
async fn rewrite(output: &MemoryStore, change: impl Fn(RecordBatch) -> RecordBatch) {
    let key = files(output, "persons").remove(0);
    let reader = ParquetRecordBatchReaderBuilder::try_new(output.get(&key).await.unwrap()).unwrap().build().unwrap();
    let batches: Vec<_> = reader.map(|batch| change(batch.unwrap())).collect();
    let mut writer = parquet::arrow::ArrowWriter::try_new(Vec::new(), batches[0].schema(), None).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    output.put(&key, writer.into_inner().unwrap().into()).await.unwrap();
}

#[test]
fn columns_of_an_older_version_become_null_and_unknown_columns_of_a_newer_one_are_refused() {
    wait(async {
        let output = written(&several()).await;
        let shown = views(&output).await;
        let without = |mut batch: RecordBatch| {
            batch.remove_column(batch.schema().index_of("actions").unwrap());
            batch
        };
        rewrite(&output, without).await;
        compact(&output).await;
        assert_eq!(views(&output).await, shown);

        let output = written(&several()).await;
        let with = |batch: RecordBatch| {
            let more = batch.columns().iter().cloned().chain([batch.column(0).clone()]);
            let fields = batch.schema().fields().iter().map(|field| (**field).clone()).collect::<Vec<_>>();
            let fields = fields.into_iter().chain([arrow::datatypes::Field::new("mood", DataType::Utf8, true)]);
            RecordBatch::try_new(Arc::new(Schema::new(fields.collect::<Vec<_>>())), more.collect()).unwrap()
        };
        rewrite(&output, with).await;
        let shown = views(&output).await;
        let store: Arc<dyn Store> = Arc::new(output.clone());
        let error = find_now(&output).await.run(&store, &job()).await.unwrap_err().to_string();
        assert!(error.contains("persons/model=p%2F0/") && error.contains("a column `mood`, which"), "{error}");
        assert_eq!(views(&output).await, shown);
    });
}
