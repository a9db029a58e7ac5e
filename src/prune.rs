//! Pruning: removes files without rows in use (`tables/current.rs` says which are), the state of runs that have no files left,
//! and what interrupted attempts left a week ago.
//!
//! Otherwise, runs that are not sealed completely, or were sealed less than a day ago, are left alone. So are files that vidindex
//! did not name.

use std::collections::BTreeMap;
use std::fmt;

use bytesize::ByteSize;
use chrono::{DateTime, TimeDelta, Utc};
use futures::TryStreamExt;

use crate::error::Result;
use crate::in_use::{self, Rows, place};
use crate::plan::counted;
use crate::run::commit::uncommitted_parts;
use crate::run::{RUNS_PREFIX, RunId, summary};
use crate::store::{ObjectMeta, Store};
use crate::tables::Table;
use crate::tables::current::TableSet;

/// Runs that a message names.
const SHOWN_MAX: usize = 10;

/// How long the files of an attempt that did not commit are kept after the last of them was written: other attempts take over
/// what it saved.
const LEFTOVERS_KEPT: TimeDelta = TimeDelta::days(7);

/// What can be removed. Nothing is removed before [`Prunable::remove`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prunable {
    /// Files of the tables, in no particular order.
    files: Vec<(Table, ObjectMeta)>,
    /// Runs that have no files after that.
    runs: Vec<RunId>,
    /// The keys of these runs' state.
    state: Vec<String>,
    /// Files of attempts at shards of other runs that nobody has continued.
    leftovers: Vec<ObjectMeta>,
}

/// Finds what can be removed from the output at the time `now`.
///
/// # Errors
/// The output refused, or its `videos` table cannot be read.
pub async fn find(output: &dyn Store, now: DateTime<Utc>) -> Result<Prunable> {
    let settled = in_use::settled_runs(output, now).await?;
    let rows = Rows::read(output, in_use::COLUMNS, "nothing was removed: repair the file or move it away").await?;
    let mut used = vec![TableSet::default(); rows.files.len()];
    rows.rows.iter().for_each(|row| used[row.file as usize].extend(row.used));

    let mut beside = in_use::files_beside(output).await?;
    let mut files_of_run: BTreeMap<RunId, u64> = BTreeMap::new();
    for (place, files) in &beside {
        let Some(run) = in_use::run_of(place) else { continue };
        *files_of_run.entry(run).or_default() += files.len() as u64;
    }
    let mut removed = Vec::new();
    for (object, used) in rows.files.into_iter().map(|file| file.object).zip(used) {
        let Some((place, run)) = place(Table::Videos, &object.key) else { continue };
        *files_of_run.entry(run.clone()).or_default() += 1;
        if !settled.contains(&run) {
            continue;
        }
        let unused = |table: &Table| !used.contains(*table);
        let others = beside.remove(place).unwrap_or_default();
        let mut files: Vec<_> = others.into_iter().filter(|(table, _)| unused(table)).collect();
        if unused(&Table::Videos) {
            files.push((Table::Videos, object));
        }
        if let Some(left) = files_of_run.get_mut(&run) {
            *left -= files.len() as u64;
        }
        removed.extend(files);
    }
    let runs: Vec<RunId> =
        settled.into_iter().filter(|run| files_of_run.get(run).is_none_or(|left| *left == 0)).collect();
    let mut state = Vec::new();
    for run in &runs {
        let objects = output.list(&format!("{RUNS_PREFIX}{run}/"));
        state.extend(objects.map_ok(|object| object.key).try_collect::<Vec<_>>().await?);
    }
    let leftovers = leftovers(output, now).await?;
    Ok(Prunable { files: removed, runs, state, leftovers })
}

/// The files of attempts at shards that are not committed and that nobody has worked on for [`LEFTOVERS_KEPT`].
async fn leftovers(output: &dyn Store, now: DateTime<Utc>) -> Result<Vec<ObjectMeta>> {
    let mut left = Vec::new();
    for run in summary::unfinished(output).await? {
        let mut shards: BTreeMap<u32, Vec<ObjectMeta>> = BTreeMap::new();
        for (shard, part) in uncommitted_parts(output, run.id.as_str()).await? {
            shards.entry(shard).or_default().push(part);
        }
        let is_old = |parts: &Vec<ObjectMeta>| parts.iter().all(|part| part.last_modified + LEFTOVERS_KEPT <= now);
        left.extend(shards.into_values().filter(is_old).flatten());
    }
    Ok(left)
}

