//! One video, from its bytes to its rows: whatever happens to it, it gets one.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use chrono::{SubsecRound, Utc};

use super::batch::{Batcher, Pending, answered};
use super::encode::ShardEncoder;
use super::fetch::Fetch;
use super::key_frames::KeyFrames;
use super::models::{ActionInput, ActionScores, OpenModels};
use super::restore::Restorer;
use super::spill::{BufferedRows, RowBuffer};
use super::thumbnails::{Thumbnail, Thumbnails, WITHOUT_DETECTOR};
use crate::decode::sample::segment_at;
use crate::decode::{Clip, Decoding, ImageSpec, Request, SampledFrame, StreamInfo, Totals};
use crate::error::{Failure, Result, VideoError, VideoErrorKind};
use crate::infer::boxes::Detection;
use crate::infer::person_actions::scaled_box;
use crate::job::Scores;
use crate::run::{RunRecord, Todo, VideoObject};
use crate::store::Store;
use crate::tables::{ActionRow, LabelScore, PersonRow, Table, ThumbnailRow, VideoRow, VideoStatus};
use crate::telemetry::Progress;

/// Memory that one decoder process may have: 8K HEVC with its reference frames fits.
const DECODER_MEMORY_BYTES: u64 = 4 << 30;

/// What every video of a shard is indexed with.
pub struct Indexer {
    /// Where the videos are.
    pub input: Arc<dyn Store>,
    /// What earlier runs wrote.
    pub restorer: Restorer,
    /// The models.
    pub models: OpenModels,
    /// The run.
    pub run: Arc<RunRecord>,
    /// This binary, which decodes.
    pub program: PathBuf,
    /// Where rows go that memory should not hold.
    pub scratch_dir: PathBuf,
    /// Threads for each decoder.
    pub decoder_threads: usize,
    /// Time that a video may take to decode.
    pub timeout: Duration,
    /// Counts what is done, for people and metrics.
    pub progress: Arc<Progress>,
}

/// A video's rows.
#[derive(Debug)]
pub struct VideoRows {
    /// Its one row.
    pub video: VideoRow,
    /// A row per segment, by time.
    pub actions: BufferedRows<ActionRow>,
    /// A row per box, by time.
    pub persons: BufferedRows<PersonRow>,
    /// A row per thumbnail, by time; none where the job asks for none.
    pub thumbnails: Vec<ThumbnailRow>,
    /// In place of all of these, where they are another run's: of each table the rows as they are written.
    pub copies: Option<Vec<(Table, RecordBatch)>>,
    /// What its decoder did.
    pub totals: Totals,
}

impl VideoRows {
    /// Writes the rows. Blocks.
    ///
    /// # Errors
    /// If the scratch disk is full or fails.
    pub fn encode(self, partition_path: &str, encoder: &mut ShardEncoder) -> Result<()> {
        let uri = self.video.uri.clone();
        if let Some(copies) = &self.copies {
            return encoder.push_copies(partition_path, &uri, copies);
        }
        encoder.push_thumbnails(partition_path, &uri, &self.thumbnails)?;
        self.actions.drain(|batch| encoder.push_batch(partition_path, &uri, Table::Actions, &batch))?;
        self.persons.drain(|batch| encoder.push_batch(partition_path, &uri, Table::Persons, &batch))?;
        encoder.push(partition_path, self.video, Vec::new(), Vec::new())
    }
}

