//! The rule for which rows are current is implemented twice, in Rust and in SQL. For random histories, DuckDB's views
//! must show the rows that the Rust function selects.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use chrono::DateTime;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use vidindex::tables::current::{Age, Current, HistoryRow, RowKind};
use vidindex::tables::{ActionRow, PersonRow, Provenance, Table, ThumbnailRow, VideoRow, VideoStatus};
use vidindex::work::encode::ShardEncoder;

use crate::support;
use crate::support::said;

const VIDEOS: usize = 400;

/// Runs that index videos. Compactions have higher numbers, so they are later.
const INDEXING_RUNS: u32 = 8;
const COMPACTIONS: u32 = 3;

/// What one run wrote for a video.
#[derive(Debug, Clone)]
struct Row {
    run: u32,
    /// In microseconds since the Unix epoch.
    indexed_at: i64,
    status: VideoStatus,
    actions: bool,
    persons: bool,
    etag: u8,
    fingerprint: u8,
}

/// What a compaction does with a video: which good row it copies, and whether it copies a failure too.
type Copies = Option<(prop::sample::Index, bool)>;

fn indexed() -> impl Strategy<Value = Row> {
    let status = prop_oneof![
        4 => Just(VideoStatus::Ok),
        1 => Just(VideoStatus::Partial),
        2 => Just(VideoStatus::Failed),
        1 => Just(VideoStatus::Deleted),
    ];
    // Few distinct times, so that many are equal. The order of runs is independent of them.
    (status, 0_i64..5, any::<bool>(), any::<bool>(), 0_u8..2, 0_u8..2).prop_map(
        |(status, indexed_at, actions, persons, etag, fingerprint)| Row {
            run: 0,
            indexed_at,
            status,
            actions,
            persons,
            etag,
            fingerprint,
        },
    )
}

/// The rows of one video: at most one per run, except that a compaction may copy both a good row and a failure.
fn history() -> impl Strategy<Value = Vec<Row>> {
    let indexed = prop::collection::btree_map(0..INDEXING_RUNS, indexed(), 1..6);
    let copies = prop::collection::vec(prop::option::of((any::<prop::sample::Index>(), any::<bool>())), 3);
    (indexed, copies).prop_map(|(indexed, compactions): (BTreeMap<u32, Row>, Vec<Copies>)| {
        let mut rows: Vec<_> = indexed.into_iter().map(|(run, row)| Row { run, ..row }).collect();
        for (run, copies) in (INDEXING_RUNS..).zip(compactions) {
            let Some((choice, failures)) = copies else { continue };
            let (failed, good): (Vec<_>, Vec<_>) =
                rows.iter().cloned().partition(|row| row.status == VideoStatus::Failed);
            let copied = (!good.is_empty()).then(|| choice.get(&good));
            let copied = copied.into_iter().chain(failed.last().filter(|_| failures));
            rows.extend(
                copied.map(|row| Row { run, indexed_at: row.indexed_at + 1, ..row.clone() }).collect::<Vec<_>>(),
            );
        }
        rows
    })
}

fn run_id(run: u32) -> String {
    format!("20260101T0000000{run:02}Z-{:06}", 99 - run)
}

fn video_id(video: usize) -> String {
    format!("{video:032x}")
}

impl Row {
    fn model(&self, table: Table) -> Option<&'static str> {
        let indexed = matches!(self.status, VideoStatus::Ok | VideoStatus::Partial);
        match table {
            Table::Actions => (indexed && self.actions).then_some("a"),
            Table::Persons => (indexed && self.persons).then_some("p"),
            Table::Videos | Table::Thumbnails => None,
        }
    }

    /// Number of rows in a table. A failed video may have left rows, which compactions do not copy. A deletion has
    /// none.
    fn rows_in(&self, table: Table) -> i64 {
        let has_rows = match (table, self.status) {
            (Table::Videos, _) => return 1,
            (_, VideoStatus::Deleted) => false,
            (_, VideoStatus::Failed) => self.run < INDEXING_RUNS,
            (Table::Thumbnails, _) => true,
            (Table::Actions | Table::Persons, _) => self.model(table).is_some(),
        };
        if has_rows { i64::from(self.run % 2) + 1 } else { 0 }
    }

    fn video_row(&self, video: usize, shard: u32) -> VideoRow {
        VideoRow {
            video_id: video_id(video).into(),
            uri: format!("s3://archive/{video:04}.mp4").into(),
            etag: self.etag.to_string(),
            size_bytes: 1,
            status: self.status,
            actions_model: self.model(Table::Actions).map(str::to_owned),
            persons_model: self.model(Table::Persons).map(str::to_owned),
            fingerprint: self.fingerprint.to_string(),
            run_id: run_id(self.run).into(),
            shard,
            indexed_at: DateTime::from_timestamp_micros(self.indexed_at).unwrap(),
            ..VideoRow::default()
        }
    }

    fn push(&self, encoder: &mut ShardEncoder, video: usize, shard: u32) {
        let row = self.video_row(video, shard);
        let (video_id, uri, run_id) = (row.video_id.clone(), row.uri.clone(), row.run_id.clone());
        let actions = (0..self.rows_in(Table::Actions)).map(|segment| ActionRow {
            video_id: video_id.clone(),
            uri: uri.clone(),
            segment,
            start_seconds: segment as f64,
            end_seconds: segment as f64 + 1.0,
            frames: 1,
            top_label: None,
            top_score: None,
            top: Vec::new(),
            scores: None,
            embedding: None,
            run_id: run_id.clone(),
        });
        let persons = (0..self.rows_in(Table::Persons)).map(|frame| PersonRow {
            video_id: video_id.clone(),
            uri: uri.clone(),
            segment: None,
            time_seconds: frame as f64,
            frame,
            r#box: 0,
            label: "person".into(),
            x1: 0.0,
            y1: 0.0,
            x2: 1.0,
            y2: 1.0,
            confidence: 0.5,
            actions: None,
            track_id: None,
            run_id: run_id.clone(),
        });
        let thumbnails = (0..self.rows_in(Table::Thumbnails)).map(|frame| ThumbnailRow {
            video_id: video_id.clone(),
            uri: uri.clone(),
            segment: None,
            time_seconds: frame as f64,
            frame,
            width: 1,
            height: 1,
            jpeg: vec![1],
            run_id: run_id.clone(),
        });
        let partition = "dt=1970-01-01";
        encoder.push_rows(partition, &uri, &actions.collect::<Vec<_>>()).unwrap();
        encoder.push_rows(partition, &uri, &persons.collect::<Vec<_>>()).unwrap();
        encoder.push_rows(partition, &uri, &thumbnails.collect::<Vec<_>>()).unwrap();
        encoder.push(partition, row).unwrap();
    }
}

