//! Drives one video through the models: hands its frames over as they are decoded, and the answers to the row builder in
//! the order of the frames.

use std::collections::VecDeque;
use std::ops::Range;

use super::batch::{Batcher, Pending, answered};
use super::key_frames::KeyFrames;
use super::models::{ActionInput, ActionScores, OpenActions, OpenModels, OpenPersons};
use super::rows::{RowBuilder, SegmentInfo};
use crate::decode::{Clip, Image, SampledFrame, StreamInfo};
use crate::error::{Result, WorkError};
use crate::infer::boxes::Detection;
use crate::infer::person_actions::scaled_box;
use crate::infer::session::Timed;
use crate::telemetry::Progress;
use crate::track::{Tracker, Tracks};

/// A video on its way through the models.
pub struct Driver<'a> {
    models: &'a OpenModels,
    progress: VideoProgress<'a>,
    rows: RowBuilder<'a>,
    info: Option<StreamInfo>,
    clips: VecDeque<(SegmentInfo, Pending<ActionScores>)>,
    images: VecDeque<(ImageAt, Pending<Vec<Detection>>)>,
    /// Frames in which a model that scores persons finds them.
    key_frames: KeyFrames,
    tracker: Option<Tracker>,
    /// The first row of the last frame: the next frame decides to which tracks its rows belong.
    untracked: usize,
}

struct ImageAt {
    frame: i64,
    time_seconds: f64,
}

impl<'a> Driver<'a> {
    /// A driver for a video of `size_bytes`, whose answers `rows` collects.
    pub fn new(models: &'a OpenModels, progress: &'a Progress, size_bytes: u64, rows: RowBuilder<'a>) -> Self {
        Self {
            models,
            progress: VideoProgress { progress, size_bytes, duration_seconds: None, reported_bytes: 0 },
            rows,
            info: None,
            clips: VecDeque::new(),
            images: VecDeque::new(),
            key_frames: KeyFrames::default(),
            tracker: models.persons.as_ref().and_then(OpenPersons::tracker),
            untracked: 0,
        }
    }

    /// Hands a frame to its model. Waits while the model is behind.
    ///
    /// # Errors
    /// If a model or the scratch disk fails.
    pub async fn push(&mut self, frame: SampledFrame) -> Result<(), WorkError> {
        match frame {
            SampledFrame::Opened(info) => {
                self.progress.duration_seconds = info.duration_seconds;
                self.info = Some(info);
            }
            SampledFrame::Clip(clip) => self.push_clip(clip).await?,
            SampledFrame::Image(image) => self.push_image(image).await?,
        }
        self.collect(Wait::Never).await
    }

    /// Waits for the answers that are still to come. Returns the rows, and what is known of the stream.
    ///
    /// # Errors
    /// If a model or the scratch disk fails.
    pub async fn finish(mut self) -> Result<(RowBuilder<'a>, Option<StreamInfo>), WorkError> {
        self.collect(Wait::ForAll).await?;
        self.progress.finish();
        Ok((self.rows, self.info))
    }

    /// If the model scores persons, waits for their boxes: their frame went to the detector before, which does not wait
    /// for clips.
    async fn push_clip(&mut self, clip: Clip) -> Result<(), WorkError> {
        let Some(model) = &self.models.actions else { return Ok(()) };
        let mut segment = SegmentInfo {
            number: clip.segment,
            start_seconds: clip.start_seconds,
            end_seconds: clip.end_seconds,
            frames: clip.frames,
            persons: Vec::new(),
        };
        tracing::debug!(segment = segment.number, frames = segment.frames, sampled = ?clip.sampled, "segment sampled");
        let mut boxes = Vec::new();
        if model.scores_persons() {
            (boxes, segment.persons) = self.persons_of(&clip, model).await?;
        }
        let pending = match model.scores_persons() && boxes.is_empty() {
            true => answered(ActionScores::default()),
            false => model.batcher.submit(ActionInput { clip, boxes }).await.map_err(WorkError::Fatal)?,
        };
        self.clips.push_back((segment, pending));
        Ok(())
    }

    async fn push_image(&mut self, image: Image) -> Result<(), WorkError> {
        tokio::task::block_in_place(|| self.rows.push_image(&image)).map_err(WorkError::Fatal)?;
        let Some(model) = &self.models.persons else { return Ok(()) };
        let at = ImageAt { frame: image.frame, time_seconds: image.time_seconds };
        if self.models.actions.as_ref().is_some_and(OpenActions::scores_persons) {
            self.key_frames.push(image.frame, image.time_seconds, (image.width, image.height));
        }
        let pending = model.batcher.submit(image).await.map_err(WorkError::Fatal)?;
        self.images.push_back((at, pending));
        Ok(())
    }