impl Prunable {
    /// Whether there is nothing to remove.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.runs.is_empty() && self.leftovers.is_empty()
    }

    /// Removes the files. The views show the same rows as before, but a query that listed the files before the removal may fail
    /// to open one.
    ///
    /// # Cancel safety
    /// If the future is dropped, the next prune removes the rest.
    ///
    /// # Errors
    /// The output refused.
    pub async fn remove(&self, output: &dyn Store) -> Result<()> {
        // The files of `videos` come after those beside them, which are found by them. The records by which a run exists
        // come last.
        let (videos, others): (Vec<_>, Vec<_>) = self.files.iter().partition(|(table, _)| *table == Table::Videos);
        let is_record = |key: &String| key.ends_with("/summary.json") || key.ends_with("/job.json");
        let (records, state): (Vec<_>, Vec<_>) = self.state.iter().cloned().partition(is_record);
        let keys = |files: Vec<&(Table, ObjectMeta)>| files.into_iter().map(|(_, file)| file.key.clone()).collect();
        let leftovers = self.leftovers.iter().map(|file| file.key.clone()).collect();
        for step in [leftovers, keys(others), keys(videos), state, records] {
            output.delete(&step).await?;
        }
        tracing::info!(files = self.files.len(), runs = self.runs.len(), "pruned");
        Ok(())
    }
}

