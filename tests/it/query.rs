//! `vidindex query`: an index in a directory or a bucket, given by its address or its job, and SQL from the command
//! line, a file or a pipe.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::bucket::Bucket;
use crate::support::index::{Indexed, R50, YOLO, run, write};
use crate::support::{self, Scratch, ffmpeg, query, said, stderr, stdout, test_video, vidindex};

fn duckdb() -> Option<PathBuf> {
    support::python().map(|python| python.with_file_name("duckdb"))
}

/// Runs `vidindex query INDEX ARGS...` with `input` as its standard input.
fn query_with_input(index: &Path, duckdb: &Path, args: &[&str], input: &str) -> Output {
    let mut command = vidindex(["query".as_ref(), index.as_os_str()]);
    command.args(args).env("VIDINDEX_DUCKDB", duckdb);
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// An index of one video with both models, in a directory with glob characters and a quote in its name.
fn small_index(scratch: &Scratch) -> PathBuf {
    let index = scratch.path("it's an [index]*");
    let both = run(1, Some(R50), Some(YOLO));
    write(&index, &both, &[Indexed::new(&both, "cam-1", "2026-11-01", 0, 1)]);
    index
}

#[test]
fn results_have_the_requested_format() {
    let Some(duckdb) = duckdb() else { return };
    let scratch = Scratch::new();
    let index = small_index(&scratch);
    let sql = "SELECT segment, top_label, NULL AS nothing, indexed_at FROM current_actions \
               JOIN current_videos USING (video_id) WHERE segment = 3";
    assert_eq!(
        query(&index, &["--format", "csv", sql]),
        "segment,top_label,nothing,indexed_at\n3,riding a bike,,2026-11-21 00:00:00.5+00\n"
    );
    assert_eq!(query(&index, &["--format", "lines", sql]), "3\triding a bike\t\t2026-11-21 00:00:00.5+00\n");
    let json: serde_json::Value = serde_json::from_str(&query(&index, &["--format", "json", sql])).unwrap();
    assert_eq!((&json[0]["segment"], json[0]["nothing"].is_null()), (&serde_json::json!(3), true));
    assert!(query(&index, &[sql]).contains("│ riding a bike │"));
    // Without a terminal, all rows are printed.
    assert_eq!(query(&index, &["SELECT range AS n FROM range(500)"]).lines().count(), 504);

    let file = scratch.path("query.sql");
    std::fs::write(&file, "SELECT 1 AS a;\nSELECT 2 AS b;\n").unwrap();
    assert_eq!(query(&index, &["--format", "csv", "-f", file.to_str().unwrap()]), "a\n1\nb\n2\n");
    let piped = query_with_input(&index, &duckdb, &["--format", "csv"], "SELECT count(*) AS n FROM current_videos;");
    assert_eq!(stdout(&piped), "n\n1");
}

#[test]
fn parameters_are_values_of_the_query_and_never_sql() {
    let Some(duckdb) = duckdb() else { return };
    let scratch = Scratch::new();
    let index = small_index(&scratch);
    let file = scratch.path("moments.sql");
    let sql = "SELECT uri, start_seconds, end_seconds FROM current_moments\n\
               WHERE label = getvariable('label') AND peak_score >= coalesce(getvariable('score'), 0.5);\n";
    std::fs::write(&file, sql).unwrap();
    let of = file.to_str().unwrap();
    let found = |label: &str| query(&index, &["--format", "csv", "-f", of, "--param", label]);
    let moments = found("label=riding a bike");
    assert!(moments.lines().count() > 1, "{moments}");
    assert_eq!(found("label=nothing").lines().count(), 1);
    let strong =
        query(&index, &["--format", "csv", "-f", of, "--param", "label=riding a bike", "--param", "score=1.1"]);
    assert_eq!(strong.lines().count(), 1);
    let sql = "SELECT getvariable('a') AS a, getvariable( 'B' ) + 1 AS b";
    let args = ["--format", "lines", "--param", "a='; DROP VIEW videos; --", "--param", "B=41", sql];
    assert_eq!(query(&index, &args), "'; DROP VIEW videos; --\t42\n");
    for (args, message) in [
        (["--param", "labl=x", "SELECT getvariable('label')"], "the query does not read the parameter `labl`"),
        (["--param", "a b=x", "SELECT 1"], "a parameter is NAME=VALUE"),
    ] {
        let mut command = vidindex(["query".as_ref(), index.as_os_str()]);
        let refused = command.args(args).env("VIDINDEX_DUCKDB", &duckdb).output().unwrap();
        assert_eq!(refused.status.code(), Some(2));
        assert!(said(&refused).contains(message), "{}", said(&refused));
    }
}

/// Runs `vidindex find INDEX ARGS...`.
fn find(index: &Path, duckdb: &Path, args: &[&str]) -> Output {
    let mut command = vidindex(["find".as_ref(), index.as_os_str()]);
    command.args(args).args(["--format", "csv"]).env("VIDINDEX_DUCKDB", duckdb).output().unwrap()
}

/// The moments of a label as a loop over the rows finds them: start, end and highest score.
fn moments(indexed: &Indexed, label: &str, min_score: f32) -> Vec<(f64, f64, f32)> {
    let mut moments: Vec<(f64, f64, f32)> = Vec::new();
    for action in &indexed.actions {
        let Some(entry) = action.top.iter().find(|entry| &*entry.label == label) else { continue };
        if entry.score < min_score {
            continue;
        }
        match moments.last_mut().filter(|(_, end, _)| action.start_seconds < end + 1.0) {
            Some((_, end, peak)) => (*end, *peak) = (action.end_seconds, peak.max(entry.score)),
            None => moments.push((action.start_seconds, action.end_seconds, entry.score)),
        }
    }
    moments
}

#[test]
fn find_joins_the_segments_of_a_label_to_moments_strongest_first() {
    let Some(duckdb) = duckdb() else { return };
    let scratch = Scratch::new();
    let both = run(1, Some(R50), Some(YOLO));
    let videos = [0, 1].map(|n| Indexed::new(&both, "cam-1", "2026-11-01", n, 1));
    write(&scratch.index(), &both, &videos);
    for (label, min_score, min_seconds) in [("riding a bike", 0.5, 0.0), ("opening door", 0.2, 5.0)] {
        let options = ["--min-score", &min_score.to_string(), "--min-seconds", &min_seconds.to_string()];
        let found = find(&scratch.index(), &duckdb, &[&[&*label.to_uppercase()], &options[..]].concat());
        assert!(found.status.success(), "{}", said(&found));
        let mut expected = Vec::new();
        for video in &videos {
            let long =
                moments(video, label, min_score).into_iter().filter(|(start, end, _)| end - start >= min_seconds);
            expected.extend(long.map(|(start, end, peak)| (video.video.uri.to_string(), start, end, peak)));
        }
        expected.sort_by(|a, b| {
            let rounded = |score: f32| (score * 1e4).round();
            rounded(b.3).total_cmp(&rounded(a.3)).then(a.0.cmp(&b.0)).then(a.1.total_cmp(&b.1))
        });
        assert!(expected.len() > 4, "{label}: {} moments", expected.len());
        let text = stdout(&found);
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("uri,start_seconds,end_seconds,peak_seconds,peak_score,segments"));
        let rows: Vec<Vec<&str>> = lines.map(|line| line.split(',').collect()).collect();
        assert_eq!(rows.len(), expected.len(), "{text}");
        for (row, (uri, start, end, peak)) in rows.iter().zip(expected) {
            assert_eq!(row[0], uri, "{text}");
            let number = |at: usize| row[at].parse::<f64>().unwrap();
            assert!((number(1) - start).abs() < 1e-3 && (number(2) - end).abs() < 1e-3, "{row:?} {start} {end}");
            assert!(start < number(3) && number(3) < end && (number(4) - f64::from(peak)).abs() < 1e-4, "{row:?}");
        }
        // The view has those of all labels with scores of a half or more.
        if min_score == 0.5 {
            let sql = format!("SELECT count(*), sum(segments) FROM current_moments WHERE label = '{label}'");
            let segments: i64 = rows.iter().map(|row| row[5].parse::<i64>().unwrap()).sum();
            let shown = query(&scratch.index(), &["--format", "csv", &sql]);
            assert_eq!(shown.lines().last(), Some(&*format!("{},{segments}", rows.len())));
        }
    }
    let unknown = find(&scratch.index(), &duckdb, &["riding bikes"]);
    let message = stderr(&unknown);
    assert!(unknown.status.code() == Some(1) && message.contains("no segment has the label"), "{}", said(&unknown));
    assert!(message.contains("Similar labels: riding a bike"), "{message}");
}