impl Indexer {
    /// Indexes one video of shard `shard`.
    ///
    /// # Errors
    /// Only what is not the video's fault: the store is away, a model fails.
    pub async fn index(&self, object: &VideoObject, shard: u32) -> Result<VideoRows, Failure> {
        let mut state = State::new(self, object);
        match &object.todo {
            Todo::Index { .. } => {}
            Todo::MarkDeleted => {
                let mut rows = state.into_rows(None, shard)?;
                let (status, actions_model, persons_model) = (VideoStatus::Deleted, None, None);
                rows.video = VideoRow { status, actions_model, persons_model, ..rows.video };
                return Ok(rows);
            }
            Todo::MarkArchived { storage_class } => {
                let message = format!(
                    "not read: it is in the storage class {storage_class}; restore it, and the next plan takes it"
                );
                let mut rows = state.into_rows(Some(VideoError::new(VideoErrorKind::Archived, message)), shard)?;
                rows.video.failures = Some(0);
                return Ok(rows);
            }
            Todo::Restore { from } => {
                let mut rows = State::new(self, object).into_rows(None, shard)?;
                let copies = self.restorer.copies(&rows.video, from).await;
                if let Some(copies) = copies.map_err(|error| Failure::of_output(error.into()))? {
                    (rows.video, rows.copies) = (copies.video, Some(copies.tables));
                    return Ok(rows);
                }
                tracing::info!(uri = %object.uri, "its earlier rows are not all there any more: indexing it anew");
            }
        }
        let result = self.decode(object, &mut state).await;
        state.reach(f64::INFINITY);
        let error = match result {
            Ok(()) => None,
            Err(Failure::Video(error)) => Some(error),
            Err(failure) => return Err(failure),
        };
        state.into_rows(error, shard)
    }

    async fn decode(&self, object: &VideoObject, state: &mut State<'_>) -> Result<(), Failure> {
        if let Some(problem) = self.run.job.input.partition_problem(&object.key) {
            return Err(VideoError::new(VideoErrorKind::Unsupported, problem).into());
        }
        let request = Request {
            size_bytes: object.size_bytes,
            clips: self.models.actions.as_ref().map(|model| model.clips.clone()),
            images: self.images(),
            threads: self.decoder_threads,
            memory_bytes: DECODER_MEMORY_BYTES,
            probe_sandbox: false,
        };
        if object.size_bytes == 0 {
            return Err(VideoError::new(VideoErrorKind::NotAVideo, "the file is empty").into());
        }
        let source = Arc::new(Fetch::new(self.input.clone(), object));
        let mut decoding = Decoding::start(&self.program, request, source, self.timeout).map_err(Failure::Fatal)?;
        let ended = loop {
            match decoding.next().await {
                Ok(Some(frame)) => state.take(frame).await?,
                Ok(None) => break Ok(()),
                Err(failure) => break Err(failure),
            }
        };
        state.totals = decoding.totals();
        drop(decoding);
        state.collect(true).await?;
        ended
    }

    /// Which images the decoder makes: the detector's, else those that thumbnails are made of.
    fn images(&self) -> Option<ImageSpec> {
        let detector = self.models.persons.as_ref().map(|model| model.images.clone());
        detector.or_else(|| self.run.job.report.thumbnails.then_some(WITHOUT_DETECTOR))
    }

    /// Looks for a video's thumbnails: at the middle of each segment, or without segments in each image.
    fn thumbnails(&self) -> Option<Thumbnails> {
        let images = self.images().filter(|_| self.run.job.report.thumbnails)?;
        Some(match &self.models.actions {
            Some(model) => Thumbnails::new(images.size(), model.clips.clip_seconds / 2.0, model.clips.stride_seconds),
            None => Thumbnails::new(images.size(), 0.0, 1.0 / images.frames_per_second),
        })
    }

    /// The segment that a moment lies in.
    fn segment_at(&self, time_seconds: f64) -> Option<i64> {
        let clips = &self.models.actions.as_ref()?.clips;
        segment_at(time_seconds, clips.clip_seconds, clips.stride_seconds)
    }
}

