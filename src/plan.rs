//! Planning: decides which videos of the archive are indexed, and divides them into shards of similar size.
//!
//! [`plan`] lists the input, skips what an earlier run indexed, and returns a [`Plan`], whose [`Plan::write`] creates
//! the run that workers read. The listing is not kept in memory: videos are sorted on the scratch disk, divided into
//! shards while they are merged, and written to a scratch file, which [`Plan::write`] uploads.

pub(crate) mod archived;
mod decide;
mod describe;
mod draft;
mod extensions;
mod groups;
mod indexed;
mod inventory;
pub(crate) mod layout;
mod list;
mod missing;
mod sample;
mod saved;
mod shard;
mod sift;
mod sort;
#[cfg(test)]
pub(crate) mod testing;
mod why;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytesize::ByteSize;
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};

use crate::error::{Error, Result};
use crate::job::Job;
use crate::run::{PlanModels, RunId, RunRecord, Todo, VideoObject, record};
use crate::store::{Scanned, Store};
use decide::Decision;
use draft::{Arranged, Draft};
pub use extensions::Extensions;
pub use groups::{Group, Skipped};
use indexed::{Indexed, Latest};
use list::ListedObject;
pub use missing::Missing;
pub use sample::sample;
use saved::Saved;
use sift::Sift;
pub use why::Why;

/// Number of consecutive failures after which a video is only retried on request or if the file changes.
pub const FAILURES_MAX: u32 = 5;

/// Difference between the clocks of machines that is not worth a warning.
const CLOCK_SKEW_MAX: TimeDelta = TimeDelta::minutes(10);

/// Videos to plan in addition to new and changed ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PlanOptions {
    /// All videos, even if they are already indexed.
    pub reindex: bool,
    /// Videos that failed before and have not changed since.
    pub retry_failed: bool,
    /// Mark videos that are missing from the input as deleted, no matter how many there are.
    pub confirm_deleted: bool,
    /// Keep a list of the videos that the run takes: see [`Plan::list`].
    pub list: bool,
}

/// The plan of a run. Nothing is written to the output before [`Plan::write`].
#[derive(Debug)]
pub struct Plan {
    /// The record that will become `job.json`.
    pub run: RunRecord,
    /// What is skipped.
    pub skipped: Skipped,
    /// The videos of the run, by the reason why it takes them.
    pub taken: BTreeMap<Why, Group>,
    /// What differs from the settings of earlier runs, by the numbers of [`Why::Settings`].
    pub settings: Vec<String>,
    /// The missing videos, if they are too many to be marked as deleted.
    pub missing: Option<Missing>,
    /// Videos of the run that will fail because their partition values cannot be names of folders.
    pub unfit: Group,
    /// Number of objects of any kind that were listed below the input.
    pub objects_seen: u64,
    videos: Arranged,
}