#[test]
fn a_table_without_files_is_empty() {
    let Some(_) = duckdb() else { return };
    let scratch = Scratch::new();
    let persons = run(1, None, Some(YOLO));
    write(&scratch.index(), &persons, &[Indexed::new(&persons, "cam-1", "2026-11-01", 0, 1)]);
    let sql = "SELECT count(*) AS n, count(model) + count(dt) + count(top[1].label) AS m FROM current_actions";
    assert_eq!(query(&scratch.index(), &["--format", "csv", sql]), "n,m\n0,0\n");
}

#[test]
fn mistakes_are_reported() {
    let Some(duckdb) = duckdb() else { return };
    let scratch = Scratch::new();
    let index = small_index(&scratch);
    let wrong = query_with_input(&index, &duckdb, &["SELECT nope FROM videos"], "");
    assert!(wrong.status.code() == Some(1) && stderr(&wrong).contains("\"nope\" not found"), "{}", said(&wrong));
    let after = query_with_input(&index, &duckdb, &["--format", "csv"], "SELECT nope; SELECT 1;");
    assert!(after.status.code() == Some(1) && stdout(&after).is_empty(), "{}", said(&after));
    let empty = query_with_input(&scratch.videos(), &duckdb, &["SELECT 1"], "");
    assert!(empty.status.code() == Some(1) && stderr(&empty).contains("is not an index"), "{}", said(&empty));
    let absent = query_with_input(&index, Path::new("/nowhere/duckdb"), &["SELECT 1"], "");
    assert!(stderr(&absent).contains("hint: install DuckDB with `pip install duckdb-cli`"), "{}", said(&absent));
    let set = query_with_input(&index, &duckdb, &["--set", "run.device=cpu", "SELECT 1"], "");
    assert_eq!(set.status.code(), Some(2), "{}", said(&set));
}

