//! Reads the content of a report from the files that the run's commit records name, one file after another.

use std::collections::{BTreeSet, HashMap};

use arrow::array::{Array, AsArray, BinaryArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::Limits;
use super::pack::Names;
use super::shown::{Numbers, Shown};
use crate::error::{Error, Result, VideoErrorKind};
use crate::in_use::VideoId;
use crate::run::commit::{CommittedPart, ShardTotals};
use crate::store::{Store, StoreErrorKind};
use crate::tables::read::{
    number_column, optional, optional_value, read_file, text_column, value, whole_number_column,
};
use crate::tables::{Table, VideoRow, VideoStatus};

/// Maximum number of labels per segment.
pub(super) const TOP: usize = 5;

/// Maximum number of bins in a video's chart of simultaneous boxes.
const BINS_MAX: f64 = 240.0;

/// Maximum number of boxes in a picture. More would hide it.
const BOXES_MAX: usize = 40;

/// Number of files fetched ahead of the one being read.
const READS_AHEAD: usize = 3;

/// A label's number and its score in thousandths.
pub(super) type Scored = (u16, u16);

/// The videos of a run, or of an index.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) videos: Vec<Video>,
    /// Sums over all videos, also those beyond the limit.
    pub(super) totals: ShardTotals,
    /// Ids of the models that the videos were indexed with.
    pub(super) actions_models: BTreeSet<String>,
    pub(super) persons_models: BTreeSet<String>,
    /// Labels of segments and persons.
    pub(super) labels: Names,
    /// Number of segments that each entry represents.
    pub(super) group: u64,
    /// Number of pictures of the run, of which the page contains a part.
    pub(super) pictures: u64,
    /// Number of files that are missing.
    pub(super) lost_parts: u64,
}

#[derive(Debug, Default)]
pub(super) struct Video {
    pub(super) id: String,
    pub(super) uri: String,
    pub(super) status: VideoStatus,
    pub(super) error_kind: String,
    pub(super) error_message: String,
    pub(super) codec: String,
    pub(super) width: i64,
    pub(super) height: i64,
    pub(super) frames_per_second: f64,
    pub(super) seconds: f64,
    pub(super) segment_rows: u64,
    pub(super) box_rows: u64,
    pub(super) segments: Vec<Segment>,
    /// Number of segment rows read so far.
    seen: u64,
    /// Maximum number of boxes in one frame, per `bin_seconds`.
    pub(super) crowd: Vec<u8>,
    pub(super) bin_seconds: f64,
    /// The current frame, and the number of its boxes so far.
    frame: Option<(i64, u8)>,
    pub(super) pictures: Vec<Picture>,
}

#[derive(Debug)]
pub(super) struct Segment {
    pub(super) start_ms: u32,
    pub(super) end_ms: u32,
    /// Highest score first.
    pub(super) top: Vec<Scored>,
}

#[derive(Debug)]
pub(super) struct Picture {
    frame: i64,
    pub(super) time_ms: u32,
    pub(super) width: u16,
    pub(super) height: u16,
    pub(super) jpeg: Vec<u8>,
    pub(super) boxes: Vec<PersonBox>,
}

#[derive(Debug)]
pub(super) struct PersonBox {
    /// Left, top, right and bottom edge in ten-thousandths of the picture.
    pub(super) corners: [u16; 4],
    /// The label of the box.
    pub(super) label: Scored,
    /// The person's action.
    pub(super) action: Option<Scored>,
    /// The number of its track; 0 without one.
    pub(super) track: u32,
}