/// What is known of a video so far.
struct State<'a> {
    indexer: &'a Indexer,
    object: &'a VideoObject,
    video_id: Arc<str>,
    uri: Arc<str>,
    run_id: Arc<str>,
    info: Option<StreamInfo>,
    totals: Totals,
    clips: VecDeque<(ClipAt, Pending<ActionScores>)>,
    images: VecDeque<(ImageAt, Pending<Vec<Detection>>)>,
    /// Where a model that scores persons finds them.
    key_frames: KeyFrames,
    actions: RowBuffer<ActionRow>,
    persons: RowBuffer<PersonRow>,
    thumbnails: Option<Thumbnails>,
    inference_seconds: f64,
    /// Bytes that progress has been told of.
    reached_bytes: u64,
}

struct ClipAt {
    segment: i64,
    start_seconds: f64,
    end_seconds: f64,
    frames: i64,
    /// The rows of the persons whose actions come out, in the order of their boxes.
    persons: Vec<usize>,
}

struct ImageAt {
    frame: i64,
    time_seconds: f64,
}

impl<'a> State<'a> {
    fn new(indexer: &'a Indexer, object: &'a VideoObject) -> Self {
        Self {
            indexer,
            object,
            video_id: object.video_id().into(),
            uri: object.uri.as_str().into(),
            run_id: indexer.run.run_id.as_str().into(),
            info: None,
            totals: Totals::default(),
            clips: VecDeque::new(),
            images: VecDeque::new(),
            key_frames: KeyFrames::default(),
            actions: RowBuffer::new(&indexer.scratch_dir),
            persons: RowBuffer::new(&indexer.scratch_dir),
            thumbnails: indexer.thumbnails(),
            inference_seconds: 0.0,
            reached_bytes: 0,
        }
    }

    /// Tells progress that the video is through up to this time: as many of its bytes.
    fn reach(&mut self, time_seconds: f64) {
        let duration = self.info.as_ref().and_then(|info| info.duration_seconds).unwrap_or(f64::INFINITY);
        let share = if time_seconds.is_infinite() { 1.0 } else { (time_seconds / duration).clamp(0.0, 1.0) };
        let to = (self.object.size_bytes as f64 * share) as u64;
        self.indexer.progress.bytes(to.saturating_sub(self.reached_bytes));
        self.reached_bytes = self.reached_bytes.max(to);
    }

    /// Hands a frame to its model; waits while the model is behind. A clip whose persons are scored waits for their boxes
    /// too: their frame went to the detector before, which waits for no clip.
    async fn take(&mut self, frame: SampledFrame) -> Result<(), Failure> {
        let indexer = self.indexer;
        let models = &indexer.models;
        match frame {
            SampledFrame::Opened(info) => self.info = Some(info),
            SampledFrame::Clip(clip) => {
                let Some(model) = &models.actions else { return Ok(()) };
                let mut at = ClipAt {
                    segment: clip.segment,
                    start_seconds: clip.start_seconds,
                    end_seconds: clip.end_seconds,
                    frames: clip.frames,
                    persons: Vec::new(),
                };
                tracing::debug!(segment = at.segment, frames = at.frames, sampled = ?clip.sampled, "segment sampled");
                let mut boxes = Vec::new();
                if model.scores_persons() {
                    (boxes, at.persons) = self.persons_of(&clip, model.clips.stride_seconds).await?;
                }
                let pending = match model.scores_persons() && boxes.is_empty() {
                    true => answered(ActionScores::default()),
                    false => model.batcher.submit(ActionInput { clip, boxes }).await.map_err(Failure::Fatal)?,
                };
                self.clips.push_back((at, pending));
            }
            SampledFrame::Image(image) => {
                if let Some(thumbnails) = &mut self.thumbnails {
                    tokio::task::block_in_place(|| thumbnails.push(&image)).map_err(Failure::Fatal)?;
                }
                let Some(model) = &models.persons else { return Ok(()) };
                let at = ImageAt { frame: image.frame, time_seconds: image.time_seconds };
                if models.actions.as_ref().is_some_and(|actions| actions.scores_persons()) {
                    self.key_frames.push(image.frame, image.time_seconds, (image.width, image.height));
                }
                let pending = model.batcher.submit(image).await.map_err(Failure::Fatal)?;
                self.images.push_back((at, pending));
            }
        }
        self.collect(false).await
    }

