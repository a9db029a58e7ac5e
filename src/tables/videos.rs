//! The videos table: one row per video and run, including failed videos.

use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, TimeUnit};
use arrow::error::ArrowError;
use chrono::{DateTime, Utc};

use super::{Column, Row, Table};
use crate::error::VideoErrorKind;
use crate::video_status::VideoStatus;

/// A row of the videos table. Its fields are the columns; only `Option` fields are nullable.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VideoRow {
    /// Stable hash of the URI, which identifies the video in every table.
    pub video_id: Arc<str>,
    /// The full URI.
    pub uri: Arc<str>,
    /// ETag of the listed version, without quotes.
    pub etag: String,
    /// Id of the listed version; null if the job does not ask for versions, the store keeps none, or an older vidindex
    /// wrote the row.
    pub version_id: Option<String>,
    /// Size as listed, bytes.
    pub size_bytes: i64,
    /// Time of the last change as listed, in microseconds.
    pub last_modified: DateTime<Utc>,
    /// `ok`, `partial`, `failed` or `deleted`.
    pub status: VideoStatus,
    /// The kind of error, from a closed list; null if the status is `ok` or `deleted`.
    pub error_kind: Option<VideoErrorKind>,
    /// The error for humans; null if `error_kind` is.
    pub error_message: Option<String>,
    /// Number of consecutive runs that could not read the video completely, including this one; see
    /// [`VideoErrorKind::may_pass`]. 0 if it was not tried; null if it did not fail, or an older vidindex wrote the
    /// row.
    pub failures: Option<i64>,
    /// FFmpeg's name of the container format; null if none was recognized.
    pub container: Option<String>,
    /// FFmpeg's name of the video stream's codec; null if there is no stream.
    pub codec: Option<String>,
    /// Width of the frame as displayed (rotated and mirrored), pixels; null if no frame was decoded.
    pub width: Option<i32>,
    /// Height of the frame as displayed, pixels; null if no frame was decoded.
    pub height: Option<i32>,
    /// Degrees clockwise by which a player rotates the stored frame, before mirroring; null if no frame was decoded.
    pub rotation: Option<i32>,
    /// Whether a player mirrors the frame left to right, after rotation; null if no frame was decoded.
    pub mirrored: Option<bool>,
    /// The stream's average frame rate; null if the container does not state it.
    pub frames_per_second: Option<f64>,
    /// Presentation time of the first frame on the container's clock, seconds; null if no frame was decoded.
    pub start_seconds: Option<f64>,
    /// Seconds from the first frame's presentation to the end of the last; null if no frame was decoded.
    pub duration_seconds: Option<f64>,
    /// Number of frames that the decoder returned.
    pub frames_decoded: i64,
    /// Number of frames that a player shows; null if no frame was decoded, or an older vidindex wrote the row.
    pub frames_presented: Option<i64>,
    /// Whether all frames were decoded; null as above.
    pub decode_mode: Option<DecodeMode>,
    /// Why all frames were decoded; null if not all were, or as above.
    pub full_decode_reason: Option<&'static str>,
    /// Number of rows in the actions table; 0 without an actions model.
    pub segments: i64,
    /// Number of rows in the persons table; 0 without a persons model.
    pub boxes: i64,
    /// Id of the actions model, as in the path of the actions table; null if the job has none.
    pub actions_model: Option<String>,
    /// Id of the persons model, as in the path of the persons table; null if the job has none.
    pub persons_model: Option<String>,
    /// The number format in which the models computed; null if no frame was decoded, or an older vidindex wrote the row.
    pub precision: Option<&'static str>,
    /// Hash of the models and of everything in the job that affects rows.
    pub fingerprint: String,
    /// The run that wrote the row.
    pub run_id: Arc<str>,
    /// The run's shard, from 0.
    pub shard: u32,
    /// When the row was created.
    pub indexed_at: DateTime<Utc>,
    /// Seconds of decoding.
    pub decode_seconds: f64,
    /// The video's share of its batches' inference time, seconds.
    pub inference_seconds: f64,
}

/// Whether all frames of a video were decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeMode {
    /// All frames.
    Full,
    /// Only the frames that the job takes, and those that they refer to.
    Selective,
}

impl DecodeMode {
    /// The name in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Selective => "selective",
        }
    }
}

const NO_FRAME: &str = "No frame was decoded.";
const NO_FRAME_OR_OLDER: &str = "No frame was decoded, or an older vidindex wrote the row.";

