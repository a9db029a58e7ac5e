//! The actions table: one row per segment of a video, with the labels that its model scored highest.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, Float32Array, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;

use super::label_scores::{LabelScore, label_score_lists, label_scores};
use super::{Row, Table, element, float_lists};

/// A row of the actions table; its fields are the columns. An `Option` is a nullable column, nothing else is.
///
/// A model that scores each person (AVA) gives a segment, of each label, the highest score of its persons.
#[derive(Debug, Clone, PartialEq)]
pub struct ActionRow {
    /// As in the videos table.
    pub video_id: Arc<str>,
    /// As in the videos table.
    pub uri: Arc<str>,
    /// Which segment of the video, from 0.
    pub segment: i64,
    /// Where it begins, from the first frame presented.
    pub start_seconds: f64,
    /// Where it ends (that instant not included); the last one's ends with the video.
    pub end_seconds: f64,
    /// Frames presented in it, of which the model saw a sample.
    pub frames: i64,
    /// The label with the highest score; null where the model scores persons and there were none.
    pub top_label: Option<Arc<str>>,
    /// Its score; null likewise.
    pub top_score: Option<f32>,
    /// The highest scores, descending; as many as the job asks for. Empty where there were no persons to score.
    pub top: Vec<LabelScore>,
    /// Every score, in the order of the model's labels; null unless the job asks for full scores, and where there were no
    /// persons to score.
    pub scores: Option<Vec<f32>>,
    /// Pooled features before the classifier; null unless the job asks for them.
    pub embedding: Option<Vec<f32>>,
    /// The run that made the row.
    pub run_id: Arc<str>,
}

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let floats = DataType::List(element(DataType::Float32));
    Arc::new(Schema::new(vec![
        Field::new("video_id", DataType::Utf8, false),
        Field::new("uri", DataType::Utf8, false),
        Field::new("segment", DataType::Int64, false),
        Field::new("start_seconds", DataType::Float64, false),
        Field::new("end_seconds", DataType::Float64, false),
        Field::new("frames", DataType::Int64, false),
        Field::new("top_label", DataType::Utf8, true),
        Field::new("top_score", DataType::Float32, true),
        Field::new("top", label_scores(), false),
        Field::new("scores", floats.clone(), true),
        Field::new("embedding", floats, true),
        Field::new("run_id", DataType::Utf8, false),
    ]))
});

pub(super) fn schema() -> SchemaRef {
    Arc::clone(&SCHEMA)
}

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
            schema(),
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
