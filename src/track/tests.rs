//! Tests of the tracker: against the reference, and of what is always true.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Scene {
    /// Left, top, right, bottom and score of each box of each frame.
    frames: Vec<Vec<[f32; 5]>>,
    tracks: Vec<Vec<Option<i64>>>,
}

fn detections(boxes: &[[f32; 5]], class: usize) -> Vec<Detection> {
    boxes
        .iter()
        .map(|[x1, y1, x2, y2, confidence]| Detection { xyxy: [*x1, *y1, *x2, *y2], confidence: *confidence, class })
        .collect()
}

/// The number of each box of each frame, with those that the next frame gave. Checks what is always true.
fn tracked(tracker: &mut Tracker, frames: &[Vec<Detection>]) -> Vec<Vec<Option<i64>>> {
    let mut all: Vec<Vec<Option<i64>>> = Vec::new();
    for boxes in frames {
        let Tracks { numbers, begun } = tracker.next(boxes);
        assert_eq!(numbers.len(), boxes.len());
        for (position, number) in begun {
            assert_eq!(all.last_mut().unwrap()[position].replace(number), None);
        }
        all.push(numbers);
    }
    for numbers in &all {
        let given: Vec<i64> = numbers.iter().copied().flatten().collect();
        assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), given.len(), "two boxes of a frame with one number");
    }
    let given: BTreeSet<i64> = all.iter().flatten().copied().flatten().collect();
    assert!(given.iter().copied().eq(1..=given.len() as i64), "{given:?}");
    all
}

/// The fixture was made with a lost track's limit of five frames.
#[test]
fn the_tracks_are_those_of_the_reference() {
    let scenes: Vec<Scene> = serde_json::from_str(
        &std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tracks.json")).unwrap(),
    )
    .unwrap();
    let mut compared = 0;
    for (number, scene) in scenes.iter().enumerate() {
        let mut tracker = Tracker::new(5.0, 0.25);
        assert_eq!(tracker.lost_frames_max, 5);
        let (mut names, mut seen) = (BTreeMap::new(), BTreeSet::new());
        for (frame, (boxes, expected)) in scene.frames.iter().zip(&scene.tracks).enumerate() {
            let found = tracker.next(&detections(boxes, 0)).numbers;
            for (position, (own, reference)) in found.into_iter().zip(expected).enumerate() {
                let at = format!("scene {number}, frame {frame}, box {position}");
                assert_eq!(own.is_some(), reference.is_some(), "{at}: {own:?}, {reference:?}");
                let (Some(own), Some(reference)) = (own, reference) else { continue };
                if !names.contains_key(&own) {
                    assert!(
                        seen.insert(reference),
                        "{at}: the reference continues {reference}, which is another track here"
                    );
                }
                assert_eq!(names.entry(own).or_insert(reference), &reference, "{at}");
                compared += 1;
            }
        }
    }
    assert!(compared > 2000, "{compared}");
}

#[test]
fn an_object_gets_its_number_with_its_second_box_and_keeps_it_while_it_is_weak_or_hidden() {
    let at = |x: f32, confidence| Detection { xyxy: [x, 0.0, x + 40.0, 100.0], confidence, class: 0 };
    let frames = [
        vec![],
        vec![at(0.0, 0.9)],
        vec![at(4.0, 0.9), at(300.0, 0.9)],
        vec![at(8.0, 0.15)],
        vec![],
        vec![at(16.0, 0.8), at(300.0, 0.15)],
    ];
    let numbers = tracked(&mut Tracker::new(5.0, 0.25), &frames);
    let one = Some(1);
    assert_eq!(numbers, [vec![], vec![one], vec![one, None], vec![one], vec![], vec![one, None]]);
}

#[test]
fn an_object_that_was_away_for_more_than_a_second_is_another_one() {
    let found = || vec![Detection { xyxy: [0.0, 0.0, 40.0, 100.0], confidence: 0.9, class: 0 }];
    for (away, number) in [(4, 1), (5, 2)] {
        let mut frames = vec![found(), found()];
        frames.extend((0..away).map(|_| vec![]));
        frames.extend([found(), found()]);
        let numbers = tracked(&mut Tracker::new(4.0, 0.25), &frames);
        assert_eq!(numbers.last().unwrap(), &[Some(number)], "away for {away} frames");
    }
}

proptest! {
    #[test]
    fn classes_do_not_affect_each_other(frames in prop::collection::vec(prop::collection::vec(
        (0.0..60.0f32, 0.0..30.0f32, 1.0..60.0f32, 0.0..1.0f32, 0..3usize), 0..9), 1..12)) {
        let frames: Vec<Vec<Detection>> = frames.iter().map(|boxes| boxes.iter().map(|(x, y, side, confidence, class)| {
            Detection { xyxy: [*x, *y, x + side, y + side], confidence: *confidence, class: *class }
        }).collect()).collect();
        let together = tracked(&mut Tracker::new(3.0, 0.25), &frames);
        for class in 0..3 {
            let of_class = |found: &&Detection| found.class == class;
            let alone: Vec<Vec<Detection>> = frames.iter().map(|boxes| boxes.iter().filter(of_class).copied().collect()).collect();
            let alone = tracked(&mut Tracker::new(3.0, 0.25), &alone);
            let shared = frames.iter().zip(&together).flat_map(|(boxes, numbers)| {
                boxes.iter().zip(numbers).filter(|(found, _)| found.class == class).map(|(_, number)| *number)
            });
            let mut names = BTreeMap::new();
            for (own, shared) in alone.into_iter().flatten().zip(shared) {
                prop_assert_eq!(*names.entry(own).or_insert(shared), shared);
                prop_assert_eq!(own.is_some(), shared.is_some());
            }
        }
    }
}