    /// The boxes of the persons in a clip, in pixels of the clip, and the positions of the rows that take their actions
    /// from it.
    async fn persons_of(&mut self, clip: &Clip, model: &OpenActions) -> Result<(Vec<[f32; 4]>, Vec<usize>), WorkError> {
        let next_start = (clip.segment as f64 + 1.0) * model.clips.stride_seconds;
        let chosen = self.key_frames.choose(clip.start_seconds, clip.end_seconds, next_start);
        let Some((number, is_nearest)) = chosen else { return Ok(Default::default()) };
        while self.key_frames.get_mut(number).is_some_and(|frame| frame.rows.is_none()) {
            if !self.collect_image(Wait::ForAll).await? {
                break;
            }
        }
        let Some(frame) = self.key_frames.get_mut(number) else { return Ok(Default::default()) };
        let rows = frame.rows.clone().unwrap_or_default();
        let in_clip = |xyxy| scaled_box(xyxy, frame.size, (clip.width, clip.height));
        let boxes = rows.iter().filter_map(|row| self.rows.person_box(*row).map(in_clip));
        Ok((boxes.collect(), if is_nearest { rows } else { Vec::new() }))
    }

    async fn collect(&mut self, wait: Wait) -> Result<(), WorkError> {
        while self.collect_image(wait).await? {}
        while self.collect_clip(wait).await? {}
        let waiting = self.clips.iter().flat_map(|(segment, _)| segment.persons.iter().copied());
        let untracked = self.tracker.as_ref().map(|_| self.untracked);
        let unsettled = waiting.chain(self.key_frames.first_row()).chain(untracked).min();
        tokio::task::block_in_place(|| self.rows.spill(unsettled)).map_err(WorkError::Fatal)
    }

    /// Takes the answer for the next clip. Returns whether there was one.
    async fn collect_clip(&mut self, wait: Wait) -> Result<bool, WorkError> {
        let Some(model) = &self.models.actions else { return Ok(false) };
        let Some((segment, answer)) = next(&mut self.clips, &model.batcher, wait).await? else { return Ok(false) };
        self.rows.add_inference(answer.seconds);
        self.progress.progress.segment();
        self.progress.reach(segment.end_seconds);
        self.rows.push_segment(segment, answer.output);
        Ok(true)
    }

    /// Takes the answer for the next image. Returns whether there was one.
    async fn collect_image(&mut self, wait: Wait) -> Result<bool, WorkError> {
        let Some(model) = &self.models.persons else { return Ok(false) };
        let Some((at, answer)) = next(&mut self.images, &model.batcher, wait).await? else { return Ok(false) };
        self.rows.add_inference(answer.seconds);
        let mut boxes = answer.output;
        let tracks = self.tracker.as_mut().map(|tracker| tracker.next(&boxes)).unwrap_or_default();
        // They are sorted, so that the first ones stay.
        boxes.retain(|found| found.confidence > model.confidence);
        self.progress.progress.boxes(boxes.len());
        if self.models.actions.is_none() {
            self.progress.reach(at.time_seconds);
        }
        let is_person: Vec<bool> = boxes.iter().map(|found| model.person_classes.contains(&found.class)).collect();
        let rows = self.rows.push_boxes(at.frame, at.time_seconds, boxes);
        self.set_tracks(rows.clone(), tracks);
        if let Some(frame) = self.key_frames.get_mut(at.frame) {
            frame.rows = Some(rows.zip(is_person).filter_map(|(row, is_person)| is_person.then_some(row)).collect());
        }
        Ok(true)
    }

    /// Sets the tracks of the frame with these rows, and those that it begins with boxes of the frame before.
    fn set_tracks(&mut self, rows: Range<usize>, tracks: Tracks) {
        let begun = tracks.begun.into_iter().map(|(position, number)| (self.untracked + position, number));
        let continued = rows.clone().zip(tracks.numbers).filter_map(|(row, number)| Some((row, number?)));
        begun.chain(continued).for_each(|(row, number)| self.rows.set_track(row, number));
        self.untracked = rows.start;
    }
}

/// Whether to wait for an answer that is not there yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    Never,
    ForAll,
}

/// The answer for the first input in the queue.
async fn next<A, I: Send + 'static, O: Send + 'static>(
    queue: &mut VecDeque<(A, Pending<O>)>,
    batcher: &Batcher<I, O>,
    wait: Wait,
) -> Result<Option<(A, Timed<O>)>, WorkError> {
    use tokio::sync::oneshot::error::TryRecvError;
    let Some((_, pending)) = queue.front_mut() else { return Ok(None) };
    let answer = match wait {
        Wait::ForAll => pending.await.map_err(|_| WorkError::Fatal(batcher.failure()))?,
        Wait::Never => match pending.try_recv() {
            Ok(answer) => answer,
            Err(TryRecvError::Empty) => return Ok(None),
            Err(TryRecvError::Closed) => return Err(WorkError::Fatal(batcher.failure())),
        },
    };
    Ok(queue.pop_front().map(|(at, _)| (at, answer)))
}

/// Reports how much of a video is done, in bytes: the share of its bytes is that of its duration.
struct VideoProgress<'a> {
    progress: &'a Progress,
    size_bytes: u64,
    duration_seconds: Option<f64>,
    reported_bytes: u64,
}

impl VideoProgress<'_> {
    /// All up to this time is done.
    fn reach(&mut self, time_seconds: f64) {
        let share = self.duration_seconds.map_or(0.0, |duration| (time_seconds / duration).clamp(0.0, 1.0));
        self.report((self.size_bytes as f64 * share) as u64);
    }

    fn finish(&mut self) {
        self.report(self.size_bytes);
    }

    fn report(&mut self, done_bytes: u64) {
        self.progress.bytes(done_bytes.saturating_sub(self.reported_bytes));
        self.reported_bytes = self.reported_bytes.max(done_bytes);
    }
}
