//! Jobs that track: boxes of one person have one number, and the boxes are those of a job that does not track.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value};

use crate::support::tables::rows;
use crate::support::{Scratch, query, run};

fn persons(index: &Path) -> Vec<Map<String, Value>> {
    let mut rows = rows(index, "persons");
    rows.iter_mut().for_each(|row| drop(row.remove("run_id")));
    rows
}

#[test]
fn tracked_boxes_are_those_of_a_job_without_tracks_and_have_numbers() {
    let scratch = Scratch::new();
    scenes::write(&scratch.videos(), 5, 3).unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo-yolov5.onnx");
    let job = scratch.job(&format!("[persons]\nmodel = \"{}\"\n", model.display()));
    run(&job, &["--set", "persons.frames_per_second=5"], 0);
    let plain = persons(&scratch.index());

    let tracked_index = scratch.path("tracked");
    let output = format!("output.uri={}", tracked_index.display());
    run(&job, &["--set", "persons.track=true", "--set", &output], 0);
    let mut tracked = persons(&tracked_index);

    let mut of_frames = BTreeMap::new();
    let mut tracks = BTreeSet::new();
    for row in &tracked {
        if let Some(track) = row["track_id"].as_i64() {
            let frame = (row["video_id"].to_string(), row["frame"].as_i64());
            assert!(of_frames.entry(frame).or_insert_with(BTreeSet::new).insert(track), "twice in a frame: {row:?}");
            tracks.insert((row["video_id"].to_string(), track));
        }
    }
    let numbered = tracked.iter().filter(|row| !row["track_id"].is_null()).count();
    assert!(numbered * 100 >= tracked.len() * 95, "{numbered} of {} boxes have a track", tracked.len());
    assert!((3..=20).contains(&tracks.len()), "{tracks:?}");

    assert!(plain.iter().all(|row| row["track_id"].is_null()));
    tracked.iter_mut().for_each(|row| drop(row.insert("track_id".to_owned(), Value::Null)));
    assert_eq!(tracked, plain);

    let sql = "SELECT count(*), sum(boxes), count(*) FILTER (last_seconds < first_seconds) FROM current_tracks";
    let shown = query(&tracked_index, &["--format", "csv", sql]);
    assert_eq!(shown.lines().last(), Some(&*format!("{},{numbered},0", tracks.len())));
    assert_eq!(query(&scratch.index(), &["--format", "lines", "SELECT count(*) FROM current_tracks"]).trim(), "0");
}