impl Contents {
    /// Reads the files. `bin_seconds` is the time between two frames in which persons are detected.
    pub(super) async fn read(
        output: &dyn Store,
        parts: &[CommittedPart],
        shown: &Shown<'_>,
        bin_seconds: Option<f64>,
        limits: Limits,
    ) -> Result<Self> {
        let mut contents = Self { group: 1, ..Self::default() };
        let mut numbers = Numbers::default();
        let of = |table| parts.iter().filter(move |part| part.table == table && part.rows > 0);
        contents
            .each(output, of(Table::Videos), VIDEO_COLUMNS, |to, part, batch| {
                to.add_videos(batch, &part.to, shown, &mut numbers, bin_seconds, limits)
            })
            .await?;
        contents.choose_group(limits.segments);

        let numbers = &numbers;
        let of_videos = |table| of(table).filter(move |part| numbers.of(table, &part.to).is_some());
        let finder = |part: &CommittedPart| Finder { numbers: numbers.of(part.table, &part.to), last: None };
        contents
            .each(output, of_videos(Table::Actions), ACTION_COLUMNS, |to, part, batch| {
                to.add_actions(batch, finder(part))
            })
            .await?;
        let bytes: u64 = of_videos(Table::Thumbnails).map(|part| part.size_bytes).sum();
        let share = (limits.picture_bytes as f64 / bytes as f64).min(1.0);
        contents
            .each(output, of_videos(Table::Thumbnails), THUMBNAIL_COLUMNS, |to, part, batch| {
                to.add_pictures(batch, finder(part), share)
            })
            .await?;
        contents
            .each(output, of_videos(Table::Persons), PERSON_COLUMNS, |to, part, batch| {
                to.add_persons(batch, finder(part))
            })
            .await?;
        Ok(contents)
    }