/// Writes the rows of each run: good rows in shard 0, failures in shard 1.
fn write(index: &Path, histories: &[Vec<Row>]) {
    for run in 0..INDEXING_RUNS + COMPACTIONS {
        for shard in 0..2 {
            let scratch = tempfile::tempdir().unwrap();
            let provenance = Provenance {
                run_id: run_id(run),
                shard,
                fingerprint: String::new(),
                actions_model: Some("a".to_owned()),
                persons_model: Some("p".to_owned()),
            };
            let mut encoder = ShardEncoder::new(scratch.path(), provenance);
            for (video, history) in histories.iter().enumerate() {
                let of_shard = |row: &&Row| row.run == run && u32::from(row.status == VideoStatus::Failed) == shard;
                history.iter().filter(of_shard).for_each(|row| row.push(&mut encoder, video, shard));
            }
            for part in encoder.finish().unwrap() {
                let path = index.join(&part.key);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::copy(&part.path, path).unwrap();
            }
        }
    }
}

/// The rows that views show: (table, video, run, number of rows).
type Shown = BTreeSet<(String, String, String, i64)>;

/// The rows that the views must show according to the Rust function.
fn expected(video: usize, history: &[Row]) -> Shown {
    let runs: Vec<_> = history.iter().map(|row| run_id(row.run)).collect();
    let rows = history.iter().zip(&runs).map(|(row, run_id)| HistoryRow {
        age: Age { indexed_at: row.indexed_at, run_id },
        kind: RowKind::of(row.status.as_str(), row.model(Table::Actions), row.model(Table::Persons)),
        fingerprint: u32::from(row.fingerprint),
    });
    let current = Current::of(&rows.collect::<Vec<_>>());
    let mut shown = Shown::new();
    for table in Table::ALL {
        let Some(run) = current.run(table) else { continue };
        let of_run = history.iter().zip(&runs).filter(|(_, id)| *id == run).map(|(row, _)| row);
        let hidden = |row: &&Row| table == Table::Videos && row.status == VideoStatus::Failed;
        let rows = of_run.filter(|row| !hidden(row)).map(|row| row.rows_in(table)).sum();
        shown.insert((table.to_string(), video_id(video), run.to_owned(), rows));
    }
    shown
}

/// The rows that the views of `schemas/duckdb.sql` show.
fn queried(python: &Path, index: &Path) -> Shown {
    let script = "
import duckdb, json, sys
views, index = sys.argv[1:]
con = duckdb.connect()
con.execute('SET VARIABLE index = ' + repr(index))
con.execute(open(views).read())
shown = []
for table in ['videos', 'actions', 'persons', 'thumbnails']:
    con.execute(f'SELECT video_id, run_id, count(*) FROM current_{table} GROUP BY ALL')
    shown += [[table, *row] for row in con.fetchall()]
print(json.dumps(shown))
";
    let views = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/duckdb.sql");
    let output = Command::new(python).args(["-c", script, views, index.to_str().unwrap()]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn duckdb_and_rust_select_the_same_current_rows_of_random_histories() {
    let Some(python) = support::python() else { return };
    let mut runner = TestRunner::default();
    let histories: Vec<_> = (0..VIDEOS).map(|_| history().new_tree(&mut runner).unwrap().current()).collect();
    let index = tempfile::tempdir().unwrap();
    write(index.path(), &histories);
    let mut by_video: BTreeMap<String, Shown> = BTreeMap::new();
    for shown in queried(&python, index.path()) {
        by_video.entry(shown.1.clone()).or_default().insert(shown);
    }
    let mut total = 0;
    for (video, history) in histories.iter().enumerate() {
        let shown = by_video.remove(&video_id(video)).unwrap_or_default();
        total += shown.len();
        assert_eq!(shown, expected(video, history), "{history:#?}");
    }
    assert!(by_video.is_empty() && total > VIDEOS, "{total} {by_video:?}");
}
