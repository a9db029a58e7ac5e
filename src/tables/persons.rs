//! The persons table: one row per box that the detector kept in a sampled frame.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, Float32Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;

use super::label_scores::{LabelScore, label_score_lists, label_scores};
use super::{Row, Table};

/// A row of the persons table; its fields are the columns. An `Option` is a nullable column, nothing else is.
#[derive(Debug, Clone, PartialEq)]
pub struct PersonRow {
    /// As in the videos table.
    pub video_id: Arc<str>,
    /// As in the videos table.
    pub uri: Arc<str>,
    /// The segment of the actions table that the frame lies in; null where the job has no actions model, or the frame
    /// lies between segments.
    pub segment: Option<i64>,
    /// Presentation time, from the first frame presented.
    pub time_seconds: f64,
    /// Which frame of the video in presentation order, from 0.
    pub frame: i64,
    /// Which box of the frame by descending confidence, from 0.
    pub r#box: i32,
    /// The detector's class: `person`, or another that the job names.
    pub label: Arc<str>,
    /// Left edge, in pixels of the frame as displayed (rotation applied), from its left.
    pub x1: f32,
    /// Upper edge, from its top.
    pub y1: f32,
    /// Right edge.
    pub x2: f32,
    /// Lower edge.
    pub y2: f32,
    /// Objectness times the class's score, 0 to 1.
    pub confidence: f32,
    /// What the person does: the highest scores, descending, as many as the job's `[actions] top_k`. Null where the person
    /// was not scored: the action model scores whole clips, or the frame is not the one nearest to the middle of a segment.
    /// Of overlapping segments with the same nearest frame, the scores are those of the one whose middle is nearer. There
    /// are no full scores of persons.
    pub actions: Option<Vec<LabelScore>>,
    /// The run that made the row.
    pub run_id: Arc<str>,
}

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("video_id", DataType::Utf8, false),
        Field::new("uri", DataType::Utf8, false),
        Field::new("segment", DataType::Int64, true),
        Field::new("time_seconds", DataType::Float64, false),
        Field::new("frame", DataType::Int64, false),
        Field::new("box", DataType::Int32, false),
        Field::new("label", DataType::Utf8, false),
        Field::new("x1", DataType::Float32, false),
        Field::new("y1", DataType::Float32, false),
        Field::new("x2", DataType::Float32, false),
        Field::new("y2", DataType::Float32, false),
        Field::new("confidence", DataType::Float32, false),
        Field::new("actions", label_scores(), true),
        Field::new("run_id", DataType::Utf8, false),
    ]))
});

pub(super) fn schema() -> SchemaRef {
    Arc::clone(&SCHEMA)
}

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
            schema(),
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
                text(|row| &row.run_id),
            ],
        )
    }
}
