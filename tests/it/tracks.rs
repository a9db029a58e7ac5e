//! Jobs that track: boxes of one person have one number, and the boxes are those of a job that does not track.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};
use vidindex::infer::boxes::Detection;
use vidindex::track::{Tracker, Tracks};

use crate::support::tables::rows;
use crate::support::tracking::{Comparison, Figures, Numbered};
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
    let with_tracks: Vec<_> = tracked.iter().filter(|row| !row["track_id"].is_null()).cloned().collect();
    let numbered = tracked.iter().filter(|row| !row["track_id"].is_null()).count();
    assert!(numbered * 100 >= tracked.len() * 95, "{numbered} of {} boxes have a track", tracked.len());
    assert!((3..=20).contains(&tracks.len()), "{tracks:?}");

    assert!(plain.iter().all(|row| row["track_id"].is_null()));
    tracked.iter_mut().for_each(|row| drop(row.insert("track_id".to_owned(), Value::Null)));
    assert_eq!(tracked, plain);

    // The gaps of tracks, which a view fills: five frames are examined each second.
    let mut times = BTreeMap::<(String, i64), Vec<f64>>::new();
    for row in &with_tracks {
        let key = (row["video_id"].to_string(), row["track_id"].as_i64().unwrap());
        times.entry(key).or_default().push(row["time_seconds"].as_f64().unwrap());
    }
    let steps =
        times.values().flat_map(|times| times.windows(2).map(|pair| ((pair[1] - pair[0]) * 5.0).round() as i64));
    let missing: i64 = steps.filter(|steps| *steps <= 10).map(|steps| steps - 1).sum();
    assert!(missing > 0, "no track has a gap");
    let sql = "SELECT count(*), count(confidence), count(*) FILTER (x1 > x2) FROM filled_persons";
    let shown = query(&tracked_index, &["--format", "csv", sql]);
    let all = plain.len() as i64;
    assert_eq!(shown.lines().last(), Some(&*format!("{},{all},0", all + missing)));

    let sql = "SELECT count(*), sum(boxes), count(*) FILTER (last_seconds < first_seconds) FROM current_tracks";
    let shown = query(&tracked_index, &["--format", "csv", sql]);
    assert_eq!(shown.lines().last(), Some(&*format!("{},{numbered},0", tracks.len())));
    assert_eq!(query(&scratch.index(), &["--format", "lines", "SELECT count(*) FROM current_tracks"]).trim(), "0");
}

/// A person's number and box.
type Person = (i64, f64, f64, f64, f64);

/// Scenes by `tests/it/support/crowd_reference.py`, with the figures of the reference's tracks.
#[derive(Deserialize)]
struct Crowd {
    scenes: Vec<CrowdScene>,
    overall: ReferenceFigures,
}

#[derive(Deserialize)]
struct CrowdScene {
    /// Number and box of each visible person of each frame.
    people: Vec<Vec<Person>>,
    /// Boxes of the detector, weak ones, too: their corners and score.
    boxes: Vec<Vec<[f32; 5]>>,
    /// The reference's number of each box.
    tracks: Vec<Vec<Option<i64>>>,
    mota: f64,
    idf1: f64,
}

#[derive(Deserialize)]
struct ReferenceFigures {
    mota: f64,
    idf1: f64,
}

const CONFIDENCE: f32 = 0.25;

impl CrowdScene {
    fn people(&self) -> Vec<Vec<Numbered>> {
        let frame =
            |people: &Vec<Person>| people.iter().map(|&(number, x1, y1, x2, y2)| (number, [x1, y1, x2, y2])).collect();
        self.people.iter().map(frame).collect()
    }

    /// The boxes that are rows, with their numbers.
    fn followed(&self, tracks: &[Vec<Option<i64>>]) -> Vec<Vec<Numbered>> {
        let frame = |(boxes, numbers): (&Vec<[f32; 5]>, &Vec<Option<i64>>)| {
            let strong = boxes.iter().zip(numbers).filter(|(found, _)| found[4] > CONFIDENCE);
            let corners = |found: &[f32; 5]| [0, 1, 2, 3].map(|edge| f64::from(found[edge]));
            strong.filter_map(|(found, number)| Some(((*number)?, corners(found)))).collect()
        };
        self.boxes.iter().zip(tracks).map(frame).collect()
    }

