//! DuckDB, Spark and data frame libraries read an index of several runs, models and partitions: the documented queries
//! return the expected results, and files and row groups that cannot match are not read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use vidindex::tables::{ActionRow, LabelScore, PersonRow};

use crate::support::index::{
    Archive, Indexed, LABELS, LONG_BOXES, LONG_CHANGE, LONG_SEGMENTS, R50, R101, YOLO, archive, run, write,
    write_first_version,
};
use crate::support::{self, Scratch, said, tables, vidindex};

const ACTION: &str = "riding a bike";

fn queries() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/queries")
}

/// The expected results of the queries in `schemas/queries`, by file name without extensions, computed from the rows.
fn expected(archive: &Archive) -> BTreeMap<&'static str, Vec<Vec<Value>>> {
    let moments = moments(archive);
    let edit_list = moments.iter().enumerate().map(|(i, (video, start, end, ..))| {
        vec![json!(format!("clip-{:04}.mp4", i + 1)), json!(start), json!(end - start), json!(*video.video.uri)]
    });
    let ffconcat = moments.iter().flat_map(|(video, start, end, ..)| {
        let second = |s: f64| format!("{:?}", ((video.video.start_seconds.unwrap() + s) * 1000.0).round() / 1000.0);
        let (inpoint, outpoint) = (second(*start), second(*end));
        [format!("file '{}'", video.video.uri), format!("inpoint {inpoint}"), format!("outpoint {outpoint}")]
            .map(|line| vec![json!(line)])
    });
    BTreeMap::from([
        (
            "moments",
            moments
                .iter()
                .map(|(v, from, to, n, best)| vec![json!(*v.video.uri), json!(from), json!(to), json!(n), json!(best)])
                .collect(),
        ),
        ("edit_list", edit_list.collect()),
        ("ffconcat", ffconcat.collect()),
        ("persons_in_segments", persons_in_segments(archive)),
        ("people_per_minute", people_per_minute(archive)),
        ("co_occurrence", co_occurrence(archive)),
        ("coverage", coverage(archive)),
        ("failures", failures(archive)),
        ("score_drift", score_drift(archive)),
        ("among_the_best", among_the_best(archive)),
    ])
}

/// The current videos, ordered by `uri` like the results of the queries.
fn current(archive: &Archive) -> Vec<&Indexed> {
    let mut videos: Vec<_> = archive.current.iter().collect();
    videos.sort_by_key(|video| video.video.uri.clone());
    videos
}

fn moments(archive: &Archive) -> Vec<(&Indexed, f64, f64, i64, f32)> {
    let mut moments: Vec<(&Indexed, f64, f64, i64, f32)> = Vec::new();
    for video in current(archive) {
        let mut last: Option<usize> = None;
        for row in video.actions.iter().filter(|row| is(row, ACTION)) {
            match last.map(|at| &mut moments[at]) {
                Some((_, _, end, n, best)) if row.start_seconds < *end + 1.0 => {
                    *end = row.end_seconds;
                    *n += 1;
                    *best = best.max(row.top_score.unwrap());
                }
                _ => {
                    moments.push((video, row.start_seconds, row.end_seconds, 1, row.top_score.unwrap()));
                    last = Some(moments.len() - 1);
                }
            }
        }
    }
    assert!(moments.len() > 20);
    moments
}

fn is(row: &ActionRow, label: &str) -> bool {
    row.top_label.as_deref() == Some(label) && row.top_score >= Some(0.5)
}

fn persons_in_segments(archive: &Archive) -> Vec<Vec<Value>> {
    let mut rows = Vec::new();
    for video in current(archive) {
        for action in video.actions.iter().filter(|row| row.top_label.as_deref() == Some(ACTION)) {
            let is_there =
                |p: &&PersonRow| p.run_id == action.run_id && p.segment == Some(action.segment) && p.confidence >= 0.5;
            let persons: Vec<_> = video.persons.iter().filter(is_there).collect();
            if !persons.is_empty() {
                let frames: BTreeSet<_> = persons.iter().map(|p| p.frame).collect();
                let best = persons.iter().map(|p| p.confidence).fold(0.0, f32::max);
                rows.push(vec![
                    json!(*action.uri),
                    json!(action.segment),
                    json!(action.start_seconds),
                    json!(action.end_seconds),
                    json!(persons.len()),
                    json!(frames.len()),
                    json!(best),
                ]);
            }
        }
    }
    assert!(rows.len() > 20);
    rows
}

