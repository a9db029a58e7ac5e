//! Encodes the rows of a shard as Parquet files on the scratch disk, one per table and partition.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Float64Type;
use parquet::arrow::ArrowWriter;

use crate::error::{Error, Result};
use crate::tables::{Provenance, Row, Table, VideoRow, part_key, writer_properties};

/// Rows that are converted to columns at a time. It limits the memory of the copy, and the number of elements in lists.
const BATCH_ROWS_MAX: usize = 8192;

/// A finished file on the scratch disk, ready to be committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartFile {
    /// The table whose rows it contains.
    pub table: Table,
    /// Path of the partition: `dt=…` and the job's own columns.
    pub partition_path: String,
    /// Key in the output after publishing.
    pub key: String,
    /// Path on the scratch disk.
    pub path: PathBuf,
    /// Number of rows. 0 if a model found nothing.
    pub rows: u64,
    /// Size of the file, bytes.
    pub size_bytes: u64,
}

/// Writes the rows of a shard. Its memory is limited to one row group per table.
///
/// Methods block: they compress, and write to a disk. The caller removes the scratch directory with the files.
#[derive(Debug)]
pub struct ShardEncoder {
    scratch_dir: PathBuf,
    provenance: Provenance,
    open: Option<Partition>,
    parts: Vec<PartFile>,
}

impl ShardEncoder {
    /// An encoder for the shard in `provenance`. `scratch_dir` must exist and belong to this attempt only.
    pub fn new(scratch_dir: impl Into<PathBuf>, provenance: Provenance) -> Self {
        Self { scratch_dir: scratch_dir.into(), provenance, open: None, parts: Vec::new() }
    }

    /// Writes a video's row, after its rows in the other tables.
    ///
    /// Videos must be in ascending order of (partition path, URI), without repetition.
    ///
    /// # Errors
    /// If the scratch disk is full or fails, or if rows are out of order or belong to a model that the job does not have.
    /// The encoder cannot be used afterwards.
    pub fn push(&mut self, partition_path: &str, video: VideoRow) -> Result<()> {
        self.turn_to(partition_path, &video.uri)?;
        let Some(partition) = &mut self.open else { return Ok(()) };
        partition.video_done = true;
        for table in [Table::Actions, Table::Persons] {
            // A model that found nothing gets an empty file, so that its table exists and can be queried.
            if self.provenance.model(table).is_some() {
                partition.writer(table, &self.scratch_dir, &self.provenance, self.parts.len())?;
            }
        }
        let rows = VideoRow::to_batch(&[video]).map_err(|error| scratch_failed(&self.scratch_dir, &error))?;
        partition.writer(Table::Videos, &self.scratch_dir, &self.provenance, self.parts.len())?.write(&rows)
    }

    /// Writes some of a video's rows of another table, by time. Later calls must have later times, and [`Self::push`] of the
    /// same video must follow.
    ///
    /// # Errors
    /// As for [`Self::push`].
    pub fn push_rows<R: Row>(&mut self, partition_path: &str, uri: &Arc<str>, rows: &[R]) -> Result<()> {
        for rows in rows.chunks(BATCH_ROWS_MAX) {
            let rows = R::to_batch(rows).map_err(|error| scratch_failed(&self.scratch_dir, &error))?;
            self.push_batch(partition_path, uri, R::TABLE, &rows)?;
        }
        Ok(())
    }

    /// Like [`Self::push_rows`], but with the rows in columns.
    ///
    /// # Errors
    /// As for [`Self::push`].
    pub fn push_batch(&mut self, partition_path: &str, uri: &Arc<str>, table: Table, rows: &RecordBatch) -> Result<()> {
        self.turn_to(partition_path, uri)?;
        let Some(partition) = &mut self.open else { return Ok(()) };
        let column = if table == Table::Actions { "start_seconds" } else { "time_seconds" };
        partition.advance(table, rows[column].as_primitive::<Float64Type>().values().iter().copied())?;
        partition.writer(table, &self.scratch_dir, &self.provenance, self.parts.len())?.write(rows)
    }

    /// Writes copies of a video's rows from another run, the row of `videos` included. It replaces [`Self::push`]. Each batch
    /// must have its table's schema and order, and the ID of this run.
    ///
    /// # Errors
    /// As for [`Self::push`].
    pub fn push_copies(&mut self, partition_path: &str, uri: &Arc<str>, copies: &[(Table, RecordBatch)]) -> Result<()> {
        self.turn_to(partition_path, uri)?;
        let Some(partition) = &mut self.open else { return Ok(()) };
        partition.video_done = true;
        for (table, rows) in copies {
            let writer = partition.writer(*table, &self.scratch_dir, &self.provenance, self.parts.len())?;
            writer.write(rows)?;
        }
        Ok(())
    }

    /// Closes the last files. Returns all files in the order of (partition path, table); none for a shard without videos.
    ///
    /// # Errors
    /// As for [`Self::push`].
    pub fn finish(mut self) -> Result<Vec<PartFile>> {
        self.close_partition()?;
        Ok(self.parts)
    }

