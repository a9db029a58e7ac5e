//! The rows of one video: the models' answers as rows, and at the end the video's own row.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;

use super::encode::ShardEncoder;
use super::models::{ActionScores, OpenModels};
use super::spill::{BufferedRows, RowBuffer};
use super::thumbnails::{Thumbnail, Thumbnails};
use crate::decode::sample::segment_at;
use crate::decode::{FullDecode, Image, StreamInfo, Totals};
use crate::error::{Result, VideoError, VideoErrorKind};
use crate::infer::boxes::Detection;
use crate::job::Scores;
use crate::run::{RunRecord, Todo, VideoObject};
use crate::tables::{ActionRow, DecodeMode, LabelScore, PersonRow, Table, ThumbnailRow, VideoRow, VideoStatus};

/// All rows of a video.
#[derive(Debug)]
pub struct VideoRows {
    /// The row of `videos`.
    pub video: VideoRow,
    /// What the video's decoder did.
    pub totals: Totals,
    /// The rows of the other tables.
    pub content: Content,
}

/// The rows of a video in the tables other than `videos`.
#[derive(Debug)]
pub enum Content {
    /// Rows of this run.
    Indexed {
        /// A row per segment, by time.
        actions: BufferedRows<ActionRow>,
        /// A row per box, by time.
        persons: BufferedRows<PersonRow>,
        /// A row per thumbnail, by time. Empty if the job asks for none.
        thumbnails: Vec<ThumbnailRow>,
    },
    /// Copies of another run's rows, of each table, the row of `videos` included.
    Copied(Vec<(Table, RecordBatch)>),
}

impl VideoRows {
    /// Writes the rows. Blocks.
    ///
    /// # Errors
    /// If the scratch disk is full or fails.
    pub fn encode(&self, partition_path: &str, encoder: &mut ShardEncoder) -> Result<()> {
        let uri = &self.video.uri;
        match &self.content {
            Content::Copied(copies) => encoder.push_copies(partition_path, uri, copies),
            Content::Indexed { actions, persons, thumbnails } => {
                encoder.push_rows(partition_path, uri, thumbnails)?;
                actions.read(|batch| encoder.push_batch(partition_path, uri, Table::Actions, &batch))?;
                persons.read(|batch| encoder.push_batch(partition_path, uri, Table::Persons, &batch))?;
                encoder.push(partition_path, self.video.clone())
            }
        }
    }
}

/// A segment, without its pixels.
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentInfo {
    /// Number of the segment, from 0.
    pub number: i64,
    /// Start, in seconds from the first presented frame.
    pub start_seconds: f64,
    /// End, in seconds from the first presented frame.
    pub end_seconds: f64,
    /// Number of decoded frames in it.
    pub frames: i64,
    /// Positions of the rows of `persons` that take their actions from this segment, in the order of its boxes.
    pub persons: Vec<usize>,
}

/// What ended the work on a video.
#[derive(Debug, Default)]
pub struct End {
    /// The stream's properties, if the file could be opened.
    pub info: Option<StreamInfo>,
    /// What the decoder did.
    pub totals: Totals,
    /// Why not all of the video was read.
    pub error: Option<VideoError>,
}

/// Collects the rows of one video.
pub struct RowBuilder<'a> {
    models: &'a OpenModels,
    run: &'a RunRecord,
    object: &'a VideoObject,
    scratch_dir: &'a Path,
    video_id: Arc<str>,
    uri: Arc<str>,
    run_id: Arc<str>,
    actions: RowBuffer<ActionRow>,
    persons: RowBuffer<PersonRow>,
    thumbnails: Option<Thumbnails>,
    inference_seconds: f64,
}

impl<'a> RowBuilder<'a> {
    /// A builder without rows. Rows that are too many for memory go to `scratch_dir`.
    pub fn new(models: &'a OpenModels, run: &'a RunRecord, object: &'a VideoObject, scratch_dir: &'a Path) -> Self {
        Self {
            models,
            run,
            object,
            scratch_dir,
            video_id: object.video_id().into(),
            uri: object.uri.as_str().into(),
            run_id: run.run_id.as_str().into(),
            actions: RowBuffer::new(scratch_dir),
            persons: RowBuffer::new(scratch_dir),
            thumbnails: None,
            inference_seconds: 0.0,
        }
    }

