//! DuckDB reads the tables: hive partitions, column types, joins, and the views of `schemas/duckdb.sql`.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::{self, Scratch, run, said, stderr, tables, test_video, vidindex};

/// The results of these queries on the views: a list of rows for each query, with all values as text.
fn query(python: &std::path::Path, index: &std::path::Path, queries: &[&str]) -> Vec<Value> {
    let script = "
import duckdb, json, sys
views, index, *queries = sys.argv[1:]
con = duckdb.connect()
con.execute('SET VARIABLE index = ' + repr(index))
con.execute(open(views).read())
print(json.dumps([[list(map(str, row)) for row in con.execute(q).fetchall()] for q in queries]))
";
    let views = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/duckdb.sql");
    let mut command = Command::new(python);
    command.args(["-c", script, views, index.to_str().unwrap()]).args(queries);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn duckdb_reads_the_column_types_and_partitions_of_the_tables() {
    let Some(python) = support::python() else { return };
    let scratch = Scratch::new();
    for camera in ["cam-1", "cam-2"] {
        std::fs::create_dir_all(scratch.videos().join(camera)).unwrap();
        for name in ["a.mp4", "b.mp4"] {
            test_video(&scratch.videos().join(camera).join(name), "160x120", "25", 5.0, &["-pix_fmt", "yuv420p"]);
        }
    }
    let job = scratch.job(&scratch.small_models());
    let partition = "input.partition='(?<camera>cam-[^/]+)/'";
    run(&job, &["--set", partition], 0);
    let count = |table: &str| tables::rows(&scratch.index(), table).len().to_string();
    let counts = [count("videos"), count("actions"), count("persons")];
    // After indexing again, every row exists twice, and one of the two is current.
    run(&job, &["--set", partition, "--reindex"], 0);

    let types = "SELECT column_name, column_type FROM (DESCRIBE FROM {}) ORDER BY ALL";
    let answers = query(
        &python,
        &scratch.index(),
        &[
            &types.replace("{}", "videos"),
            &types.replace("{}", "actions"),
            &types.replace("{}", "persons"),
            "SELECT (SELECT count(*) FROM current_videos), (SELECT count(*) FROM current_actions), \
             (SELECT count(*) FROM current_persons), (SELECT count(*) FROM videos)",
            "SELECT camera, count(DISTINCT video_id) FROM current_actions JOIN current_persons \
             USING (video_id, segment, run_id, camera) GROUP BY ALL ORDER BY ALL",
            "SELECT count(*) FROM actions WHERE dt = '1999-01-01'",
            "SELECT DISTINCT top[1].label = top_label AND len(top) = 10 FROM actions",
            "SELECT DISTINCT last_modified > TIMESTAMPTZ '2020-01-01' AND indexed_at >= last_modified FROM videos",
        ],
    );
    let has = |table: usize, column: &str, kind: &str| {
        let found = answers[table].as_array().unwrap();
        assert!(found.contains(&json!([column, kind])), "{column} {kind} is not in {found:?}");
    };
    for table in 0..3 {
        has(table, "dt", "DATE");
        has(table, "camera", "VARCHAR");
        has(table, "video_id", "VARCHAR");
    }
    has(0, "last_modified", "TIMESTAMP WITH TIME ZONE");
    has(0, "size_bytes", "BIGINT");
    has(0, "duration_seconds", "DOUBLE");
    has(1, "model", "VARCHAR");
    has(1, "start_seconds", "DOUBLE");
    has(1, "top", "STRUCT(label_id INTEGER, \"label\" VARCHAR, score FLOAT)[]");
    has(1, "scores", "FLOAT[]");
    has(2, "box", "INTEGER");
    has(2, "confidence", "FLOAT");
    has(2, "actions", "STRUCT(label_id INTEGER, \"label\" VARCHAR, score FLOAT)[]");
    assert_eq!(answers[3], json!([[counts[0], counts[1], counts[2], "8"]]));
    assert_eq!(answers[4], json!([["cam-1", "2"], ["cam-2", "2"]]));
    assert_eq!(answers[5], json!([["0"]]));
    assert_eq!(answers[6], json!([["True"]]));
    assert_eq!(answers[7], json!([["True"]]));
}

#[test]
fn the_views_of_tables_without_files_exist_and_are_empty() {
    let Some(python) = support::python() else { return };
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("a.mp4"), "160x120", "25", 5.0, &["-pix_fmt", "yuv420p"]);
    let views =
        ["videos", "actions", "persons", "thumbnails"].map(|table| [table.to_owned(), format!("current_{table}")]);
    let counts: Vec<String> = views.concat().iter().map(|view| format!("SELECT count(*) FROM {view}")).collect();
    let counts: Vec<&str> = counts.iter().map(String::as_str).collect();
    let found = || {
        let rows: Vec<Vec<[String; 1]>> = query(&python, &scratch.index(), &counts)
            .into_iter()
            .map(|rows| serde_json::from_value(rows).unwrap())
            .collect();
        rows.iter().map(|rows| rows[0][0].parse().unwrap()).collect::<Vec<u64>>()
    };
    // First without a folder, then with only a plan.
    assert_eq!(found(), [0; 8]);
    let models = scratch.small_models();
    let (actions, persons) = models.split_at(models.find("[persons]").unwrap());
    let job = scratch.job(actions);
    assert_eq!(vidindex(["plan".as_ref(), job.as_os_str()]).output().unwrap().status.code(), Some(0));
    assert_eq!(found(), [0; 8]);
    run(&job, &[], 0);
    assert_eq!(found(), [1, 1, 3, 3, 0, 0, 0, 0], "only actions");
    let empty = query(&python, &scratch.index(), &["SELECT count(model) + count(dt) + count(x1) FROM current_persons"]);
    assert_eq!(empty, [json!([["0"]])]);
    std::fs::remove_dir_all(scratch.index()).unwrap();
    run(&scratch.job(persons), &[], 0);
    let [videos, current_videos, 0, 0, boxes, current_boxes, 0, 0] = found()[..] else { panic!("{:?}", found()) };
    assert!((videos, current_videos) == (1, 1) && boxes > 0 && boxes == current_boxes, "only persons");
}

