//! Tracks: follows boxes from frame to frame with ByteTrack (Zhang et al. 2022), so that boxes of one object get one number.
//!
//! Strong boxes are matched with all tracks first. Weak boxes, which a detector gives to objects that are partly hidden,
//! continue tracks that are left. The settings are those of Ultralytics' `bytetrack.yaml`: a box is strong at the detector's
//! usual threshold, and two more are different, because those are for thirty frames per second: strong boxes continue a track at a
//! smaller overlap, and velocities change faster. Each class is tracked by itself.

mod assign;
mod motion;

use std::collections::BTreeMap;

use crate::infer::boxes::{Detection, iou};
use assign::{Assigned, assign};
use motion::{Motion, Noise};

/// Boxes with a score of at most this continue no track.
pub const WEAK_MIN: f32 = 0.1;

/// A lost track is continued after at most this time.
const LOST_SECONDS_MAX: f64 = 1.0;

/// Largest cost, 1 - IoU x score, of a strong box and a track. `bytetrack.yaml` has 0.8.
const STRONG_COST_MAX: f64 = 0.9;

/// Largest cost, 1 - IoU, of a weak box and a track.
const WEAK_COST_MAX: f64 = 0.5;

/// Largest cost, 1 - IoU x score, of a strong box and a track that consists of one box.
const FIRST_COST_MAX: f64 = 0.7;

/// A lost track with this IoU to a visible one is the same object.
const SAME_IOU_MIN: f64 = 0.85;

/// Follows the objects of one video.
#[derive(Debug)]
pub struct Tracker {
    /// Boxes above this score are strong.
    strong: f32,
    /// Number of frames after which a lost track ends.
    lost_frames_max: u32,
    noise: Noise,
    frame: u32,
    numbers: i64,
    classes: BTreeMap<usize, Class>,
}

/// The tracks of the boxes of a frame.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tracks {
    /// The track of each box. `None` for weak boxes without a track, and for objects that were seen for the first time: the
    /// next frame decides whether they get a number.
    pub numbers: Vec<Option<i64>>,
    /// Boxes of the frame before, by position, whose tracks are known now.
    pub begun: Vec<(usize, i64)>,
}

#[derive(Debug, Default)]
struct Class {
    visible: Vec<Track>,
    lost: Vec<Track>,
    /// Seen once. Not predicted, because the speed is unknown.
    new: Vec<Track>,
}

#[derive(Debug, Clone)]
struct Track {
    /// `None` before the second box.
    number: Option<i64>,
    motion: Motion,
    first_frame: u32,
    last_frame: u32,
    /// Position of its box in the last frame in which it was seen.
    position: usize,
}

impl Tracker {
    /// A tracker for a video of which this many frames per second are seen. `strong` is the score above which a box alone
    /// is an object.
    pub fn new(frames_per_second: f64, strong: f32) -> Self {
        let lost_frames_max = (frames_per_second * LOST_SECONDS_MAX).round().max(1.0) as u32;
        let noise = Noise::at(frames_per_second);
        Self { strong, lost_frames_max, noise, frame: 0, numbers: 0, classes: BTreeMap::new() }
    }

    /// Continues the tracks with the boxes of the next frame.
    pub fn next(&mut self, boxes: &[Detection]) -> Tracks {
        self.frame += 1;
        for found in boxes {
            self.classes.entry(found.class).or_default();
        }
        let mut tracks = Tracks { numbers: vec![None; boxes.len()], begun: Vec::new() };
        for (class, state) in &mut self.classes {
            let of_class = boxes.iter().enumerate().filter(|(_, found)| found.class == *class);
            let (strong, weak): (Vec<_>, Vec<_>) = of_class.partition(|(_, found)| found.confidence > self.strong);
            let weak = weak.into_iter().filter(|(_, found)| found.confidence > WEAK_MIN).collect();
            let step = Step { frame: self.frame, noise: self.noise, numbers: &mut self.numbers, tracks: &mut tracks };
            state.next(strong, weak, step);
            state.lost.retain(|track| self.frame - track.last_frame <= self.lost_frames_max);
            state.drop_duplicates();
        }
        tracks
    }
}

type Boxes<'a> = Vec<(usize, &'a Detection)>;

/// What one frame changes besides the tracks of a class.
struct Step<'a> {
    frame: u32,
    noise: Noise,
    numbers: &'a mut i64,
    tracks: &'a mut Tracks,
}

