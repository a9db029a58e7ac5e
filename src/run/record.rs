//! `job.json`, the record of a run, and the list of an output's runs.

use std::path::Path;

use bytes::Bytes;
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::plan_file::{PlanFile, plan_key};
use super::{RUNS_PREFIX, RunId, Shard};
use crate::error::{Error, Result};
use crate::job::Job;
use crate::store::{PutNew, Store, StoreErrorKind, check_put_new, get_record};

/// Value of the record's field `fingerprint` in runs of `compact`.
const MERGE: &str = "compact";

/// Number of runs that are named in the error about a run that does not exist.
const NEWEST_SHOWN: usize = 3;

/// Key of a run's record, which is written after the plan is complete.
pub fn job_key(run: &RunId) -> String {
    format!("{RUNS_PREFIX}{run}/job.json")
}

/// A model as recorded in a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRef {
    /// The id in the tables' `model=<id>`.
    pub id: String,
    /// SHA-256, in hex, of everything about the model that affects rows.
    pub sha256: String,
    /// Whether its weights are random, so that its rows are meaningless.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub random: bool,
}

/// The models of a job, one per section.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlanModels {
    /// The model of `[actions]`.
    pub actions: Option<ModelRef>,
    /// The model of `[persons]`.
    pub persons: Option<ModelRef>,
}

impl PlanModels {
    /// Role and hash of each model, as [`Job::fingerprint`] needs them.
    pub fn hashes(&self) -> Vec<(&'static str, &str)> {
        let roles = [("actions", &self.actions), ("persons", &self.persons)];
        roles.into_iter().filter_map(|(role, model)| Some((role, model.as_ref()?.sha256.as_str()))).collect()
    }
}

/// What a run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunKind<'a> {
    /// It indexes videos.
    Index {
        /// See [`Job::fingerprint`].
        fingerprint: &'a str,
    },
    /// It merges files of other runs (`vidindex compact`).
    Merge,
}

impl<'a> RunKind<'a> {
    /// The kind as records and Parquet files have it under `fingerprint`.
    pub(crate) fn fingerprint(self) -> &'a str {
        match self {
            Self::Index { fingerprint } => fingerprint,
            Self::Merge => MERGE,
        }
    }
}

/// `job.json`: the description of a run for its workers and for later readers. Never changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The name of the run.
    pub run_id: RunId,
    /// Time of planning, in microseconds.
    pub created_at: DateTime<Utc>,
    /// The largest `indexed_at` in the index that the plan read. See [`RunRecord::row_time`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest_row: Option<DateTime<Utc>>,
    /// Version of vidindex that planned the run.
    pub version: String,
    /// See [`Job::fingerprint`]. `compact` for a run that merges files: use [`RunRecord::kind`].
    pub fingerprint: String,
    /// The model of the job's `[actions]`, if it has that section.
    pub actions_model: Option<ModelRef>,
    /// The model of the job's `[persons]`, if it has that section.
    pub persons_model: Option<ModelRef>,
    /// Number of shards. Their indices start at 0.
    pub shards: u32,
    /// Number of videos in all shards.
    pub videos: u64,
    /// Total size of the videos, bytes.
    pub bytes: u64,
    /// The job as resolved at planning. Workers use this instead of the job file.
    pub job: Job,
}

impl RunRecord {
    /// The record of a run that merges the rows of `videos` videos, stored in files of `bytes`. It has no plan.
    pub(crate) fn merging(job: &Job, shards: u32, videos: u64, bytes: u64) -> Self {
        let created_at = Utc::now().trunc_subsecs(6);
        Self {
            run_id: RunId::new(created_at),
            created_at,
            newest_row: None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            fingerprint: RunKind::Merge.fingerprint().to_owned(),
            actions_model: None,
            persons_model: None,
            shards,
            videos,
            bytes,
            job: job.clone(),
        }
    }

    /// The time of a row that is made now, for `indexed_at`. It is later than that of every row that the plan knew, also if one of
    /// the clocks was wrong, so that the row replaces these.
    pub fn row_time(&self) -> DateTime<Utc> {
        let now = Utc::now().trunc_subsecs(6);
        self.newest_row.map_or(now, |newest| now.max(newest + TimeDelta::microseconds(1)))
    }

    /// What the run does.
    pub fn kind(&self) -> RunKind<'_> {
        match self.fingerprint.as_str() {
            MERGE => RunKind::Merge,
            fingerprint => RunKind::Index { fingerprint },
        }
    }
}

/// Lists all runs of the output, oldest first, including those that are still being written. Their content is not
/// listed.
pub async fn runs(output: &dyn Store) -> Result<Vec<RunId>> {
    let names = output.folders(RUNS_PREFIX).await?;
    let mut runs: Vec<RunId> = names.iter().filter_map(|name| name.parse().ok()).collect();
    runs.sort_unstable();
    Ok(runs)
}