#[test]
fn a_bucket_is_queried_with_the_settings_of_the_job() {
    let Some(duckdb) = duckdb() else { return };
    let scratch = Scratch::new();
    let Some(bucket) = Bucket::with_videos(scratch) else { return };
    let index = bucket.scratch.path("local");
    let both = run(1, Some("slow/fast=r50 v1"), Some(YOLO));
    let videos = [("cam-1", 0), ("cam-1", 1), ("cam-2", 0)];
    write(&index, &both, &videos.map(|(camera, n)| Indexed::new(&both, camera, "2026-11-01", n, 1)));
    upload(&bucket, &index, "s3://index/run/");
    let sql = "SELECT camera, model, count(*) AS n FROM current_actions GROUP BY ALL ORDER BY ALL";
    let expected = "camera,model,n\ncam-1,slow/fast=r50 v1,80\ncam-2,slow/fast=r50 v1,40";
    assert_eq!(query(&index, &["--format", "csv", sql]).trim(), expected);

    let program = duckdb.to_str().unwrap();
    let found = bucket.vidindex(&["query", "--duckdb", program, "--format", "csv", sql], 0);
    assert_eq!(stdout(&found), expected);
    // By its address, with the settings of the environment.
    let mut command = vidindex(["query", "s3://index/run", "--duckdb", program, "--format", "csv", sql]);
    let endpoint = bucket.server.endpoint();
    let found = command.envs(support::s3::environment()).env("AWS_ENDPOINT_URL_S3", endpoint).output().unwrap();
    assert_eq!(stdout(&found), expected, "{}", said(&found));

    // Without the extension `httpfs`: the copied program has none next to it, the home directory has none, and the
    // proxy prevents a download.
    let copied = bucket.scratch.path("duckdb");
    let python = support::python().unwrap();
    let script = "import duckdb_cli, os; print(os.path.join(os.path.dirname(duckdb_cli.__file__), 'duckdb'))";
    let real = stdout(&Command::new(python).args(["-c", script]).output().unwrap());
    std::fs::copy(real, &copied).unwrap();
    let without = |args: &[&str]| {
        let mut command = vidindex([args[0].as_ref(), bucket.job.as_os_str()]);
        command.args(&args[1..]).env("VIDINDEX_DUCKDB", &copied).envs(support::s3::environment());
        command.env("HOME", bucket.scratch.path("home")).env("HTTP_PROXY", "http://127.0.0.1:9");
        command.env("NO_PROXY", "127.0.0.1").output().unwrap()
    };
    let message = stderr(&without(&["query", "SELECT 1"]));
    assert!(message.contains("cannot read S3"), "{message}");
    assert!(
        message.contains(&format!("with network access, run {} -c 'INSTALL httpfs'", copied.display())),
        "{message}"
    );
    assert!(stdout(&without(&["doctor"])).contains("none  DuckDB and S3: DuckDB v"));
    // In a virtual environment, its own Python installs the extension.
    let own_python = copied.with_file_name("python");
    std::fs::write(&own_python, "").unwrap();
    let message = stderr(&without(&["query", "SELECT 1"]));
    assert!(
        message.contains(&format!("{} -m pip install duckdb-extension-httpfs==", own_python.display())),
        "{message}"
    );
    let mut doctor = vidindex(["doctor".as_ref(), bucket.job.as_os_str()]);
    let doctor = doctor.env("VIDINDEX_DUCKDB", program).envs(support::s3::environment()).output().unwrap();
    assert!(stdout(&doctor).contains("ok    DuckDB and S3: it can read S3"), "{}", said(&doctor));
}

