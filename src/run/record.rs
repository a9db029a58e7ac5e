//! `job.json`, the record of a run, and which runs an output has.

use std::path::Path;

use bytes::Bytes;
use chrono::{DateTime, SubsecRound, Utc};
use serde::{Deserialize, Serialize};

use super::plan_file::{PlanFile, plan_key};
use super::{RUNS_PREFIX, RunId, Shard};
use crate::error::{Error, Result};
use crate::job::Job;
use crate::store::{PutNew, Store, StoreErrorKind, get_record};

/// In the record's field `fingerprint`, marks a run that merges files.
const MERGE: &str = "compact";

/// Runs that an error about an absent one names.
const NEWEST_SHOWN: usize = 3;

/// The run's record: it exists from when the plan is whole.
pub fn job_key(run: &RunId) -> String {
    format!("{RUNS_PREFIX}{run}/job.json")
}

/// A model as a run knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRef {
    /// As in the tables' `model=<id>`.
    pub id: String,
    /// SHA-256 of everything of the model that changes rows, in hex.
    pub sha256: String,
    /// Whether its weights are random, so that its rows mean nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub random: bool,
}

/// The models of a job, one for each section that it has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlanModels {
    /// Of `[actions]`.
    pub actions: Option<ModelRef>,
    /// Of `[persons]`.
    pub persons: Option<ModelRef>,
}

impl PlanModels {
    /// Role and hash of each, as [`Job::fingerprint`] takes them.
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

/// `job.json`: what the run is, for its workers and for whoever asks later. Never changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The run's name.
    pub run_id: RunId,
    /// When it was planned; to the microsecond.
    pub created_at: DateTime<Utc>,
    /// Of vidindex, as planned it.
    pub version: String,
    /// See [`Job::fingerprint`]. A run that merges files has a mark here: ask [`RunRecord::kind`].
    pub fingerprint: String,
    /// Of the job's `[actions]`, where it has them.
    pub actions_model: Option<ModelRef>,
    /// Of the job's `[persons]`, where it has them.
    pub persons_model: Option<ModelRef>,
    /// How many shards: their indices are 0 up to, not with, this.
    pub shards: u32,
    /// Videos in all shards.
    pub videos: u64,
    /// Sum of their sizes.
    pub bytes: u64,
    /// The job as resolved when it was planned: workers go by this, not by the file.
    pub job: Job,
}