fn people_per_minute(archive: &Archive) -> Vec<Vec<Value>> {
    let mut rows = Vec::new();
    for video in current(archive) {
        let mut minutes = BTreeMap::<i64, BTreeMap<i64, i64>>::new();
        for p in video.persons.iter().filter(|p| p.confidence >= 0.5) {
            *minutes.entry((p.time_seconds / 60.0) as i64).or_default().entry(p.frame).or_default() += 1;
        }
        for (minute, frames) in minutes {
            let people: i64 = frames.values().sum();
            rows.push(vec![
                json!(*video.video.uri),
                json!(minute),
                json!(frames.values().max()),
                json!(people as f64 / frames.len() as f64),
                json!(frames.len()),
            ]);
        }
    }
    rows
}

fn co_occurrence(archive: &Archive) -> Vec<Vec<Value>> {
    let mut pairs = BTreeMap::<(&str, &str), BTreeSet<(&str, i64)>>::new();
    for video in &archive.current {
        let minute = |row: &ActionRow| (row.start_seconds / 60.0) as i64;
        let of = |m: i64, label: &str| video.actions.iter().any(|row| minute(row) == m && is(row, label));
        let minutes: BTreeSet<_> = video.actions.iter().map(minute).filter(|m| *m < 2).collect();
        for m in minutes {
            let labels: Vec<_> = LABELS.into_iter().filter(|label| of(m, label)).collect();
            for (i, one) in labels.iter().enumerate() {
                for other in &labels[i + 1..] {
                    pairs.entry((one, other)).or_default().insert((&video.video.video_id, m));
                }
            }
        }
    }
    // Each minute of the long video has one label, except the minute in which the label changes.
    let change = LONG_CHANGE as f64 * 0.2 / 60.0;
    let long = archive.current.last().unwrap();
    assert_eq!(long.actions.len() as i64, LONG_SEGMENTS);
    if change.fract() > 0.0 {
        pairs.entry((LABELS[1], LABELS[3])).or_default().insert((&long.video.video_id, change as i64));
    }
    let videos = |seen: &BTreeSet<(&str, i64)>| seen.iter().map(|(id, _)| *id).collect::<BTreeSet<_>>().len();
    let mut rows: Vec<_> = pairs.into_iter().map(|((a, b), seen)| (seen.len(), a, b, videos(&seen))).collect();
    rows.sort_by_key(|(minutes, a, b, _)| (std::cmp::Reverse(*minutes), *a, *b));
    assert!(rows.len() > 2);
    rows.into_iter().map(|(minutes, a, b, videos)| vec![json!(a), json!(b), json!(minutes), json!(videos)]).collect()
}

fn coverage(archive: &Archive) -> Vec<Vec<Value>> {
    let mut runs = BTreeMap::<String, Vec<&Indexed>>::new();
    for video in &archive.all {
        runs.entry(video.video.run_id.to_string()).or_default().push(video);
    }
    let time = |video: &Indexed| video.video.indexed_at.format("%Y-%m-%d %H:%M:%S%.3f").to_string();
    let mut rows: Vec<Vec<Value>> = runs
        .into_iter()
        .map(|(run, videos)| {
            let status = |name: &str| videos.iter().filter(|v| v.video.status.as_str() == name).count();
            let sum = |of: fn(&Indexed) -> f64| videos.iter().map(|video| of(video)).sum::<f64>();
            vec![
                json!(run),
                json!(time(videos[0])),
                json!(time(videos[0])),
                json!(videos.len()),
                json!(status("ok")),
                json!(status("partial")),
                json!(status("failed")),
                json!(0),
                json!(sum(|v| v.video.duration_seconds.unwrap_or(0.0)) / 3600.0),
                json!(sum(|v| v.actions.len() as f64)),
                json!(sum(|v| v.persons.len() as f64)),
                json!(sum(|v| v.video.decode_seconds)),
                json!(sum(|v| v.video.inference_seconds)),
            ]
        })
        .collect();
    let deleted = archive.deletions.len();
    let when = "2026-11-24 00:00:00.5";
    rows.push(vec![
        json!(archive.deletions[0].run_id),
        json!(when),
        json!(when),
        json!(deleted),
        json!(0),
        json!(0),
        json!(0),
        json!(deleted),
        Value::Null,
        json!(0),
        json!(0),
        json!(1.25 * deleted as f64),
        json!(2.5 * deleted as f64),
    ]);
    rows.sort_by_key(|row| row[0].as_str().unwrap().to_owned());
    rows
}

