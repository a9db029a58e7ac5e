//! The files in `schemas/` match the code: pages and SQL are generated from it, and records match their JSON schema.
//!
//! `make schemas` (VIDINDEX_UPDATE=1) generates them again.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use chrono::Utc;
use serde_json::{Value, json};
use vidindex::cli::outcome::RunReport;
use vidindex::device::Precision;
use vidindex::error::VideoErrorKind;
use vidindex::plan::FAILURES_MAX;
use vidindex::run::attempt::AttemptId;
use vidindex::run::commit::{
    COMMIT_SCHEMA_VERSION, CommittedPart, Computed, Failure, Failures, ShardCommit, ShardTotals,
};
use vidindex::run::summary::{RunSummary, SUMMARY_SCHEMA_VERSION, TableTotals};
use vidindex::tables::{
    Column, Dialect, SCHEMA_VERSION, Table, VideoStatus, current_moments, current_track_actions, current_tracks,
    filled_persons,
};

fn schemas() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas")
}

#[test]
fn pages_and_sql_match_the_code() {
    let mut files = vec![("duckdb.sql".to_owned(), duckdb()), ("spark.sql".to_owned(), spark())];
    files.push(("athena.sql".to_owned(), athena()));
    files.extend(Table::ALL.map(|table| (format!("{table}.md"), page(table))));
    for (name, text) in files {
        let path = schemas().join(&name);
        if std::env::var_os("VIDINDEX_UPDATE").is_some() {
            std::fs::write(&path, text).unwrap();
        } else {
            let written = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(written == text, "schemas/{name} does not match the code: run `make schemas`");
        }
    }
}

fn page(table: Table) -> String {
    let sorted = table.sort_columns().iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let mut page = format!(
        "# {table}\n\n{} Files are sorted by {sorted}. Schema version {SCHEMA_VERSION}, which is in each file's \
         metadata as `vidindex.schema_version`.\n\n\
         | column | type (DuckDB) | unit | meaning | null | example |\n|---|---|---|---|---|---|\n",
        table.description()
    );
    let line = |page: &mut String, column: &Column| {
        let (unit, null) = (column.unit.unwrap_or(""), column.null.unwrap_or("never"));
        let kind = column.sql_type(Dialect::DuckDb);
        let Column { name, description, example, .. } = column;
        writeln!(page, "| `{name}` | {kind} | {unit} | {description} | {null} | `{example}` |").unwrap();
    };
    table.columns().iter().for_each(|column| line(&mut page, column));
    page.push_str("\nIn the path of each file, in Hive's layout, with the columns of the job's `[input] partition` before `dt`:\n\n");
    page.push_str("| column | type (DuckDB) | unit | meaning | null | example |\n|---|---|---|---|---|---|\n");
    table.partition_columns().iter().for_each(|column| line(&mut page, column));
    page
}

const ABOUT_CURRENT: &str = "\
-- A video that was indexed more than once has rows of each run. The views `current_*` show the rows of each video's latest
-- successful indexing: a later failure does not hide them, and a run without a model keeps the earlier rows of that model.
-- Videos that were deleted from the input are not shown.
";

/// The tables with views for Spark. A view needs files, and only some jobs write thumbnails.
const ALWAYS: [Table; 3] = [Table::Videos, Table::Actions, Table::Persons];

fn current(create: &str, tables: &[Table], dialect: Dialect) -> String {
    let views = tables.iter().map(|table| format!("\n{create} current_{table} AS\n{};\n", table.current_rows()));
    let tracks = format!(
        "\n-- The objects of jobs with `track = true`.\n{create} current_tracks AS\n{};\n",
        current_tracks(dialect)
    );
    views.chain([tracks]).collect()
}

/// Views that Athena's SQL has other words for.
fn more(create: &str, dialect: Dialect) -> String {
    format!(
        "\n-- Segments that follow each other and have a label with a score of 0.5 or more, joined. `vidindex find` has other scores.\n\
         {create} current_moments AS\n{};\n\n\
         -- What each followed person does, if the action model scores persons. Scores are smoothed over three segments.\n\
         {create} current_track_actions AS\n{};\n\n\
         -- The boxes of persons, and those in gaps of tracks of up to two seconds, which are interpolated and have no confidence.\n\
         {create} filled_persons AS\n{};\n",
        current_moments(dialect),
        current_track_actions(dialect),
        filled_persons(dialect)
    )
}