impl Class {
    fn next(&mut self, strong: Boxes<'_>, weak: Boxes<'_>, mut step: Step<'_>) {
        let visible_before = self.visible.len();
        let mut tracks: Vec<Track> = self.visible.drain(..).chain(self.lost.drain(..)).collect();
        for (at, track) in tracks.iter_mut().enumerate() {
            track.motion.predict(at < visible_before, step.noise);
        }
        let first = matched(&tracks, &strong, scored, STRONG_COST_MAX);
        let mut seen = vec![false; tracks.len()];
        for (track, found) in first.pairs {
            step.see(&mut tracks[track], strong[found]);
            seen[track] = true;
        }

        let hidden: Vec<usize> = first.rows.into_iter().filter(|track| *track < visible_before).collect();
        let candidates = hidden.iter().map(|track| &tracks[*track]);
        for (track, found) in matched(candidates, &weak, unscored, WEAK_COST_MAX).pairs {
            step.see(&mut tracks[hidden[track]], weak[found]);
            seen[hidden[track]] = true;
        }

        let rest: Boxes<'_> = first.columns.into_iter().map(|found| strong[found]).collect();
        let mut new = std::mem::take(&mut self.new);
        let second = matched(&new, &rest, scored, FIRST_COST_MAX);
        for (track, found) in second.pairs {
            step.begin(&mut new[track]);
            step.see(&mut new[track], rest[found]);
            self.visible.push(new[track].clone());
        }
        for found in second.columns {
            let (position, found) = rest[found];
            let motion = Motion::new(found.xyxy, step.noise);
            let mut track = Track { number: None, motion, first_frame: step.frame, last_frame: step.frame, position };
            // Nothing could have been seen before.
            if step.frame == 1 {
                step.begin(&mut track);
                step.tracks.numbers[position] = track.number;
                self.visible.push(track);
            } else {
                self.new.push(track);
            }
        }
        for (track, seen) in tracks.into_iter().zip(seen) {
            if seen { self.visible.push(track) } else { self.lost.push(track) }
        }
    }

    /// Of a visible and a lost track of one object, keeps the one that was seen for longer.
    fn drop_duplicates(&mut self) {
        let age = |track: &Track| track.last_frame - track.first_frame;
        let all = self.visible.iter().chain(&self.new);
        let mut dropped = (Vec::new(), Vec::new());
        for (at, visible) in all.enumerate() {
            for (other, lost) in self.lost.iter().enumerate() {
                if f64::from(iou(&visible.motion.xyxy(), &lost.motion.xyxy())) > SAME_IOU_MIN {
                    if age(visible) > age(lost) { dropped.1.push(other) } else { dropped.0.push(at) }
                }
            }
        }
        let visible = self.visible.len();
        keep(&mut self.visible, |at| !dropped.0.contains(&at));
        keep(&mut self.new, |at| !dropped.0.contains(&(at + visible)));
        keep(&mut self.lost, |at| !dropped.1.contains(&at));
    }
}

fn keep(tracks: &mut Vec<Track>, is_kept: impl Fn(usize) -> bool) {
    let mut positions = 0..;
    tracks.retain(|_| positions.next().is_some_and(&is_kept));
}

impl Step<'_> {
    fn see(&mut self, track: &mut Track, (position, found): (usize, &Detection)) {
        track.motion.update(found.xyxy);
        (track.last_frame, track.position) = (self.frame, position);
        self.tracks.numbers[position] = track.number;
    }

    /// Gives the track a number, and its only box the same.
    fn begin(&mut self, track: &mut Track) {
        *self.numbers += 1;
        track.number = Some(*self.numbers);
        if track.last_frame < self.frame {
            self.tracks.begun.push((track.position, *self.numbers));
        }
    }
}

/// Matches tracks (rows) with boxes (columns).
fn matched<'a>(
    tracks: impl IntoIterator<Item = &'a Track>,
    boxes: &[(usize, &Detection)],
    cost: fn(f64, f64) -> f64,
    cost_max: f64,
) -> Assigned {
    let expected: Vec<[f32; 4]> = tracks.into_iter().map(|track| track.motion.xyxy()).collect();
    let of = |track: usize, found: usize| {
        let found = boxes[found].1;
        cost(f64::from(iou(&expected[track], &found.xyxy)), f64::from(found.confidence))
    };
    assign(expected.len(), boxes.len(), of, cost_max)
}

fn scored(iou: f64, score: f64) -> f64 {
    1.0 - iou * score
}

fn unscored(iou: f64, _: f64) -> f64 {
    1.0 - iou
}

#[cfg(test)]
mod tests;