fn failures(archive: &Archive) -> Vec<Vec<Value>> {
    let mut rows: Vec<_> = archive
        .all
        .iter()
        .map(|video| &video.video)
        .filter(|video| video.error_kind.is_some())
        .map(|v| {
            [
                &*v.run_id,
                v.status.as_str(),
                v.error_kind.unwrap().as_str(),
                "1",
                &*v.uri,
                v.error_message.as_ref().unwrap(),
            ]
            .map(ToOwned::to_owned)
        })
        .collect();
    rows.sort_by(|a, b| (&a[0], &a[1]).cmp(&(&b[0], &b[1])));
    assert_eq!(rows.len(), 3);
    rows.into_iter().map(|row| row.iter().map(|v| if v == "1" { json!(1) } else { json!(v) }).collect()).collect()
}

fn score_drift(archive: &Archive) -> Vec<Vec<Value>> {
    // Only the second run used the second model. Its videos were indexed with the first model only by the first run.
    let of = |model: &str| {
        archive.all.iter().filter(|v| v.video.actions_model.as_deref() == Some(model)).collect::<Vec<_>>()
    };
    let (ones, others) = (of(R50), of(R101));
    let mut labels = BTreeMap::<&str, Vec<(f64, f64, bool)>>::new();
    for other in others {
        let one = ones.iter().find(|one| one.video.uri == other.video.uri).unwrap();
        for (a, b) in one.actions.iter().zip(&other.actions) {
            let score = |row: &ActionRow| f64::from(row.top_score.unwrap());
            labels.entry(a.top_label.as_deref().unwrap()).or_default().push((
                score(a),
                score(b),
                a.top_label == b.top_label,
            ));
        }
    }
    let mut rows: Vec<_> = labels
        .into_iter()
        .map(|(label, pairs)| {
            let mean = |of: fn(&(f64, f64, bool)) -> f64| pairs.iter().map(of).sum::<f64>() / pairs.len() as f64;
            let (a, b) = (mean(|p| p.0), mean(|p| p.1));
            let agreement = mean(|p| f64::from(u8::from(p.2)));
            vec![json!(label), json!(pairs.len()), json!(agreement), json!(a), json!(b), json!(b - a)]
        })
        .collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row[1].as_i64()));
    assert_eq!(rows.len(), LABELS.len());
    rows
}

fn among_the_best(archive: &Archive) -> Vec<Vec<Value>> {
    let mut rows: Vec<_> = archive
        .current
        .iter()
        .flat_map(|video| &video.actions)
        .filter_map(|row| {
            let choice = row.top.iter().find(|choice| &*choice.label == ACTION)?;
            Some((choice.score, row.uri.clone(), row.segment, row))
        })
        .collect();
    rows.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| (&a.1, a.2).cmp(&(&b.1, b.2))));
    let row = |(score, uri, segment, row): (f32, std::sync::Arc<str>, i64, &ActionRow)| {
        vec![json!(*uri), json!(segment), json!(row.start_seconds), json!(row.top_label.as_deref()), json!(score)]
    };
    rows.into_iter().map(row).collect()
}

/// The results are equal, except for the last digits of numbers and the notation of nulls and times.
fn assert_same(query: &str, found: &[Vec<String>], expected: &[Vec<Value>]) {
    let time = |text: &str| match text.contains(':') && text.contains('.') {
        true => text.trim_end_matches("+00").trim_end_matches('0').to_owned(),
        false => text.to_owned(),
    };
    let same = |found: &String, expected: &Value| match expected {
        Value::Null => found.is_empty(),
        Value::String(text) => time(found) == time(text),
        number => found.parse::<f64>().is_ok_and(|found| (found - number.as_f64().unwrap()).abs() < 1e-3),
    };
    let same_row = |a: &[String], b: &[Value]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b));
    let difference = found.iter().zip(expected).find(|(found, expected)| !same_row(found, expected));
    assert!(difference.is_none(), "{query}: found and expected {difference:?}");
    assert_eq!(found.len(), expected.len(), "{query}");
}

