//! Queries on ten million boxes in DuckDB: seconds and bytes read, with filters with which DuckDB can skip files and
//! row groups, and with the same filters in a form with which it cannot.
//!
//! ```text
//! cargo bench --bench query                          half a minute to write the tables, 300 MB of disk
//! VIDINDEX_BENCH_MILLIONS=3 cargo bench --bench query
//! ```
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run fails")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use vidindex::tables::{PersonRow, Provenance, VideoRow, VideoStatus};
use vidindex::work::encode::ShardEncoder;

/// Boxes of a video: 5 per frame, with one frame per second.
const BOXES: u32 = 10_000;
const DAYS: u32 = 20;
const MODEL: &str = "yolov5s-03ab77d1";

fn main() {
    let millions: u32 = std::env::var("VIDINDEX_BENCH_MILLIONS").ok().map_or(10, |text| text.parse().unwrap());
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let started = Instant::now();
    let videos = millions * 1_000_000 / BOXES;
    write(folder.path(), videos);
    println!("{millions} million boxes of {videos} videos written in {:.1} s", started.elapsed().as_secs_f64());
    let video = id(videos / 2);
    for (what, filter) in [
        ("one video", format!("video_id = '{video}'")),
        ("a minute of it", format!("video_id = '{video}' AND time_seconds >= 60 AND time_seconds < 120")),
        ("clear boxes", "confidence > 0.98".to_owned()),
        ("late boxes", "time_seconds >= 1940".to_owned()),
        ("one day", "dt = DATE '2026-11-07'".to_owned()),
    ] {
        // A condition that may differ from row to row cannot be pushed down to the files.
        let opaque = format!("CASE WHEN random() < 2 THEN {filter} END");
        for table in ["persons", "current_persons"] {
            let [(rows, seconds, bytes), (all_rows, all_seconds, all_bytes)] =
                [&filter, &opaque].map(|filter| query(folder.path(), table, filter));
            assert_eq!(rows, all_rows);
            println!(
                "{what:14} {table:16} {rows:>9} rows: {seconds:.2} s, {:>6.1} MB; \
                 without skipping {all_seconds:.2} s, {:>6.1} MB",
                bytes as f64 / 1e6,
                all_bytes as f64 / 1e6
            );
        }
    }
}

/// Runs a query. Returns the number of rows that match, the seconds, and the bytes that DuckDB read.
fn query(index: &Path, table: &str, filter: &str) -> (u64, f64, u64) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vidindex"));
    command.args(["query", "--format", "lines"]).arg(index);
    let started = Instant::now();
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let sql =
        format!("SELECT count(x1 + y1 + x2 + y2) FROM {table} WHERE {filter};\n.shell grep ^rchar /proc/$PPID/io\n");
    child.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let seconds = started.elapsed().as_secs_f64();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut numbers = text.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
    (numbers.next().unwrap(), seconds, numbers.next().unwrap())
}

fn id(video: u32) -> String {
    // In no order, like hashes.
    format!("{:032x}", u128::from(video + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
}

/// Writes one shard per day.
fn write(index: &Path, videos: u32) {
    for day in 0..DAYS {
        let run = Provenance {
            run_id: "20261123T000000000Z-000001".to_owned(),
            shard: day,
            fingerprint: "0".repeat(16),
            actions_model: None,
            persons_model: Some(MODEL.to_owned()),
        };
        let scratch = tempfile::tempdir().unwrap();
        let mut encoder = ShardEncoder::new(scratch.path(), run.clone());
        let partition = format!("dt=2026-11-{:02}", day + 1);
        for video in (0..videos).filter(|video| video % DAYS == day) {
            let row = video_row(video, &run);
            let persons = persons(video, &row);
            encoder.push_rows(&partition, &row.uri, &persons).unwrap();
            encoder.push(&partition, row).unwrap();
        }
        for part in encoder.finish().unwrap() {
            let to = index.join(&part.key);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(part.path, to).unwrap();
        }
    }
}

fn video_row(video: u32, run: &Provenance) -> VideoRow {
    let time: DateTime<Utc> = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
    VideoRow {
        video_id: id(video).into(),
        uri: format!("s3://archive/2026/{video:08}.mp4").into(),
        etag: format!("{video:032x}"),
        version_id: None,
        size_bytes: 100_000_000,
        last_modified: time,
        status: VideoStatus::Ok,
        error_kind: None,
        error_message: None,
        failures: None,
        container: Some("matroska,webm".to_owned()),
        codec: Some("h264".to_owned()),
        width: Some(1920),
        height: Some(1080),
        rotation: Some(0),
        mirrored: Some(false),
        frames_per_second: Some(25.0),
        start_seconds: Some(0.0),
        duration_seconds: Some(2000.0),
        frames_decoded: 50_000,
        frames_presented: Some(50_000),
        decode_mode: None,
        full_decode_reason: None,
        segments: 0,
        boxes: i64::from(BOXES),
        actions_model: None,
        persons_model: run.persons_model.clone(),
        precision: Some("fp32"),
        fingerprint: run.fingerprint.clone(),
        run_id: run.run_id.as_str().into(),
        shard: run.shard,
        indexed_at: time,
        decode_seconds: 60.0,
        inference_seconds: 30.0,
    }
}

/// Boxes move like walking people, so that the values are neither constant nor random.
fn persons(video: u32, row: &VideoRow) -> Vec<PersonRow> {
    let label: Arc<str> = "person".into();
    let person = |n: u32| {
        let (second, b) = (n / 5, n % 5);
        let noise = f32::from((n.wrapping_mul(2_654_435_761) ^ video.wrapping_mul(40_503)) as u16) / 65_536.0;
        let (x, y) = ((second * (3 + b) % 1800) as f32 + noise, 300.0 + 40.0 * b as f32 + noise * 3.0);
        // A few videos have higher confidences.
        let best = if video % 500 == 7 { 1.0 } else { 0.95 };
        PersonRow {
            video_id: row.video_id.clone(),
            uri: row.uri.clone(),
            segment: None,
            time_seconds: f64::from(second),
            frame: i64::from(second) * 25,
            r#box: b as i32,
            label: label.clone(),
            x1: x,
            y1: y,
            x2: x + 80.0 + noise,
            y2: y + 200.0 - noise,
            confidence: 0.25 + (best - 0.25) * noise,
            actions: None,
            track_id: None,
            run_id: row.run_id.clone(),
        }
    };
    (0..BOXES).map(person).collect()
}