fn duckdb() -> String {
    let tables = Table::ALL.map(|table| format!("\n{}", table.duckdb_view()));
    format!(
        "-- Views over an index for DuckDB. `vidindex query` defines them. In other clients, set `index`, then read this file:\n\
         --\n\
         --     SET VARIABLE index = 'demo/index';          -- or 's3://bucket/prefix'\n\
         --     .read schemas/duckdb.sql\n\
         --     SELECT top_label, count(*) FROM current_actions GROUP BY ALL ORDER BY 2 DESC;\n\
         --\n{ABOUT_CURRENT}\
         --\n\
         -- A table without files is empty: the job has only one model, or writes no thumbnails, or nothing is indexed yet.\n\
         -- After it gets its first files, read this file again.\n{}{}{}",
        tables.concat(),
        current("CREATE OR REPLACE VIEW", &Table::ALL, Dialect::DuckDb),
        more("CREATE OR REPLACE VIEW", Dialect::DuckDb)
    )
}

fn spark() -> String {
    let mut sql = format!(
        "-- Views over an index for Spark SQL, which discovers partitions itself. Set `index`, then read this file:\n\
         --\n\
         --     SET index = s3a://bucket/prefix;\n\
         --     SET spark.sql.session.timeZone = UTC;\n\
         --     SOURCE schemas/spark.sql;\n\
         --\n{ABOUT_CURRENT}\
         --\n\
         -- Spark cannot create a view of a table without files: omit the statements of such a table, for example of\n\
         -- `actions` in the index of a job without an actions model.\n"
    );
    for table in ALWAYS {
        let column = |column: &Column| {
            let about = column.description.replace('`', "").replace('\'', "\\'");
            format!("    {} {} COMMENT '{about}'", column.name, column.sql_type(Dialect::Hive))
        };
        let columns = table.columns().iter().map(column).collect::<Vec<_>>().join(",\n");
        write!(
            sql,
            "\nCREATE OR REPLACE TEMPORARY VIEW {table} (\n{columns}\n) USING parquet OPTIONS (path '${{index}}/{table}');\n"
        )
        .unwrap();
    }
    let create = "CREATE OR REPLACE TEMPORARY VIEW";
    sql + &current(create, &ALWAYS, Dialect::Hive) + &more(create, Dialect::Hive)
}

fn athena() -> String {
    format!(
        "-- Views for Athena, and for Spark with Glue as its catalogue, over the tables that `terraform/` creates. Athena\n\
         -- runs one statement at a time.\n\
         --\n{ABOUT_CURRENT}{}",
        current("CREATE OR REPLACE VIEW", &Table::ALL, Dialect::Hive)
    )
}

fn totals() -> ShardTotals {
    let mut totals = ShardTotals { videos_ok: 1, videos_failed: 1, video_seconds: 2.5, ..ShardTotals::default() };
    let failure = Failure { uri: "s3://archive/a.mp4".to_owned(), message: "no frames".to_owned() };
    totals.failures.insert(VideoErrorKind::Corrupt, Failures { videos: 1, examples: vec![failure] });
    totals
}