    /// Boxes of the persons in a clip, in its pixels, and those of their rows that take their actions from it.
    async fn persons_of(&mut self, clip: &Clip, stride_seconds: f64) -> Result<(Vec<[f32; 4]>, Vec<usize>), Failure> {
        let next_start = (clip.segment as f64 + 1.0) * stride_seconds;
        let chosen = self.key_frames.choose(clip.start_seconds, clip.end_seconds, next_start);
        let Some((number, is_nearest)) = chosen else { return Ok(Default::default()) };
        while self.key_frames.get_mut(number).is_some_and(|frame| frame.rows.is_none()) {
            if !self.collect_image(true).await? {
                break;
            }
        }
        let Some(frame) = self.key_frames.get_mut(number) else { return Ok(Default::default()) };
        let rows = frame.rows.clone().unwrap_or_default();
        let size = frame.size;
        let boxes = rows.iter().filter_map(|row| {
            let PersonRow { x1, y1, x2, y2, .. } = *self.persons.get_mut(*row)?;
            Some(scaled_box([x1, y1, x2, y2], size, (clip.width, clip.height)))
        });
        Ok((boxes.collect(), if is_nearest { rows } else { Vec::new() }))
    }

    /// Makes rows of the answers that are there; at the end, of all.
    async fn collect(&mut self, all: bool) -> Result<(), Failure> {
        while self.collect_image(all).await? {}
        while self.collect_clip(all).await? {}
        let unsettled = self.unsettled_person();
        tokio::task::block_in_place(|| {
            self.actions.spill(self.actions.count())?;
            self.persons.spill(unsettled)
        })
        .map_err(Failure::Fatal)
    }

    /// The first row of a person whose actions may still come.
    fn unsettled_person(&self) -> usize {
        let waiting = self.clips.iter().flat_map(|(at, _)| at.persons.iter().copied());
        waiting.chain(self.key_frames.first_row()).min().unwrap_or(self.persons.count())
    }

    /// Makes rows of the next clip's answer, if it is there or `wait`.
    async fn collect_clip(&mut self, wait: bool) -> Result<bool, Failure> {
        let indexer = self.indexer;
        if let Some(model) = &indexer.models.actions
            && let Some((at, ActionScores { scores, embedding }, seconds)) =
                next(&mut self.clips, &model.batcher, wait).await?
        {
            self.inference_seconds += seconds;
            indexer.progress.segment();
            self.reach(at.end_seconds);
            let best = |scores: &[f32]| top_labels(scores, &model.labels, model.settings.top_k);
            for (row, scores) in at.persons.iter().zip(&scores) {
                if let Some(person) = self.persons.get_mut(*row) {
                    person.actions = Some(best(scores));
                }
            }
            let scores = highest(scores);
            let top = scores.as_deref().map(best).unwrap_or_default();
            let scores = scores.filter(|_| model.settings.scores == Scores::Full);
            let numbers = scores.as_ref().map_or(0, Vec::len) + embedding.as_ref().map_or(0, Vec::len);
            let bytes = size_of::<ActionRow>() + size_of_val(&*top) + size_of::<f32>() * numbers;
            let row = ActionRow {
                video_id: self.video_id.clone(),
                uri: self.uri.clone(),
                segment: at.segment,
                start_seconds: at.start_seconds,
                end_seconds: at.end_seconds,
                frames: at.frames,
                top_label: top.first().map(|best| best.label.clone()),
                top_score: top.first().map(|best| best.score),
                top,
                scores,
                embedding,
                run_id: self.run_id.clone(),
            };
            self.actions.push(row, bytes);
            return Ok(true);
        }
        Ok(false)
    }