pub(super) static COLUMNS: LazyLock<Vec<Column>> = LazyLock::new(|| {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let text = |name, description, example| Column::new(name, DataType::Utf8, description, example);
    let int = |name, description, example| Column::new(name, DataType::Int32, description, example);
    let long = |name, description, example| Column::new(name, DataType::Int64, description, example);
    let double = |name, description, example| Column::new(name, DataType::Float64, description, example);
    vec![
        text(
            "video_id",
            "Identifies the video in every table: a stable hash of its `uri`.",
            "\"5f0c9b6e27d84a13b1c0de5577a81c04\"",
        ),
        text("uri", "The video's full URI.", "\"s3://archive/2026/cam-1/0930.mp4\""),
        text("etag", "ETag of the listed version, without quotes.", "\"9b2cf535f27731c974343645a3985328\""),
        text("version_id", "Id of the listed version, which was read.", "\"3sL4kqtJlcpXroDTDmJ.rmSpXd3dIbrHY\"")
            .null("The job does not ask for versions, the store keeps none, or an older vidindex wrote the row."),
        long("size_bytes", "As listed.", "48230112").unit("bytes"),
        Column::new("last_modified", time.clone(), "As listed.", "\"2026-11-01T09:30:12.5Z\"").unit("UTC"),
        text(
            "status",
            "`ok`: indexed completely. `partial`: indexed as far as it could be read; pictures are missing or \
             damaged. `failed`: not indexed; any rows of it in the other tables do not count. `deleted`: \
             deleted from the input after it was indexed.",
            "\"ok\"",
        ),
        text(
            "error_kind",
            "What stopped a `partial` or `failed` video: `not_found`, `changed_during_read`, `access_denied`, \
             `archived`, `unreadable`, `encrypted`, `not_a_video`, `no_video_stream`, `corrupt`, `unsupported`, \
             `too_large`, `timeout`, `decoder_crashed` or `out_of_memory`.",
            "\"corrupt\"",
        )
        .null("Nothing did."),
        text("error_message", "The error message for humans.", "\"the stream ends in the middle of a frame\"")
            .null("As `error_kind`."),
        long(
            "failures",
            "Number of consecutive runs that failed to index this content with these settings, including this one. 0: an archived \
             object that was not tried. The next runs retry an error that may pass (`access_denied`, `archived`, \
             `unreadable`, `timeout`, `out_of_memory`, `changed_during_read`) until there are 5.",
            "1",
        )
        .null("The video was indexed as far as its content allows, or is deleted; or the row is older than this column."),
        text("container", "FFmpeg's name of the container format.", "\"mov,mp4,m4a,3gp,3g2,mj2\"")
            .null("The format was not recognized."),
        text("codec", "FFmpeg's name of the video stream's codec.", "\"h264\"").null("There is no video stream."),
        int("width", "Width of the frame as displayed: rotated and mirrored.", "1920").unit("pixels").null(NO_FRAME),
        int("height", "Likewise.", "1080").unit("pixels").null(NO_FRAME),
        int(
            "rotation",
            "Rotation of the first frame by a player, before mirroring: 0, 90, 180 or 270. Another angle, up to 359, \
             tilts the picture in a frame of the same size, as the ffmpeg tool shows it.",
            "90",
        )
        .unit("degrees clockwise")
        .null(NO_FRAME),
        Column::new(
            "mirrored",
            DataType::Boolean,
            "Whether a player mirrors the first frame left to right, after its `rotation`. A frame that is flipped top to \
             bottom has `rotation` 180 and `mirrored` true.",
            "false",
        )
        .null("No frame was decoded, or an older vidindex wrote the row, which ignored mirroring."),
        double("frames_per_second", "The stream's average frame rate.", "29.97")
            .unit("frames per second")
            .null("The container does not state it."),
        double("start_seconds", "Presentation time of the first frame on the container's clock.", "0.0")
            .unit("seconds")
            .null(NO_FRAME),
        double(
            "duration_seconds",
            "Time from the first frame's presentation to the end of the last, which lasts as long as the file states. Where \
             recordings were joined, each continues at the end of the previous one.",
            "61.3",
        )
        .unit("seconds")
        .null(NO_FRAME),
        long("frames_decoded", "Number of frames that the decoder returned.", "1838").unit("frames"),
        long(
            "frames_presented",
            "Number of frames that a player shows. Frames are numbered in this order, whether they are decoded or not.",
            "1838",
        )
        .unit("frames")
        .null(NO_FRAME_OR_OLDER),
        text(
            "decode_mode",
            "`selective`: only the frames that the job takes were decoded, and those that they refer to. `full`: all frames \
             were. Both give the same rows.",
            "\"selective\"",
        )
        .null(NO_FRAME_OR_OLDER),
        text(
            "full_decode_reason",
            "Why all frames were decoded: `requested`; or the file does not tell enough without decoding it: `codec`, \
             `interlaced`, `timestamps`, `clock_restart`, `start`, `hidden_frames`, `open_groups`, `damage`, `orientation` or \
             `missing_frame`.",
            "\"open_groups\"",
        )
        .null("As `decode_mode`, or it is `selective`."),
        long("segments", "Number of rows in the actions table; 0 without an actions model.", "29").unit("rows"),
        long("boxes", "Number of rows in the persons table; 0 without a persons model.", "240").unit("rows"),
        text(
            "actions_model",
            "Id of the actions model, as in the path of the actions table.",
            "\"slowfast-r50-8x8-1f3c9a2e\"",
        )
        .null("The job has no actions model."),
        text("persons_model", "Id of the persons model, as in the path of the persons table.", "\"yolov5s-77ab03d1\"").null("The job has no persons model."),
        text(
            "precision",
            "Number format in which the models computed: `fp32`, `bf16` or `fp16`. What a quantised model does with integers \
             does not depend on it.",
            "\"fp32\"",
        )
        .null(NO_FRAME_OR_OLDER),
        text(
            "fingerprint",
            "Hash of the models and of everything in the job that affects rows.",
            "\"c0ffee12ab34cd56\"",
        ),
        text("run_id", "The run that wrote the row. Run ids sort by time.", "\"20261123T084549578Z-8f94c0\""),
        long("shard", "The run's shard, from 0.", "7"),
        Column::new("indexed_at", time, "When the row was created. Later than the rows that the plan of its run read, also if a clock was set back.", "\"2026-11-23T08:46:03.114201Z\"").unit("UTC"),
        double("decode_seconds", "Time of decoding.", "1.94").unit("seconds"),
        double("inference_seconds", "The video's share of its batches' inference time.", "3.2").unit("seconds"),
    ]
});