fn records() -> [(&'static str, Value); 3] {
    let part = CommittedPart {
        table: Table::Actions,
        from: "_vidindex/runs/r/parts/000000/a/actions/part-r-000000.parquet".to_owned(),
        to: "actions/part-r-000000.parquet".to_owned(),
        rows: 3,
        size_bytes: 4,
    };
    let commit = ShardCommit {
        schema_version: COMMIT_SCHEMA_VERSION,
        run_id: "r".to_owned(),
        shard: 0,
        attempt: AttemptId::unique(),
        parts: vec![part],
        totals: totals(),
        tool_version: "0.1.0".to_owned(),
        host: Some("node1".to_owned()),
        computed: Some(Computed { device: "openvino".to_owned(), precision: Precision::Bf16 }),
        committed_at: Utc::now(),
    };
    let summary = RunSummary {
        schema_version: SUMMARY_SCHEMA_VERSION,
        run_id: "r".to_owned(),
        tool_version: "0.1.0".to_owned(),
        shards_total: 2,
        shards_committed: 1,
        missing: vec![1],
        lost_parts: vec!["videos/part-r-000001.parquet".to_owned()],
        tables: Table::ALL.map(|table| (table, TableTotals::default())).into(),
        totals: totals(),
        started_at: Utc::now(),
        finished_at: Some(Utc::now()),
        sealed_at: Utc::now(),
    };
    let report = RunReport::finished(summary.clone(), 3);
    [
        ("shard_commit", serde_json::to_value(commit).unwrap()),
        ("run_summary", serde_json::to_value(summary).unwrap()),
        ("run_report", serde_json::to_value(report).unwrap()),
    ]
}

/// Checks that a value matches its schema, and that the schema has no other properties.
fn compare(schema: &Value, root: &Value, value: &Value, at: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        return compare(root.pointer(name.strip_prefix('#').unwrap()).unwrap(), root, value, at);
    }
    if let Some(kinds) = schema["anyOf"].as_array() {
        // The alternatives are a type and null.
        return compare(&kinds[usize::from(value.is_null())], root, value, at);
    }
    assert!(schema["description"].is_string() || at.is_empty() || schema["type"].is_null(), "{at} has no description");
    let types: Vec<&str> = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    };
    let fits = match value {
        Value::Object(_) => types.contains(&"object"),
        Value::Array(_) => types.contains(&"array"),
        Value::String(_) => types.contains(&"string"),
        Value::Number(n) => types.contains(&"number") || (types.contains(&"integer") && !n.is_f64()),
        _ => types.contains(&"null"),
    };
    assert!(fits, "{at}: {value} is none of {types:?}");
    match value {
        Value::Array(items) => items.iter().for_each(|item| compare(&schema["items"], root, item, &format!("{at}[]"))),
        Value::Object(object) => match schema["properties"].as_object() {
            Some(properties) => {
                let keys = |of: &serde_json::Map<String, Value>| of.keys().cloned().collect::<BTreeSet<_>>();
                assert_eq!(keys(properties), keys(object), "{at}");
                let required: BTreeSet<String> = serde_json::from_value(schema["required"].clone()).unwrap();
                assert_eq!(required, keys(object), "{at}: required");
                object.iter().for_each(|(key, value)| compare(&properties[key], root, value, &format!("{at}.{key}")));
            }
            None => {
                let names = &schema["propertyNames"]["enum"];
                for (key, value) in object {
                    assert!(names.as_array().unwrap().contains(&json!(key)), "{at}: {key}");
                    compare(&schema["additionalProperties"], root, value, &format!("{at}.{key}"));
                }
            }
        },
        _ => {}
    }
}

#[test]
fn records_match_their_schema() {
    let text = std::fs::read_to_string(schemas().join("records.json")).unwrap();
    let schema: Value = serde_json::from_str(&text).unwrap();
    for (name, record) in records() {
        compare(&schema["$defs"][name], &schema, &record, "");
    }
    let kinds = &schema["$defs"]["totals"]["properties"]["failures"]["propertyNames"]["enum"];
    assert_eq!(kinds, &json!(VideoErrorKind::ALL.map(VideoErrorKind::as_str)));
}

#[test]
fn pages_describe_each_status_and_error_kind() {
    let description =
        |name: &str| Table::Videos.columns().iter().find(|column| column.name == name).unwrap().description;
    for kind in VideoErrorKind::ALL {
        assert!(description("error_kind").contains(&format!("`{kind}`")), "{kind}");
    }
    for kind in VideoErrorKind::ALL {
        assert_eq!(description("failures").contains(&format!("`{kind}`")), kind.may_pass(), "{kind}");
    }
    assert!(description("failures").ends_with(&format!("until there are {FAILURES_MAX}.")));
    for status in [VideoStatus::Ok, VideoStatus::Partial, VideoStatus::Failed, VideoStatus::Deleted] {
        assert!(description("status").contains(&format!("`{}`", status.as_str())));
    }
    for column in Table::ALL.iter().flat_map(|table| table.columns()) {
        serde_json::from_str::<Value>(column.example).unwrap();
    }
}
