//! The plan as it lies in the output: where each file of a run is, and `job.json` and `plan.parquet` written and read.

use std::sync::Arc;

use arrow::array::{Array, Int32Array, Int64Array, MapArray, MapBuilder, MapFieldNames, RecordBatch, StringArray};
use arrow::array::{StringBuilder, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use parquet::file::statistics::Statistics;
use serde::{Deserialize, Serialize};

use super::indexed::{text_column, time_column};
use super::{ModelRef, RunId, Shard, VideoObject};
use crate::error::{Error, Result};
use crate::job::Job;
use crate::store::{PutNew, Store, StoreErrorKind};

/// Where every run's state lies in the output.
pub const RUNS_PREFIX: &str = "_vidindex/runs/";

/// Rows of one row group of `plan.parquet`: a worker decodes the groups that its shard lies in.
const GROUP_ROWS: usize = 10_000;

/// Runs that an error about an absent one names.
const NEWEST_SHOWN: usize = 3;

/// The run's record: it exists from when the plan is whole.
pub fn job_key(run: &RunId) -> String {
    format!("{RUNS_PREFIX}{run}/job.json")
}

/// The videos of every shard.
pub fn plan_key(run: &RunId) -> String {
    format!("{RUNS_PREFIX}{run}/plan.parquet")
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
    /// See [`Job::fingerprint`].
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
    let text = match output.get(&key).await {
        Ok(text) => text,
        Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
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

/// A run's record and its plan. The plan is fetched once and its shards are decoded as they are asked for.
///
/// # Errors
/// As [`read_record`].
pub async fn read(output: &dyn Store, run: &RunId) -> Result<(RunRecord, PlanFile)> {
    let record = read_record(output, run).await?;
    let key = plan_key(run);
    let file = PlanFile::open(output.uri(&key), output.get(&key).await?, record.shards)?;
    Ok((record, file))
}

/// One shard of a run. For several of them, [`read`] the plan once.
///
/// # Errors
/// As [`read_record`], and [`Error::Usage`] where the run has no shard of this index.
pub async fn read_shard(output: &dyn Store, run: &RunId, index: u32) -> Result<Shard> {
    read(output, run).await?.1.shard(index)
}

/// `plan.parquet` in memory, still encoded.
#[derive(Debug, Clone)]
pub struct PlanFile {
    uri: String,
    bytes: Bytes,
    metadata: ArrowReaderMetadata,
    shards: u32,
}

impl PlanFile {
    fn open(uri: String, bytes: Bytes, shards: u32) -> Result<Self> {
        let metadata =
            ArrowReaderMetadata::load(&bytes, Default::default()).map_err(|error| unreadable(&uri, error))?;
        Ok(Self { uri, bytes, metadata, shards })
    }

    /// How many shards there are.
    pub fn shard_count(&self) -> u32 {
        self.shards
    }

    /// One shard.
    ///
    /// # Errors
    /// [`Error::Usage`] where the plan has no shard of this index.
    pub fn shard(&self, index: u32) -> Result<Shard> {
        if index >= self.shards {
            return Err(Error::usage(format!("there is no shard {index}: the run has {} shards", self.shards)));
        }
        let videos = self.decode(Some(index))?.into_iter().map(|(_, video)| video).collect::<Vec<_>>();
        if videos.is_empty() {
            return Err(unreadable(&self.uri, format!("it has no videos of shard {index}")));
        }
        Ok(Shard { index, videos })
    }

    /// All shards, in order.
    pub fn shards(&self) -> Result<Vec<Shard>> {
        let mut shards: Vec<Shard> = Vec::new();
        for (index, video) in self.decode(None)? {
            match shards.last_mut() {
                Some(shard) if shard.index == index => shard.videos.push(video),
                _ => shards.push(Shard { index, videos: vec![video] }),
            }
        }
        Ok(shards)
    }

    /// The videos of one shard or of all, each with its shard.
    fn decode(&self, only: Option<u32>) -> Result<Vec<(u32, VideoObject)>> {
        let groups = self.metadata.metadata().row_groups().iter().enumerate();
        let wanted = groups.filter(|(_, group)| match (only, group.column(0).statistics()) {
            (Some(index), Some(Statistics::Int32(range))) => {
                let index = i64::from(index);
                range.min_opt().is_none_or(|min| i64::from(*min) <= index)
                    && range.max_opt().is_none_or(|max| i64::from(*max) >= index)
            }
            _ => true,
        });
        let wanted = wanted.map(|(group, _)| group).collect();
        let batches = ParquetRecordBatchReaderBuilder::new_with_metadata(self.bytes.clone(), self.metadata.clone())
            .with_row_groups(wanted)
            .build()
            .map_err(|error| unreadable(&self.uri, error))?;
        let mut videos = Vec::new();
        for batch in batches {
            let batch = batch.map_err(|error| unreadable(&self.uri, error))?;
            from_batch(&batch, only, &mut videos).map_err(|problem| unreadable(&self.uri, problem))?;
        }
        Ok(videos)
    }
}

/// Writes `plan.parquet`, then `job.json`: a run whose record is there has its whole plan.
pub(super) async fn write(output: &dyn Store, record: &RunRecord, shards: &[Shard]) -> Result<()> {
    let table = to_parquet(shards).map_err(|problem| Error::failed(format!("cannot encode the plan: {problem}")))?;
    let text = serde_json::to_vec_pretty(record)
        .map_err(|error| Error::failed(format!("cannot encode the run's record: {error}")))?;
    put_once(output, &plan_key(&record.run_id), table).await?;
    put_once(output, &job_key(&record.run_id), text.into()).await
}

/// Writes what must not be there yet. Where it is there as it is to be, all is well: a put whose answer was lost is
/// made again, and then meets itself.
async fn put_once(output: &dyn Store, key: &str, body: Bytes) -> Result<()> {
    match output.put_new(key, body.clone()).await? {
        PutNew::Created => Ok(()),
        PutNew::Exists if output.get(key).await? == body => Ok(()),
        PutNew::Exists => {
            let uri = output.uri(key);
            Err(Error::failed(format!("{uri} is there already, of another run by the same name"))
                .with_hint("plan again: it will be named anew"))
        }
    }
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

fn unreadable(uri: &str, problem: impl std::fmt::Display) -> Error {
    Error::failed(format!("cannot read the plan {uri}: {problem}")).with_hint("plan again")
}

fn partition_names() -> MapFieldNames {
    MapFieldNames { entry: "key_value".to_owned(), key: "key".to_owned(), value: "value".to_owned() }
}

fn schema(partition: &DataType) -> SchemaRef {
    let field = |name: &str, kind: DataType| Field::new(name, kind, false);
    Arc::new(Schema::new(vec![
        field("shard", DataType::Int32),
        field("key", DataType::Utf8),
        field("uri", DataType::Utf8),
        field("etag", DataType::Utf8),
        field("size_bytes", DataType::Int64),
        field("last_modified", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
        field("partition", partition.clone()),
    ]))
}

fn to_parquet(shards: &[Shard]) -> Result<Bytes, String> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .build();
    let empty = to_batch(&[])?;
    let mut writer =
        ArrowWriter::try_new(Vec::new(), empty.schema(), Some(properties)).map_err(|error| error.to_string())?;
    let rows: Vec<_> = shards.iter().flat_map(|shard| shard.videos.iter().map(|video| (shard.index, video))).collect();
    for rows in rows.chunks(GROUP_ROWS) {
        writer.write(&to_batch(rows)?).map_err(|error| error.to_string())?;
    }
    Ok(writer.into_inner().map_err(|error| error.to_string())?.into())
}

fn to_batch(rows: &[(u32, &VideoObject)]) -> Result<RecordBatch, String> {
    let text = |of: fn(&VideoObject) -> &str| StringArray::from_iter_values(rows.iter().map(|(_, video)| of(video)));
    let shards: Result<Int32Array, _> = rows.iter().map(|(shard, _)| i32::try_from(*shard).map(Some)).collect();
    let sizes: Result<Int64Array, _> = rows.iter().map(|(_, v)| i64::try_from(v.size_bytes).map(Some)).collect();
    let times = rows.iter().map(|(_, video)| video.last_modified.timestamp_micros());
    let mut partitions = MapBuilder::new(Some(partition_names()), StringBuilder::new(), StringBuilder::new());
    for (_, video) in rows {
        for (name, value) in &video.partition {
            partitions.keys().append_value(name);
            partitions.values().append_value(value);
        }
        partitions.append(true).map_err(|error| error.to_string())?;
    }
    let partitions = partitions.finish();
    let schema = schema(partitions.data_type());
    let columns: Vec<Arc<dyn Array>> = vec![
        Arc::new(shards.map_err(|error| error.to_string())?),
        Arc::new(text(|video| &video.key)),
        Arc::new(text(|video| &video.uri)),
        Arc::new(text(|video| &video.etag)),
        Arc::new(sizes.map_err(|error| error.to_string())?),
        Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC")),
        Arc::new(partitions),
    ];
    RecordBatch::try_new(schema, columns).map_err(|error| error.to_string())
}

fn from_batch(batch: &RecordBatch, only: Option<u32>, videos: &mut Vec<(u32, VideoObject)>) -> Result<(), String> {
    let shards = whole_number_column(batch, "shard")?;
    let sizes = whole_number_column(batch, "size_bytes")?;
    let (keys, uris) = (text_column(batch, "key")?, text_column(batch, "uri")?);
    let (etags, times) = (text_column(batch, "etag")?, time_column(batch, "last_modified")?);
    let partitions = batch
        .column_by_name("partition")
        .and_then(|column| column.as_any().downcast_ref::<MapArray>())
        .ok_or("it has no map `partition`")?;
    for row in 0..batch.num_rows() {
        let shard = u32::try_from(shards.value(row)).map_err(|error| error.to_string())?;
        if only.is_some_and(|only| only != shard) {
            continue;
        }
        let time = times.value(row);
        let video = VideoObject {
            key: keys.value(row).to_owned(),
            uri: uris.value(row).to_owned(),
            size_bytes: u64::try_from(sizes.value(row)).map_err(|error| error.to_string())?,
            etag: etags.value(row).to_owned(),
            last_modified: DateTime::from_timestamp_micros(time).ok_or_else(|| format!("no such time: {time}"))?,
            partition: partition_of(partitions, row)?,
        };
        videos.push((shard, video));
    }
    Ok(())
}

fn partition_of(partitions: &MapArray, row: usize) -> Result<Vec<(String, String)>, String> {
    let entries = partitions.value(row);
    let text = |column: usize| {
        entries.column(column).as_any().downcast_ref::<StringArray>().ok_or("the map `partition` holds no text")
    };
    let (names, values) = (text(0)?, text(1)?);
    Ok((0..names.len()).map(|i| (names.value(i).to_owned(), values.value(i).to_owned())).collect())
}

fn whole_number_column(batch: &RecordBatch, name: &str) -> Result<Int64Array, String> {
    let column = batch.column_by_name(name).ok_or_else(|| format!("it has no column `{name}`"))?;
    let column = cast(column, &DataType::Int64).map_err(|error| format!("column `{name}`: {error}"))?;
    column.as_any().downcast_ref::<Int64Array>().cloned().ok_or_else(|| format!("column `{name}` is no number"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::plan::testing::{MemoryStore, job, video};

    fn record(run: &str, shards: u32) -> RunRecord {
        RunRecord {
            run_id: run.parse().unwrap(),
            created_at: "2026-11-23T07:37:12.123456Z".parse().unwrap(),
            version: "0.1.0".to_owned(),
            fingerprint: "0123456789abcdef".to_owned(),
            actions_model: Some(ModelRef { id: "slowfast".to_owned(), sha256: "ab".to_owned() }),
            persons_model: None,
            shards,
            videos: 0,
            bytes: 0,
            job: job(),
        }
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
    async fn shards_of_a_long_plan_come_back_one_by_one_and_together() {
        let output = MemoryStore::new("s3://index/");
        let shards = shards(9, 3_000);
        write(&output, &record(RUN, 9), &shards).await.unwrap();
        let (_, file) = read(&output, &RUN.parse().unwrap()).await.unwrap();
        assert_eq!(file.metadata.metadata().num_row_groups(), 3);
        for shard in &shards {
            assert_eq!(&file.shard(shard.index).unwrap(), shard);
        }
        assert_eq!(file.shards().unwrap(), shards);
        assert!(file.shard(9).unwrap_err().to_string().contains("there is no shard 9: the run has 9 shards"));
    }

    #[tokio::test]
    async fn writing_the_same_plan_again_is_no_error_but_another_of_its_name_is() {
        let output = MemoryStore::new("s3://index/");
        write(&output, &record(RUN, 1), &shards(1, 1)).await.unwrap();
        write(&output, &record(RUN, 1), &shards(1, 1)).await.unwrap();
        let error = write(&output, &record(RUN, 2), &shards(2, 1)).await.unwrap_err();
        assert!(error.to_string().contains("is there already"), "{error}");
        assert_eq!(read(&output, &RUN.parse().unwrap()).await.unwrap().1.shards().unwrap(), shards(1, 1));
    }

    #[tokio::test]
    async fn an_absent_run_is_told_with_the_newest_that_exist() {
        let output = MemoryStore::new("s3://index/");
        let error = read_record(&output, &RUN.parse().unwrap()).await.unwrap_err();
        assert_eq!(error.to_string(), format!("there is no run {RUN} in s3://index/"));
        assert!(error.hint().unwrap().contains("no runs at all"));
        for day in 1..=4 {
            let run = format!("2026100{day}T000000000Z-000000");
            write(&output, &record(&run, 0), &[]).await.unwrap();
        }
        output.put("_vidindex/runs/20261231T000000000Z-000000/plan.parquet", Bytes::new()).await.unwrap();
        let error = read(&output, &RUN.parse().unwrap()).await.unwrap_err();
        let newest = "20261004T000000000Z-000000, 20261003T000000000Z-000000, 20261002T000000000Z-000000";
        assert_eq!(error.hint(), Some(format!("the newest are {newest}").as_str()));
        assert_eq!(error.exit_code(), 2);
        assert_eq!(runs(&output).await.unwrap().len(), 5, "the one too whose plan is not whole");
    }
}
