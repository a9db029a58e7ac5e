//! An index of synthetic rows, written with the code of the workers: several runs, models and partitions, and one long
//! video whose tables have several row groups.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use arrow::array::RecordBatch;
use chrono::{DateTime, TimeDelta, Utc};
use parquet::arrow::ArrowWriter;
use vidindex::error::VideoErrorKind;
use vidindex::tables::{
    ActionRow, LabelScore, PersonRow, Provenance, Row, Table, VideoRow, VideoStatus, part_key, writer_properties,
};
use vidindex::work::encode::ShardEncoder;

pub(crate) const LABELS: [&str; 4] = ["juggling balls", "opening door", "riding a bike", "walking the dog"];
pub(crate) const R50: &str = "slowfast-r50-8x8-1f3c9a2e";
pub(crate) const R101: &str = "slowfast-r101-8x8-77ab03d1";
pub(crate) const YOLO: &str = "yolov5s-03ab77d1";

/// Numbers of segments and boxes of the long video: more than one row group of each.
pub(crate) const LONG_SEGMENTS: i64 = 150_000;
pub(crate) const LONG_BOXES: i64 = 300_000;

/// The segment of the long video at which its label changes. It is in the last row group.
pub(crate) const LONG_CHANGE: i64 = 140_000;

/// The rows that one run wrote for one video.
#[derive(Debug, Clone)]
pub(crate) struct Indexed {
    pub(crate) camera: &'static str,
    pub(crate) day: &'static str,
    pub(crate) video: VideoRow,
    pub(crate) actions: Vec<ActionRow>,
    pub(crate) persons: Vec<PersonRow>,
}

impl Indexed {
    /// A video of 85.3 s in 40 segments, with one frame per second for persons. `n` distinguishes videos, `seed` runs.
    pub(crate) fn new(run: &Provenance, camera: &'static str, day: &'static str, n: u32, seed: i64) -> Self {
        let seconds = 64.0 / 30.0;
        let mut indexed = Self::empty(run, camera, day, &format!("{day}-{n}.mp4"), 40.0 * seconds);
        let seed = seed + i64::from(n) + i64::from(camera.ends_with('2')) * 2;
        let VideoRow { video_id, uri, run_id, .. } = indexed.video.clone();
        if run.actions_model.is_some() {
            indexed.actions = (0..40)
                .map(|k| {
                    let label = (k / 3 + seed).rem_euclid(4) as usize;
                    let score = 0.3 + ((k * 7 + seed * 3).rem_euclid(7)) as f32 / 10.0;
                    let top = (0..3).map(|i| score_of((label + i) % 4, score / (i as f32 + 1.0)));
                    let top: Vec<_> = top.collect();
                    ActionRow {
                        video_id: video_id.clone(),
                        uri: uri.clone(),
                        segment: k,
                        start_seconds: k as f64 * seconds,
                        end_seconds: (k + 1) as f64 * seconds,
                        frames: 64,
                        top_label: Some(top[0].label.clone()),
                        top_score: Some(score),
                        top,
                        scores: None,
                        embedding: None,
                        run_id: run_id.clone(),
                    }
                })
                .collect();
        }
        if run.persons_model.is_some() {
            for t in 0..85_i64 {
                for b in 0..(t / 10 + seed).rem_euclid(4) {
                    let confidence = 0.3 + ((t * 5 + b * 3 + seed).rem_euclid(8)) as f32 / 12.0;
                    let segment = run.actions_model.as_ref().map(|_| (t as f64 / seconds) as i64);
                    indexed.persons.push(person(&indexed.video, t as f64, t * 30, b as i32, confidence, segment));
                }
            }
        }
        indexed.with_counts()
    }

    /// The long video. It comes first in its files. Its row groups differ in labels, confidence and time.
    fn long(run: &Provenance, camera: &'static str, day: &'static str) -> Self {
        let mut indexed = Self::empty(run, camera, day, "0-long.mp4", 30_000.0);
        let VideoRow { video_id, uri, run_id, .. } = indexed.video.clone();
        let action = |k: i64| {
            let label = usize::from(k < LONG_CHANGE) * 2 + 1;
            let top = vec![score_of(label, 0.6), score_of(0, 0.1)];
            ActionRow {
                video_id: video_id.clone(),
                uri: uri.clone(),
                segment: k,
                start_seconds: k as f64 * 0.2,
                end_seconds: (k + 1) as f64 * 0.2,
                frames: 6,
                top_label: Some(top[0].label.clone()),
                top_score: Some(0.6),
                top,
                scores: None,
                embedding: None,
                run_id: run_id.clone(),
            }
        };
        indexed.actions = (0..LONG_SEGMENTS).map(action).collect();
        let boxed = |i: i64| {
            let confidence = if i < LONG_BOXES - 20_000 { 0.3 } else { 0.99 };
            let t = i / 10;
            person(&indexed.video, t as f64, t * 30, (i % 10) as i32, confidence, Some(t * 5))
        };
        indexed.persons = (0..LONG_BOXES).map(boxed).collect();
        indexed.with_counts()
    }

