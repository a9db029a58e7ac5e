//! The AWS stack: its tables have the columns of the files, and its own tests succeed.

use std::path::Path;
use std::process::Command;

use vidindex::tables::{Dialect, Table};

fn terraform() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/terraform"))
}

#[test]
fn the_catalogue_has_the_columns_of_the_files() {
    let text = std::fs::read_to_string(terraform().join("tables.json")).unwrap();
    let written: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(written.as_object().unwrap().len(), Table::ALL.len());
    for table in Table::ALL {
        let columns = table.columns().iter();
        let columns: Vec<_> = columns
            .map(|column| serde_json::json!({"name": column.name, "type": column.sql_type(Dialect::Hive)}))
            .collect();
        assert_eq!(written[table.directory()], serde_json::json!(columns), "{table} in terraform/tables.json");
    }
}

/// Terraform and its provider are large and therefore optional. The script reports what it skips. `make test-terraform` also
/// applies the stack to an emulator.
#[test]
fn the_stack_passes_its_own_tests() {
    let status = Command::new(terraform().join("check.sh")).arg("quick").status().unwrap();
    assert!(status.success(), "terraform/check.sh: {status}");
}