impl RunRecord {
    /// Of a run that merges the rows of these many videos, `bytes` of files, and has no plan.
    pub(crate) fn merging(job: &Job, shards: u32, videos: u64, bytes: u64) -> Self {
        let created_at = Utc::now().trunc_subsecs(6);
        Self {
            run_id: RunId::new(created_at),
            created_at,
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

    /// What the run does.
    pub fn kind(&self) -> RunKind<'_> {
        match self.fingerprint.as_str() {
            MERGE => RunKind::Merge,
            fingerprint => RunKind::Index { fingerprint },
        }
    }
}

/// Every run of the output, oldest first, those too that are still being written. What lies in them is not listed.
pub async fn runs(output: &dyn Store) -> Result<Vec<RunId>> {
    let names = output.folders(RUNS_PREFIX).await?;
    let mut runs: Vec<RunId> = names.iter().filter_map(|name| name.parse().ok()).collect();
    runs.sort_unstable();
    Ok(runs)
}

/// A run's record, or none where there is no such run.
pub async fn find_record(output: &dyn Store, run: &RunId) -> Result<Option<RunRecord>> {
    let key = job_key(run);
    let Some(text) = get_record(output, &key).await? else { return Ok(None) };
    let record = serde_json::from_slice(&text).map_err(|error| {
        Error::failed(format!("cannot read {}: {error}", output.uri(&key)))
            .with_hint("was it written by another version of vidindex? use that one, or plan again")
    })?;
    Ok(Some(record))
}

/// A run's record alone.
///
/// # Errors
/// [`Error::Usage`] where there is no such run: it names the newest that there are.
pub async fn read_record(output: &dyn Store, run: &RunId) -> Result<RunRecord> {
    match find_record(output, run).await? {
        Some(record) => Ok(record),
        None => Err(no_such_run(output, run).await?),
    }
}

/// A run's record and its plan, whose shards are fetched as they are asked for.
///
/// # Errors
/// As [`read_record`].
pub async fn read(output: &dyn Store, run: &RunId) -> Result<(RunRecord, PlanFile)> {
    let record = read_record(output, run).await?;
    if record.kind() == RunKind::Merge {
        return Err(Error::usage(format!("{run} is a run of `vidindex compact`: there is nothing to index"))
            .with_hint("`vidindex compact JOB.toml` goes on where one was cut off"));
    }
    let file = PlanFile::open(output, plan_key(run), record.shards).await?;
    Ok((record, file))
}

/// One shard of a run. For several of them, [`read`] the plan once.
///
/// # Errors
/// As [`read_record`], and [`Error::Usage`] where the run has no shard of this index.
pub async fn read_shard(output: &dyn Store, run: &RunId, index: u32) -> Result<Shard> {
    read(output, run).await?.1.shard(output, index).await
}

/// Writes `plan.parquet` from `table`, a file of this machine's, then `job.json`: a run whose record is there has its
/// whole plan.
pub(crate) async fn write(output: &dyn Store, record: &RunRecord, table: &Path) -> Result<()> {
    // Asked before the plan of another run is replaced; that two of one name come in the same moment, nobody sees.
    let there = match find_record(output, &record.run_id).await {
        // A directory comes into being with its first file.
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

/// Writes `job.json`, by which a run comes into being.
pub(crate) async fn write_record(output: &dyn Store, record: &RunRecord) -> Result<()> {
    let text = serde_json::to_vec_pretty(record)
        .map_err(|error| Error::failed(format!("cannot encode the run's record: {error}")))?;
    let key = job_key(&record.run_id);
    // A put whose answer was lost is made again, and then meets itself.
    match output.put_new(&key, Bytes::from(text.clone())).await? {
        PutNew::Exists if output.get(&key).await? != text => Err(taken(output, &key)),
        _ => Ok(()),
    }
}

fn taken(output: &dyn Store, key: &str) -> Error {
    Error::failed(format!("{} is there already, of another run by the same name", output.uri(key)))
        .with_hint("plan again: it will be named anew")
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
        return Ok(error.with_hint("it has no runs at all: `vidindex plan JOB.toml` makes one; is output.uri right?"));
    }
    Ok(error.with_hint(format!("the newest are {}", newest.join(", "))))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
pub(crate) mod testing {
    use super::*;
    use crate::plan::testing::job;

    /// Of a run with an actions model.
    pub(crate) fn record(shards: u32, videos: u64, bytes: u64) -> RunRecord {
        RunRecord {
            run_id: "20261123T073712123Z-ab12cd".parse().unwrap(),
            created_at: "2026-11-23T07:37:12.123456Z".parse().unwrap(),
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
    async fn writing_the_same_plan_again_is_no_error_but_another_of_its_name_is() {
        let output = MemoryStore::bucket("s3://index/");
        put(&output, &record(RUN, 1), &shards(1, 1)).await.unwrap();
        put(&output, &record(RUN, 1), &shards(1, 1)).await.unwrap();
        let error = put(&output, &record(RUN, 2), &shards(2, 1)).await.unwrap_err();
        assert!(error.to_string().contains("is there already"), "{error}");
        assert_eq!(read_shard(&output, &RUN.parse().unwrap(), 0).await.unwrap(), shards(1, 1)[0]);
        assert!(read_shard(&output, &RUN.parse().unwrap(), 1).await.is_err());
    }

    #[tokio::test]
    async fn an_absent_run_is_told_with_the_newest_that_exist() {
        let output = MemoryStore::bucket("s3://index/");
        let error = read_record(&output, &RUN.parse().unwrap()).await.unwrap_err();
        assert_eq!(error.to_string(), format!("there is no run {RUN} in s3://index/"));
        assert!(error.hint().unwrap().contains("no runs at all"));
        for day in 1..=4 {
            let run = format!("2026100{day}T000000000Z-000000");
            put(&output, &record(&run, 0), &[]).await.unwrap();
        }
        output.put("_vidindex/runs/20261231T000000000Z-000000/plan.parquet", Bytes::new()).await.unwrap();
        let error = read(&output, &RUN.parse().unwrap()).await.unwrap_err();
        let newest = "20261004T000000000Z-000000, 20261003T000000000Z-000000, 20261002T000000000Z-000000";
        assert_eq!(error.hint(), Some(format!("the newest are {newest}").as_str()));
        assert_eq!(error.exit_code(), 2);
        assert_eq!(runs(&output).await.unwrap().len(), 5, "the one too whose plan is not whole");
    }
}