    /// Passes every batch of the files to `add`, in their order. The files of an unsealed run are still in the directory of
    /// their attempt.
    async fn each<'p, const N: usize>(
        &mut self,
        output: &dyn Store,
        parts: impl Iterator<Item = &'p CommittedPart>,
        columns: [&str; N],
        mut add: impl FnMut(&mut Self, &CommittedPart, &RecordBatch) -> Result<(), String>,
    ) -> Result<()> {
        let mut files = futures::stream::iter(parts).map(|part| fetch(output, part)).buffered(READS_AHEAD);
        while let Some((part, file)) = files.try_next().await? {
            let Some(file) = file else {
                self.lost_parts += 1;
                continue;
            };
            let read = tokio::task::block_in_place(|| read_file(file, columns, |batch| add(self, part, batch)));
            read.map_err(|problem| Error::failed(format!("failed to read {}: {problem}", output.uri(&part.to))))?;
        }
        Ok(())
    }

    fn add_videos(
        &mut self,
        batch: &RecordBatch,
        file: &str,
        shown: &Shown<'_>,
        numbers: &mut Numbers,
        bin_seconds: Option<f64>,
        limits: Limits,
    ) -> Result<(), String> {
        let text = |name| text_column(batch, name);
        let (ids, uris, statuses) = (text("video_id")?, text("uri")?, text("status")?);
        let (kinds, messages, codecs) = (text("error_kind")?, text("error_message")?, text("codec")?);
        let whole = |name| whole_number_column(batch, name);
        let (widths, heights) = (whole("width")?, whole("height")?);
        let (segments, boxes, frames) = (whole("segments")?, whole("boxes")?, whole("frames_decoded")?);
        let (actions, persons) = (text("actions_model")?, text("persons_model")?);
        let (rates, durations) =
            (number_column(batch, "frames_per_second")?, number_column(batch, "duration_seconds")?);
        for row in 0..batch.num_rows() {
            let id = VideoId::parse(value(&ids, row))?;
            let status = value(&statuses, row);
            let status = VideoStatus::named(status).ok_or_else(|| format!("the status {status:?}"))?;
            if !shown.shows(id, value(&uris, row), file, status) {
                continue;
            }
            let seconds = number(&durations, row);
            let video = VideoRow {
                uri: value(&uris, row).into(),
                status,
                error_kind: optional_value(&kinds, row).and_then(VideoErrorKind::named),
                error_message: optional_value(&messages, row).map(str::to_owned),
                segments: whole_number(&segments, row),
                boxes: whole_number(&boxes, row),
                frames_decoded: whole_number(&frames, row),
                duration_seconds: Some(seconds),
                ..VideoRow::default()
            };
            self.totals.add(&video);
            self.actions_models.extend(optional_value(&actions, row).map(str::to_owned));
            self.persons_models.extend(optional_value(&persons, row).map(str::to_owned));
            if self.videos.len() >= limits.videos {
                continue;
            }
            numbers.insert(shown, id, file, status, self.videos.len());
            let bin_seconds = bin_seconds.map_or(0.0, |least| least.max(seconds / BINS_MAX));
            let bins = if bin_seconds > 0.0 { (seconds / bin_seconds).ceil() as usize } else { 0 };
            self.videos.push(Video {
                id: value(&ids, row).to_owned(),
                uri: value(&uris, row).to_owned(),
                status,
                error_kind: value(&kinds, row).to_owned(),
                error_message: value(&messages, row).to_owned(),
                codec: value(&codecs, row).to_owned(),
                width: whole_number(&widths, row),
                height: whole_number(&heights, row),
                frames_per_second: number(&rates, row),
                seconds,
                segment_rows: whole_number(&segments, row).max(0).cast_unsigned(),
                box_rows: whole_number(&boxes, row).max(0).cast_unsigned(),
                crowd: vec![0; bins.min(BINS_MAX as usize)],
                bin_seconds,
                ..Video::default()
            });
        }
        Ok(())
    }

    /// The smallest group size with which the number of entries stays within the limit.
    fn choose_group(&mut self, segments_max: u64) {
        let entries = |group: u64| self.videos.iter().map(|video| video.segment_rows.div_ceil(group)).sum::<u64>();
        let mut group = 1;
        // Every video keeps at least one entry.
        while entries(group) > segments_max.max(self.videos.len() as u64) {
            group += 1;
        }
        self.group = group;
    }

    fn add_actions(&mut self, batch: &RecordBatch, mut finder: Finder<'_>) -> Result<(), String> {
        let ids = text_column(batch, "video_id")?;
        let (starts, ends) = (number_column(batch, "start_seconds")?, number_column(batch, "end_seconds")?);
        let tops = LabelLists::of(batch, "top")?;
        for row in 0..batch.num_rows() {
            let Some(number_of_video) = finder.find(value(&ids, row)) else { continue };
            let top = tops.best(row, &mut self.labels);
            let video = &mut self.videos[number_of_video];
            let (start_ms, end_ms) = (milliseconds(number(&starts, row)), milliseconds(number(&ends, row)));
            let begins = video.seen.is_multiple_of(self.group);
            video.seen += 1;
            match video.segments.last_mut().filter(|_| !begins) {
                Some(segment) => segment.take_in(end_ms, &top),
                None => video.segments.push(Segment { start_ms, end_ms, top }),
            }
        }
        Ok(())
    }

    fn add_pictures(&mut self, batch: &RecordBatch, mut finder: Finder<'_>, share: f64) -> Result<(), String> {
        let ids = text_column(batch, "video_id")?;
        let times = number_column(batch, "time_seconds")?;
        let whole = |name| whole_number_column(batch, name);
        let (frames, widths, heights) = (whole("frame")?, whole("width")?, whole("height")?);
        let jpegs = batch.column_by_name("jpeg").ok_or("it has no column `jpeg`")?;
        let jpegs = cast(jpegs, &DataType::Binary).map_err(|error| format!("column `jpeg`: {error}"))?;
        let jpegs: &BinaryArray = jpegs.as_binary_opt().ok_or("column `jpeg` is not binary")?;
        for row in 0..batch.num_rows() {
            let Some(number_of_video) = finder.find(value(&ids, row)) else { continue };
            // Take every n-th picture of the whole run, so that they are spread evenly over the videos and within each
            // video.
            let before = (self.pictures as f64 * share).floor();
            self.pictures += 1;
            if (self.pictures as f64 * share).floor() > before && !jpegs.is_null(row) {
                self.videos[number_of_video].pictures.push(Picture {
                    frame: whole_number(&frames, row),
                    time_ms: milliseconds(number(&times, row)),
                    width: whole_number(&widths, row) as u16,
                    height: whole_number(&heights, row) as u16,
                    jpeg: jpegs.value(row).to_vec(),
                    boxes: Vec::new(),
                });
            }
        }
        Ok(())
    }

    fn add_persons(&mut self, batch: &RecordBatch, mut finder: Finder<'_>) -> Result<(), String> {
        let (ids, names) = (text_column(batch, "video_id")?, text_column(batch, "label")?);
        let frames = whole_number_column(batch, "frame")?;
        let column = |name| number_column(batch, name);
        let (times, confidences) = (column("time_seconds")?, column("confidence")?);
        let corners = [column("x1")?, column("y1")?, column("x2")?, column("y2")?];
        let actions = LabelLists::of(batch, "actions")?;
        let tracks = optional(batch, "track_id", whole_number_column)?;
        for row in 0..batch.num_rows() {
            let Some(number_of_video) = finder.find(value(&ids, row)) else { continue };
            let video = &mut self.videos[number_of_video];
            let (frame, time_seconds) = (whole_number(&frames, row), number(&times, row));
            video.count_box(frame, time_seconds);
            let (width, height) = (video.width as f64, video.height as f64);
            let in_picture = video.pictures.binary_search_by_key(&frame, |picture| picture.frame).ok();
            let Some(picture) = in_picture.map(|at| &mut video.pictures[at]) else { continue };
            if picture.boxes.len() < BOXES_MAX {
                let share = |corner: usize, of: f64| (number(&corners[corner], row) / of * 1e4).round() as u16;
                picture.boxes.push(PersonBox {
                    corners: [share(0, width), share(1, height), share(2, width), share(3, height)],
                    label: (self.labels.number(value(&names, row)), thousandths(number(&confidences, row))),
                    action: actions.best(row, &mut self.labels).first().copied(),
                    track: tracks.as_ref().map_or(0, |tracks| whole_number(tracks, row).max(0) as u32),
                });
            }
        }
        Ok(())
    }
}

