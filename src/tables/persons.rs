//! The persons table: one row per box that the detector kept in a sampled frame.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, Float32Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

use super::label_scores::{LabelScore, label_score_lists, label_scores};
use super::{Column, Row, Table};

/// A row of the persons table. Its fields are the columns; only `Option` fields are nullable.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PersonRow {
    /// As in the videos table.
    pub video_id: Arc<str>,
    /// As in the videos table.
    pub uri: Arc<str>,
    /// The segment of the actions table that contains the frame; null if the job has no actions model, or the frame is
    /// between segments.
    pub segment: Option<i64>,
    /// Presentation time of the frame, seconds from the first frame presented.
    pub time_seconds: f64,
    /// Number of the frame in presentation order, from 0.
    pub frame: i64,
    /// Number of the box in its frame by descending confidence, from 0.
    pub r#box: i32,
    /// The detector's class: `person`, or another class that the job names.
    pub label: Arc<str>,
    /// Left edge, pixels from the left of the frame as displayed (rotated and mirrored).
    pub x1: f32,
    /// Upper edge, pixels from the top of the frame.
    pub y1: f32,
    /// Right edge, pixels from the left.
    pub x2: f32,
    /// Lower edge, pixels from the top.
    pub y2: f32,
    /// The score of the class, multiplied by objectness if the detector has it; 0 to 1.
    pub confidence: f32,
    /// The person's actions with the highest scores, descending; as many as the job's `[actions] top_k`. Null if the
    /// person was not scored, because the action model scores whole clips or the frame is not the one nearest to the
    /// middle of a segment. If overlapping segments have the same nearest frame, the scores are those of the segment
    /// whose middle is nearer. Full scores are never kept for persons.
    pub actions: Option<Vec<LabelScore>>,
    /// The object, numbered within the video from 1. Null if the job does not track, or the object was seen in one frame
    /// only.
    pub track_id: Option<i64>,
    /// The run that wrote the row.
    pub run_id: Arc<str>,
}

pub(super) static COLUMNS: LazyLock<Vec<Column>> = LazyLock::new(|| {
    let text = |name, description, example| Column::new(name, DataType::Utf8, description, example);
    let pixels = |name, description, example| Column::new(name, DataType::Float32, description, example).unit("pixels");
    vec![
        text("video_id", "As in the videos table.", "\"5f0c9b6e27d84a13b1c0de5577a81c04\""),
        text("uri", "As in the videos table.", "\"s3://archive/2026/cam-1/0930.mp4\""),
        Column::new("segment", DataType::Int64, "The segment of the same run that contains the frame.", "3")
            .null("The job has no actions model, or the frame is between segments."),
        Column::new("time_seconds", DataType::Float64, "Presentation time, from the first frame presented.", "7.0")
            .unit("seconds"),
        Column::new("frame", DataType::Int64, "Number of the frame in presentation order, from 0.", "210"),
        Column::new("box", DataType::Int32, "Number of the box in its frame by descending confidence, from 0.", "0"),
        text("label", "The detector's class: `person`, or another class that the job names.", "\"person\""),
        pixels("x1", "Left edge, from the left of the frame as displayed (rotated and mirrored).", "412.5"),
        pixels("y1", "Upper edge, from the top of the frame.", "120.25"),
        pixels("x2", "Right edge.", "501.0"),
        pixels("y2", "Lower edge.", "388.75"),
        Column::new(
            "confidence",
            DataType::Float32,
            "The score of the class, multiplied by objectness if the detector has it.",
            "0.87",
        )
        .unit("probability, 0 to 1"),
        Column::new(
            "actions",
            label_scores(),
            "The person's actions with the highest scores, descending; as many as the job's `top_k`.",
            "[{\"label_id\": 11, \"label\": \"stand\", \"score\": 0.97}]",
        )
        .null(
            "The person was not scored: the actions model scores whole clips, or the frame is not the one nearest to \
               the middle of a segment.",
        ),
        Column::new("track_id", DataType::Int64, "The object, numbered within the video and run from 1.", "2")
            .null("The job does not track, or the object was seen in one frame only."),
        text("run_id", "The run that wrote the row.", "\"20261123T084549578Z-8f94c0\""),
    ]
});

impl Row for PersonRow {
    const TABLE: Table = Table::Persons;

    fn to_batch(rows: &[Self]) -> Result<RecordBatch, ArrowError> {
        let text = |column: fn(&Self) -> &str| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(rows.iter().map(column)))
        };
        let float = |column: fn(&Self) -> f32| -> ArrayRef {
            Arc::new(Float32Array::from_iter_values(rows.iter().map(column)))
        };
        RecordBatch::try_new(
            Self::TABLE.schema(),
            vec![
                text(|row| &row.video_id),
                text(|row| &row.uri),
                Arc::new(rows.iter().map(|row| row.segment).collect::<Int64Array>()),
                Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.time_seconds))),
                Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.frame))),
                Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.r#box))),
                text(|row| &row.label),
                float(|row| row.x1),
                float(|row| row.y1),
                float(|row| row.x2),
                float(|row| row.y2),
                float(|row| row.confidence),
                label_score_lists(rows.iter().map(|row| row.actions.as_deref()))?,
                Arc::new(rows.iter().map(|row| row.track_id).collect::<Int64Array>()),
                text(|row| &row.run_id),
            ],
        )
    }
}