impl Row for VideoRow {
    const TABLE: Table = Table::Videos;

    fn to_batch(rows: &[Self]) -> Result<RecordBatch, ArrowError> {
        let text = |column: fn(&Self) -> &str| -> Arc<dyn Array> {
            Arc::new(StringArray::from_iter_values(rows.iter().map(column)))
        };
        let text_or_null = |column: fn(&Self) -> Option<&str>| -> Arc<dyn Array> {
            Arc::new(rows.iter().map(column).collect::<StringArray>())
        };
        let int_or_null = |column: fn(&Self) -> Option<i32>| -> Arc<dyn Array> {
            Arc::new(rows.iter().map(column).collect::<Int32Array>())
        };
        let long = |column: fn(&Self) -> i64| -> Arc<dyn Array> {
            Arc::new(Int64Array::from_iter_values(rows.iter().map(column)))
        };
        let double = |column: fn(&Self) -> f64| -> Arc<dyn Array> {
            Arc::new(Float64Array::from_iter_values(rows.iter().map(column)))
        };
        let double_or_null = |column: fn(&Self) -> Option<f64>| -> Arc<dyn Array> {
            Arc::new(rows.iter().map(column).collect::<Float64Array>())
        };
        let time = |column: fn(&Self) -> &DateTime<Utc>| -> Arc<dyn Array> {
            let micros = rows.iter().map(|row| column(row).timestamp_micros());
            Arc::new(TimestampMicrosecondArray::from_iter_values(micros).with_timezone("UTC"))
        };
        RecordBatch::try_new(
            Self::TABLE.schema(),
            vec![
                text(|row| &row.video_id),
                text(|row| &row.uri),
                text(|row| &row.etag),
                text_or_null(|row| row.version_id.as_deref()),
                long(|row| row.size_bytes),
                time(|row| &row.last_modified),
                text(|row| row.status.as_str()),
                text_or_null(|row| row.error_kind.map(VideoErrorKind::as_str)),
                text_or_null(|row| row.error_message.as_deref()),
                Arc::new(rows.iter().map(|row| row.failures).collect::<Int64Array>()),
                text_or_null(|row| row.container.as_deref()),
                text_or_null(|row| row.codec.as_deref()),
                int_or_null(|row| row.width),
                int_or_null(|row| row.height),
                int_or_null(|row| row.rotation),
                Arc::new(rows.iter().map(|row| row.mirrored).collect::<BooleanArray>()),
                double_or_null(|row| row.frames_per_second),
                double_or_null(|row| row.start_seconds),
                double_or_null(|row| row.duration_seconds),
                long(|row| row.frames_decoded),
                Arc::new(rows.iter().map(|row| row.frames_presented).collect::<Int64Array>()),
                text_or_null(|row| row.decode_mode.map(DecodeMode::as_str)),
                text_or_null(|row| row.full_decode_reason),
                long(|row| row.segments),
                long(|row| row.boxes),
                text_or_null(|row| row.actions_model.as_deref()),
                text_or_null(|row| row.persons_model.as_deref()),
                text_or_null(|row| row.precision),
                text(|row| &row.fingerprint),
                text(|row| &row.run_id),
                long(|row| i64::from(row.shard)),
                time(|row| &row.indexed_at),
                double(|row| row.decode_seconds),
                double(|row| row.inference_seconds),
            ],
        )
    }
}