    fn own_tracks(&self) -> Vec<Vec<Option<i64>>> {
        let mut tracker = Tracker::new(5.0, CONFIDENCE);
        let mut all: Vec<Vec<Option<i64>>> = Vec::new();
        for boxes in &self.boxes {
            let detection = |found: &[f32; 5]| Detection {
                xyxy: [found[0], found[1], found[2], found[3]],
                confidence: found[4],
                class: 0,
            };
            let Tracks { numbers, begun } = tracker.next(&boxes.iter().map(detection).collect::<Vec<_>>());
            for (position, number) in begun {
                all.last_mut().unwrap()[position] = Some(number);
            }
            all.push(numbers);
        }
        all
    }
}

fn figures<'a>(videos: impl IntoIterator<Item = (&'a Vec<Vec<Numbered>>, &'a Vec<Vec<Numbered>>)>) -> Figures {
    let mut comparison = Comparison::default();
    videos.into_iter().for_each(|(truth, found)| comparison.add(truth, found));
    comparison.figures()
}

#[test]
fn people_who_cross_hide_and_come_back_are_followed_as_well_as_by_the_reference() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/crowd.json");
    let crowd: Crowd = serde_json::from_str(&std::fs::read_to_string(fixture).unwrap()).unwrap();
    let near = |a: f64, b: f64| (a - b).abs() < 1e-6;
    let mut own = Vec::new();
    for scene in &crowd.scenes {
        let truth = scene.people();
        let reference = figures([(&truth, &scene.followed(&scene.tracks))]);
        assert!(
            near(reference.mota, scene.mota) && near(reference.idf1, scene.idf1),
            "{reference:?} {} {}",
            scene.mota,
            scene.idf1
        );
        own.push((truth, scene.followed(&scene.own_tracks())));
    }
    let own = figures(own.iter().map(|(truth, found)| (truth, found)));
    let reference = &crowd.overall;
    println!("MOTA {:.4} ({:.4}), IDF1 {:.4} ({:.4})", own.mota, reference.mota, own.idf1, reference.idf1);
    assert!((own.mota - reference.mota).abs() <= 0.02, "{own:?}, {}", reference.mota);
    assert!(own.idf1 >= 0.85 && own.idf1 > reference.idf1 - 0.02, "{own:?}, {}", reference.idf1);
}

#[test]
fn drawn_people_are_followed_through_real_videos() {
    let scratch = Scratch::new();
    let videos = scenes::write_crowd(&scratch.videos(), 20_264, 3).unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo-yolov5.onnx");
    run(&scratch.job(&format!("[persons]\nmodel = \"{}\"\ntrack = true\n", model.display())), &[], 0);
    let rows = persons(&scratch.index());
    let mut all = Vec::new();
    for video in &videos {
        let of_video = rows.iter().filter(|row| row["uri"].as_str().unwrap().ends_with(&video.path));
        let mut frames: BTreeMap<i64, Vec<Numbered>> =
            (0..video.frames.len() as i64).step_by(5).map(|at| (at, vec![])).collect();
        for row in of_video.filter(|row| !row["track_id"].is_null()) {
            let corners = ["x1", "y1", "x2", "y2"].map(|edge| row[edge].as_f64().unwrap());
            frames.get_mut(&row["frame"].as_i64().unwrap()).unwrap().push((row["track_id"].as_i64().unwrap(), corners));
        }
        let truth: Vec<Vec<Numbered>> = frames
            .keys()
            .map(|&at| {
                let frame = &video.frames[at as usize];
                let boxes = frame.persons.iter().map(|corners| corners.map(f64::from));
                frame.numbers.iter().copied().map(i64::from).zip(boxes).collect()
            })
            .collect();
        all.push((truth, frames.into_values().collect::<Vec<_>>()));
    }
    let figures = figures(all.iter().map(|(truth, found)| (truth, found)));
    println!("{figures:?}");
    assert!(figures.idf1 >= 0.8 && figures.mota >= 0.85, "{figures:?}");
}