const VIDEO_COLUMNS: [&str; 15] = [
    "video_id",
    "uri",
    "status",
    "error_kind",
    "error_message",
    "codec",
    "width",
    "height",
    "frames_per_second",
    "duration_seconds",
    "segments",
    "boxes",
    "frames_decoded",
    "actions_model",
    "persons_model",
];
const ACTION_COLUMNS: [&str; 4] = ["video_id", "start_seconds", "end_seconds", "top"];
const THUMBNAIL_COLUMNS: [&str; 6] = ["video_id", "time_seconds", "frame", "width", "height", "jpeg"];
const PERSON_COLUMNS: [&str; 11] =
    ["video_id", "time_seconds", "frame", "label", "x1", "y1", "x2", "y2", "confidence", "actions", "track_id"];

impl Picture {
    /// Width by height.
    pub(super) fn ratio(&self) -> f64 {
        f64::from(self.width.max(1)) / f64::from(self.height.max(1))
    }
}

impl Video {
    /// Seconds to the end of the last frame or segment. More than 0.
    pub(super) fn length(&self) -> f64 {
        let last = self.segments.last().map_or(0.0, |segment| f64::from(segment.end_ms) / 1e3);
        self.seconds.max(last).max(0.04)
    }

    fn count_box(&mut self, frame: i64, time_seconds: f64) {
        let count = match self.frame {
            Some((known, count)) if known == frame => count.saturating_add(1),
            _ => 1,
        };
        self.frame = Some((frame, count));
        let last = self.crowd.len().saturating_sub(1);
        if let Some(bin) = self.crowd.get_mut(((time_seconds / self.bin_seconds) as usize).min(last)) {
            *bin = count.max(*bin);
        }
    }
}

impl Segment {
    /// The time of its centre, seconds.
    pub(super) fn middle(&self) -> f64 {
        f64::midpoint(f64::from(self.start_ms), f64::from(self.end_ms)) / 1e3
    }

    /// Merges the next segment into this one, keeping the higher score of each label.
    fn take_in(&mut self, end_ms: u32, top: &[Scored]) {
        self.end_ms = self.end_ms.max(end_ms);
        for (label, score) in top {
            match self.top.iter_mut().find(|(known, _)| known == label) {
                Some((_, known)) => *known = (*known).max(*score),
                None => self.top.push((*label, *score)),
            }
        }
        self.top.sort_by_key(|(_, score)| std::cmp::Reverse(*score));
        self.top.truncate(TOP);
    }
}

/// A column of labels with their scores.
struct LabelLists {
    lists: arrow::array::ListArray,
    labels: StringArray,
    scores: arrow::array::Float32Array,
}

impl LabelLists {
    fn of(batch: &RecordBatch, name: &str) -> Result<Self, String> {
        let column = batch.column_by_name(name).ok_or_else(|| format!("it has no column `{name}`"))?;
        let wrong = || format!("column `{name}` is not a list of labels and scores");
        let lists = column.as_list_opt::<i32>().ok_or_else(wrong)?.clone();
        let element = lists.values().as_struct_opt().ok_or_else(wrong)?;
        let field = |name| element.column_by_name(name).ok_or_else(wrong);
        let labels = cast(field("label")?, &DataType::Utf8).map_err(|error| error.to_string())?;
        let scores = cast(field("score")?, &DataType::Float32).map_err(|error| error.to_string())?;
        let labels = labels.as_string_opt::<i32>().ok_or_else(wrong)?.clone();
        let scores = scores.as_primitive_opt::<Float32Type>().ok_or_else(wrong)?.clone();
        Ok(Self { lists, labels, scores })
    }

