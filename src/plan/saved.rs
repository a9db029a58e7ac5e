//! Videos whose rows an interrupted run saved (`run/piece.rs`) but did not commit, so that no reader sees them.

use std::collections::HashSet;
use std::collections::hash_map::{Entry, HashMap};

use arrow::array::RecordBatch;
use futures::StreamExt;

use super::indexed::{hash, short_id, video_id_bits};
use crate::error::Result;
use crate::run::commit::uncommitted_parts;
use crate::run::piece::{root_of_record, root_of_videos};
use crate::run::{RunId, VideoObject, record, summary};
use crate::store::{Store, StoreErrorKind};
use crate::tables::VideoStatus;
use crate::tables::read::{read_file, text_column, time_column, value};

/// Files that are read at the same time.
const READS_MAX: usize = 16;

/// The saved rows, by video.
#[derive(Debug, Default)]
pub(super) struct Saved {
    /// Keys of files of `videos`.
    files: Vec<String>,
    /// By the first 64 bits of the id. With ten million videos, two share them with a probability of 1 in 400,000.
    rows: HashMap<u64, SavedRow>,
}

#[derive(Debug, Clone, Copy)]
struct SavedRow {
    etag: u64,
    /// In microseconds of the Unix epoch.
    time: i64,
    /// Position in `files`.
    file: usize,
}

impl Saved {
    /// Reads the pieces of unfinished runs with the same fingerprint.
    ///
    /// # Errors
    /// If the output cannot be accessed. A file that cannot be read is left out, because its videos can be indexed again.
    pub(super) async fn read(output: &dyn Store, fingerprint: &str) -> Result<Self> {
        let mut saved = Self::default();
        for run in summary::unfinished(output).await? {
            let record = record::find_record(output, &run.id).await?;
            if record.is_none_or(|record| record.fingerprint != fingerprint) {
                continue;
            }
            let keys = files_of(output, &run.id).await?;
            let mut reads = futures::stream::iter(keys.into_iter().map(async |key| (output.get(&key).await, key)))
                .buffer_unordered(READS_MAX);
            while let Some((body, key)) = reads.next().await {
                match body {
                    Ok(body) => {
                        let columns = ["video_id", "etag", "status", "indexed_at"];
                        let file = saved.files.len();
                        saved.files.push(key.clone());
                        if let Err(problem) = read_file(body, columns, |batch| saved.add(batch, file)) {
                            tracing::warn!(key, problem, "cannot read what an interrupted run saved");
                        }
                    }
                    Err(error) if error.kind == StoreErrorKind::NotFound => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(saved)
    }

    /// The file of `videos` with the saved row of this version of a video.
    pub(super) fn source(&self, video: &VideoObject) -> Option<String> {
        let row = self.rows.get(&video_id_bits(&video.uri)?)?;
        self.files.get(row.file).filter(|_| row.etag == hash(&video.etag)).cloned()
    }

    fn add(&mut self, batch: &RecordBatch, file: usize) -> Result<(), String> {
        let (ids, etags) = (text_column(batch, "video_id")?, text_column(batch, "etag")?);
        let (statuses, times) = (text_column(batch, "status")?, time_column(batch, "indexed_at")?);
        for at in 0..batch.num_rows() {
            let Some(id) = short_id(value(&ids, at)) else { continue };
            // Another try may succeed.
            if value(&statuses, at) == VideoStatus::Failed.as_str() {
                continue;
            }
            let row = SavedRow { etag: hash(value(&etags, at)), time: times.value(at), file };
            match self.rows.entry(id) {
                Entry::Occupied(mut earlier) if earlier.get().time < row.time => *earlier.get_mut() = row,
                Entry::Occupied(_) => {}
                Entry::Vacant(free) => {
                    free.insert(row);
                }
            }
        }
        Ok(())
    }
}

/// The complete files of `videos` in the pieces of shards that are not committed.
async fn files_of(output: &dyn Store, run: &RunId) -> Result<Vec<String>> {
    let (mut complete, mut files) = (HashSet::new(), Vec::new());
    for (_, part) in uncommitted_parts(output, run.as_str()).await? {
        match root_of_record(&part.key) {
            Some(root) => {
                complete.insert(root);
            }
            None if root_of_videos(&part.key).is_some() => files.push(part.key),
            None => {}
        }
    }
    files.retain(|key| root_of_videos(key).is_some_and(|root| complete.contains(root)));
    Ok(files)
}