/// Reads a run's record. `None` if there is no such run.
pub async fn find_record(output: &dyn Store, run: &RunId) -> Result<Option<RunRecord>> {
    let key = job_key(run);
    let Some(text) = get_record(output, &key).await? else { return Ok(None) };
    let record = serde_json::from_slice(&text).map_err(|error| {
        Error::failed(format!("failed to read {}: {error}", output.uri(&key)))
            .with_hint("if another version of vidindex wrote it, use that version or plan again")
    })?;
    Ok(Some(record))
}

/// Reads a run's record without its plan.
///
/// # Errors
/// [`Error::Usage`] if there is no such run. The message names the latest runs.
pub async fn read_record(output: &dyn Store, run: &RunId) -> Result<RunRecord> {
    match find_record(output, run).await? {
        Some(record) => Ok(record),
        None => Err(no_such_run(output, run).await?),
    }
}

/// The latest run of the output with a complete plan. Indexing runs take precedence over runs of `compact`.
///
/// # Errors
/// If the output cannot be accessed.
pub async fn newest(output: &dyn Store) -> Result<Option<RunId>> {
    let mut merging = None;
    for run in runs(output).await?.into_iter().rev() {
        match find_record(output, &run).await? {
            Some(record) if record.kind() == RunKind::Merge => merging = merging.or(Some(run)),
            Some(_) => return Ok(Some(run)),
            None => {}
        }
    }
    Ok(merging)
}

/// Reads a run's record and opens its plan, whose shards are fetched on demand.
///
/// # Errors
/// As for [`read_record`].
pub async fn read(output: &dyn Store, run: &RunId) -> Result<(RunRecord, PlanFile)> {
    let record = read_record(output, run).await?;
    if record.kind() == RunKind::Merge {
        return Err(Error::usage(format!("{run} is a run of `vidindex compact`: there is nothing to index"))
            .with_hint("`vidindex compact JOB.toml` resumes an interrupted run"));
    }
    let file = PlanFile::open(output, plan_key(run), record.shards).await?;
    Ok((record, file))
}

/// Reads one shard of a run. For several shards, [`read`] the plan once instead.
///
/// # Errors
/// As for [`read_record`], and [`Error::Usage`] if the run has no shard with this index.
pub async fn read_shard(output: &dyn Store, run: &RunId, index: u32) -> Result<Shard> {
    read(output, run).await?.1.shard(output, index).await
}

/// Writes `plan.parquet` from the local file `table`, then `job.json`. So a run whose record exists has a complete
/// plan.
pub(crate) async fn write(output: &dyn Store, record: &RunRecord, table: &Path) -> Result<()> {
    // Check before replacing the plan of another run with the same name. Two such runs at the same moment are not
    // detected.
    let there = match find_record(output, &record.run_id).await {
        // A directory is created with its first file.
        Err(Error::Store(error)) if error.kind == StoreErrorKind::NoRoot => None,
        there => there?,
    };
    match there {
        Some(there) if there == *record => return Ok(()),
        Some(_) => return Err(taken(output, &job_key(&record.run_id))),
        None => output.put_file(&plan_key(&record.run_id), table).await?,
    }
    write_record(output, record).await
}

/// Writes `job.json`, which creates the run.
pub(crate) async fn write_record(output: &dyn Store, record: &RunRecord) -> Result<()> {
    let text = serde_json::to_vec_pretty(record)
        .map_err(|error| Error::failed(format!("failed to encode the run's record: {error}")))?;
    let key = job_key(&record.run_id);
    // A put whose response was lost is retried and then finds its own record.
    match output.put_new(&key, Bytes::from(text.clone())).await? {
        PutNew::Exists if output.get(&key).await? != text => Err(taken(output, &key)),
        _ => Ok(check_put_new(output, &key, [&text[..], b"\n"].concat().into()).await?),
    }
}

fn taken(output: &dyn Store, key: &str) -> Error {
    Error::failed(format!("{} already exists and belongs to another run of the same name", output.uri(key)))
        .with_hint("plan again: the run gets a new name")
}

