//! The AWS stack: its tables have the columns that the files have, and `terraform/check.sh` finds nothing wrong.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::process::Command;

use arrow::datatypes::DataType;
use vidindex::tables::Table;

fn terraform() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/terraform"))
}

/// The name that Glue, Athena and Hive have for a type.
fn glue_type(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 => "string".to_owned(),
        DataType::Binary => "binary".to_owned(),
        DataType::Int32 => "int".to_owned(),
        DataType::Int64 => "bigint".to_owned(),
        DataType::Float32 => "float".to_owned(),
        DataType::Float64 => "double".to_owned(),
        DataType::Timestamp(..) => "timestamp".to_owned(),
        DataType::List(element) => format!("array<{}>", glue_type(element.data_type())),
        DataType::Struct(fields) => {
            let fields: Vec<_> =
                fields.iter().map(|field| format!("{}:{}", field.name(), glue_type(field.data_type()))).collect();
            format!("struct<{}>", fields.join(","))
        }
        other => panic!("no name in Glue for {other}"),
    }
}

#[test]
fn the_catalogue_has_the_columns_of_the_files() {
    let text = std::fs::read_to_string(terraform().join("tables.json")).unwrap();
    let written: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(written.as_object().unwrap().len(), Table::ALL.len());
    for table in Table::ALL {
        let schema = table.schema();
        let columns: Vec<_> = schema
            .fields()
            .iter()
            .map(|field| serde_json::json!({"name": field.name(), "type": glue_type(field.data_type())}))
            .collect();
        assert_eq!(written[table.directory()], serde_json::json!(columns), "{table} in terraform/tables.json");
    }
}

/// Terraform and its provider are large, so that nobody has to have them: the script says what it skips.
#[test]
fn the_stack_can_be_applied_and_destroyed() {
    let mut check = Command::new(terraform().join("check.sh"));
    if std::env::var("VIDINDEX_TEST_REQUIRE").as_deref() != Ok("1") {
        eprintln!("skipped: apply to an emulator; run make test-terraform");
        check.arg("quick");
    }
    let status = check.status().unwrap();
    assert!(status.success(), "terraform/check.sh: {status}");
}
