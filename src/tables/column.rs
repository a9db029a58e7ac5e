//! Descriptions of columns, from which schemas, the pages in `schemas/` and the DDL for query engines are generated.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::Table;

/// A column of a table: its schema and its documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The name in files and in SQL.
    pub name: &'static str,
    /// The Arrow type; [`Self::sql_type`] gives the types of query engines.
    pub data_type: DataType,
    /// What it contains: sentences in Markdown.
    pub description: &'static str,
    /// Unit of the values, if they have one.
    pub unit: Option<&'static str>,
    /// What null means, in Markdown. A column without this is never null.
    pub null: Option<&'static str>,
    /// An example value, as JSON.
    pub example: &'static str,
}

/// A family of type names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// DuckDB's.
    DuckDb,
    /// Hive's, which Spark, Athena and Glue use as well.
    Hive,
}

impl Column {
    pub(super) const fn new(
        name: &'static str,
        data_type: DataType,
        description: &'static str,
        example: &'static str,
    ) -> Self {
        Self { name, data_type, description, unit: None, null: None, example }
    }

    pub(super) fn unit(self, unit: &'static str) -> Self {
        Self { unit: Some(unit), ..self }
    }

    pub(super) fn null(self, meaning: &'static str) -> Self {
        Self { null: Some(meaning), ..self }
    }

    /// The dialect's name of the column's type.
    pub fn sql_type(&self, dialect: Dialect) -> String {
        sql_type(&self.data_type, dialect)
    }
}

fn sql_type(data_type: &DataType, dialect: Dialect) -> String {
    let [duckdb, hive] = match data_type {
        DataType::Boolean => ["BOOLEAN", "boolean"],
        DataType::Int32 => ["INTEGER", "int"],
        DataType::Int64 => ["BIGINT", "bigint"],
        DataType::Float32 => ["FLOAT", "float"],
        DataType::Float64 => ["DOUBLE", "double"],
        DataType::Binary => ["BLOB", "binary"],
        DataType::Date32 => ["DATE", "date"],
        DataType::Timestamp(..) => ["TIMESTAMP WITH TIME ZONE", "timestamp"],
        DataType::List(element) => {
            let element = sql_type(element.data_type(), dialect);
            return match dialect {
                Dialect::DuckDb => format!("{element}[]"),
                Dialect::Hive => format!("array<{element}>"),
            };
        }
        DataType::Struct(fields) => {
            let field = |field: &Arc<Field>, between| {
                format!("{}{between}{}", field.name(), sql_type(field.data_type(), dialect))
            };
            let fields = |between| fields.iter().map(|f| field(f, between)).collect::<Vec<_>>();
            return match dialect {
                Dialect::DuckDb => format!("STRUCT({})", fields(" ").join(", ")),
                Dialect::Hive => format!("struct<{}>", fields(":").join(",")),
            };
        }
        // The tables have no other types, and a text can represent any value.
        _ => ["VARCHAR", "string"],
    };
    match dialect {
        Dialect::DuckDb => duckdb.to_owned(),
        Dialect::Hive => hive.to_owned(),
    }
}

pub(super) fn schema(columns: &[Column]) -> SchemaRef {
    let field = |column: &Column| Field::new(column.name, column.data_type.clone(), column.null.is_some());
    Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
}

/// The columns in the files' paths. The job's own partition columns are not included; they come before the last of
/// these.
pub(super) fn partitions(table: Table) -> &'static [Column] {
    static COLUMNS: LazyLock<[Column; 2]> = LazyLock::new(|| {
        [
            Column::new(
                "model",
                DataType::Utf8,
                "Id of the model that produced the rows, as printed by `vidindex models inspect`.",
                "\"slowfast-r50-8x8-1f3c9a2e\"",
            ),
            Column::new("dt", DataType::Date32, "The day (UTC) of the video's `last_modified`.", "\"2026-11-01\""),
        ]
    });
    match table {
        Table::Videos | Table::Thumbnails => &COLUMNS[1..],
        Table::Actions | Table::Persons => &COLUMNS[..],
    }
}
