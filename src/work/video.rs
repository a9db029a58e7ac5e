//! Indexes one video. Whatever happens to the video, it gets a row.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::driver::Driver;
use super::fetch::Fetch;
use super::models::OpenModels;
use super::restore::Restorer;
use super::rows::{Content, End, RowBuilder, VideoRows};
use super::thumbnails::{Thumbnails, WITHOUT_DETECTOR};
use crate::decode::{Decoders, Decoding, FullDecode, ImageSpec, Request, Totals};
use crate::error::{Error, Result, VideoError, VideoErrorKind, WorkError};
use crate::run::{RunRecord, Todo, VideoObject};
use crate::store::Store;
use crate::tables::{VideoRow, VideoStatus};
use crate::telemetry::Progress;

/// Memory limit of a decoder process: enough for 8K HEVC with its reference frames.
pub const DECODER_MEMORY_BYTES: u64 = 4 << 30;

/// Indexes the videos of a shard.
pub struct Indexer {
    /// The store of the videos.
    pub input: Arc<dyn Store>,
    /// Finds rows of earlier runs.
    pub restorer: Restorer,
    /// The models.
    pub models: OpenModels,
    /// The run.
    pub run: Arc<RunRecord>,
    /// Starts decoder processes.
    pub decoders: Arc<Decoders>,
    /// Folder for rows that are too many for memory.
    pub scratch_dir: PathBuf,
    /// Threads of each decoder.
    pub decoder_threads: usize,
    /// Why every frame of each video is decoded, if it is.
    pub in_full: Option<FullDecode>,
    /// Time limit for decoding a video.
    pub timeout: Duration,
    /// Receives progress, for people and metrics.
    pub progress: Arc<Progress>,
}

impl Indexer {
    /// Indexes one video of shard `shard`. If an earlier attempt saved its rows, they are copied from `saved`, the key of the
    /// piece's file of `videos`.
    ///
    /// # Errors
    /// Only those that are not the video's fault: an outage of the store, a failing model, a full scratch disk.
    pub async fn index(&self, object: &VideoObject, shard: u32, saved: Option<&str>) -> Result<VideoRows, WorkError> {
        let restored = match &object.todo {
            Todo::Index { .. } => saved,
            Todo::Restore { from } => Some(from.as_str()),
            Todo::MarkDeleted | Todo::MarkArchived { .. } => None,
        };
        if let Some(from) = restored {
            let mut rows = self.unread(object, None, shard)?;
            let copies = self.restorer.copies(&rows.video, from).await;
            if let Some(copies) = copies.map_err(|error| WorkError::of_output(error.into()))? {
                (rows.video, rows.content) = (copies.video, Content::Copied(copies.tables));
                return Ok(rows);
            }
            tracing::info!(uri = %object.uri, "its earlier rows are incomplete: indexing it again");
        }
        match &object.todo {
            Todo::Index { .. } | Todo::Restore { .. } => {}
            Todo::MarkDeleted => {
                let mut rows = self.unread(object, None, shard)?;
                let (status, actions_model, persons_model) = (VideoStatus::Deleted, None, None);
                rows.video = VideoRow { status, actions_model, persons_model, ..rows.video };
                return Ok(rows);
            }
            Todo::MarkArchived { storage_class } => {
                let message = format!(
                    "not read: it is in the storage class {storage_class}; restore it, and the next plan takes it"
                );
                let error = VideoError::new(VideoErrorKind::Archived, message);
                let mut rows = self.unread(object, Some(error), shard)?;
                rows.video.failures = Some(0);
                return Ok(rows);
            }
        }
        let (driver, totals, error) = match self.decode(object, self.in_full).await? {
            Decoded::Done(driver, totals, error) => (driver, totals, error),
            Decoded::NeedsFull(reason) => {
                tracing::debug!(uri = %object.uri, reason = reason.as_str(), "decoding in full");
                match self.decode(object, Some(reason)).await? {
                    Decoded::Done(driver, totals, error) => (driver, totals, error),
                    Decoded::NeedsFull(_) => {
                        return Err(WorkError::Fatal(Error::failed("a decoder process rejected full decoding")));
                    }
                }
            }
        };
        let (rows, info) = driver.finish().await?;
        finish(rows, End { info, totals, error }, shard)
    }