/// Lists the input, skips what the output already contains, and divides the rest into shards.
///
/// # Errors
/// If the input cannot be listed, the output's `videos` table cannot be read, or the scratch disk is full.
pub async fn plan(
    job: &Job,
    models: &PlanModels,
    input: &dyn Store,
    output: &dyn Store,
    options: PlanOptions,
) -> Result<Plan> {
    let fingerprint = job.fingerprint(&models.hashes());
    layout::check(job, output).await?;

    let mut draft = Draft::new(job.run.shard_bytes, options.list)?;
    let sift = Arc::new(Sift::new(&job.input, input, output)?);
    let (scanned, as_of) = scan(job, input, &sift, draft.scratch_dir()).await?;
    let (mut indexed, saved) = match options.reindex {
        true => (Indexed::default(), Saved::default()),
        false => (Indexed::read(input, output, &fingerprint, as_of).await?, Saved::read(output, &fingerprint).await?),
    };
    let newest_row = match options.reindex {
        // Only for the times: what is damaged is indexed again.
        true => match Indexed::read(input, output, &fingerprint, as_of).await {
            Ok(indexed) => indexed.newest(),
            Err(error) => {
                tracing::warn!("{error}");
                None
            }
        },
        false => indexed.newest(),
    };
    let settings = why::differences(output, job, models, indexed.other_fingerprints()).await?;
    let mut unfit = Group::default();
    let take = |object: ListedObject<'_>, skipped: &mut Skipped| {
        let mut video = match object {
            ListedObject::Video(video) => video,
            ListedObject::LeftOut { key } => {
                indexed.see(&input.uri(key));
                return Ok(());
            }
        };
        let archived_in = match &video.todo {
            Todo::MarkArchived { storage_class } => Some(storage_class.as_str()),
            _ => None,
        };
        let earlier = indexed.earlier(&video);
        let decision =
            Decision::of(earlier, archived_in, || indexed.source(&video), options).or_resumed(|| saved.source(&video));
        let why = match &decision {
            Decision::New if options.reindex => Why::Asked,
            Decision::New => indexed.why(&video),
            Decision::Retry { .. } => Why::Failed,
            Decision::Archived { .. } => Why::Archived,
            Decision::Restore { .. } => Why::Back,
            Decision::Resume { .. } => Why::Interrupted,
            Decision::Skip(skip) => {
                skipped.by(*skip).add(&video.key, video.size_bytes);
                return Ok(());
            }
        };
        if job.input.partition_problem(&video.key).is_some() {
            unfit.add(&video.key, video.size_bytes);
        }
        video.todo = decision.todo().unwrap_or(video.todo);
        draft.add(&video, why, &settings)
    };
    let listing = list::list(&job.input, &sift, scanned, input, take).await?;
    let unlisted = |key: &str| sift.lies_left_out(key) || listing.gaps.may_hold(key);
    let coverage = Coverage { objects_seen: listing.objects_seen, unlisted: &unlisted };
    let missing = mark_deleted(indexed, job, input, output, options, coverage, &mut draft).await?;

    let (count, bytes, taken) = (draft.videos, draft.bytes, std::mem::take(&mut draft.taken));
    let videos = draft.arrange(input)?;
    let created_at = Utc::now().trunc_subsecs(6);
    if let Some(newest) = newest_row.filter(|newest| *newest > created_at + CLOCK_SKEW_MAX) {
        tracing::warn!(%newest, "the index has rows from the future: check the clocks of the machines that write it");
    }
    let run = RunRecord {
        run_id: RunId::new(created_at),
        created_at,
        newest_row,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        fingerprint,
        actions_model: models.actions.clone(),
        persons_model: models.persons.clone(),
        shards: videos.shards,
        videos: count,
        bytes,
        job: job.clone(),
    };
    let (skipped, objects_seen) = (listing.skipped, listing.objects_seen);
    Ok(Plan { run, skipped, taken, settings, missing, unfit, objects_seen, videos })
}

/// What is below the input, and up to when the listing is complete.
async fn scan(
    job: &Job,
    input: &dyn Store,
    sift: &Arc<Sift>,
    scratch: &Path,
) -> Result<(BoxStream<'static, Result<Scanned>>, DateTime<Utc>)> {
    match &job.input.inventory {
        Some(uri) => {
            let (objects, as_of) = inventory::list(uri, &job.input_store(), input, scratch).await?;
            Ok((objects.map_ok(Scanned::Object).boxed(), as_of))
        }
        None => {
            let sift = sift.clone();
            let scanned = input.scan(Arc::new(move |folder| sift.folder(folder).is_none()));
            Ok((scanned.map_err(Error::from).boxed(), DateTime::<Utc>::MAX_UTC))
        }
    }
}

/// Which part of the input was listed.
struct Coverage<'a> {
    objects_seen: u64,
    /// Whether the listing did not cover this key, so that it may still exist.
    unlisted: &'a (dyn Fn(&str) -> bool + Sync),
}

/// Marks the videos that are missing from the input as deleted, unless there are suspiciously many: these are returned.
async fn mark_deleted(
    mut indexed: Indexed,
    job: &Job,
    input: &dyn Store,
    output: &dyn Store,
    options: PlanOptions,
    coverage: Coverage<'_>,
    draft: &mut Draft,
) -> Result<Option<Missing>> {
    if !indexed.lacks_any() {
        return Ok(None);
    }
    let mut missing = Missing::new(job.input.deleted_max);
    let count = |video: &Latest<'_>| {
        missing.add(video);
        Ok(())
    };
    indexed.each_latest(output, coverage.unlisted, count).await?;
    if missing.gone.count == 0 {
        return Ok(None);
    }
    // An input without any objects is more likely an unmounted disk than an archive that was emptied.
    if (coverage.objects_seen == 0 || missing.is_suspicious()) && !options.confirm_deleted {
        return Ok(Some(missing));
    }
    let mark = |video: &Latest<'_>| {
        if !video.is_gone {
            return Ok(());
        }
        let video = VideoObject {
            key: video.key.to_owned(),
            uri: input.uri(video.key),
            size_bytes: video.size_bytes,
            etag: video.etag.to_owned(),
            version_id: None,
            last_modified: video.last_modified,
            partition: job.input.partition_of(video.key),
            todo: Todo::MarkDeleted,
        };
        draft.add(&video, Why::Deleted, &[])
    };
    indexed.each_latest(output, coverage.unlisted, mark).await?;
    Ok(None)
}