    fn failed(mut self, status: VideoStatus, kind: VideoErrorKind, message: &str) -> Self {
        self.video.status = status;
        self.video.error_kind = Some(kind);
        self.video.error_message = Some(message.to_owned());
        if status == VideoStatus::Failed {
            (self.actions, self.persons) = (Vec::new(), Vec::new());
            self.video.duration_seconds = None;
            self.video.start_seconds = None;
        }
        self.with_counts()
    }

    /// Sets the counts of the video's row.
    fn with_counts(mut self) -> Self {
        self.video.segments = self.actions.len() as i64;
        self.video.boxes = self.persons.len() as i64;
        self
    }

    fn empty(run: &Provenance, camera: &'static str, day: &'static str, name: &str, seconds: f64) -> Self {
        let uri = format!("s3://archive/{camera}/{name}");
        let last_modified: DateTime<Utc> = format!("{day}T23:30:00.25Z").parse().unwrap();
        let video = VideoRow {
            video_id: format!("{:016x}{:016x}", hash(&uri, 3), hash(&uri, 5)).into(),
            uri: uri.into(),
            etag: "e7a9".to_owned(),
            version_id: None,
            size_bytes: 1_000_000,
            last_modified,
            status: VideoStatus::Ok,
            error_kind: None,
            error_message: None,
            failures: None,
            container: Some("mov,mp4,m4a,3gp,3g2,mj2".to_owned()),
            codec: Some("h264".to_owned()),
            width: Some(1920),
            height: Some(1080),
            rotation: Some(0),
            mirrored: Some(false),
            frames_per_second: Some(30.0),
            start_seconds: Some(1.5),
            duration_seconds: Some(seconds),
            frames_decoded: (seconds * 30.0) as i64,
            frames_presented: Some((seconds * 30.0) as i64),
            decode_mode: None,
            full_decode_reason: None,
            segments: 0,
            boxes: 0,
            actions_model: run.actions_model.clone(),
            persons_model: run.persons_model.clone(),
            precision: Some("fp32"),
            fingerprint: run.fingerprint.clone(),
            run_id: run.run_id.clone().into(),
            shard: run.shard,
            indexed_at: "2026-11-20T00:00:00.5Z".parse::<DateTime<Utc>>().unwrap() + day_of(run),
            decode_seconds: 1.25,
            inference_seconds: 2.5,
        };
        Self { camera, day, video, actions: Vec::new(), persons: Vec::new() }
    }

    fn partition(&self) -> String {
        format!("camera={}/dt={}", self.camera, self.day)
    }
}

fn score_of(label: usize, score: f32) -> LabelScore {
    LabelScore { label_id: label as i32, label: LABELS[label].into(), score }
}

