//! Lists of labels with their scores, as columns of the tables.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, Float32Array, Int32Array, ListArray, StringArray, StructArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, Fields};
use arrow::error::ArrowError;

use super::{element, offsets};

/// One label with its score.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelScore {
    /// Index in the model's labels, from 0.
    pub label_id: i32,
    /// The label's text.
    pub label: Arc<str>,
    /// Probability, 0 to 1.
    pub score: f32,
}

static FIELDS: LazyLock<Fields> = LazyLock::new(|| {
    Fields::from(vec![
        Field::new("label_id", DataType::Int32, false),
        Field::new("label", DataType::Utf8, false),
        Field::new("score", DataType::Float32, false),
    ])
});

/// The type of a column of such lists.
pub(super) fn label_scores() -> DataType {
    DataType::List(element(DataType::Struct(FIELDS.clone())))
}

/// A column of such lists. `None` is null.
pub(super) fn label_score_lists<'a>(
    lists: impl Iterator<Item = Option<&'a [LabelScore]>> + Clone,
) -> Result<ArrayRef, ArrowError> {
    let labels = || lists.clone().flatten().flatten();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from_iter_values(labels().map(|label| label.label_id))),
        Arc::new(StringArray::from_iter_values(labels().map(|label| &*label.label))),
        Arc::new(Float32Array::from_iter_values(labels().map(|label| label.score))),
    ];
    let values = StructArray::try_new(FIELDS.clone(), columns, None)?;
    let offsets = offsets(lists.clone().map(|list| list.map_or(0, <[_]>::len)))?;
    let nulls: NullBuffer = lists.map(|list| list.is_some()).collect();
    let field = element(DataType::Struct(FIELDS.clone()));
    Ok(Arc::new(ListArray::try_new(field, offsets, Arc::new(values), Some(nulls))?))
}