    /// Makes rows of the next image's answer, if it is there or `wait`.
    async fn collect_image(&mut self, wait: bool) -> Result<bool, Failure> {
        let models = &self.indexer.models;
        if let Some(model) = &models.persons
            && let Some((at, boxes, seconds)) = next(&mut self.images, &model.batcher, wait).await?
        {
            self.inference_seconds += seconds;
            let segment = self.indexer.segment_at(at.time_seconds);
            self.indexer.progress.boxes(boxes.len());
            if models.actions.is_none() {
                self.reach(at.time_seconds);
            }
            if let Some(frame) = self.key_frames.get_mut(at.frame) {
                let rows = (self.persons.count()..).zip(&boxes);
                let persons = rows.filter(|(_, found)| model.person_classes.contains(&found.class));
                frame.rows = Some(persons.map(|(row, _)| row).collect());
            }
            for (number, found) in boxes.into_iter().enumerate() {
                let [x1, y1, x2, y2] = found.xyxy;
                let row = PersonRow {
                    video_id: self.video_id.clone(),
                    uri: self.uri.clone(),
                    segment,
                    time_seconds: at.time_seconds,
                    frame: at.frame,
                    r#box: number as i32,
                    label: model.labels.get(found.class).cloned().unwrap_or_default(),
                    x1,
                    y1,
                    x2,
                    y2,
                    confidence: found.confidence,
                    actions: None,
                    run_id: self.run_id.clone(),
                };
                self.persons.push(row, size_of::<PersonRow>());
            }
            return Ok(true);
        }
        Ok(false)
    }

    fn into_rows(mut self, error: Option<VideoError>, shard: u32) -> Result<VideoRows, Failure> {
        // Rows of another version than the one listed would be wrong, not partial.
        let is_whole_version = |kind| {
            !matches!(kind, VideoErrorKind::ChangedDuringRead | VideoErrorKind::NotFound | VideoErrorKind::AccessDenied)
        };
        let has_rows = self.actions.count() > 0 || self.totals.frames_decoded > 0;
        let status = match &error {
            None => VideoStatus::Ok,
            Some(error) if has_rows && is_whole_version(error.kind) => VideoStatus::Partial,
            Some(_) => VideoStatus::Failed,
        };
        let mut thumbnails = self.thumbnail_rows()?;
        if status == VideoStatus::Failed {
            self.actions = RowBuffer::new(&self.indexer.scratch_dir);
            self.persons = RowBuffer::new(&self.indexer.scratch_dir);
            thumbnails.clear();
        }
        let earlier_failures = if let Todo::Index { failures } = self.object.todo { failures } else { 0 };
        let failed = status == VideoStatus::Failed || error.as_ref().is_some_and(|error| error.kind.may_pass());
        let failures = failed.then(|| i64::from(earlier_failures) + 1);
        let (actions, persons) = tokio::task::block_in_place(|| Ok((self.actions.finish()?, self.persons.finish()?)))
            .map_err(Failure::Fatal)?;
        let (run, info, totals) = (&self.indexer.run, self.info.as_ref(), self.totals);
        let video = VideoRow {
            video_id: self.video_id,
            uri: self.uri,
            etag: self.object.etag.clone(),
            size_bytes: self.object.size_bytes as i64,
            last_modified: self.object.last_modified,
            status,
            error_kind: error.as_ref().map(|e| e.kind),
            error_message: error.map(|e| e.message),
            failures,
            container: info.map(|i| i.container.clone()),
            codec: info.map(|i| i.codec.clone()),
            width: info.map(|i| i.width as i32).filter(|width| *width > 0),
            height: info.map(|i| i.height as i32).filter(|height| *height > 0),
            rotation: info.map(|i| i32::from(i.orientation.rotation)),
            mirrored: info.map(|i| i.orientation.mirrored),
            frames_per_second: info.and_then(|i| i.frames_per_second),
            start_seconds: totals.start_seconds,
            duration_seconds: Some(totals.end_seconds).filter(|s| *s > 0.0).or(info.and_then(|i| i.duration_seconds)),
            frames_decoded: totals.frames_decoded as i64,
            segments: actions.count() as i64,
            boxes: persons.count() as i64,
            actions_model: run.actions_model.as_ref().map(|m| m.id.clone()),
            persons_model: run.persons_model.as_ref().map(|m| m.id.clone()),
            fingerprint: run.fingerprint.clone(),
            run_id: self.run_id,
            shard,
            indexed_at: Utc::now().trunc_subsecs(6),
            decode_seconds: totals.decode_seconds,
            inference_seconds: self.inference_seconds,
        };
        Ok(VideoRows { video, actions, persons, thumbnails, copies: None, totals })
    }