fn person(video: &VideoRow, t: f64, frame: i64, r#box: i32, confidence: f32, segment: Option<i64>) -> PersonRow {
    // All rows differ, so that the columns do not compress well.
    let place = |n: i64| ((frame * 7919 + i64::from(r#box) * 104_729) * n % 10_007) as f32 / 10.0;
    PersonRow {
        video_id: video.video_id.clone(),
        uri: video.uri.clone(),
        segment,
        time_seconds: t,
        frame,
        r#box,
        label: "person".into(),
        x1: place(1),
        y1: place(2),
        x2: place(1) + 80.0,
        y2: place(2) + 200.0,
        confidence,
        actions: None,
        track_id: (r#box < 2).then_some(i64::from(r#box) + 1),
        run_id: video.run_id.clone(),
    }
}

fn hash(text: &str, factor: u64) -> u64 {
    text.bytes().fold(factor, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3 + factor * 2))
}

fn day_of(run: &Provenance) -> TimeDelta {
    TimeDelta::days(run.run_id[6..8].parse::<i64>().unwrap())
}

/// A run on this day of November, with these models.
pub(crate) fn run(day: u32, actions: Option<&str>, persons: Option<&str>) -> Provenance {
    Provenance {
        run_id: format!("202611{day:02}T000000000Z-{day:06x}"),
        shard: 0,
        fingerprint: format!("{day:016x}"),
        actions_model: actions.map(ToOwned::to_owned),
        persons_model: persons.map(ToOwned::to_owned),
    }
}

/// Writes a shard of these videos to its published place.
pub(crate) fn write(index: &Path, run: &Provenance, videos: &[Indexed]) {
    let scratch = tempfile::TempDir::new().unwrap();
    let mut encoder = ShardEncoder::new(scratch.path(), run.clone());
    let mut videos: Vec<_> = videos.iter().collect();
    videos.sort_by_key(|video| (video.partition(), video.video.uri.clone()));
    for video in videos {
        let (partition, uri) = (video.partition(), &video.video.uri);
        encoder.push_rows(&partition, uri, &video.actions).unwrap();
        encoder.push_rows(&partition, uri, &video.persons).unwrap();
        encoder.push(&partition, video.video.clone()).unwrap();
    }
    for part in encoder.finish().unwrap() {
        let to = index.join(&part.key);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(part.path, to).unwrap();
    }
}

/// The row with the status `deleted`, for a video that is missing from the input.
fn deleted(run: &Provenance, video: &Indexed) -> Indexed {
    let row = Indexed::empty(run, video.camera, video.day, video.video.uri.rsplit('/').next().unwrap(), 0.0);
    let mut row = row.failed(VideoStatus::Deleted, VideoErrorKind::NotFound, "");
    (row.video.error_kind, row.video.error_message) = (None, None);
    (row.video.start_seconds, row.video.duration_seconds) = (None, None);
    row
}

/// Writes an index of the first version of the tables, which lacks the columns `actions` of persons and `mirrored` of
/// videos. Its output is kept as a fixture.
pub(crate) fn write_first_version(index: &Path) {
    let run = run(1, Some(R50), Some(YOLO));
    let video = Indexed::new(&run, "cam-9", "2026-10-31", 0, 1);
    write(index, &run, std::slice::from_ref(&video));
    let rewrite = |table: Table, model: Option<&str>, batch: RecordBatch, new_column: &str| {
        let mut batch = batch;
        batch.remove_column(batch.schema().index_of(new_column).unwrap());
        let path = index.join(part_key(table, model, &video.partition(), &run.run_id, 0));
        let properties = writer_properties(table, &run).unwrap();
        let mut writer =
            ArrowWriter::try_new(std::fs::File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    };
    rewrite(Table::Persons, Some(YOLO), PersonRow::to_batch(&video.persons).unwrap(), "actions");
    rewrite(Table::Videos, None, VideoRow::to_batch(std::slice::from_ref(&video.video)).unwrap(), "mirrored");
}

/// The index, and the rows that are expected in it.
#[derive(Debug)]
pub(crate) struct Archive {
    pub(crate) index: PathBuf,
    /// All rows, except deletions.
    pub(crate) all: Vec<Indexed>,
    /// For each video that is not deleted: its latest successful row, and the latest successful rows of each model.
    pub(crate) current: Vec<Indexed>,
    /// For each row with the status `deleted`: its run.
    pub(crate) deletions: Vec<Provenance>,
}

/// The index, which is written once for all tests.
pub(crate) fn archive() -> &'static Archive {
    static ARCHIVE: OnceLock<Archive> = OnceLock::new();
    ARCHIVE.get_or_init(|| {
        let index = Path::new(env!("CARGO_TARGET_TMPDIR")).join("index");
        let _ = std::fs::remove_dir_all(&index);
        let days = ["2026-11-01", "2026-11-02", "2026-11-03"];
        let cameras = ["cam-1", "cam-2"];
        let every = || cameras.iter().flat_map(|c| days.iter().flat_map(move |d| (0..2).map(move |n| (*c, *d, n))));

        // Run 1: both models, all videos. One video is truncated, and one file is not a video.
        let first = run(1, Some(R50), Some(YOLO));
        let mut one: Vec<_> = every().map(|(camera, day, n)| Indexed::new(&first, camera, day, n, 0)).collect();
        let partial = one[3].clone().failed(VideoStatus::Partial, VideoErrorKind::Corrupt, "ends in a frame");
        one[3] = partial;
        one.push(Indexed::new(&first, "cam-1", days[0], 7, 0).failed(
            VideoStatus::Failed,
            VideoErrorKind::NotAVideo,
            "no container format",
        ));
        one.push(Indexed::long(&first, "cam-2", days[2]));
        // Run 2: another actions model, one camera. One video fails, which does not hide its earlier rows.
        let second = run(2, Some(R101), Some(YOLO));
        let mut two: Vec<_> = days.iter().map(|day| Indexed::new(&second, "cam-1", day, 0, 1)).collect();
        two[2] = two[2].clone().failed(VideoStatus::Failed, VideoErrorKind::Timeout, "no end in 3600 s");
        // Run 3: only a persons model. The video's actions of the first run stay current.
        let third = run(3, None, Some(YOLO));
        let three = vec![Indexed::new(&third, "cam-2", days[0], 0, 5)];
        for (run, videos) in [(&first, &one), (&second, &two), (&third, &three)] {
            write(&index, run, videos);
        }
        // Runs 4 and 5: one video is deleted; another is deleted and restored.
        let fourth = run(4, None, None);
        write(&index, &fourth, &[deleted(&fourth, &one[7]), deleted(&fourth, &one[9])]);
        let fifth = run(5, Some(R50), Some(YOLO));
        let five = vec![Indexed::new(&fifth, "cam-2", days[1], 1, 2)];
        assert_eq!(five[0].video.uri, one[9].video.uri);
        write(&index, &fifth, &five);

        let mut current: Vec<_> = one.iter().filter(|v| v.video.status != VideoStatus::Failed).cloned().collect();
        current[0] = two[0].clone();
        current[2] = two[1].clone();
        current[6].persons.clone_from(&three[0].persons);
        current[6].video = three[0].video.clone();
        current[9] = five[0].clone();
        current.remove(7);
        let all = [one, two, three, five].concat();
        Archive { index, all, current, deletions: vec![fourth.clone(), fourth] }
    })
}