impl Plan {
    /// Writes `plan.parquet`, then `job.json`, which creates the run.
    ///
    /// # Errors
    /// If the output cannot be written, or a run of the same name exists.
    pub async fn write(&self, output: &dyn Store) -> Result<()> {
        record::write(output, &self.run, &self.videos.table).await?;
        let RunRecord { run_id, videos, bytes, shards, .. } = &self.run;
        self.missing.iter().for_each(|missing| tracing::warn!("{missing}"));
        let count = |why| Some(self.count(why)).filter(|count| *count > 0);
        tracing::info!(
            %run_id, videos, bytes, shards,
            retried = count(Why::Failed), restored = count(Why::Back), resumed = count(Why::Interrupted),
            archived = count(Why::Archived), deleted = count(Why::Deleted),
            "planned"
        );
        Ok(())
    }

    /// Number of videos that the run takes for this reason.
    pub fn count(&self, why: Why) -> u64 {
        self.taken.get(&why).map_or(0, |group| group.count)
    }

    /// Number of videos that the run reads. The rows of the others are copied, or only say what became of the video.
    pub fn videos_to_read(&self) -> u64 {
        self.taken.iter().filter(|(why, _)| why.is_read()).map(|(_, group)| group.count).sum()
    }

    /// Up to 64 of the videos that the run reads, chosen at random.
    pub fn sample(&self) -> &[VideoObject] {
        &self.videos.sample
    }

    /// A file with a line for each video that the run takes, if [`PlanOptions::list`] asked for it: a word for the reason, the
    /// key and the reason, separated by tabs.
    pub fn list(&self) -> Option<&Path> {
        self.videos.list.as_deref()
    }
}

/// Reads a data file of an inventory, for fuzzing.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_inventory(file: &Path) {
    inventory::fuzz(file);
}

