//! What a column is called, holds and means: schemas, the pages of `schemas/` and the DDL of engines are made from it.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::Table;

/// A column of a table, for engines and for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub data_type: DataType,
    /// What it holds: sentences, in Markdown.
    pub description: &'static str,
    /// What it counts or measures in, where it does.
    pub unit: Option<&'static str>,
    /// What a null means, in Markdown. A column without is never null.
    pub null: Option<&'static str>,
    /// A value that might stand there, as JSON has it.
    pub example: &'static str,
}

/// Whose names for types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// DuckDB's.
    DuckDb,
    /// Those of Hive, which Spark, Athena and Glue take too.
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

    /// What the dialect calls the column's type.
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
        // The tables have no other types; a text can show any value.
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

/// The columns that stand in the files' paths, in their order but for the job's own, which come before the last.
pub(super) fn partitions(table: Table) -> &'static [Column] {
    static COLUMNS: LazyLock<[Column; 2]> = LazyLock::new(|| {
        [
            Column::new(
                "model",
                DataType::Utf8,
                "The model that the rows are of: `vidindex models inspect` tells its id.",
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