async fn no_such_run(output: &dyn Store, run: &RunId) -> Result<Error> {
    let root = output.uri("");
    let error = Error::usage(format!("there is no run {run} in {root}"));
    let mut newest = Vec::new();
    for run in runs(output).await?.into_iter().rev() {
        if newest.len() < NEWEST_SHOWN && output.head(&job_key(&run)).await.is_ok() {
            newest.push(run.to_string());
        }
    }
    if newest.is_empty() {
        return Ok(error.with_hint("it has no runs: check output.uri, or create a run with `vidindex plan JOB.toml`"));
    }
    Ok(error.with_hint(format!("the latest runs are {}", newest.join(", "))))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
pub(crate) mod testing {
    use super::*;
    use crate::plan::testing::job;

    /// The record of a run with an actions model.
    pub(crate) fn record(shards: u32, videos: u64, bytes: u64) -> RunRecord {
        RunRecord {
            run_id: "20261123T073712123Z-ab12cd".parse().unwrap(),
            created_at: "2026-11-23T07:37:12.123456Z".parse().unwrap(),
            newest_row: None,
            version: "0.1.0".to_owned(),
            fingerprint: "0123456789abcdef".to_owned(),
            actions_model: Some(ModelRef { id: "slowfast".to_owned(), sha256: "ab".to_owned(), random: false }),
            persons_model: None,
            shards,
            videos,
            bytes,
            job: job(),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::plan::testing::video;
    use crate::run::VideoObject;
    use crate::run::plan_file::PlanWriter;
    use crate::store::memory::MemoryStore;

    fn record(run: &str, shards: u32) -> RunRecord {
        RunRecord { run_id: run.parse().unwrap(), ..testing::record(shards, 0, 0) }
    }

    async fn put(output: &MemoryStore, record: &RunRecord, shards: &[Shard]) -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let mut table = PlanWriter::new(folder.path()).unwrap();
        for shard in shards {
            shard.videos.iter().for_each(|video| table.push(shard.index, video.clone()).unwrap());
        }
        write(output, record, &table.finish().unwrap()).await
    }

    fn shards(count: u32, videos: usize) -> Vec<Shard> {
        let partition = |n: usize| match n % 3 {
            0 => Vec::new(),
            columns => (0..columns).map(|c| (format!("column{c}"), format!("wert/ü {n}"))).collect(),
        };
        let videos = |index| {
            (0..videos)
                .map(|n| VideoObject { partition: partition(n), ..video(&format!("{index}/{n}.mp4"), n as u64) })
                .collect()
        };
        (0..count).map(|index| Shard { index, videos: videos(index) }).collect()
    }

    const RUN: &str = "20261123T073712123Z-ab12cd";

    #[tokio::test]
    async fn shards_of_a_long_plan_come_back_one_by_one_in_any_order() {
        let output = MemoryStore::bucket("s3://index/");
        let shards = shards(9, 3_000);
        put(&output, &record(RUN, 9), &shards).await.unwrap();
        let (_, file) = read(&output, &RUN.parse().unwrap()).await.unwrap();
        assert_eq!(file.group_count(), 3);
        for shard in shards.iter().chain(shards.iter().rev()) {
            assert_eq!(&file.shard(&output, shard.index).await.unwrap(), shard);
        }
        let absent = file.shard(&output, 9).await.unwrap_err();
        assert!(absent.to_string().contains("there is no shard 9: the run has 9 shards"));
    }

    #[tokio::test]
    async fn writing_the_same_plan_again_succeeds_but_another_plan_of_that_name_fails() {
        let output = MemoryStore::bucket("s3://index/");
        put(&output, &record(RUN, 1), &shards(1, 1)).await.unwrap();
        put(&output, &record(RUN, 1), &shards(1, 1)).await.unwrap();
        let error = put(&output, &record(RUN, 2), &shards(2, 1)).await.unwrap_err();
        assert!(error.to_string().contains("already exists"), "{error}");
        assert_eq!(read_shard(&output, &RUN.parse().unwrap(), 0).await.unwrap(), shards(1, 1)[0]);
        assert!(read_shard(&output, &RUN.parse().unwrap(), 1).await.is_err());
    }

    #[tokio::test]
    async fn the_error_about_an_absent_run_names_the_latest_runs() {
        let output = MemoryStore::bucket("s3://index/");
        let error = read_record(&output, &RUN.parse().unwrap()).await.unwrap_err();
        assert_eq!(error.to_string(), format!("there is no run {RUN} in s3://index/"));
        assert!(error.hint().unwrap().contains("it has no runs"));
        for day in 1..=4 {
            let run = format!("2026100{day}T000000000Z-000000");
            put(&output, &record(&run, 0), &[]).await.unwrap();
        }
        output.put("_vidindex/runs/20261231T000000000Z-000000/plan.parquet", Bytes::new()).await.unwrap();
        let error = read(&output, &RUN.parse().unwrap()).await.unwrap_err();
        let newest = "20261004T000000000Z-000000, 20261003T000000000Z-000000, 20261002T000000000Z-000000";
        assert_eq!(error.hint(), Some(format!("the latest runs are {newest}").as_str()));
        assert_eq!(error.exit_code(), 2);
        assert_eq!(runs(&output).await.unwrap().len(), 5, "including the one whose plan is incomplete");
    }
}