    fn thumbnail_rows(&mut self) -> Result<Vec<ThumbnailRow>, Failure> {
        let thumbnails = self.thumbnails.take().map(Thumbnails::finish).transpose().map_err(Failure::Fatal)?;
        let thumbnails = thumbnails.unwrap_or_default();
        let row = |thumbnail: Thumbnail| ThumbnailRow {
            video_id: self.video_id.clone(),
            uri: self.uri.clone(),
            segment: self.indexer.segment_at(thumbnail.time_seconds),
            time_seconds: thumbnail.time_seconds,
            frame: thumbnail.frame,
            width: thumbnail.width as i32,
            height: thumbnail.height as i32,
            jpeg: thumbnail.jpeg,
            run_id: self.run_id.clone(),
        };
        Ok(thumbnails.into_iter().map(row).collect())
    }
}

/// The next answer: only one that is there already, unless `wait`.
async fn next<A, I: Send + 'static, O: Send + 'static>(
    queue: &mut VecDeque<(A, Pending<O>)>,
    batcher: &Batcher<I, O>,
    wait: bool,
) -> Result<Option<(A, O, f64)>, Failure> {
    use tokio::sync::oneshot::error::TryRecvError;
    let Some((_, pending)) = queue.front_mut() else { return Ok(None) };
    let answer = if wait {
        pending.await.map_err(|_| Failure::Fatal(batcher.failure()))?
    } else {
        match pending.try_recv() {
            Ok(answer) => answer,
            Err(TryRecvError::Empty) => return Ok(None),
            Err(TryRecvError::Closed) => return Err(Failure::Fatal(batcher.failure())),
        }
    };
    Ok(queue.pop_front().map(|(at, _)| (at, answer.output, answer.seconds)))
}

/// Of each label the highest of these scores; none where there are no scores.
fn highest(scores: Vec<Vec<f32>>) -> Option<Vec<f32>> {
    scores.into_iter().reduce(|mut highest, scores| {
        highest.iter_mut().zip(scores).for_each(|(highest, score)| *highest = highest.max(score));
        highest
    })
}

/// The `k` best labels, best first; equal scores in label order.
fn top_labels(scores: &[f32], labels: &[Arc<str>], k: usize) -> Vec<LabelScore> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order.truncate(k);
    order
        .into_iter()
        .map(|id| LabelScore {
            label_id: id as i32,
            label: labels.get(id).cloned().unwrap_or_else(|| format!("class_{id}").into()),
            score: scores[id],
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_labels_come_first_and_ties_in_label_order() {
        let labels: [Arc<str>; 3] = ["a", "b", "c"].map(Arc::from);
        let top = top_labels(&[0.2, 0.5, 0.2], &labels, 2);
        assert_eq!(top.iter().map(|t| &*t.label).collect::<Vec<_>>(), vec!["b", "a"]);
    }

    #[test]
    fn a_segment_has_the_highest_score_of_its_persons() {
        assert_eq!(highest(vec![vec![0.1, 0.9], vec![0.3, 0.2]]), Some(vec![0.3, 0.9]));
        assert_eq!(highest(vec![]), None);
    }
}
