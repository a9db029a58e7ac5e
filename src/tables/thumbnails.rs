//! The thumbnails table: small pictures of a few moments of each video, if the job asks for them.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, BinaryArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

use super::{Column, Row, Table};

/// A row of the thumbnails table. Its fields are the columns; only `Option` fields are nullable.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ThumbnailRow {
    /// As in the videos table.
    pub video_id: Arc<str>,
    /// As in the videos table.
    pub uri: Arc<str>,
    /// The segment that contains the frame, or the last of several; null without an actions model and between segments.
    pub segment: Option<i64>,
    /// Presentation time of the frame, seconds from the first frame presented.
    pub time_seconds: f64,
    /// Number of the frame in presentation order, from 0. With `video_id` it finds the picture's boxes in the persons
    /// table.
    pub frame: i64,
    /// Width of the picture, pixels.
    pub width: i32,
    /// Height of the picture, pixels.
    pub height: i32,
    /// The picture, as a JPEG file.
    pub jpeg: Vec<u8>,
    /// The run that wrote the row.
    pub run_id: Arc<str>,
}

pub(super) static COLUMNS: LazyLock<Vec<Column>> = LazyLock::new(|| {
    let text = |name, description, example| Column::new(name, DataType::Utf8, description, example);
    let pixels = |name, description, example| Column::new(name, DataType::Int32, description, example).unit("pixels");
    vec![
        text("video_id", "The video, as in `videos`.", "\"9b26e03df35ab4c2eb10d9aac585361a\""),
        text("uri", "The video's full URI, as in `videos`.", "\"s3://archive/2026/cam-1/a.mp4\""),
        Column::new("segment", DataType::Int64, "The segment that contains the frame, or the last of several.", "4")
            .null("The job has no actions model, or the frame is between segments."),
        Column::new(
            "time_seconds",
            DataType::Float64,
            "Presentation time of the frame, from the first frame presented.",
            "9.6",
        )
        .unit("seconds"),
        Column::new(
            "frame",
            DataType::Int64,
            "Number of the frame in presentation order, from 0. With `video_id` it finds the picture's boxes in `persons`.",
            "288",
        ),
        pixels("width", "Width of the picture.", "320"),
        pixels("height", "Its height.", "180"),
        Column::new("jpeg", DataType::Binary, "The picture, as a JPEG file.", "\"\""),
        text("run_id", "The run that wrote the row.", "\"20261123T084549578Z-8f94c0\""),
    ]
});

impl Row for ThumbnailRow {
    const TABLE: Table = Table::Thumbnails;

    fn to_batch(rows: &[Self]) -> Result<RecordBatch, ArrowError> {
        let text = |column: fn(&Self) -> &str| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(rows.iter().map(column)))
        };
        let int =
            |column: fn(&Self) -> i32| -> ArrayRef { Arc::new(Int32Array::from_iter_values(rows.iter().map(column))) };
        RecordBatch::try_new(
            Self::TABLE.schema(),
            vec![
                text(|row| &row.video_id),
                text(|row| &row.uri),
                Arc::new(rows.iter().map(|row| row.segment).collect::<Int64Array>()),
                Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.time_seconds))),
                Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.frame))),
                int(|row| row.width),
                int(|row| row.height),
                Arc::new(BinaryArray::from_iter_values(rows.iter().map(|row| &row.jpeg))),
                text(|row| &row.run_id),
            ],
        )
    }
}