#[test]
fn the_actions_of_persons_can_be_unnested_and_joined_to_segments() {
    let Some(python) = support::python() else { return };
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("a.mp4"), "160x120", "25", 5.0, &["-pix_fmt", "yuv420p"]);
    run(&scratch.job(&scratch.small_person_models()), &["--set", "actions.top_k=3"], 0);
    let answers = query(
        &python,
        &scratch.index(),
        &[
            "SELECT DISTINCT segment, frame, len(actions) FROM current_persons WHERE actions IS NOT NULL ORDER BY ALL",
            "SELECT count(*) FROM current_persons WHERE actions IS NULL AND frame IN (25, 75)",
            "WITH done AS (SELECT video_id, segment, unnest(actions, recursive := true) FROM current_persons), \
             best AS (SELECT video_id, segment, max(score) AS best FROM done GROUP BY ALL) \
             SELECT segment, best = top_score FROM current_actions JOIN best USING (video_id, segment) ORDER BY ALL",
        ],
    );
    // The middles of the segments of 64/30 s are at 1.07 s and 3.2 s. The last one, of 0.73 s, has no frame of the
    // detector.
    assert_eq!(answers[0], json!([["0", "25", "3"], ["1", "75", "3"]]));
    assert_eq!(answers[1], json!([["0"]]));
    assert_eq!(answers[2], json!([["0", "True"], ["1", "True"]]));
}

#[test]
fn similar_segments_are_found_by_their_embeddings() {
    let Some(python) = support::python() else { return };
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("a.mp4"), "160x120", "25", 5.0, &["-pix_fmt", "yuv420p"]);
    std::fs::copy(scratch.videos().join("a.mp4"), scratch.videos().join("twin.mp4")).unwrap();
    let other = scratch.videos().join("other.mp4");
    support::ffmpeg(&["-f", "lavfi", "-i", "mandelbrot=size=160x120:rate=25", "-t", "5", other.to_str().unwrap()]);
    run(&scratch.job(&scratch.small_models()), &["--set", "actions.embedding=true"], 0);
    // The small model's last stage has 288 features.
    let nearest = "WITH target AS (SELECT embedding FROM current_actions WHERE uri LIKE '%/a.mp4' AND segment = 1) \
        SELECT string_split(uri, '/')[-1], segment, round(array_cosine_similarity(a.embedding::FLOAT[288], \
        target.embedding::FLOAT[288]), 3) AS similarity FROM current_actions AS a, target \
        ORDER BY similarity DESC, uri LIMIT 2";
    let answers = query(&python, &scratch.index(), &[nearest, "SELECT DISTINCT len(embedding) FROM actions"]);
    assert_eq!(answers, [json!([["a.mp4", "1", "1.0"], ["twin.mp4", "1", "1.0"]]), json!([["288"]])]);
}