fn human(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

pub(crate) fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::indexed::testing::{VideoRow, videos_table};
    use super::testing::{add, archive, job, video};
    use super::*;
    use crate::run::piece::{self, PieceRecord};
    use crate::run::{ModelRef, Shard};
    use crate::store::ObjectMeta;
    use crate::store::memory::MemoryStore;
    use proptest::prelude::*;

    fn models() -> PlanModels {
        PlanModels {
            actions: None,
            persons: Some(ModelRef { id: "yolov5s".to_owned(), sha256: "ab".to_owned(), random: false }),
        }
    }

    fn stores(objects: &[(&str, u64)]) -> (MemoryStore, MemoryStore) {
        let input = MemoryStore::bucket("s3://archive/2026/");
        objects.iter().for_each(|(key, size)| add(&input, key, *size));
        (input, MemoryStore::bucket("s3://index/"))
    }

    async fn planned(input: &MemoryStore, output: &MemoryStore, options: PlanOptions) -> Plan {
        plan(&job(), &models(), input, output, options).await.unwrap()
    }

    /// The shards as a worker will read them.
    async fn shards(plan: &Plan) -> Vec<Shard> {
        let output = MemoryStore::bucket("s3://written/");
        plan.write(&output).await.unwrap();
        let (record, file) = record::read(&output, &plan.run.run_id).await.unwrap();
        assert_eq!(record, plan.run);
        let mut shards = Vec::new();
        for index in 0..record.shards {
            shards.push(file.shard(&output, index).await.unwrap());
        }
        assert_eq!(shards.iter().map(|shard| shard.videos.len() as u64).sum::<u64>(), record.videos);
        assert_eq!(shards.iter().map(Shard::size_bytes).sum::<u64>(), record.bytes);
        shards
    }

    async fn keys(plan: &Plan) -> Vec<String> {
        shards(plan).await.into_iter().flat_map(|shard| shard.videos).map(|video| video.key).collect()
    }

    /// The row of an object in `stores`, as a run of the same job would have written it.
    fn row(key: &str, size: u64, status: &'static str) -> VideoRow {
        let fingerprint = job().fingerprint(&[("persons", "ab")]);
        let error_kind = (status == "failed").then_some("corrupt");
        let (video, run_id) = (video(key, size), "r1".to_owned());
        VideoRow { video, status, error_kind, failures: None, fingerprint, indexed_at: 1, run_id }
    }

    #[tokio::test]
    async fn a_new_archive_is_planned_completely_and_the_plan_reads_back() {
        let (input, output) = stores(&[("a.mp4", 60), ("b.mp4", 60), ("c.mp4", 60), ("d.txt", 1)]);
        let plan = planned(&input, &output, PlanOptions::default()).await;
        assert_eq!(output.keys(), [""; 0], "nothing is written before it is asked for");
        assert_eq!((plan.run.videos, plan.run.bytes, plan.run.shards), (3, 180, 2));

        plan.write(&output).await.unwrap();
        let run = &plan.run.run_id;
        let prefix = format!("_vidindex/runs/{run}");
        assert_eq!(output.keys(), [format!("{prefix}/job.json"), format!("{prefix}/plan.parquet")]);
        let shards = shards(&plan).await;
        assert_eq!(keys(&plan).await, ["a.mp4", "b.mp4", "c.mp4"]);
        assert_eq!(record::read_shard(&output, run, 1).await.unwrap(), shards[1]);
        assert_eq!(record::runs(&output).await.unwrap().last(), Some(run));
    }

    #[tokio::test]
    async fn indexed_videos_are_skipped_until_they_change() {
        let (input, output) = stores(&[("done.mp4", 1), ("partial.mp4", 2), ("changed.mp4", 3), ("new.mp4", 4)]);
        let rows = [row("done.mp4", 1, "ok"), row("partial.mp4", 2, "partial"), row("changed.mp4", 99, "ok")];
        output.put("videos/dt=2026-11-01/part-r-000000.parquet", videos_table(&rows)).await.unwrap();
        let plan = planned(&input, &output, PlanOptions::default()).await;
        assert_eq!(keys(&plan).await, ["changed.mp4", "new.mp4"]);
        assert_eq!(plan.skipped.already_indexed.examples, ["done.mp4", "partial.mp4"]);
        let all = planned(&input, &output, PlanOptions { reindex: true, ..Default::default() }).await;
        assert_eq!(all.run.videos, 4);
    }

    #[tokio::test]
    async fn failed_videos_wait_for_a_change_or_a_request() {
        let (input, output) = stores(&[("bad.mp4", 1), ("fixed.mp4", 2)]);
        let rows = [row("bad.mp4", 1, "failed"), row("fixed.mp4", 99, "failed")];
        output.put("videos/part-r-000000.parquet", videos_table(&rows)).await.unwrap();
        let plan = planned(&input, &output, PlanOptions::default()).await;
        assert_eq!(keys(&plan).await, ["fixed.mp4"]);
        assert_eq!((plan.skipped.failed_before.count, plan.skipped.failed_before.bytes), (1, 1));
        let plan = planned(&input, &output, PlanOptions { retry_failed: true, ..Default::default() }).await;
        assert_eq!(keys(&plan).await, ["bad.mp4", "fixed.mp4"]);
    }

    #[tokio::test]
    async fn missing_videos_are_marked_once_and_indexed_again_when_they_return() {
        let (input, output) = stores(&[("here.mp4", 1), ("left-out.txt", 1)]);
        let put = async |name: &str, rows: &[VideoRow]| {
            output.put(&format!("videos/{name}.parquet"), videos_table(rows)).await.unwrap();
        };
        let other_job = |row: VideoRow| VideoRow { fingerprint: "another".to_owned(), ..row };
        let mut elsewhere = row("elsewhere.mp4", 1, "ok");
        elsewhere.video.uri = "s3://other/elsewhere.mp4".to_owned();
        let rows = [
            row("here.mp4", 1, "ok"),
            row("gone.mp4", 7, "ok"),
            row("failed.mp4", 2, "failed"),
            row("left-out.txt", 1, "ok"),
            other_job(row("of-another-job.mp4", 1, "ok")),
            elsewhere,
        ];
        put("0", &rows).await;
        let plan = planned(&input, &output, PlanOptions::default()).await;
        assert_eq!((plan.run.videos, plan.count(Why::Deleted)), (0, 0), "three of five are too many");
        let text = "missing 3 objects, 10 B, of 5 indexed: more than input.deleted_max (20 %)";
        assert!(plan.to_string().contains(text) && plan.to_string().ends_with("files in no folder: 3 of 5"), "{plan}");
        let plan = planned(&input, &output, PlanOptions { confirm_deleted: true, ..Default::default() }).await;
        assert_eq!(keys(&plan).await, ["failed.mp4", "gone.mp4", "of-another-job.mp4"]);
        assert_eq!(plan.missing, None);
        let videos = shards(&plan).await.into_iter().flat_map(|shard| shard.videos);
        assert!(videos.into_iter().all(|video| video.todo == Todo::MarkDeleted));
        assert_eq!((plan.run.videos, plan.run.bytes, plan.count(Why::Deleted)), (3, 0, 3));
        assert!(plan.to_string().contains("\ndeleted 3 objects, 10 B: missing from the input"), "{plan}");
        assert!(plan.to_string().starts_with("0 videos, 0 B to index, in 1 shard"), "{plan}");

        let marks = ["gone.mp4", "failed.mp4", "of-another-job.mp4"].map(|key| row(key, 1, "deleted"));
        put("1", &marks.map(|row| VideoRow { indexed_at: 2, ..other_job(row) })).await;
        assert_eq!(planned(&input, &output, PlanOptions::default()).await.run.videos, 0, "each is marked once");
        add(&input, "gone.mp4", 7);
        let plan = planned(&input, &output, PlanOptions::default()).await;
        assert_eq!(keys(&plan).await, ["gone.mp4"]);
        assert_eq!(plan.count(Why::Deleted), 0);
        let late = VideoRow { indexed_at: 3, ..other_job(row("gone.mp4", 7, "ok")) };
        put("2", &[late]).await;
        let plan = planned(&input, &output, PlanOptions::default()).await;
        assert_eq!(keys(&plan).await, ["gone.mp4"], "rows of another job do not affect this job");
    }

    #[tokio::test]
    async fn an_empty_input_marks_nothing() {
        let (input, output) = stores(&[]);
        output.put("videos/0.parquet", videos_table(&[row("a.mp4", 1, "ok")])).await.unwrap();
        let plan = planned(&input, &output, PlanOptions::default()).await;
        assert!(plan.run.videos == 0 && plan.nothing_matched());
        let folders = [(String::new(), (1, 1))].into();
        assert_eq!(plan.missing.as_ref().unwrap().folders, folders);
        let confirmed = planned(&input, &output, PlanOptions { confirm_deleted: true, ..Default::default() }).await;
        assert_eq!((confirmed.run.videos, confirmed.count(Why::Deleted)), (1, 1));
    }

    /// Key and action of each video in the plan.
    async fn todos(plan: &Plan) -> Vec<(String, Todo)> {
        shards(plan).await.into_iter().flat_map(|shard| shard.videos).map(|video| (video.key, video.todo)).collect()
    }

    #[tokio::test]
    async fn temporary_failures_are_retried_and_counted_per_content() {
        let keys = ["1.mp4", "4.mp4", "5.mp4", "changed.mp4", "old.mp4", "own.mp4", "part.mp4", "well.mp4"];
        let (input, output) = stores(&keys.map(|key| (key, 1)));
        let failed = |key: &str, failures: Option<i64>| VideoRow {
            error_kind: Some("access_denied"),
            failures,
            ..row(key, 1, "failed")
        };
        let partial = |key: &str, kind| VideoRow { error_kind: Some(kind), failures: None, ..row(key, 1, "partial") };
        let mut changed = failed("changed.mp4", Some(4));
        changed.video.etag = "before".to_owned();
        let later = VideoRow { indexed_at: 2, ..row("well.mp4", 1, "ok") };
        let rows = [
            failed("1.mp4", Some(1)),
            failed("4.mp4", Some(4)),
            failed("5.mp4", Some(5)),
            changed,
            failed("old.mp4", None),
            row("own.mp4", 1, "failed"),
            partial("part.mp4", "timeout"),
            failed("well.mp4", Some(3)),
            later,
        ];
        output.put("videos/0.parquet", videos_table(&rows)).await.unwrap();
        let plan = planned(&input, &output, PlanOptions::default()).await;
        let index = |key: &str, failures| (key.to_owned(), Todo::Index { failures });
        let expected = [("1.mp4", 1), ("4.mp4", 4), ("changed.mp4", 0), ("old.mp4", 1), ("part.mp4", 1)];
        assert_eq!(todos(&plan).await, expected.map(|(key, failures)| index(key, failures)));
        assert_eq!(plan.taken[&Why::Failed].examples, ["1.mp4", "4.mp4", "old.mp4"]);
        let Skipped { given_up, failed_before, already_indexed, .. } = &plan.skipped;
        assert_eq!([&given_up.examples, &failed_before.examples], [&["5.mp4"], &["own.mp4"]]);
        assert_eq!(already_indexed.examples, ["well.mp4"]);
        assert!(plan.to_string().contains("skipped 1 object, 1 B: failed 5 times in a row (--retry-failed"), "{plan}");
        let asked = planned(&input, &output, PlanOptions { retry_failed: true, ..Default::default() }).await;
        assert_eq!(asked.count(Why::Failed), 6);
        assert!(todos(&asked).await.contains(&index("5.mp4", 5)));
    }

    #[tokio::test]
    async fn the_table_of_an_older_version_is_read() {
        let (input, output) = (MemoryStore::bucket("s3://archive/"), MemoryStore::bucket("s3://index/"));
        let name = "videos/camera=cam-9/dt=2026-10-31/part-20261101T000000000Z-000001-000000.parquet";
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/schema-1").join(name);
        output.put(name, std::fs::read(file).unwrap().into()).await.unwrap();
        let mut job = job();
        job.input.partition = Some("(?<camera>cam-[^/]+)/".to_owned().try_into().unwrap());
        let plan = plan(&job, &models(), &input, &output, PlanOptions::default()).await.unwrap();
        assert_eq!(plan.missing.unwrap().folders, [("cam-9".to_owned(), (1, 1))].into());
    }

    #[tokio::test]
    async fn an_archived_video_gets_one_row_and_waits_for_its_restore() {
        let (input, output) = stores(&[("cold.mp4", 7), ("warm.mp4", 1)]);
        let meta = input.head("cold.mp4").await.unwrap();
        input.insert_listed(ObjectMeta { archived: Some("DEEP_ARCHIVE".to_owned()), ..meta });
        let plan = planned(&input, &output, PlanOptions::default()).await;
        let todo = Todo::MarkArchived { storage_class: "DEEP_ARCHIVE".to_owned() };
        assert_eq!(todos(&plan).await, [("cold.mp4".to_owned(), todo), ("warm.mp4".to_owned(), Todo::default())]);
        assert_eq!((plan.run.bytes, plan.count(Why::Archived)), (1, 1));
        assert!(plan.to_string().starts_with("1 video, 1 B to index, in 1 shard"), "{plan}");

        let archived = VideoRow { error_kind: Some("archived"), failures: Some(0), ..row("cold.mp4", 7, "failed") };
        output.put("videos/0.parquet", videos_table(&[archived, row("warm.mp4", 1, "ok")])).await.unwrap();
        let plan = planned(&input, &output, PlanOptions::default()).await;
        assert_eq!((plan.run.videos, plan.skipped.archived.count), (0, 1));
        assert!(!plan.nothing_matched());
        add(&input, "cold.mp4", 7);
        let plan = planned(&input, &output, PlanOptions::default()).await;
        assert_eq!(todos(&plan).await, [("cold.mp4".to_owned(), Todo::default())], "the mark was not an attempt");
    }

    #[tokio::test]
    async fn a_deleted_video_that_is_back_unchanged_is_restored_from_its_latest_good_rows() {
        let (input, output) = stores(&[("back.mp4", 7), ("changed.mp4", 2), ("failed.mp4", 1)]);
        let run = "20261101T000000000Z-000001";
        let place = |shard: u32| format!("dt=2026-11-01/part-{run}-{shard:06}.parquet");
        let at = |row: VideoRow, indexed_at| VideoRow { indexed_at, ..row };
        let other = |row: VideoRow| VideoRow { fingerprint: "another".to_owned(), ..row };
        let files = [
            vec![at(row("back.mp4", 7, "ok"), 1), at(row("changed.mp4", 1, "ok"), 1)],
            vec![at(row("back.mp4", 7, "ok"), 2), at(row("failed.mp4", 1, "failed"), 1)],
            vec![at(other(row("back.mp4", 7, "ok")), 3), at(row("back.mp4", 7, "failed"), 4)],
            ["back.mp4", "changed.mp4", "failed.mp4"].map(|key| at(other(row(key, 7, "deleted")), 5)).to_vec(),
        ];
        for (shard, rows) in (0..).zip(&files) {
            output.put(&format!("videos/{}", place(shard)), videos_table(rows)).await.unwrap();
        }
        let plan = planned(&input, &output, PlanOptions::default()).await;
        let expected = [
            ("back.mp4".to_owned(), Todo::Restore { from: place(1) }),
            ("changed.mp4".to_owned(), Todo::default()),
            ("failed.mp4".to_owned(), Todo::default()),
        ];
        assert_eq!(todos(&plan).await, expected);
        assert_eq!((plan.run.bytes, plan.count(Why::Back)), (3, 1));
        // A file that another tool named has no files of the other tables beside it.
        let body = output.get(&format!("videos/{}", place(1))).await.unwrap();
        output.delete(&[format!("videos/{}", place(1)), format!("videos/{}", place(0))]).await.unwrap();
        output.put("videos/merged.parquet", body).await.unwrap();
        let plan = planned(&input, &output, PlanOptions::default()).await;
        assert_eq!(todos(&plan).await[0], ("back.mp4".to_owned(), Todo::default()));
    }

    #[tokio::test]
    async fn a_plan_says_why_it_takes_each_video() {
        let (input, output) = stores(&[("changed.mp4", 1), ("failed.mp4", 1), ("new.mp4", 1), ("old.mp4", 1)]);
        let mut before = job();
        before.persons.as_mut().unwrap().confidence = 0.5;
        let record = RunRecord { fingerprint: "before".to_owned(), job: before, ..record::testing::record(1, 1, 1) };
        let models = models();
        let record = RunRecord { actions_model: None, persons_model: models.persons.clone(), ..record };
        record::write_record(&output, &record).await.unwrap();
        let mut changed = row("changed.mp4", 1, "ok");
        changed.video.etag = "before".to_owned();
        let failed = VideoRow { error_kind: Some("timeout"), ..row("failed.mp4", 1, "failed") };
        let old = VideoRow { fingerprint: "before".to_owned(), ..row("old.mp4", 1, "ok") };
        output.put("videos/0.parquet", videos_table(&[changed, failed, old])).await.unwrap();
        let plan = planned(&input, &output, PlanOptions { list: true, ..Default::default() }).await;
        let reason = "indexed with other settings: persons.confidence 0.5 -> 0.25";
        assert!(plan.to_string().contains(&format!("\nagain 1 object, 1 B: {reason}\n    old.mp4")), "{plan}");
        let list = std::fs::read_to_string(plan.list().unwrap()).unwrap();
        let lines: Vec<_> = list.lines().collect();
        let expected = [
            "changed\tchanged.mp4\tchanged after they were indexed",
            "retried\tfailed.mp4\tfailed before",
            "new\tnew.mp4\tnot indexed before",
            &format!("again\told.mp4\t{reason}"),
        ];
        assert_eq!(lines, expected);
        let all = planned(&input, &output, PlanOptions { reindex: true, ..Default::default() }).await;
        assert_eq!((all.count(Why::Asked), all.videos_to_read(), all.list()), (4, 4, None));
        assert_eq!(all.sample().len(), 4);
    }

    #[tokio::test]
    async fn what_an_interrupted_run_saved_is_copied_if_it_is_complete_and_still_right() {
        let keys = ["changed.mp4", "committed.mp4", "failed.mp4", "half.mp4", "new.mp4", "twice.mp4", "well.mp4"];
        let (input, output) = stores(&keys.map(|key| (key, 1)));
        let first = planned(&input, &output, PlanOptions::default()).await;
        first.write(&output).await.unwrap();
        let run = first.run.run_id.as_str();
        let put = async |shard: u32, attempt: &str, rows: &[VideoRow], complete: bool| {
            let root = format!("_vidindex/runs/{run}/parts/{shard:06}/{attempt}/pieces/000000/");
            let file = piece::videos_key(&root, "dt=2026-11-01", run, shard);
            output.put(&file, videos_table(rows)).await.unwrap();
            if complete {
                piece::write(&output, &root, &PieceRecord { videos: vec![] }).await.unwrap();
            }
            file
        };
        let mut changed = row("changed.mp4", 1, "ok");
        changed.video.etag = "before".to_owned();
        let later = |key: &str| VideoRow { indexed_at: 9, ..row(key, 1, "partial") };
        put(0, "a", &[changed, row("failed.mp4", 1, "failed"), row("twice.mp4", 1, "ok")], true).await;
        let newer = put(0, "b", &[later("twice.mp4"), row("well.mp4", 1, "ok")], true).await;
        put(0, "c", &[row("half.mp4", 1, "ok")], false).await;
        put(1, "a", &[row("committed.mp4", 1, "ok")], true).await;
        output.put(&format!("_vidindex/runs/{run}/shards/000001.json"), "{}".into()).await.unwrap();

        let second = planned(&input, &output, PlanOptions::default()).await;
        let copied = |key: &str| (key.to_owned(), Todo::Restore { from: newer.clone() });
        let (copied, indexed): (Vec<_>, Vec<_>) =
            todos(&second).await.into_iter().partition(|todo| [copied("twice.mp4"), copied("well.mp4")].contains(todo));
        assert_eq!((copied.len(), indexed.len(), second.count(Why::Interrupted)), (2, 5, 2));
        assert!(indexed.iter().all(|(_, todo)| *todo == Todo::default()));
        assert!(second.to_string().starts_with("5 videos, 5 B to index, in "), "{second}");
        let mut other = job();
        other.persons.as_mut().unwrap().iou = 0.7;
        let third = plan(&other, &models(), &input, &output, PlanOptions::default()).await.unwrap();
        assert_eq!((third.run.videos, third.count(Why::Interrupted)), (7, 0));
        let all = planned(&input, &output, PlanOptions { reindex: true, ..Default::default() }).await;
        assert_eq!((all.run.videos, all.count(Why::Interrupted)), (7, 0));
    }

    #[tokio::test]
    async fn the_latest_row_of_this_fingerprint_decides() {
        let (input, output) = stores(&[("a.mp4", 1), ("b.mp4", 1), ("c.mp4", 1), ("d.mp4", 1)]);
        let at = |row: VideoRow, indexed_at: i64, run: &str| VideoRow { indexed_at, run_id: run.to_owned(), ..row };
        let other = |row: VideoRow| VideoRow { fingerprint: "another".to_owned(), ..row };
        // a: failed, then succeeded. b: the other way round, distinguished only by the run. c: changed and changed
        // back. d: rows of another job in the same output, including later ones.
        let early = [
            at(row("a.mp4", 1, "failed"), 5, "r1"),
            at(row("b.mp4", 1, "ok"), 7, "r1"),
            at(row("c.mp4", 1, "ok"), 5, "r1"),
            at(row("d.mp4", 1, "ok"), 5, "r1"),
        ];
        let late = [
            at(row("a.mp4", 1, "ok"), 6, "r2"),
            at(row("b.mp4", 1, "failed"), 7, "r2"),
            at(row("c.mp4", 99, "ok"), 6, "r2"),
            at(other(row("d.mp4", 1, "failed")), 6, "r2"),
        ];
        for (first, second) in [(&early, &late), (&late, &early)] {
            output.put("videos/0.parquet", videos_table(first)).await.unwrap();
            output.put("videos/dt=1/1.parquet", videos_table(second)).await.unwrap();
            let plan = planned(&input, &output, PlanOptions::default()).await;
            assert_eq!(keys(&plan).await, ["c.mp4"]);
            assert_eq!(plan.skipped.already_indexed.examples, ["a.mp4", "d.mp4"]);
            assert_eq!(plan.skipped.failed_before.examples, ["b.mp4"]);
        }
    }

    #[tokio::test]
    async fn a_table_that_cannot_be_read_stops_the_plan_by_name() {
        let (input, output) = stores(&[("a.mp4", 1)]);
        output.put("videos/odd.parquet", "not parquet".into()).await.unwrap();
        let error = plan(&job(), &models(), &input, &output, PlanOptions::default()).await.unwrap_err();
        assert!(error.to_string().contains("s3://index/videos/odd.parquet"), "{error}");
        assert!(error.hint().unwrap().contains("--reindex"));
        let all = PlanOptions { reindex: true, ..Default::default() };
        assert_eq!(planned(&input, &output, all).await.run.videos, 1);
    }

    #[tokio::test]
    async fn an_archive_without_videos_says_what_was_looked_for() {
        let (input, output) = stores(&[("a.txt", 1), ("b.txt", 1)]);
        let plan = planned(&input, &output, PlanOptions::default()).await;
        assert!(plan.nothing_matched() && plan.run.shards == 0);
        let text = plan.to_string();
        assert!(
            text.starts_with("no video in s3://archive/2026/: 2 objects seen, none matches include = [\"**/*.{mp4,")
        );
        assert_eq!(shards(&plan).await, []);
    }

    #[tokio::test]
    async fn the_description_counts_and_gives_examples() {
        let (input, output) =
            stores(&[("a.mp4", 60 << 20), ("b.mp4", 1), ("4.txt", 1), ("3.txt", 1), ("2.txt", 1), ("1.txt", 1)]);
        output.put("videos/x.parquet", videos_table(&[row("b.mp4", 1, "ok")])).await.unwrap();
        let plan = planned(&input, &output, PlanOptions::default()).await;
        assert_eq!(
            plan.to_string(),
            "1 video, 60.0 MiB to index, in 1 shard (the largest 60.0 MiB; run.shard_bytes is 100 B)\n\
             last modified 2026-11-01 to 2026-11-01\n\
             new 1 object, 60.0 MiB: not indexed before\n    a.mp4\n\
             skipped 1 object, 1 B: already indexed (--reindex indexes them again)\n    b.mp4\n\
             skipped 4 objects, 4 B: not matched by input.include: 4 .txt\n    1.txt, 2.txt, 3.txt, ..."
        );
        assert!(!plan.nothing_matched());
    }

    proptest! {
        #[test]
        fn shards_are_the_same_in_whatever_order_the_videos_come_and_in_order_themselves(
            (videos, shuffled) in archive().prop_flat_map(|v| (Just(v.clone()), Just(v).prop_shuffle())),
            size in 1_u64..30_000,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let input = MemoryStore::bucket("s3://archive/2026/");
            let cut = |videos: &[VideoObject]| {
                let mut draft = Draft::new(size, false).unwrap();
                videos.iter().for_each(|video| draft.add(video, Why::New, &[]).unwrap());
                let (count, bytes) = (draft.videos, draft.bytes);
                let videos = draft.arrange(&input).unwrap();
                let run = record::testing::record(videos.shards, count, bytes);
                let (skipped, missing, objects_seen) = (Skipped::default(), None, count);
                let (taken, settings, unfit) = (BTreeMap::new(), Vec::new(), Group::default());
                let plan = Plan { run, skipped, taken, settings, missing, unfit, objects_seen, videos };
                runtime.block_on(shards(&plan))
            };
            let cut_once = cut(&videos);
            prop_assert_eq!(&cut_once, &cut(&shuffled));
            let planned: Vec<_> = cut_once.into_iter().flat_map(|shard| shard.videos).collect();
            let mut expected = videos;
            expected.sort_by_key(|video| (video.partition_path(), video.key.clone()));
            prop_assert_eq!(planned, expected);
        }
    }

    #[test]
    fn planning_can_be_spawned() {
        fn is_send<T: Send>(_: &T) {}
        let (input, output) = stores(&[]);
        let (job, models) = (job(), models());
        is_send(&plan(&job, &models, &input, &output, PlanOptions::default()));
    }
}