    /// Adds a table of thumbnails.
    pub fn with_thumbnails(mut self, thumbnails: Option<Thumbnails>) -> Self {
        self.thumbnails = thumbnails;
        self
    }

    /// Adds time that models took.
    pub fn add_inference(&mut self, seconds: f64) {
        self.inference_seconds += seconds;
    }

    /// Adds the scores of a segment: a row of `actions`, and the actions of its persons.
    pub fn push_segment(&mut self, segment: SegmentInfo, answer: ActionScores) {
        let Some(model) = &self.models.actions else { return };
        let best = |scores: &[f32]| top_labels(scores, &model.labels, model.settings.top_k);
        for (row, scores) in segment.persons.iter().zip(&answer.scores) {
            if let Some(person) = self.persons.get_mut(*row) {
                person.actions = Some(best(scores));
            }
        }
        let scores = highest(answer.scores);
        let top = scores.as_deref().map(best).unwrap_or_default();
        let scores = scores.filter(|_| model.settings.scores == Scores::Full);
        let embedding = answer.embedding;
        let numbers = scores.as_ref().map_or(0, Vec::len) + embedding.as_ref().map_or(0, Vec::len);
        let bytes = size_of::<ActionRow>() + size_of_val(&*top) + size_of::<f32>() * numbers;
        let row = ActionRow {
            video_id: self.video_id.clone(),
            uri: self.uri.clone(),
            segment: segment.number,
            start_seconds: segment.start_seconds,
            end_seconds: segment.end_seconds,
            frames: segment.frames,
            top_label: top.first().map(|best| best.label.clone()),
            top_score: top.first().map(|best| best.score),
            top,
            scores,
            embedding,
            run_id: self.run_id.clone(),
        };
        self.actions.push(row, bytes);
    }

    /// Adds the boxes of a frame: a row of `persons` each. Returns the positions of these rows.
    pub fn push_boxes(&mut self, frame: i64, time_seconds: f64, boxes: Vec<Detection>) -> Range<usize> {
        let first = self.persons.count();
        let Some(model) = &self.models.persons else { return first..first };
        let segment = self.segment_at(time_seconds);
        for (number, found) in boxes.into_iter().enumerate() {
            let [x1, y1, x2, y2] = found.xyxy;
            let row = PersonRow {
                video_id: self.video_id.clone(),
                uri: self.uri.clone(),
                segment,
                time_seconds,
                frame,
                r#box: number as i32,
                label: model.labels.get(found.class).cloned().unwrap_or_default(),
                x1,
                y1,
                x2,
                y2,
                confidence: found.confidence,
                actions: None,
                track_id: None,
                run_id: self.run_id.clone(),
            };
            self.persons.push(row, size_of::<PersonRow>());
        }
        first..self.persons.count()
    }

    /// Sets the track of a row of `persons`.
    pub fn set_track(&mut self, row: usize, number: i64) {
        if let Some(person) = self.persons.get_mut(row) {
            person.track_id = Some(number);
        }
    }

    /// The box of a row of `persons` in pixels of the frame: left, top, right, bottom.
    pub fn person_box(&mut self, row: usize) -> Option<[f32; 4]> {
        self.persons.get_mut(row).map(|person| [person.x1, person.y1, person.x2, person.y2])
    }

    /// Considers a frame for the thumbnails. Blocks.
    ///
    /// # Errors
    /// If the frame cannot be encoded as JPEG.
    pub fn push_image(&mut self, image: &Image) -> Result<()> {
        self.thumbnails.as_mut().map_or(Ok(()), |thumbnails| thumbnails.push(image))
    }

    /// Moves rows to the scratch disk if there are too many. Rows of `persons` from position `unsettled` on stay in
    /// memory, because their actions or tracks are not known yet; without one, none may change. Blocks.
    ///
    /// # Errors
    /// If the scratch disk is full or fails.
    pub fn spill(&mut self, unsettled: Option<usize>) -> Result<()> {
        self.actions.spill(self.actions.count())?;
        self.persons.spill(unsettled.unwrap_or(self.persons.count()))
    }

