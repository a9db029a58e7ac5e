//! External sorting of videos: sorted runs are written to a scratch file and merged from there.

use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf, BufMut};
use chrono::DateTime;

use crate::error::{Error, Result};
use crate::run::{Todo, VideoObject};
use crate::store::Store;

/// Bytes of videos that are sorted in memory at a time.
const RUN_BYTES: usize = 64 << 20;

/// Bytes that the merge reads ahead in each run. Ten thousand runs, with billions of videos, fit into memory.
const READ_BYTES: usize = 64 << 10;

// Encoding of [`Todo`] in a record.
const INDEX: u8 = 0;
const MARK_DELETED: u8 = 1;
const MARK_ARCHIVED: u8 = 2;
const RESTORE: u8 = 3;

/// Takes videos in any order and returns them ordered by (partition path, key). On the scratch disk, a video takes its
/// key, its ETag and about fifty bytes.
#[derive(Debug)]
pub(super) struct Sorter {
    run_bytes: usize,
    records: Vec<u8>,
    spans: Vec<Span>,
    runs: Vec<Range<u64>>,
    file: File,
}

/// A record in memory: the sort key, followed by the rest of the video.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: usize,
    key: u32,
    rest: u32,
}

impl Sorter {
    /// `folder` will contain the scratch file, which has no name.
    pub(super) fn new(folder: &Path) -> Result<Self> {
        Self::with_runs_of(folder, RUN_BYTES)
    }

    fn with_runs_of(folder: &Path, run_bytes: usize) -> Result<Self> {
        let file = tempfile::tempfile_in(folder).map_err(failed)?;
        Ok(Self { run_bytes, records: Vec::new(), spans: Vec::new(), runs: Vec::new(), file })
    }

    pub(super) fn push(&mut self, video: &VideoObject) -> Result<()> {
        let start = self.records.len();
        let records = &mut self.records;
        records.put_slice(video.partition_path().as_bytes());
        // A path contains no control characters, so the joined key sorts like the pair.
        records.put_u8(0);
        records.put_slice(video.key.as_bytes());
        let key = records.len() - start;
        let (kind, failures, detail) = match &video.todo {
            Todo::Index { failures } => (INDEX, *failures, ""),
            Todo::MarkDeleted => (MARK_DELETED, 0, ""),
            Todo::MarkArchived { storage_class } => (MARK_ARCHIVED, 0, storage_class.as_str()),
            Todo::Restore { from } => (RESTORE, 0, from.as_str()),
        };
        records.put_u8(kind);
        records.put_u32(failures);
        records.put_u64(video.size_bytes);
        records.put_i64(video.last_modified.timestamp_micros());
        let partition = video.partition.iter().flat_map(|(name, value)| [name, value]);
        // An id is not empty.
        let version_id = video.version_id.as_deref().unwrap_or_default();
        for text in [detail, &video.etag, version_id].into_iter().chain(partition.map(String::as_str)) {
            records.put_u32(length(text.len())?);
            records.put_slice(text.as_bytes());
        }
        let rest = length(records.len() - start - key)?;
        self.spans.push(Span { start, key: length(key)?, rest });
        if self.records.len() >= self.run_bytes { self.spill().map_err(failed) } else { Ok(()) }
    }

    /// Ends the input. Returns the videos in order.
    pub(super) fn finish(mut self) -> Result<Sorted> {
        self.spill().map_err(failed)?;
        let file = Arc::new(self.file);
        let mut runs = BinaryHeap::with_capacity(self.runs.len());
        for range in self.runs {
            let slice = Slice { file: file.clone(), range };
            let mut run =
                Run { reader: BufReader::with_capacity(READ_BYTES, slice), key: Vec::new(), rest: Vec::new() };
            if run.advance().map_err(failed)? {
                runs.push(run);
            }
        }
        Ok(Sorted { runs, begun: false })
    }

    fn spill(&mut self) -> io::Result<()> {
        let records = &self.records;
        // A listing consists of long sorted sections, which this sort exploits.
        self.spans.sort_by_key(|span| &records[span.start..][..span.key as usize]);
        let start = self.runs.last().map_or(0, |run| run.end);
        let mut end = start;
        let mut writer = BufWriter::with_capacity(1 << 20, &self.file);
        for span in &self.spans {
            let length = (span.key + span.rest) as usize;
            writer.write_all(&span.key.to_le_bytes())?;
            writer.write_all(&span.rest.to_le_bytes())?;
            writer.write_all(&records[span.start..][..length])?;
            end += 8 + length as u64;
        }
        writer.flush()?;
        drop(writer);
        self.runs.push(start..end);
        self.records.clear();
        self.spans.clear();
        Ok(())
    }
}

/// The runs while they are merged.
#[derive(Debug)]
pub(super) struct Sorted {
    /// The run with the smallest key is at the top.
    runs: BinaryHeap<Run>,
    begun: bool,
}

impl Sorted {
    /// The next video. `input` provides its URI.
    pub(super) fn next(&mut self, input: &dyn Store) -> Result<Option<VideoObject>> {
        if std::mem::replace(&mut self.begun, true)
            && let Some(mut top) = self.runs.peek_mut()
            && !top.advance().map_err(failed)?
        {
            PeekMut::pop(top);
        }
        let Some(top) = self.runs.peek() else { return Ok(None) };
        top.video(input).map(Some).ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))
    }
}