    fn rows<'a>(&'a self, object: &'a VideoObject) -> RowBuilder<'a> {
        RowBuilder::new(&self.models, &self.run, object, &self.scratch_dir)
    }

    /// The rows of a video that is not read.
    fn unread(&self, object: &VideoObject, error: Option<VideoError>, shard: u32) -> Result<VideoRows, WorkError> {
        finish(self.rows(object), End { error, ..End::default() }, shard)
    }

    async fn decode<'a>(
        &'a self,
        object: &'a VideoObject,
        in_full: Option<FullDecode>,
    ) -> Result<Decoded<'a>, WorkError> {
        let rows = self.rows(object).with_thumbnails(self.thumbnails());
        let mut driver = Driver::new(&self.models, &self.progress, object.size_bytes, rows);
        if let Some(problem) = self.run.job.input.partition_problem(&object.key) {
            let error = VideoError::new(VideoErrorKind::Unsupported, problem);
            return Ok(Decoded::Done(Box::new(driver), Totals::default(), Some(error)));
        }
        if object.size_bytes == 0 {
            let error = VideoError::new(VideoErrorKind::NotAVideo, "the file is empty");
            return Ok(Decoded::Done(Box::new(driver), Totals::default(), Some(error)));
        }
        let request = Request {
            size_bytes: object.size_bytes,
            clips: self.models.actions.as_ref().map(|model| model.clips.clone()),
            images: self.images(),
            threads: self.decoder_threads,
            memory_bytes: DECODER_MEMORY_BYTES,
            in_full,
            probe_sandbox: false,
        };
        let source = Arc::new(Fetch::new(self.input.clone(), object));
        let mut decoding = Decoding::start(&self.decoders, request, source, self.timeout).map_err(WorkError::Fatal)?;
        let error = loop {
            match decoding.next().await {
                Ok(Some(frame)) => driver.push(frame).await?,
                Ok(None) => break None,
                Err(WorkError::Video(error)) => break Some(error),
                Err(error) => return Err(error),
            }
        };
        Ok(match decoding.needs_full() {
            Some(reason) => Decoded::NeedsFull(reason),
            None => Decoded::Done(Box::new(driver), decoding.totals(), error),
        })
    }

    /// The images that the decoder makes: those for the detector, otherwise those for thumbnails.
    fn images(&self) -> Option<ImageSpec> {
        let detector = self.models.persons.as_ref().map(|model| model.images.clone());
        detector.or_else(|| self.run.job.report.thumbnails.then_some(WITHOUT_DETECTOR))
    }

    /// Takes a thumbnail at the middle of each segment. Without segments, takes one of each image.
    fn thumbnails(&self) -> Option<Thumbnails> {
        let images = self.images().filter(|_| self.run.job.report.thumbnails)?;
        Some(match &self.models.actions {
            Some(model) => Thumbnails::new(images.size(), model.clips.clip_seconds / 2.0, model.clips.stride_seconds),
            None => Thumbnails::new(images.size(), 0.0, 1.0 / images.frames_per_second),
        })
    }
}

/// How decoding a video ended.
enum Decoded<'a> {
    /// With what the decoder did, and what is wrong with the video.
    Done(Box<Driver<'a>>, Totals, Option<VideoError>),
    /// Its frames must be discarded, and all be decoded.
    NeedsFull(FullDecode),
}

fn finish(rows: RowBuilder<'_>, end: End, shard: u32) -> Result<VideoRows, WorkError> {
    tokio::task::block_in_place(|| rows.finish(end, shard)).map_err(WorkError::Fatal)
}
