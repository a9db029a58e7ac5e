//! Buffers the rows of one video in one table: a few in memory, the earlier ones in a file on the scratch disk. Memory does
//! not grow with the length of the video.

use std::fs::File;
use std::io::{BufReader, BufWriter, Seek};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;

use crate::error::{Error, Result};
use crate::tables::Row;

/// Memory for the rows of one table of a video that is being indexed, in bytes.
const INDEXING_BYTES_MAX: usize = 1 << 20;

/// The same for a finished video that waits until it can be encoded. Many videos may wait.
const WAITING_BYTES_MAX: usize = 64 << 10;

/// Rows of one video, in the order in which they were pushed.
pub struct RowBuffer<R> {
    scratch_dir: PathBuf,
    file: Option<StreamWriter<BufWriter<File>>>,
    /// Number of rows in the file. They precede those in memory.
    spilled: usize,
    rest: Vec<R>,
    rest_bytes: usize,
}

impl<R: Row> RowBuffer<R> {
    /// An empty buffer. It creates a file in `scratch_dir` once the rows are too many for memory.
    pub fn new(scratch_dir: impl Into<PathBuf>) -> Self {
        Self { scratch_dir: scratch_dir.into(), file: None, spilled: 0, rest: Vec::new(), rest_bytes: 0 }
    }

    /// Adds a row that takes about `bytes` of memory.
    pub fn push(&mut self, row: R, bytes: usize) {
        self.rest.push(row);
        self.rest_bytes += bytes;
    }

    /// The number of rows, spilled ones included.
    pub fn count(&self) -> usize {
        self.spilled + self.rest.len()
    }

    /// A row that has not been spilled, by its position among all rows.
    pub fn get_mut(&mut self, position: usize) -> Option<&mut R> {
        self.rest.get_mut(position.checked_sub(self.spilled)?)
    }

    /// Writes rows to the scratch disk if they take too much memory. Those from position `unsettled` on stay, because they
    /// may change; it never decreases. Blocks.
    ///
    /// # Errors
    /// If the scratch disk is full or fails.
    pub fn spill(&mut self, unsettled: usize) -> Result<()> {
        if self.rest_bytes > INDEXING_BYTES_MAX { self.write(unsettled) } else { Ok(()) }
    }

    /// Ends the buffer. Blocks.
    ///
    /// # Errors
    /// If the scratch disk is full or fails.
    pub fn finish(mut self) -> Result<BufferedRows<R>> {
        if self.rest_bytes > WAITING_BYTES_MAX {
            self.write(self.count())?;
        }
        let failed = |error: &dyn std::fmt::Display| spill_failed(&self.scratch_dir, error);
        let file = match self.file {
            Some(writer) => {
                let file = writer.into_inner().map_err(|error| failed(&error))?;
                Some(file.into_inner().map_err(|error| failed(error.error()))?)
            }
            None => None,
        };
        Ok(BufferedRows { scratch_dir: self.scratch_dir, file, spilled: self.spilled, rest: self.rest })
    }

    fn write(&mut self, unsettled: usize) -> Result<()> {
        let settled = unsettled.saturating_sub(self.spilled).min(self.rest.len());
        if settled == 0 {
            return Ok(());
        }
        let failed = |error: &dyn std::fmt::Display| spill_failed(&self.scratch_dir, error);
        let batch = R::to_batch(&self.rest[..settled]).map_err(|error| failed(&error))?;
        let writer = match &mut self.file {
            Some(writer) => writer,
            None => {
                // The file has no name: it is gone when it is closed, even if the process is killed.
                let file = tempfile::tempfile_in(&self.scratch_dir).map_err(|error| failed(&error))?;
                let writer = StreamWriter::try_new(BufWriter::new(file), &R::TABLE.schema());
                self.file.insert(writer.map_err(|error| failed(&error))?)
            }
        };
        writer.write(&batch).map_err(|error| failed(&error))?;
        self.rest_bytes -= self.rest_bytes * settled / self.rest.len();
        self.rest.drain(..settled);
        self.spilled += settled;
        Ok(())
    }
}

/// The rows of a finished video.
#[derive(Debug)]
pub struct BufferedRows<R> {
    scratch_dir: PathBuf,
    file: Option<File>,
    spilled: usize,
    rest: Vec<R>,
}

impl<R: Row> BufferedRows<R> {
    /// The number of rows.
    pub fn count(&self) -> usize {
        self.spilled + self.rest.len()
    }

    /// Passes all rows to `write` in the order in which they were pushed, a few thousand at a time. Blocks.
    ///
    /// # Errors
    /// If the scratch disk fails, or `write` does.
    pub fn read(&self, mut write: impl FnMut(RecordBatch) -> Result<()>) -> Result<()> {
        let failed = |error: ArrowError| spill_failed(&self.scratch_dir, &error);
        if let Some(mut file) = self.file.as_ref() {
            file.rewind().map_err(|error| spill_failed(&self.scratch_dir, &error))?;
            for batch in StreamReader::try_new(BufReader::new(file), None).map_err(failed)? {
                write(batch.map_err(failed)?)?;
            }
        }
        if self.rest.is_empty() { Ok(()) } else { write(R::to_batch(&self.rest).map_err(failed)?) }
    }
}

fn spill_failed(scratch_dir: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::failed(format!("failed to keep rows in {}: {error}", scratch_dir.display()))
        .with_hint("the scratch disk must have space for the rows of the videos in progress: free some, or set TMPDIR to another disk")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::sync::Arc;

    use arrow::array::{AsArray, RecordBatch};
    use arrow::datatypes::Int64Type;
    use proptest::prelude::*;

    use super::*;
    use crate::tables::PersonRow;

    fn person(frame: i64) -> PersonRow {
        let text: Arc<str> = "text".into();
        PersonRow {
            video_id: text.clone(),
            uri: text.clone(),
            segment: None,
            time_seconds: frame as f64,
            frame,
            r#box: 0,
            label: text.clone(),
            x1: 0.0,
            y1: 0.0,
            x2: 1.0,
            y2: 1.0,
            confidence: 0.5,
            actions: None,
            track_id: None,
            run_id: text,
        }
    }

    fn frames(batch: &RecordBatch) -> Vec<i64> {
        batch["frame"].as_primitive::<Int64Type>().values().to_vec()
    }

    proptest! {
        #[test]
        fn rows_come_out_in_order_wherever_they_were_kept(
            steps in proptest::collection::vec((0usize..200, 0usize..3000, 0usize..200), 0..40),
        ) {
            let scratch = tempfile::tempdir().unwrap();
            let mut buffer = RowBuffer::new(scratch.path());
            let (mut count, mut unsettled) = (0, 0);
            for (rows, bytes, kept) in steps {
                for _ in 0..rows {
                    buffer.push(person(count), bytes);
                    count += 1;
                }
                unsettled = buffer.count().saturating_sub(kept).max(unsettled);
                buffer.spill(unsettled).unwrap();
                for position in unsettled..buffer.count() {
                    prop_assert_eq!(buffer.get_mut(position).unwrap().frame, position as i64);
                }
            }
            let rows = buffer.finish().unwrap();
            prop_assert_eq!(rows.count(), count as usize);
            let mut drained = Vec::new();
            rows.read(|batch| { drained.extend(frames(&batch)); Ok(()) }).unwrap();
            prop_assert_eq!(drained, (0..count).collect::<Vec<_>>());
            prop_assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
        }
    }
}