/// A sorted run, positioned at its current record.
#[derive(Debug)]
struct Run {
    reader: BufReader<Slice>,
    key: Vec<u8>,
    rest: Vec<u8>,
}

impl Run {
    /// Moves to the next record. Returns whether there is one.
    fn advance(&mut self) -> io::Result<bool> {
        let mut lengths = [0; 8];
        if self.reader.buffer().is_empty() && self.reader.get_ref().range.is_empty() {
            return Ok(false);
        }
        self.reader.read_exact(&mut lengths)?;
        let mut lengths = lengths.as_slice();
        for part in [&mut self.key, &mut self.rest] {
            part.resize(lengths.get_u32_le() as usize, 0);
            self.reader.read_exact(part)?;
        }
        Ok(true)
    }

    fn video(&self, input: &dyn Store) -> Option<VideoObject> {
        let path_end = self.key.iter().position(|byte| *byte == 0)?;
        let key = String::from_utf8(self.key[path_end + 1..].to_vec()).ok()?;
        let mut rest = self.rest.as_slice();
        let (kind, failures) = (rest.try_get_u8().ok()?, rest.try_get_u32().ok()?);
        let (size_bytes, micros) = (rest.try_get_u64().ok()?, rest.try_get_i64().ok()?);
        let detail = text(&mut rest)?;
        let todo = match kind {
            INDEX => Todo::Index { failures },
            MARK_DELETED => Todo::MarkDeleted,
            MARK_ARCHIVED => Todo::MarkArchived { storage_class: detail },
            RESTORE => Todo::Restore { from: detail },
            _ => return None,
        };
        let etag = text(&mut rest)?;
        let version_id = Some(text(&mut rest)?).filter(|id| !id.is_empty());
        let mut partition = Vec::new();
        while !rest.is_empty() {
            partition.push((text(&mut rest)?, text(&mut rest)?));
        }
        let last_modified = DateTime::from_timestamp_micros(micros)?;
        Some(VideoObject { uri: input.uri(&key), key, size_bytes, etag, version_id, last_modified, partition, todo })
    }
}

impl Ord for Run {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.key.cmp(&self.key)
    }
}

impl PartialOrd for Run {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Run {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Run {}

/// A section of the scratch file. All runs are in the same file, so only one descriptor is needed.
#[derive(Debug)]
struct Slice {
    file: Arc<File>,
    range: Range<u64>,
}

impl Read for Slice {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.range.end - self.range.start).unwrap_or(usize::MAX);
        let wanted = left.min(buffer.len());
        let count = self.file.read_at(&mut buffer[..wanted], self.range.start)?;
        self.range.start += count as u64;
        Ok(count)
    }
}

fn text(rest: &mut &[u8]) -> Option<String> {
    let length = rest.try_get_u32().ok()? as usize;
    let (text, after) = rest.split_at_checked(length)?;
    *rest = after;
    String::from_utf8(text.to_vec()).ok()
}

fn length(bytes: usize) -> Result<u32> {
    u32::try_from(bytes).map_err(|_| Error::failed("a key of more than 4 GiB"))
}

fn failed(error: io::Error) -> Error {
    Error::failed(format!("failed to sort the listing: {error}"))
        .with_hint("set TMPDIR to a directory with free space: about 200 bytes per video")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::plan::testing::{archive, video};
    use crate::store::memory::MemoryStore;
    use proptest::prelude::*;

    fn sorted(videos: &[VideoObject], run_bytes: usize) -> Vec<VideoObject> {
        let folder = tempfile::tempdir().unwrap();
        let mut sorter = Sorter::with_runs_of(folder.path(), run_bytes).unwrap();
        videos.iter().for_each(|video| sorter.push(video).unwrap());
        let mut sorted = sorter.finish().unwrap();
        let input = MemoryStore::bucket("s3://archive/2026/");
        std::iter::from_fn(|| sorted.next(&input).unwrap()).collect()
    }

    proptest! {
        #[test]
        fn videos_come_back_complete_and_in_order_for_any_runs(videos in archive(), run_bytes in 1_usize..5000) {
            let mut expected = videos.clone();
            expected.sort_by_key(|video| (video.partition_path(), video.key.clone()));
            prop_assert_eq!(sorted(&videos, run_bytes), expected);
        }
    }

    #[test]
    fn a_path_that_is_a_prefix_of_another_comes_first() {
        let at = |camera: &str, key: &str| VideoObject {
            partition: vec![("camera".to_owned(), camera.to_owned())],
            ..video(key, 1)
        };
        let videos = [at("b c", "a"), at("b", "z"), at("b\u{1}", "m"), at("a", "ü/日本語"), at("", "~")];
        let mut expected = videos.to_vec();
        expected.sort_by_key(|video| (video.partition_path(), video.key.clone()));
        assert_eq!(sorted(&videos, 1), expected);
        assert_eq!(sorted(&videos, 1 << 20), expected);
    }

    #[test]
    fn sorting_nothing_returns_nothing() {
        assert_eq!(sorted(&[], 1), []);
    }
}