#[test]
fn the_rows_of_another_model_are_added_and_become_current() {
    let Some(python) = support::python() else { return };
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("a.mp4"), "160x120", "25", 5.0, &["-pix_fmt", "yuv420p"]);
    let job = scratch.job(&scratch.small_models());
    run(&job, &[], 0);
    let read = |files: Vec<std::path::PathBuf>| {
        files.into_iter().map(|file| (std::fs::read(&file).unwrap(), file)).collect::<Vec<_>>()
    };
    let first = read(tables::files(&scratch.index()));
    let other = scratch.path("other.onnx");
    let built = ["models", "build", "slowfast-tiny", "--seed", "7", "--out", other.to_str().unwrap()];
    assert!(vidindex(built).output().unwrap().status.success());
    let planned = run(&job, &["--set", &format!("actions.model={}", other.display())], 0);
    assert!(!stderr(&planned).contains("already indexed"), "a changed model indexes every video again");
    let answers = query(
        &python,
        &scratch.index(),
        &[
            "SELECT split_part(model, '-', 1), count(*) FROM actions GROUP BY model ORDER BY ALL",
            "SELECT split_part(model, '-', 1), count(*) FROM current_actions GROUP BY model",
            "SELECT count(*) = (SELECT count(*) / 2 FROM persons) FROM current_persons",
        ],
    );
    assert_eq!(answers[0], json!([["other", "3"], ["slowfast", "3"]]));
    assert_eq!(answers[1], json!([["other", "3"]]));
    assert_eq!(answers[2], json!([["True"]]));
    assert!(
        first.iter().all(|(bytes, file)| std::fs::read(file).unwrap() == *bytes),
        "the first run's files are unchanged"
    );
}

#[test]
fn a_deleted_video_is_not_current_until_it_returns() {
    let Some(python) = support::python() else { return };
    let scratch = Scratch::new();
    for name in ["a.mp4", "b.mp4"] {
        test_video(&scratch.videos().join(name), "160x120", "25", 3.0, &["-pix_fmt", "yuv420p"]);
    }
    let job = scratch.job(&scratch.small_models());
    let current = || {
        let count =
            |table: &str| format!("SELECT count(DISTINCT uri), count(*) > 2 FROM {table} WHERE uri LIKE '%b.mp4'");
        let [videos, actions, persons] = ["videos", "actions", "persons"].map(|t| count(&format!("current_{t}")));
        let history = "SELECT string_agg(status, ' ' ORDER BY indexed_at) FROM videos WHERE uri LIKE '%b.mp4'";
        query(&python, &scratch.index(), &[&videos, &actions, &persons, history, "SELECT count(*) FROM current_videos"])
    };
    run(&job, &[], 0);
    let indexed = current();
    assert_eq!(indexed[3..], [json!([["ok"]]), json!([["2"]])]);

    let moved = scratch.path("moved.mp4");
    std::fs::rename(scratch.videos().join("b.mp4"), &moved).unwrap();
    let output = said(&run(&job, &[], 0));
    assert!(output.contains("0 ok, 0 partial, 0 failed, 1 deleted"), "{output}");
    let none = json!([["0", "False"]]);
    let deleted = [none.clone(), none.clone(), none, json!([["ok deleted"]]), json!([["1"]])];
    assert_eq!(current(), deleted);
    run(&job, &[], 0);
    assert_eq!(current(), deleted, "it is marked as deleted only once");

    std::fs::rename(&moved, scratch.videos().join("b.mp4")).unwrap();
    run(&job, &[], 0);
    assert_eq!(current()[..3], indexed[..3]);
    assert_eq!(current()[3..], [json!([["ok deleted ok"]]), json!([["2"]])]);
}

#[test]
fn files_in_partitions_that_cannot_match_are_not_read() {
    let Some(python) = support::python() else { return };
    let scratch = Scratch::new();
    let day = |n: u64| std::time::UNIX_EPOCH + std::time::Duration::from_secs(86_400 * n);
    for (camera, days) in [("cam-1", [20_000, 20_001]), ("cam-2", [20_001, 20_002])] {
        std::fs::create_dir_all(scratch.videos().join(camera)).unwrap();
        for n in days {
            let file = scratch.videos().join(camera).join(format!("{n}.mp4"));
            test_video(&file, "128x96", "25", 2.5, &["-pix_fmt", "yuv420p"]);
            std::fs::File::options().write(true).open(file).unwrap().set_modified(day(n)).unwrap();
        }
    }
    let job = scratch.job(&scratch.small_models());
    run(&job, &["--set", "input.partition='(?<camera>cam-[^/]+)/'"], 0);
    let answers = query(
        &python,
        &scratch.index(),
        &[
            "SELECT dt, camera, count(*) FROM actions GROUP BY ALL ORDER BY ALL",
            "EXPLAIN SELECT * FROM actions WHERE dt = DATE '2024-10-05' AND camera = 'cam-1'",
            "EXPLAIN SELECT * FROM persons WHERE model = 'another'",
            "EXPLAIN ANALYZE SELECT count(video_id) FROM persons WHERE dt >= DATE '2024-10-05' AND camera = 'cam-2'",
        ],
    );
    assert_eq!(
        answers[0],
        json!([
            ["2024-10-04", "cam-1", "2"],
            ["2024-10-05", "cam-1", "2"],
            ["2024-10-05", "cam-2", "2"],
            ["2024-10-06", "cam-2", "2"]
        ])
    );
    for (answer, files) in [(1, "1/4"), (2, "0/4"), (3, "2/4")] {
        let plan = answers[answer].to_string();
        eprintln!("{plan}");
        assert!(plan.contains(files), "{files}: {plan}");
    }
}