/// Writes an index of the fixture's files and of files with the current schema.
fn old_and_new(index: &Path) {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/schema-1");
    if std::env::var_os("VIDINDEX_UPDATE").is_some() && !fixture.exists() {
        write_first_version(&fixture);
    }
    for file in tables::files(&fixture) {
        let to = index.join(file.strip_prefix(&fixture).unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(file, to).unwrap();
    }
    let run = run(2, Some(R50), Some(YOLO));
    let mut video = Indexed::new(&run, "cam-1", "2026-11-01", 0, 1);
    for person in &mut video.persons {
        person.actions = Some(vec![LabelScore { label_id: 0, label: "stand".into(), score: 0.5 }]);
    }
    write(index, &run, &[video]);
}

/// Counts the rows of an old and a new video: all videos, videos with a value in `mirrored`, actions, persons, and
/// persons with actions.
const OLD_AND_NEW: &str = "SELECT (SELECT count(*) FROM current_videos) AS videos, \
     (SELECT count(mirrored) FROM current_videos) AS oriented, \
     (SELECT count(*) FROM current_actions) AS actions, count(*) AS persons, count(actions) AS scored FROM current_persons";

#[test]
fn files_with_the_first_schema_are_read_together_with_new_ones() {
    if support::python().is_none() {
        return;
    }
    let scratch = Scratch::new();
    old_and_new(&scratch.index());
    let persons = tables::rows(&scratch.index(), "persons").len();
    let found = support::query(&scratch.index(), &["--format", "csv", OLD_AND_NEW]);
    assert_eq!(found, format!("videos,oriented,actions,persons,scored\n2,1,80,{persons},{}\n", persons / 2));
    // `vidindex prune` reads the files of `videos`, too.
    let job = scratch.job("[persons]\nmodel = \"models/yolov5s.onnx\"\n");
    let output = vidindex(["prune".as_ref(), job.as_os_str()]).output().unwrap();
    assert!(output.status.success() && support::stdout(&output).contains("nothing to prune"), "{}", said(&output));
}

/// Runs a Python script and parses the last line of its output as JSON.
fn script(text: &str, args: &[&str]) -> Option<Value> {
    let python = support::python()?;
    let output = Command::new(python).args(["-c", text]).args(args).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let stdout = String::from_utf8(output.stdout).unwrap();
    Some(serde_json::from_str(stdout.lines().last().unwrap()).unwrap())
}

fn file_of(name: &str, engine: &str) -> PathBuf {
    let own = queries().join(format!("{name}.{engine}.sql"));
    if own.exists() { own } else { queries().join(format!("{name}.sql")) }
}

#[test]
fn duckdb_returns_the_expected_results_of_the_documented_queries() {
    if support::python().is_none() {
        return;
    }
    let archive = archive();
    for (name, expected) in expected(archive) {
        let file = file_of(name, "duckdb");
        let output = support::query(&archive.index, &["--format", "csv", "-f", file.to_str().unwrap()]);
        let mut lines = csv::Reader::from_reader(output.as_bytes());
        let found: Vec<Vec<String>> =
            lines.records().map(|row| row.unwrap().iter().map(ToOwned::to_owned).collect()).collect();
        assert_same(name, &found, &expected);
    }
}

/// Queries with filters that let an engine skip data: the query, its result, and the share of its table that may be
/// read.
fn filters(archive: &Archive) -> Vec<(String, i64, f64)> {
    let sum_of = |of: &dyn Fn(&Indexed) -> usize| archive.all.iter().map(of).sum::<usize>() as i64;
    let in_long_file = archive.all.iter().find(|v| v.video.uri.ends_with("cam-2/2026-11-03-0.mp4")).unwrap();
    let count = |table: &str, filter: String| {
        let column = if table == "persons" { "x1" } else { "start_seconds" };
        format!("SELECT count({column}) FROM {table} WHERE {filter}")
    };
    let confident = |v: &Indexed| v.persons.iter().filter(|p| p.confidence > 0.95).count();
    let late = |v: &Indexed| v.persons.iter().filter(|p| p.time_seconds >= 29_990.0).count();
    let riding = |v: &Indexed| v.actions.iter().filter(|a| a.top_label.as_deref() == Some(ACTION)).count();
    let in_partition = |v: &Indexed| if v.camera == "cam-1" && v.day == "2026-11-02" { v.persons.len() } else { 0 };
    vec![
        (count("persons", "confidence > 0.95".to_owned()), sum_of(&confident), 0.2),
        (count("persons", "time_seconds >= 29990".to_owned()), sum_of(&late), 0.2),
        (
            count("persons", format!("video_id = '{}'", in_long_file.video.video_id)),
            in_long_file.persons.len() as i64,
            0.5,
        ),
        (count("persons", "camera = 'cam-1' AND dt = DATE '2026-11-02'".to_owned()), sum_of(&in_partition), 0.01),
        (count("actions", format!("top_label = '{ACTION}'")), sum_of(&riding), 0.2),
        (count("actions", format!("model = '{R101}'")), 80, 0.01),
    ]
}

#[test]
fn duckdb_reads_only_data_that_can_match() {
    let archive = archive();
    let text = "
import duckdb, json, sys
views, index, *queries = sys.argv[1:]
def read_bytes():
    return int(open('/proc/self/io').read().split()[1])
def ask(query):
    con = duckdb.connect()
    con.execute('SET enable_external_file_cache = false')
    con.execute('SET VARIABLE index = ' + repr(index))
    con.execute(open(views).read())
    before = read_bytes()
    answer = con.execute(query).fetchall()[0][0]
    return answer, read_bytes() - before, con.execute('EXPLAIN ' + query).fetchall()[0][1]
print(json.dumps([ask(query) for query in queries]))
";
    let filters = filters(archive);
    let filtered = filters.iter().map(|(query, ..)| query.clone());
    let unfiltered = filters.iter().map(|(query, ..)| query.split(" WHERE").next().unwrap().to_owned());
    let queries: Vec<String> = filtered.chain(unfiltered).collect();
    let views = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/duckdb.sql");
    let mut args = vec![views, archive.index.to_str().unwrap()];
    args.extend(queries.iter().map(String::as_str));
    let Some(answers) = script(text, &args) else { return };
    for (i, (query, count, share)) in filters.iter().enumerate() {
        let (filtered, all) = (&answers[i], &answers[i + filters.len()]);
        assert_eq!(filtered[0], *count, "{query}");
        let read = filtered[1].as_f64().unwrap() / all[1].as_f64().unwrap();
        eprintln!("{query}: {} of {} bytes", filtered[1], all[1]);
        // DuckDB also reads the footers of the other files, to find that they cannot match.
        assert!(read <= share + 0.2, "{query}: {read} of the bytes, {}", filtered[2]);
    }
}

/// One session runs all queries, because starting Spark takes most of the time.
#[test]
fn spark_returns_the_expected_results_and_reads_only_data_that_can_match() {
    let archive = archive();
    let text = "
import json, os, sys, tempfile
os.environ['PYSPARK_PYTHON'] = sys.executable
os.environ['SPARK_LOCAL_IP'] = '127.0.0.1'
from pyspark.sql import SparkSession
views, index, old_and_new, question, files, filters = *sys.argv[1:5], json.loads(sys.argv[5]), json.loads(sys.argv[6])
spark = (SparkSession.builder.master('local[2]').config('spark.ui.enabled', 'false')
    .config('spark.driver.memory', '1g').config('spark.sql.shuffle.partitions', '2')
    .config('spark.sql.adaptive.enabled', 'false').config('spark.sql.session.timeZone', 'UTC')
    .config('spark.sql.warehouse.dir', tempfile.mkdtemp()).getOrCreate())
def statements(file):
    lines = [line for line in open(file) if not line.startswith('--')]
    return [s for s in ''.join(lines).split(';\\n') if s.strip()]
def open_index(index):
    spark.sql('SET index = ' + index)
    for statement in statements(views):
        spark.sql(statement)
open_index(index)
answers = {}
for name, file in files.items():
    [query] = statements(file)
    rows = spark.sql(query).collect()
    answers[name] = [['' if value is None else str(value) for value in row] for row in rows]
def pruned(query):
    frame = spark.sql(query)
    count = frame.collect()[0][0]
    scan = frame._jdf.queryExecution().executedPlan().collectLeaves().head()
    metric = lambda name: scan.metrics().get(name).get().value()
    return count, metric('numOutputRows'), metric('numFiles'), scan.toString()
types = {table: {f.name: f.dataType.simpleString() for f in spark.table(table).schema}
    for table in ['videos', 'actions', 'persons']}
pruned = [pruned(query) for query in filters]
open_index(old_and_new)
print(json.dumps([answers, pruned, types, list(spark.sql(question).collect()[0])]))
";
    if !has_java() {
        return;
    }
    let expected = expected(archive);
    let files: BTreeMap<_, _> = expected.keys().map(|name| (*name, file_of(name, "spark"))).collect();
    let filters = filters(archive);
    let texts: Vec<_> = filters.iter().map(|(query, ..)| query).collect();
    let views = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/spark.sql");
    let scratch = Scratch::new();
    old_and_new(&scratch.index());
    let [index, old] = [&archive.index, &scratch.index()].map(|path| path.to_str().unwrap().to_owned());
    let args = [views, &index, &old, OLD_AND_NEW, &json!(files).to_string(), &json!(texts).to_string()];
    let Some(answers) = script(text, &args) else { return };
    for (name, expected) in &expected {
        let found: Vec<Vec<String>> = serde_json::from_value(answers[0][name].clone()).unwrap();
        assert_same(name, &found, expected);
    }
    for ((query, count, share), pruned) in filters.iter().zip(answers[1].as_array().unwrap()) {
        let rows = if query.contains("FROM persons") { LONG_BOXES } else { LONG_SEGMENTS };
        let (found, read, files, plan) = (&pruned[0], &pruned[1], &pruned[2], &pruned[3]);
        eprintln!("{query}: {read} rows of {files} files");
        assert_eq!(found, count, "{query}");
        assert!(read.as_f64().unwrap() <= share * rows as f64, "{query}: {read} rows read of {files} files; {plan}");
    }
    let persons = tables::rows(&scratch.index(), "persons").len();
    assert_eq!(answers[3], json!([2, 1, 80, persons, persons / 2]));
    let types = &answers[2];
    assert_eq!(types["videos"]["last_modified"], "timestamp");
    assert_eq!(types["actions"]["top"], "array<struct<label_id:int,label:string,score:float>>");
    assert_eq!((&types["persons"]["dt"], &types["persons"]["camera"]), (&json!("date"), &json!("string")));
}

fn has_java() -> bool {
    let found = Command::new("java").arg("-version").output().is_ok_and(|output| output.status.success());
    assert!(found || std::env::var_os("VIDINDEX_TEST_REQUIRE").is_none(), "java is missing: run make setup-test");
    if !found {
        eprintln!("skipped: no java; run make setup-test");
    }
    found
}

#[test]
fn the_documented_data_frame_examples_work() {
    let archive = archive();
    let page = std::fs::read_to_string(queries().with_file_name("README.md")).unwrap();
    let lines = page.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
    let lines = lines.replace("index = \"index\"", "import sys; index = sys.argv[1]");
    let text = format!("{lines}\nimport json\nprint(json.dumps([len(pandas_frame), polars_rows, pyarrow_rows]))");
    let Some(found) = script(&text, &[archive.index.to_str().unwrap()]) else { return };
    let count = |of: fn(&&Indexed) -> bool| archive.all.iter().filter(of).map(|v| v.persons.len()).sum::<usize>();
    let of_day = count(|v| v.day == "2026-11-02");
    let late: usize = archive.all.iter().flat_map(|v| &v.persons).filter(|p| p.time_seconds >= 3600.0).count();
    assert_eq!(found, json!([of_day, late, late]));
}

#[test]
fn every_documented_query_is_tested() {
    let files = std::fs::read_dir(queries()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let names: BTreeSet<_> = files.map(|file| file.split('.').next().unwrap().to_owned()).collect();
    let tested: BTreeSet<_> = expected(archive()).into_keys().map(ToOwned::to_owned).collect();
    assert_eq!(names, tested);
}