/// What would be removed, for a person. Ends without a newline.
impl fmt::Display for Prunable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return write!(f, "nothing to prune: every file older than a day is used by a current view");
        }
        let mut lines = Vec::new();
        for table in Table::ALL {
            let files = self.files.iter().filter(|(of, _)| *of == table);
            let (count, bytes) = files.fold((0, 0), |(n, bytes), (_, file)| (n + 1, bytes + file.size_bytes));
            if count > 0 {
                lines.push(format!("{table}: {}, {}", counted(count, "file"), ByteSize(bytes).display().iec()));
            }
        }
        if !self.leftovers.is_empty() {
            let (count, bytes) = (self.leftovers.len() as u64, self.leftovers.iter().map(|file| file.size_bytes).sum());
            let size = ByteSize(bytes).display().iec();
            lines.push(format!("interrupted attempts: {}, {size}", counted(count, "file")));
        }
        if !self.runs.is_empty() {
            let more = if self.runs.len() > SHOWN_MAX { ", ..." } else { "" };
            let names: Vec<_> = self.runs.iter().take(SHOWN_MAX).map(RunId::as_str).collect();
            lines.push(format!(
                "{} with nothing left: {}{more}",
                counted(self.runs.len() as u64, "run"),
                names.join(", ")
            ));
        }
        write!(f, "{}", lines.join("\n"))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};
    use futures::executor::block_on;
    use parquet::arrow::ArrowWriter;
    use proptest::prelude::*;

    use super::*;
    use crate::run::record::job_key;
    use crate::run::{RunSummary, summary};
    use crate::store::memory::MemoryStore;
    use crate::tables::current::{Age, Current, HistoryRow, RowKind};
    use crate::tables::part_key;

    const NOW: &str = "2026-11-23T00:00:00Z";

    /// A run's row of a video: its status, and whether the job had the models.
    #[derive(Debug, Clone, Copy)]
    struct Indexing {
        video: u32,
        status: &'static str,
        actions: bool,
        persons: bool,
    }

    fn run_id(n: usize) -> String {
        format!("202611{:02}T000000000Z-{n:06}", n + 1)
    }

    /// Writes the files of a run that was sealed at midnight of its day. Videos 0 to 2 are in one partition, the others in another.
    fn write_run(output: &MemoryStore, n: usize, rows: &[Indexing], whole: bool) {
        let run = run_id(n);
        let put = |key: &str, body: Vec<u8>| block_on(output.put(key, body.into())).unwrap();
        for (day, low) in [("dt=2026-10-01", true), ("dt=2026-10-02", false)] {
            let rows: Vec<_> = rows.iter().filter(|row| (row.video < 3) == low).collect();
            if rows.is_empty() {
                continue;
            }
            let model =
                |has: fn(&Indexing) -> bool| rows.iter().map(|row| has(row).then_some("m")).collect::<StringArray>();
            let times = vec![i64::try_from(n).unwrap(); rows.len()];
            let batch = RecordBatch::try_from_iter([
                (
                    "video_id",
                    Arc::new(StringArray::from_iter_values(rows.iter().map(|row| format!("{:032x}", row.video))))
                        as ArrayRef,
                ),
                ("status", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.status)))),
                ("indexed_at", Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC"))),
                ("actions_model", Arc::new(model(|row| row.actions))),
                ("persons_model", Arc::new(model(|row| row.persons))),
                ("fingerprint", Arc::new(StringArray::from_iter_values(rows.iter().map(|_| "f")))),
            ])
            .unwrap();
            let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
            writer.write(&batch).unwrap();
            put(&part_key(Table::Videos, None, day, &run, 0), writer.into_inner().unwrap());
            for (table, has) in [(Table::Actions, rows[0].actions), (Table::Persons, rows[0].persons)] {
                if has {
                    put(&part_key(table, Some("m"), day, &run, 0), b"rows".to_vec());
                }
            }
        }
        let summary = RunSummary {
            schema_version: 1,
            run_id: run.clone(),
            tool_version: String::new(),
            shards_total: 1,
            shards_committed: 1,
            missing: if whole { vec![] } else { vec![0] },
            lost_parts: vec![],
            tables: BTreeMap::new(),
            totals: Default::default(),
            started_at: NOW.parse().unwrap(),
            finished_at: None,
            sealed_at: format!("2026-11-{:02}T00:00:00Z", n + 1).parse().unwrap(),
        };
        put(&summary::summary_key(&run), serde_json::to_vec(&summary).unwrap());
        if whole {
            put(&job_key(&run.parse().unwrap()), b"{}".to_vec());
        }
    }

    fn row(video: u32) -> Indexing {
        Indexing { video, status: "ok", actions: true, persons: true }
    }

    fn prune(output: &MemoryStore) -> Vec<String> {
        let before = output.keys();
        let prunable = block_on(find(output, NOW.parse().unwrap())).unwrap();
        block_on(prunable.remove(output)).unwrap();
        let left = block_on(find(output, NOW.parse().unwrap())).unwrap();
        let marks = block_on(output.list("videos/").try_collect::<Vec<_>>()).unwrap();
        assert!(left.files.iter().all(|(_, file)| marks.contains(file)), "one prune is enough, except for deletions");
        let after = output.keys();
        before.into_iter().filter(|key| !after.contains(key)).collect()
    }

    #[test]
    fn a_file_goes_when_each_of_its_rows_has_a_newer_one_and_the_run_with_its_last_file() {
        let output = MemoryStore::bucket("s3://index/");
        write_run(&output, 0, &[row(0), row(1), row(3)], true);
        write_run(&output, 1, &[row(0)], true);
        assert_eq!(prune(&output), [""; 0], "video 1 has no newer row, video 3 none either");
        write_run(&output, 2, &[row(1)], true);
        let day = |table: &str| format!("{table}dt=2026-10-01/part-{}-000000.parquet", run_id(0));
        assert_eq!(prune(&output), [day("actions/model=m/"), day("persons/model=m/"), day("videos/")]);
        write_run(&output, 3, &[row(3)], true);
        let gone = prune(&output);
        assert_eq!(gone.len(), 5, "{gone:?}");
        assert!(gone.contains(&format!("_vidindex/runs/{}/job.json", run_id(0))), "{gone:?}");
    }

    #[test]
    fn rows_that_only_an_older_run_has_stay_in_their_table() {
        let output = MemoryStore::bucket("s3://index/");
        write_run(&output, 0, &[row(0)], true);
        write_run(&output, 1, &[Indexing { persons: false, ..row(0) }], true);
        let gone = prune(&output);
        assert_eq!(gone, [format!("actions/model=m/dt=2026-10-01/part-{}-000000.parquet", run_id(0))]);
        write_run(&output, 2, &[Indexing { status: "failed", actions: false, persons: false, video: 0 }], true);
        assert_eq!(prune(&output), [""; 0], "a failure hides nothing");
    }

    #[test]
    fn a_deletion_goes_after_the_rows_that_it_hides() {
        let output = MemoryStore::bucket("s3://index/");
        let deleted = Indexing { status: "deleted", actions: false, persons: false, video: 0 };
        write_run(&output, 0, &[row(0), row(1)], true);
        write_run(&output, 1, &[deleted], true);
        assert_eq!(prune(&output), [""; 0], "video 1 is current, and lies beside video 0");
        write_run(&output, 2, &[row(1)], true);
        assert_eq!(prune(&output).iter().filter(|key| key.contains(&run_id(0))).count(), 5);
        let gone = prune(&output);
        assert!(gone.len() == 3 && gone.iter().all(|key| key.contains(&run_id(1))), "{gone:?}");
    }

    #[test]
    fn thumbnails_go_when_the_row_of_their_video_is_not_the_latest_good_one() {
        let output = MemoryStore::bucket("s3://index/");
        let thumbnails = |n| part_key(Table::Thumbnails, None, "dt=2026-10-01", &run_id(n), 0);
        write_run(&output, 0, &[row(0), row(1)], true);
        write_run(&output, 1, &[Indexing { persons: false, ..row(0) }], true);
        write_run(&output, 2, &[Indexing { video: 1, status: "failed", actions: false, persons: false }], true);
        (0..2).for_each(|n| output.insert(&thumbnails(n), "rows"));
        assert_eq!(prune(&output), [""; 0]);
        write_run(&output, 3, &[Indexing { persons: false, ..row(1) }], true);
        let gone = prune(&output);
        assert!(gone.contains(&thumbnails(0)) && !gone.contains(&thumbnails(1)), "{gone:?}");
        assert!(!gone.iter().any(|key| key.starts_with("persons/")), "no newer run has persons: {gone:?}");
    }

    #[test]
    fn runs_that_are_young_or_not_whole_and_strange_files_are_left_alone() {
        let output = MemoryStore::bucket("s3://index/");
        write_run(&output, 0, &[row(0)], false);
        // Sealed on the 23rd, which is now, and on the 22nd, which is exactly a day ago.
        write_run(&output, 22, &[row(0)], true);
        write_run(&output, 21, &[row(0)], true);
        output.insert("actions/model=m/dt=2026-10-01/compacted.parquet", "rows");
        output.insert("actions/model=m/dt=2026-10-01/part-x-000000.parquet", "rows");
        assert_eq!(prune(&output), [""; 0]);
        let text = block_on(find(&output, NOW.parse().unwrap())).unwrap().to_string();
        assert!(text.starts_with("nothing to prune"), "{text}");
        let later = "2026-11-25T00:00:00Z".parse().unwrap();
        let text = block_on(find(&output, later)).unwrap().to_string();
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.ends_with(&format!("1 run with nothing left: {}", run_id(21))), "{text}");
    }

    #[test]
    fn what_interrupted_attempts_left_goes_after_a_week_in_which_nobody_continued_them() {
        let output = MemoryStore::bucket("s3://index/");
        let run = run_id(0);
        let put = |key: &str, days_ago: i64| {
            let key = format!("_vidindex/runs/{run}/{key}");
            output.insert(&key, "rows");
            let last_modified = NOW.parse::<DateTime<Utc>>().unwrap() - TimeDelta::days(days_ago);
            let meta = block_on(output.head(&key)).unwrap();
            output.insert_listed(ObjectMeta { last_modified, ..meta });
            key
        };
        let gone = [put("parts/000000/a/attempt.json", 9), put("parts/000000/b/pieces/000000.json", 7)];
        put("parts/000001/a/pieces/000000.json", 9);
        put("parts/000001/b/attempt.json", 6);
        put("parts/000002/a/videos/dt=2026-10-01/part.parquet", 9);
        put("shards/000002.json", 9);
        assert_eq!(prune(&output), gone);
    }

    /// The rows that the views show, as (view, video, run), of those whose files are there.
    fn views(output: &MemoryStore, runs: &[Vec<Indexing>]) -> BTreeSet<(Table, u32, usize)> {
        let keys = output.keys();
        let ids: Vec<_> = (0..runs.len()).map(run_id).collect();
        let there = |table: Table, video, n| {
            let day = if video < 3 { "dt=2026-10-01" } else { "dt=2026-10-02" };
            keys.contains(&part_key(table, table.has_model().then_some("m"), day, &run_id(n), 0))
        };
        let mut shown = BTreeSet::new();
        for video in 0..6 {
            let mut history = Vec::new();
            for (n, run) in runs.iter().enumerate().filter(|(n, _)| there(Table::Videos, video, *n)) {
                let model = |has: bool| has.then_some("m");
                history.extend(run.iter().filter(|row| row.video == video).map(|row| HistoryRow {
                    age: Age { indexed_at: i64::try_from(n).unwrap(), run_id: &ids[n] },
                    kind: RowKind::of(row.status, model(row.actions), model(row.persons)),
                    fingerprint: 0,
                }));
            }
            let current = Current::of(&history);
            for table in [Table::Videos, Table::Actions, Table::Persons] {
                let run = current.run(table).and_then(|run| ids.iter().position(|id| id == run));
                shown.extend(run.filter(|n| there(table, video, *n)).map(|n| (table, video, n)));
            }
        }
        shown
    }

    proptest! {
        #[test]
        fn the_views_show_the_same_after_a_prune(
            runs in prop::collection::vec(
                (
                    prop::collection::btree_set(0_u32..6, 0..6), any::<bool>(), any::<bool>(), any::<u8>(), any::<u8>(),
                    any::<bool>(),
                ),
                0..6,
            ),
        ) {
            let output = MemoryStore::bucket("s3://index/");
            let mut all = Vec::new();
            for (n, (videos, actions, persons, failed, deleted, whole)) in runs.into_iter().enumerate() {
                let row = |video: u32| {
                    let deleted = deleted >> video & 1 == 1;
                    let failed = failed >> video & 1 == 1;
                    let status = if deleted { "deleted" } else if failed { "failed" } else { "ok" };
                    Indexing { video, status, actions: actions && !deleted, persons: persons && !deleted }
                };
                let rows: Vec<_> = videos.into_iter().map(row).collect();
                write_run(&output, n, &rows, whole);
                all.push(rows);
            }
            let before = views(&output, &all);
            for _ in 0..3 {
                prune(&output);
                prop_assert_eq!(&views(&output, &all), &before);
            }
        }
    }
}