    /// The row's best labels. Empty if the value is null.
    fn best(&self, row: usize, names: &mut Names) -> Vec<Scored> {
        if self.lists.is_null(row) {
            return Vec::new();
        }
        let offsets = self.lists.value_offsets();
        let range = offsets[row] as usize..offsets[row + 1] as usize;
        let scored = |at: usize| (names.number(self.labels.value(at)), thousandths(f64::from(self.scores.value(at))));
        range.take(TOP).map(scored).collect()
    }
}

/// Finds videos by their id, and is fastest if a video's rows are adjacent.
struct Finder<'a> {
    /// None if the file has rows of no video.
    numbers: Option<&'a HashMap<VideoId, usize>>,
    last: Option<(String, Option<usize>)>,
}

impl Finder<'_> {
    /// `None` if the page does not contain the video.
    fn find(&mut self, id: &str) -> Option<usize> {
        if self.last.as_ref().is_none_or(|(last, _)| last != id) {
            let number = VideoId::parse(id).ok().and_then(|id| self.numbers?.get(&id).copied());
            self.last = Some((id.to_owned(), number));
        }
        self.last.as_ref()?.1
    }
}

/// Fetches a file from where it is published, otherwise from where its attempt left it. `None` if it is in neither
/// place.
async fn fetch<'a>(output: &dyn Store, part: &'a CommittedPart) -> Result<(&'a CommittedPart, Option<Bytes>)> {
    for key in [&part.to, &part.from] {
        match output.get(key).await {
            Ok(file) => return Ok((part, Some(file))),
            Err(error) if error.kind == StoreErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok((part, None))
}

/// Null becomes 0.
fn number(column: &Float64Array, row: usize) -> f64 {
    if column.is_null(row) { 0.0 } else { column.value(row) }
}

fn whole_number(column: &Int64Array, row: usize) -> i64 {
    if column.is_null(row) { 0 } else { column.value(row) }
}

fn milliseconds(seconds: f64) -> u32 {
    (seconds * 1e3).round() as u32
}

fn thousandths(score: f64) -> u16 {
    (score * 1e3).round() as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(segment_rows: &[u64]) -> Contents {
        let video = |rows: &u64| Video { segment_rows: *rows, ..Video::default() };
        Contents { videos: segment_rows.iter().map(video).collect(), ..Contents::default() }
    }

    #[test]
    fn as_few_segments_are_merged_as_make_them_fit() {
        for (rows, most, group) in
            [(&[10, 10][..], 20, 1), (&[10, 10], 19, 2), (&[10, 1], 6, 2), (&[100, 100], 1, 100), (&[], 0, 1)]
        {
            let mut contents = contents(rows);
            contents.choose_group(most);
            assert_eq!(contents.group, group, "{rows:?} in {most}");
        }
    }

    #[test]
    fn merged_segments_keep_the_highest_scores_of_both() {
        let mut segment = Segment { start_ms: 0, end_ms: 2000, top: vec![(1, 500), (2, 400), (3, 30)] };
        segment.take_in(4000, &[(2, 900), (4, 60), (5, 20), (6, 10)]);
        assert_eq!((segment.start_ms, segment.end_ms), (0, 4000));
        assert_eq!(segment.top, [(2, 900), (1, 500), (4, 60), (3, 30), (5, 20)]);
    }

    #[test]
    fn a_bin_has_the_fullest_of_its_frames() {
        let mut video = Video { crowd: vec![0; 3], bin_seconds: 2.0, ..Video::default() };
        // Three boxes in the first frame, one in the second. The last frame ends with the video, after the last bin.
        for (frame, at) in [(0, 0.0), (0, 0.0), (0, 0.0), (30, 1.0), (60, 2.0), (180, 6.1)] {
            video.count_box(frame, at);
        }
        assert_eq!(video.crowd, [3, 1, 1]);
        let mut unknown = Video::default();
        unknown.count_box(0, 0.0);
        assert!(unknown.crowd.is_empty());
    }
}