#[test]
fn the_doctor_reports_duckdb() {
    let Some(duckdb) = duckdb() else { return };
    let report = |duckdb: &Path| stdout(&vidindex(["doctor"]).env("VIDINDEX_DUCKDB", duckdb).output().unwrap());
    assert!(report(&duckdb).contains(&format!("ok    DuckDB: {} (v", duckdb.display())));
    let absent = report(Path::new("/nowhere/duckdb"));
    assert!(
        absent.contains("none  DuckDB: /nowhere/duckdb: failed to run") && absent.contains("pip install duckdb-cli")
    );
}

/// Uploads the Parquet files below a folder.
fn upload(bucket: &Bucket, folder: &Path, uri: &str) {
    for file in support::tables::files(folder) {
        let below = file.parent().unwrap().strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
        bucket.copy("file", file.parent().unwrap(), &format!("{uri}{below}/"));
    }
}

#[test]
fn clips_are_cut_as_documented() {
    let Some(duckdb) = duckdb() else { return };
    let scratch = Scratch::new();
    let index = scratch.index();
    let both = run(1, Some(R50), Some(YOLO));
    let mut video = Indexed::new(&both, "cam-1", "2026-11-01", 0, 1);
    // A key frame every half second, timestamps that do not start at 0, and a name that must be quoted.
    let file = scratch.path("it's a, video.mkv");
    test_video(&file, "64x48", "30", 90.0, &["-g", "15", "-pix_fmt", "yuv420p", "-output_ts_offset", "1.5"]);
    let uri: std::sync::Arc<str> = file.to_str().unwrap().into();
    video.video.uri = uri.clone();
    video.actions.iter_mut().for_each(|row| row.uri = uri.clone());
    video.persons.iter_mut().for_each(|row| row.uri = uri.clone());
    write(&index, &both, &[video]);
    let sql = |name: &str| format!("{}/schemas/queries/{name}.sql", env!("CARGO_MANIFEST_DIR"));

    let list = query(&index, &["--format", "lines", "-f", &sql("edit_list")]);
    let clips: Vec<Vec<&str>> = list.lines().map(|line| line.split('\t').collect()).collect();
    assert!(clips.len() >= 3 && clips.iter().all(|clip| clip.len() == 4 && clip[3] == &*uri), "{list}");
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/README.md")).unwrap();
    let command = |name: &str| {
        let block = page.split("\n\n").find(|block| block.starts_with("    ") && block.contains(name)).unwrap();
        block
            .replace("jobs/local.toml", index.to_str().unwrap())
            .replace("schemas/", concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/"))
    };
    for name in ["edit_list.sql", "ffconcat.sql"] {
        let mut shell = Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", &command(name)]).current_dir(scratch.dir.path());
        let binary = Path::new(env!("CARGO_BIN_EXE_vidindex")).parent().unwrap().to_owned();
        let path = std::env::join_paths(
            std::iter::once(binary).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
        );
        let output = shell.env("PATH", path.unwrap()).env("VIDINDEX_DUCKDB", &duckdb).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
    let seconds = |name: &str| {
        // The clip is decoded, because the duration in a container of copied packets may be wrong.
        let raw = scratch.path("raw.y4m");
        ffmpeg(&["-i", scratch.path(name).to_str().unwrap(), "-f", "yuv4mpegpipe", raw.to_str().unwrap()]);
        std::fs::metadata(raw).unwrap().len() as f64 / (64.0 * 48.0 * 1.5 + 6.0) / 30.0
    };
    let mut total = 0.0;
    for clip in &clips {
        let (found, expected) = (seconds(clip[0]), clip[2].parse::<f64>().unwrap());
        assert!((found - expected).abs() < 0.7, "{clip:?} has {found} s");
        total += expected;
    }
    let found = seconds("clips.mp4");
    assert!((found - total).abs() < 0.7 * clips.len() as f64, "{found} s instead of {total} s");
}

#[test]
fn similar_segments_are_found_by_their_embeddings() {
    let Some(duckdb) = duckdb() else { return };
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("a.mp4"), "160x120", "25", 5.0, &["-pix_fmt", "yuv420p"]);
    std::fs::copy(scratch.videos().join("a.mp4"), scratch.videos().join("twin.mp4")).unwrap();
    let other = scratch.videos().join("other.mp4");
    ffmpeg(&["-f", "lavfi", "-i", "mandelbrot=size=160x120:rate=25", "-t", "5", other.to_str().unwrap()]);
    let job = scratch.job(&scratch.small_models());
    support::run(&job, &["--set", "actions.embedding=true"], 0);
    let found = query(&job, &["--like", "a.mp4@3", "--format", "lines"]);
    let rows: Vec<Vec<&str>> = found.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(rows.len(), 9, "not three segments of each of three videos: {found}");
    for (row, name) in rows.iter().zip(["/a.mp4", "/twin.mp4"]) {
        assert!(row[0].ends_with(name) && row[1].starts_with("2.13") && row[4] == "1.0", "{found}");
    }
    assert!(rows[2..].iter().all(|row| row[4].parse::<f64>().unwrap() < 1.0), "{found}");
    let absent = query_with_input(&job, &duckdb, &["--like", "a.mp4@30"], "");
    assert_eq!(absent.status.code(), Some(1), "{}", said(&absent));
    assert!(stderr(&absent).contains("no segment with an embedding at 30 s of a video a.mp4"), "{}", stderr(&absent));
    let wrong = query_with_input(&job, &duckdb, &["--like", "a.mp4"], "");
    assert!(wrong.status.code() == Some(2) && stderr(&wrong).contains("VIDEO@SECONDS"), "{}", stderr(&wrong));
}