    /// Makes the video the current one. Opens its partition if necessary.
    fn turn_to(&mut self, partition_path: &str, uri: &Arc<str>) -> Result<()> {
        if let Some(open) = &mut self.open {
            let (at, to) = ((open.path.as_str(), &*open.uri), (partition_path, &**uri));
            if at == to && !open.video_done {
                return Ok(());
            }
            // A closed partition must not be opened again: its file would replace the first one.
            if to <= at {
                return Err(Error::failed(format!("the rows of {uri} came after those of {}", open.uri)));
            }
            if !open.video_done {
                return Err(Error::failed(format!("the rows of {} have no row of their video", open.uri)));
            }
            if open.path == partition_path {
                open.begin_video(Arc::clone(uri));
                return Ok(());
            }
        }
        self.close_partition()?;
        self.open = Some(Partition::new(partition_path, Arc::clone(uri)));
        Ok(())
    }

    fn close_partition(&mut self) -> Result<()> {
        let Some(partition) = self.open.take() else { return Ok(()) };
        if !partition.video_done {
            return Err(Error::failed(format!("the rows of {} have no row of their video", partition.uri)));
        }
        let writers = partition.writers.into_iter().flatten();
        for writer in writers {
            self.parts.push(writer.close(&partition.path)?);
        }
        Ok(())
    }
}

/// The files of the current partition: one for each table that the job fills.
#[derive(Debug)]
struct Partition {
    path: String,
    /// The current video. The fields below are about its rows.
    uri: Arc<str>,
    video_done: bool,
    /// The time of the last row in each table, in the order of [`Table::ALL`].
    last_seconds: [f64; Table::ALL.len()],
    /// In the order of [`Table::ALL`].
    writers: [Option<TableWriter>; Table::ALL.len()],
}

impl Partition {
    fn new(path: &str, uri: Arc<str>) -> Self {
        Self {
            path: path.to_owned(),
            uri,
            video_done: false,
            last_seconds: [f64::NEG_INFINITY; Table::ALL.len()],
            writers: [const { None }; Table::ALL.len()],
        }
    }

    fn begin_video(&mut self, uri: Arc<str>) {
        self.uri = uri;
        self.video_done = false;
        self.last_seconds = [f64::NEG_INFINITY; Table::ALL.len()];
    }

    /// Notes the times of the video's next rows, which must ascend in each table.
    fn advance(&mut self, table: Table, times: impl Iterator<Item = f64>) -> Result<()> {
        let last_seconds = &mut self.last_seconds[table as usize];
        for seconds in times {
            if seconds < *last_seconds {
                let problem = format!("{table} of {} at {seconds} s came after those at {last_seconds} s", self.uri);
                return Err(Error::failed(problem));
            }
            *last_seconds = seconds;
        }
        Ok(())
    }

    /// The table's file. `files_before` counts the files of earlier partitions, and makes the name unique on the scratch
    /// disk.
    fn writer(
        &mut self,
        table: Table,
        scratch_dir: &Path,
        provenance: &Provenance,
        files_before: usize,
    ) -> Result<&mut TableWriter> {
        let slot = &mut self.writers[table as usize];
        Ok(match slot {
            Some(writer) => writer,
            None => {
                let path = scratch_dir.join(format!("{table}-{files_before}.parquet"));
                let model = provenance.model(table);
                if model.is_none() && table.has_model() {
                    let problem = format!("there are rows for the {table} table, but the job has no such model");
                    return Err(Error::failed(problem));
                }
                let key = part_key(table, model, &self.path, &provenance.run_id, provenance.shard);
                slot.insert(TableWriter::create(table, key, path, provenance)?)
            }
        })
    }
}

/// Writes one file, one batch after another.
#[derive(Debug)]
pub(crate) struct TableWriter {
    table: Table,
    key: String,
    path: PathBuf,
    rows: u64,
    writer: ArrowWriter<BufWriter<File>>,
}

impl TableWriter {
    /// `key` is the file's key after publishing, and `path` its path on the scratch disk.
    pub(crate) fn create(table: Table, key: String, path: PathBuf, provenance: &Provenance) -> Result<Self> {
        // An existing file is an error: two encoders in one directory would corrupt each other's files.
        let file = File::create_new(&path).map_err(|error| scratch_failed(&path, &error))?;
        let properties = writer_properties(table, provenance).map_err(|error| scratch_failed(&path, &error))?;
        let writer = ArrowWriter::try_new(BufWriter::new(file), table.schema(), Some(properties))
            .map_err(|error| scratch_failed(&path, &error))?;
        Ok(Self { table, key, path, rows: 0, writer })
    }

    /// Writes rows with the table's schema, in its order.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.writer.write(batch).map_err(|error| scratch_failed(&self.path, &error))?;
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    pub(crate) fn close(self, partition_path: &str) -> Result<PartFile> {
        // Dropping the writer instead would lose the error of the last write.
        let file = self.writer.into_inner().map_err(|error| scratch_failed(&self.path, &error))?;
        let file = file.into_inner().map_err(|error| scratch_failed(&self.path, error.error()))?;
        let size_bytes = file.metadata().map_err(|error| scratch_failed(&self.path, &error))?.len();
        Ok(PartFile {
            table: self.table,
            partition_path: partition_path.to_owned(),
            key: self.key,
            path: self.path,
            rows: self.rows,
            size_bytes,
        })
    }
}

fn scratch_failed(path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::failed(format!("cannot write {}: {error}", path.display()))
        .with_hint("the scratch disk must have space for the tables of one shard: free some, or make shards smaller")
}

#[cfg(test)]
mod tests;