    /// Adds the video's own row. Blocks.
    ///
    /// # Errors
    /// If the scratch disk is full or fails.
    pub fn finish(mut self, end: End, shard: u32) -> Result<VideoRows> {
        let status = self.status(&end);
        let mut thumbnails = self.thumbnail_rows()?;
        if status == VideoStatus::Failed {
            self.actions = RowBuffer::new(self.scratch_dir);
            self.persons = RowBuffer::new(self.scratch_dir);
            thumbnails.clear();
        }
        let End { info, totals, error } = end;
        let earlier_failures = if let Todo::Index { failures } = self.object.todo { failures } else { 0 };
        let failed = status == VideoStatus::Failed || error.as_ref().is_some_and(|error| error.kind.may_pass());
        let failures = failed.then(|| i64::from(earlier_failures) + 1);
        let (actions, persons) = (self.actions.finish()?, self.persons.finish()?);
        let info = info.as_ref();
        let has_frames = totals.frames_decoded > 0;
        let video = VideoRow {
            video_id: self.video_id,
            uri: self.uri,
            etag: self.object.etag.clone(),
            version_id: self.object.version_id.clone(),
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
            frames_presented: has_frames.then_some(totals.frames_presented as i64),
            decode_mode: has_frames.then_some(if totals.in_full.is_some() {
                DecodeMode::Full
            } else {
                DecodeMode::Selective
            }),
            full_decode_reason: totals.in_full.filter(|_| has_frames).map(FullDecode::as_str),
            segments: actions.count() as i64,
            boxes: persons.count() as i64,
            actions_model: self.run.actions_model.as_ref().map(|m| m.id.clone()),
            persons_model: self.run.persons_model.as_ref().map(|m| m.id.clone()),
            precision: has_frames.then_some(self.models.precision.as_str()),
            fingerprint: self.run.fingerprint.clone(),
            run_id: self.run_id,
            shard,
            indexed_at: self.run.row_time(),
            decode_seconds: totals.decode_seconds,
            inference_seconds: self.inference_seconds,
        };
        Ok(VideoRows { video, totals, content: Content::Indexed { actions, persons, thumbnails } })
    }

    fn status(&self, end: &End) -> VideoStatus {
        // Rows of a version other than the listed one would be wrong, not partial.
        let is_listed_version = |kind| {
            !matches!(kind, VideoErrorKind::ChangedDuringRead | VideoErrorKind::NotFound | VideoErrorKind::AccessDenied)
        };
        let has_rows = self.actions.count() > 0 || end.totals.frames_decoded > 0;
        match &end.error {
            None => VideoStatus::Ok,
            Some(error) if has_rows && is_listed_version(error.kind) => VideoStatus::Partial,
            Some(_) => VideoStatus::Failed,
        }
    }

    fn thumbnail_rows(&mut self) -> Result<Vec<ThumbnailRow>> {
        let thumbnails = self.thumbnails.take().map(Thumbnails::finish).transpose()?.unwrap_or_default();
        let row = |thumbnail: Thumbnail| ThumbnailRow {
            video_id: self.video_id.clone(),
            uri: self.uri.clone(),
            segment: self.segment_at(thumbnail.time_seconds),
            time_seconds: thumbnail.time_seconds,
            frame: thumbnail.frame,
            width: thumbnail.width as i32,
            height: thumbnail.height as i32,
            jpeg: thumbnail.jpeg,
            run_id: self.run_id.clone(),
        };
        Ok(thumbnails.into_iter().map(row).collect())
    }

    fn segment_at(&self, time_seconds: f64) -> Option<i64> {
        let clips = &self.models.actions.as_ref()?.clips;
        segment_at(time_seconds, clips.clip_seconds, clips.stride_seconds)
    }
}

/// The highest score of each label. `None` without scores.
fn highest(scores: Vec<Vec<f32>>) -> Option<Vec<f32>> {
    scores.into_iter().reduce(|mut highest, scores| {
        highest.iter_mut().zip(scores).for_each(|(highest, score)| *highest = highest.max(score));
        highest
    })
}

/// The `k` best labels, best first. Equal scores are in label order.
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
