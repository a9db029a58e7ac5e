//! Lists an input from an S3 Inventory report, for buckets that are too large to list: reads its manifest, and the data
//! files that it names, in CSV or Parquet.
//!
//! A report is hours to days old. A video that has changed since then fails, because it differs from the report, and is
//! indexed by the first run after the next report. A report does not state which archived objects are restored. Those
//! are indexed by a plan that retries failed videos, or when they are in another storage class.

mod csv;
mod parquet;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use md5::{Digest, Md5};
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::error::{Error, Result};
use crate::store::{self, ObjectMeta, Store, StoreConfig, is_archive};

/// Number of data files read concurrently, each of which is stored on the scratch disk meanwhile.
const FILES_MAX: usize = 4;

/// A report may lack objects younger than this, because it is only eventually consistent.
const LATE: TimeDelta = TimeDelta::days(2);

/// Bytes per read of a data file.
const READ_BYTES: u64 = 8 << 20;

/// Number of objects passed on at once.
const BATCH: usize = 1024;

/// Number of batches that a file's reader may be ahead.
const BATCHES_MAX: usize = 4;

/// `manifest.json` as S3 writes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    source_bucket: String,
    file_format: String,
    #[serde(default)]
    file_schema: String,
    /// Milliseconds since the Unix epoch.
    #[serde(default)]
    creation_timestamp: String,
    files: Vec<DataFile>,
}

#[derive(Debug, Clone, Deserialize)]
struct DataFile {
    key: String,
    #[serde(rename = "MD5checksum")]
    md5: String,
}

/// Format of the data files.
#[derive(Debug, Clone)]
enum Format {
    Csv(csv::Columns),
    Parquet,
}

/// What the reader of every data file needs.
struct Source {
    store: Arc<dyn Store>,
    format: Format,
    /// Prefix of the keys below the input.
    prefix: String,
    scratch: PathBuf,
}

/// Lists the objects below `input` from the report whose manifest is at `uri`, in no particular order and with keys
/// relative to `input`. Also returns the time up to which the report is complete. `scratch` is a directory for data
/// files while they are read.
///
/// # Errors
/// [`Error::Usage`] if the report belongs to another bucket or lacks a field; an error if a data file differs from its
/// manifest.
pub(super) async fn list(
    uri: &str,
    config: &StoreConfig,
    input: &dyn Store,
    scratch: &Path,
) -> Result<(BoxStream<'static, Result<ObjectMeta>>, DateTime<Utc>)> {
    let (store, manifest) = open(uri, config).await?;
    let Manifest { source_bucket, file_format, file_schema, creation_timestamp, files } = manifest;
    let created = creation_timestamp.parse().ok().and_then(DateTime::from_timestamp_millis);
    let as_of = created.map_or(DateTime::<Utc>::MIN_UTC, |created| created - LATE);
    let root = input.uri("");
    let Some(prefix) = root.strip_prefix(&format!("s3://{source_bucket}/")) else {
        return Err(Error::usage(format!(
            "the inventory {uri} is of the bucket {source_bucket}, but the input is {root}"
        ))
        .with_hint(format!("set input.uri to s3://{source_bucket}/ or to a prefix in it")));
    };
    let format = match file_format.as_str() {
        "CSV" => Format::Csv(csv::Columns::of(&file_schema).map_err(|problem| unusable(uri, &problem))?),
        "Parquet" => Format::Parquet,
        other => {
            return Err(Error::usage(format!("the inventory {uri} has the format {other}, which is not supported"))
                .with_hint("set the output format in the bucket's inventory configuration to Parquet or CSV"));
        }
    };
    tracing::info!(uri, source_bucket, file_format, files = files.len(), "reading the inventory");
    let source = Source { store, format, prefix: prefix.to_owned(), scratch: scratch.to_owned() };
    let source = Arc::new(source);
    let objects = stream::iter(files).map(move |file| Box::pin(objects_of(source.clone(), file)));
    let batches = objects.flatten_unordered(FILES_MAX);
    Ok((batches.map_ok(|batch| stream::iter(batch).map(Ok)).try_flatten().boxed(), as_of))
}

/// Opens the manifest and the store that its keys are relative to. This is the bucket or, for a report that was copied
/// to disk, one of the directories above the manifest.
async fn open(uri: &str, config: &StoreConfig) -> Result<(Arc<dyn Store>, Manifest)> {
    let parse = |text: &[u8]| {
        serde_json::from_slice::<Manifest>(text).map_err(|problem| {
            Error::usage(format!("failed to read the inventory {uri}: {problem}"))
                .with_hint("set input.inventory to the address of a report's `manifest.json`")
        })
    };
    if let Some((bucket, key)) = uri.strip_prefix("s3://").and_then(|rest| rest.split_once('/')) {
        let store = store::open(&format!("s3://{bucket}/"), config).await?;
        let manifest = parse(&store.get(key).await?)?;
        return Ok((store, manifest));
    }
    let path = Path::new(uri.strip_prefix("file://").unwrap_or(uri));
    let text =
        std::fs::read(path).map_err(|error| Error::usage(format!("failed to read the inventory {uri}: {error}")))?;
    let manifest = parse(&text)?;
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let holds = |folder: &Path| manifest.files.first().is_none_or(|file| folder.join(&file.key).is_file());
    let root = path.ancestors().skip(1).find(|folder| holds(folder)).ok_or_else(|| {
        Error::usage(format!("the files of the inventory {uri} are in none of the directories above it"))
            .with_hint("copy the report with its directory structure in the bucket")
    })?;
    Ok((store::open(&root.to_string_lossy(), config).await?, manifest))
}

