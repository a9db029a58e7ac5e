//! The layout of the files, inspected with PyArrow: the metadata with which engines skip data exists and is correct.

use std::path::Path;
use std::process::Command;

use crate::support::{self, Scratch, run, said, test_video};

/// Inspects every file of the tables below a folder. Prints a line per problem, and then the number of files.
const INSPECT: &str = r#"
import glob, sys
import pyarrow as pa, pyarrow.parquet as pq
index, sort_columns = sys.argv[1], {"videos": ["uri"], "actions": ["uri", "start_seconds"], "persons": ["uri", "time_seconds"]}
files = most_groups = 0
# Bounds of vectors are useless, so they are not written.
without_bounds = ("scores.", "embedding.")
for table, order in sort_columns.items():
    for path in sorted(glob.glob(f"{index}/{table}/**/*.parquet", recursive=True)):
        file = pq.ParquetFile(path)
        meta, names = file.metadata, [file.schema.column(i).path for i in range(len(file.schema))]
        files, most_groups = files + 1, max(most_groups, file.num_row_groups)
        def wrong(what): print(f"{table}: {what}")
        metadata = {k.decode(): v.decode() for k, v in meta.metadata.items()}
        for key in ["version", "schema_version", "run_id", "shard", "fingerprint"]:
            if not metadata.get("vidindex." + key): wrong(f"no vidindex.{key} in the metadata")
        if not meta.created_by.startswith("vidindex version "): wrong(f"created by {meta.created_by}")
        last = None
        for g in range(meta.num_row_groups):
            group = meta.row_group(g)
            if group.num_rows > 131072 or (g + 1 < meta.num_row_groups and group.num_rows < 131072):
                wrong(f"row group {g} of {meta.num_row_groups} has {group.num_rows} rows")
            if [names[s.column_index] for s in group.sorting_columns] != order: wrong(f"sorted by {group.sorting_columns}")
            for c in range(group.num_columns):
                column = group.column(c)
                name = column.path_in_schema
                if column.compression != "ZSTD": wrong(f"{name} is {column.compression}")
                bounded = not name.startswith(without_bounds)
                # A column without values has no minimum. Bounds of floats are in IEEE 754's total order, which PyArrow
                # does not support yet; DuckDB and Spark prune by them (tests/it/engines.rs).
                has_values = column.statistics is not None and column.statistics.has_min_max
                empty = column.statistics is not None and column.statistics.null_count == column.num_values
                is_float = column.physical_type in ("FLOAT", "DOUBLE")
                if bounded and not (has_values or empty or is_float): wrong(f"{name} has no bounds")
                if bounded and not (column.has_column_index and column.has_offset_index): wrong(f"{name} has no page index")
                if not bounded and column.has_dictionary_page: wrong(f"{name} has a dictionary")
                if (column.bloom_filter_offset is not None) != (name == "video_id"): wrong(f"bloom filter of {name}")
                if name in ("uri", "top_label", "label", "run_id", "video_id") and not column.has_dictionary_page:
                    wrong(f"{name} has no dictionary")
            rows = list(zip(*(file.read_row_group(g, [name])[name].to_pylist() for name in order)))
            if rows != sorted(rows): wrong(f"row group {g} is not in order")
            if last is not None and rows[0] < last: wrong(f"row group {g} starts before the previous one ends")
            last = rows[-1]
            bounds = group.column(names.index("uri")).statistics
            if (bounds.min, bounds.max) != (rows[0][0], rows[-1][0]): wrong("the bounds of uri are not tight")
print(f"{files} files of {most_groups} row groups or less")
"#;

fn inspect(python: &Path, index: &Path) -> String {
    let output = Command::new(python).args(["-c", INSPECT, index.to_str().unwrap()]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn files_of_a_run_have_the_layout_for_pruning() {
    let Some(python) = support::python() else { return };
    let scratch = Scratch::new();
    for name in ["a.mp4", "b.mp4", "c.mp4"] {
        test_video(&scratch.videos().join(name), "160x120", "25", 5.0, &["-pix_fmt", "yuv420p"]);
    }
    let options = ["--set", "actions.embedding=true", "--set", "actions.scores=full"];
    run(&scratch.job(&scratch.small_models()), &options, 0);
    assert_eq!(inspect(&python, &scratch.index()), "3 files of 1 row groups or less\n");
}

#[test]
fn large_files_are_split_into_full_row_groups() {
    let Some(python) = support::python() else { return };
    let found = inspect(&python, &support::index::archive().index);
    // The boxes of the long video fill three row groups.
    assert!(found.ends_with("files of 3 row groups or less\n") && found.lines().count() == 1, "{found}");
}
