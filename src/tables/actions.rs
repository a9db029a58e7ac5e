//! The actions table: one row per segment of a video, with the labels that the model scored highest.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, Float32Array, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

use super::label_scores::{LabelScore, label_score_lists, label_scores};
use super::{Column, Row, Table, element, float_lists};

/// A row of the actions table. Its fields are the columns; only `Option` fields are nullable.
///
/// If the model scores each person (AVA), a segment has for each label the highest score among its persons.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ActionRow {
    /// As in the videos table.
    pub video_id: Arc<str>,
    /// As in the videos table.
    pub uri: Arc<str>,
    /// Number of the segment in the video, from 0.
    pub segment: i64,
    /// Start of the segment, seconds from the first frame presented.
    pub start_seconds: f64,
    /// End of the segment, exclusive, seconds from the first frame presented. The last segment ends with the video.
    pub end_seconds: f64,
    /// Number of frames presented in the segment, of which the model received a sample.
    pub frames: i64,
    /// The label with the highest score; null if the model scores persons and there were none.
    pub top_label: Option<Arc<str>>,
    /// The score of `top_label`; null if `top_label` is.
    pub top_score: Option<f32>,
    /// The highest scores, descending; as many as the job asks for. Empty if there were no persons to score.
    pub top: Vec<LabelScore>,
    /// Every score, in the order of the model's labels; null unless the job asks for full scores, and if there were no
    /// persons to score.
    pub scores: Option<Vec<f32>>,
    /// Pooled features before the classifier; null unless the job asks for them.
    pub embedding: Option<Vec<f32>>,
    /// The run that wrote the row.
    pub run_id: Arc<str>,
}

const UNSCORED: &str = "The model scores persons, and there were none.";

pub(super) static COLUMNS: LazyLock<Vec<Column>> = LazyLock::new(|| {
    let text = |name, description, example| Column::new(name, DataType::Utf8, description, example);
    let long = |name, description, example| Column::new(name, DataType::Int64, description, example);
    let double = |name, description, example| Column::new(name, DataType::Float64, description, example);
    let floats = || DataType::List(element(DataType::Float32));
    vec![
        text("video_id", "As in the videos table.", "\"5f0c9b6e27d84a13b1c0de5577a81c04\""),
        text("uri", "As in the videos table.", "\"s3://archive/2026/cam-1/0930.mp4\""),
        long("segment", "Number of the segment in the video, from 0.", "3"),
        double("start_seconds", "Start of the segment, from the first frame presented.", "6.4").unit("seconds"),
        double("end_seconds", "End of the segment, exclusive. The last segment ends with the video.", "8.533")
            .unit("seconds"),
        long(
            "frames",
            "Number of frames presented in the segment, of which the model received a sample. 1 if only the video's still last frame is in it.",
            "64",
        )
        .unit("frames"),
        text("top_label", "The label with the highest score.", "\"riding a bike\"").null(UNSCORED),
        Column::new("top_score", DataType::Float32, "The score of `top_label`.", "0.91").unit("probability, 0 to 1").null(UNSCORED),
        Column::new(
            "top",
            label_scores(),
            "The highest scores, descending; as many as the job's `top_k`. Empty if there were no persons to score.",
            "[{\"label_id\": 268, \"label\": \"riding a bike\", \"score\": 0.91}]",
        ),
        Column::new("scores", floats(), "Every score, in the order of the model's labels.", "[0.91, 0.02]")
            .unit("probability, 0 to 1")
            .null("The job does not ask for full scores, or there were no persons to score."),
        Column::new("embedding", floats(), "Pooled features before the classifier.", "[0.11, 0.0]")
            .null("The job does not ask for them."),
        text("run_id", "The run that wrote the row.", "\"20261123T084549578Z-8f94c0\""),
    ]
});

impl Row for ActionRow {
    const TABLE: Table = Table::Actions;

    fn to_batch(rows: &[Self]) -> Result<RecordBatch, ArrowError> {
        let text = |column: fn(&Self) -> &str| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(rows.iter().map(column)))
        };
        let long =
            |column: fn(&Self) -> i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values(rows.iter().map(column))) };
        let double = |column: fn(&Self) -> f64| -> ArrayRef {
            Arc::new(Float64Array::from_iter_values(rows.iter().map(column)))
        };
        RecordBatch::try_new(
            Self::TABLE.schema(),
            vec![
                text(|row| &row.video_id),
                text(|row| &row.uri),
                long(|row| row.segment),
                double(|row| row.start_seconds),
                double(|row| row.end_seconds),
                long(|row| row.frames),
                Arc::new(rows.iter().map(|row| row.top_label.as_deref()).collect::<StringArray>()),
                Arc::new(rows.iter().map(|row| row.top_score).collect::<Float32Array>()),
                label_score_lists(rows.iter().map(|row| Some(row.top.as_slice())))?,
                float_lists(rows.iter().map(|row| row.scores.as_deref()))?,
                float_lists(rows.iter().map(|row| row.embedding.as_deref()))?,
                text(|row| &row.run_id),
            ],
        )
    }
}