/// The objects of one data file, batch by batch, read in a task of its own.
fn objects_of(
    source: Arc<Source>,
    file: DataFile,
) -> impl futures::Stream<Item = Result<Vec<ObjectMeta>>> + Send + 'static {
    let begin = async move {
        let (sender, receiver) = mpsc::channel(BATCHES_MAX);
        tokio::spawn(async move {
            if let Err(error) = source.read(&file, &sender).await {
                // If the receiver is gone, nobody needs the error.
                let _ = sender.send(Err(error)).await;
            }
        });
        stream::unfold(receiver, async |mut receiver| receiver.recv().await.map(|batch| (batch, receiver)))
    };
    stream::once(begin).flatten()
}

impl Source {
    async fn read(&self, file: &DataFile, objects: &mpsc::Sender<Result<Vec<ObjectMeta>>>) -> Result<()> {
        let uri = self.store.uri(&file.key);
        let data = self.fetch(file, &uri, objects).await?;
        let mut batches = Batches { prefix: self.prefix.clone(), objects: objects.clone(), batch: Vec::new() };
        let format = self.format.clone();
        let read = tokio::task::spawn_blocking(move || {
            match format {
                Format::Csv(columns) => csv::read(data, &columns, &mut batches),
                Format::Parquet => parquet::read(data, &mut batches),
            }?;
            batches.send();
            Ok(())
        });
        let read = read.await.unwrap_or_else(|error| Err(error.to_string()));
        read.map_err(|problem: String| unusable(&uri, &problem))
    }

    /// Downloads the version of the file that the manifest names. Returns it positioned at its beginning.
    async fn fetch(&self, file: &DataFile, uri: &str, objects: &mpsc::Sender<Result<Vec<ObjectMeta>>>) -> Result<File> {
        let full = |error: std::io::Error| {
            Error::failed(format!("failed to store {uri} on the scratch disk: {error}"))
                .with_hint("set TMPDIR to a directory with free space")
        };
        let mut data = tempfile::tempfile_in(&self.scratch).map_err(full)?;
        let (mut digest, mut offset) = (Md5::new(), 0);
        loop {
            let read = self.store.get_range(&file.key, offset, READ_BYTES).await?.bytes;
            digest.update(&read);
            data.write_all(&read).map_err(full)?;
            offset += read.len() as u64;
            if (read.len() as u64) < READ_BYTES || objects.is_closed() {
                break;
            }
        }
        let mut found = String::new();
        digest.finalize().iter().try_for_each(|byte| write!(found, "{byte:02x}")).unwrap_or_default();
        if !found.eq_ignore_ascii_case(&file.md5) && !objects.is_closed() {
            return Err(Error::failed(format!("{uri} is not the file that its manifest names: its MD5 is {found}"))
                .with_hint("it was replaced or truncated: use the latest report"));
        }
        data.rewind().map_err(full)?;
        Ok(data)
    }
}

fn unusable(uri: &str, problem: &str) -> Error {
    Error::usage(format!("failed to list from the inventory {uri}: {problem}")).with_hint(
        "the report needs the fields Size, LastModifiedDate and ETag: add them to its inventory configuration",
    )
}

/// The same meaning as [`ObjectMeta::version_id`]. Objects from before a bucket kept versions have the id `null`, or none.
fn version_id(id: &str) -> Option<String> {
    Some(id).filter(|id| !id.is_empty()).map(str::to_owned)
}

/// The same meaning as [`ObjectMeta::archived`].
fn archived(storage_class: &str) -> Option<String> {
    is_archive(storage_class).then(|| storage_class.to_owned())
}

/// Receives the objects from a data file's reader.
struct Batches {
    prefix: String,
    objects: mpsc::Sender<Result<Vec<ObjectMeta>>>,
    batch: Vec<ObjectMeta>,
}

impl Batches {
    /// The key relative to the input, if it is below the input.
    fn key<'a>(&self, key: &'a str) -> Option<&'a str> {
        key.strip_prefix(&self.prefix).filter(|key| !key.is_empty())
    }

    /// Adds an object. Returns whether the receiver still exists.
    fn push(&mut self, object: ObjectMeta) -> bool {
        self.batch.push(object);
        self.batch.len() < BATCH || self.send()
    }

    fn send(&mut self) -> bool {
        self.objects.blocking_send(Ok(std::mem::take(&mut self.batch))).is_ok()
    }
}

/// Reads a data file in CSV, for fuzzing.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(file: &Path) {
    let columns = csv::Columns::of("Bucket, Key, Size, LastModifiedDate, ETag");
    if let (Ok(columns), Ok(file)) = (columns, File::open(file)) {
        let (objects, _) = mpsc::channel(1);
        drop(csv::read(file, &columns, &mut Batches { prefix: String::new(), objects, batch: Vec::new() }));
    }
}

#[cfg(test)]
mod tests;
