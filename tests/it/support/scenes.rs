//! Draws short scenes of people who walk, wave, sit down, fall..., and encodes them in the containers and codecs that
//! archives hold: the demo's clips, the demo models' training data, and test clips whose truth is known.
//!
//! The same seed gives the same clips. `truth.json` says, for each video, which action happens when and where each
//! person is in each frame (what is seen of them, in pixels of the frame as displayed). Of a crowd some stand idly by:
//! the action is what all others do.

#[path = "scenes/backdrop.rs"]
mod backdrop;
#[path = "scenes/canvas.rs"]
mod canvas;
#[path = "scenes/encode.rs"]
mod encode;
#[path = "scenes/figure.rs"]
mod figure;
#[path = "scenes/pose.rs"]
mod pose;
#[path = "scenes/script.rs"]
mod script;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use ffmpeg_next::log;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use serde::Serialize;

use canvas::Canvas;
use encode::{KINDS, Kind, encode};
use figure::Person;
use script::{Act, script};

/// What may go wrong in a clip; threads hand it over.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Cameras of the archive: `cam-1` to `cam-3`.
const CAMERAS: usize = 3;
/// Widest swing of the camera, in pixels to each side.
const PAN: f32 = 24.0;
/// People of whom less than this share is seen are listed as hidden.
const SEEN: f32 = 0.4;

/// One video of `truth.json`.
#[derive(Serialize)]
pub(crate) struct Truth {
    /// Below the archive.
    pub(crate) path: String,
    /// One after the other, over the whole video.
    pub(crate) actions: Vec<Act>,
    /// In presentation order.
    pub(crate) frames: Vec<FrameTruth>,
}

/// Who is where in one frame: boxes `[x1, y1, x2, y2]` around what is seen of each.
#[derive(Serialize)]
pub(crate) struct FrameTruth {
    /// From the first frame.
    pub(crate) time_seconds: f64,
    /// Those who can be seen.
    pub(crate) persons: Vec<[f32; 4]>,
    /// Those of whom too little is seen to ask for them.
    pub(crate) hidden: Vec<[f32; 4]>,
}

impl fmt::Display for Truth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.actions.last().map_or(0.0, |act| act.end_seconds);
        let labels: Vec<&str> = self.actions.iter().map(|act| act.label.name()).collect();
        write!(f, "{}  {seconds:.1} s  {}", self.path, labels.join(", "))
    }
}

/// Draws and encodes the clips on all cores, then writes their truth beside them.
pub(crate) fn write(out: &Path, seed: u64, clips: usize) -> Result<Vec<Truth>> {
    ffmpeg_next::init()?;
    log::set_level(log::Level::Error);
    let next = AtomicUsize::new(0);
    let draw = || {
        let mut drawn = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= clips {
                return Ok(drawn);
            }
            drawn.push((number, clip(out, seed, number)?));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let drawn: Vec<Result<_>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(draw)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err("a clip's thread panicked".into())))
            .collect()
    });
    let mut videos = Vec::new();
    for some in drawn {
        videos.extend(some?);
    }
    videos.sort_by_key(|(number, _)| *number);
    let videos: Vec<Truth> = videos.into_iter().map(|(_, truth)| truth).collect();
    std::fs::write(out.join("truth.json"), serde_json::to_vec(&BTreeMap::from([("videos", &videos)]))?)?;
    Ok(videos)
}

/// One clip of the archive; the ways to store it go round.
fn clip(out: &Path, seed: u64, number: usize) -> Result<Truth> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(number as u64);
    let kind = &KINDS[number % KINDS.len()];
    let path = format!("cam-{}/clip-{:03}.{}", number % CAMERAS + 1, number + 1, kind.extension);
    let file = out.join(&path);
    std::fs::create_dir_all(file.parent().unwrap_or(out))?;
    let scene = Scene::new(&mut rng, kind, number);
    let frames = encode(&file, kind, &scene, &mut rng).map_err(|error| format!("{path}: {error}"))?;
    Ok(Truth { path, actions: scene.script, frames })
}

/// A background, people in it from back to front, and what they do.
struct Scene {
    /// Wider than the frame by the camera's swing.
    background: Canvas,
    size: (usize, usize),
    people: Vec<Person>,
    script: Vec<Act>,
    pan: Pan,
    light: f32,
    /// Of the camera's sensor: spread of a pixel's brightness, in steps of 256.
    noise: f32,
    noise_seed: u64,
}

/// How the camera swings from side to side.
struct Pan {
    pixels: f32,
    seconds: f32,
    phase: f32,
}

impl Scene {
    /// The scene of the `number`th clip, eight to eleven seconds long.
    fn new(rng: &mut ChaCha8Rng, kind: &Kind, number: usize) -> Self {
        let (width, height) = kind.displayed_size();
        let side = width.min(height) as f32;
        let leader = Person::new(rng, (width, height), 0.5);
        // Room to walk in: as far as the square in the frame's middle, which is all that an action model may see.
        let room = (0.36 * side - 0.1 * leader.height).max(0.0);
        let (script, start) = script(rng, number, room, leader.walking_speed());
        let front = leader.ground;
        let mut people = vec![leader.placed(width as f32 / 2.0 + start)];
        // To the left and right of the first in turn, so that they do not all stand in one place.
        let first_side = if rng.next_u32().is_multiple_of(2) { 1.0 } else { -1.0 };
        for other in 0..rng.next_u32() % 4 {
            let side = if other % 2 == 0 { first_side } else { -first_side };
            let place = 0.5 + side * if other < 2 { between(rng, 0.2, 0.42) } else { between(rng, 0.34, 0.44) };
            let other = Person::new(rng, (width, height), place);
            // Every second one does as the first does.
            people.push(if rng.next_u32().is_multiple_of(2) { other } else { other.idle_behind(front) });
        }
        people.sort_by(|a, b| a.ground.total_cmp(&b.ground));
        let moves = rng.next_u32().is_multiple_of(2);
        let pan = Pan {
            pixels: if moves { between(rng, 4.0, PAN) } else { 0.0 },
            seconds: between(rng, 6.0, 14.0),
            phase: between(rng, 0.0, 1.0),
        };
        Self {
            background: backdrop::draw(rng, (width + 2 * PAN as usize, height)),
            size: (width, height),
            people,
            script,
            pan,
            light: between(rng, 0.75, 1.12),
            noise: between(rng, 0.0, 6.0),
            noise_seed: rng.next_u64(),
        }
    }

    fn seconds(&self) -> f32 {
        self.script.last().map_or(0.0, |act| act.end_seconds)
    }

    /// Draws the moment, and says where the people are.
    fn draw(&self, seconds: f32) -> (Canvas, FrameTruth) {
        let swing = (std::f32::consts::TAU * (seconds / self.pan.seconds + self.pan.phase)).sin();
        let offset = self.pan.pixels * swing;
        let mut canvas = self.background.view(self.size.0, PAN + offset);
        for person in &self.people {
            person.stools(&self.script).iter().for_each(|part| part.shifted(-offset).draw(&mut canvas, 0));
        }
        let mut whole = Vec::new();
        for (person, owner) in self.people.iter().zip(1..) {
            let mut figure = person.figure(&self.script, seconds);
            figure.iter_mut().for_each(|part| *part = part.shifted(-offset));
            person.cast_shadow(&figure, &mut canvas);
            figure.iter().for_each(|part| part.draw(&mut canvas, owner));
            whole.push(canvas.owned(owner).1);
        }
        let mut truth = FrameTruth { time_seconds: 0.0, persons: vec![], hidden: vec![] };
        for (whole, owner) in whole.into_iter().zip(1..) {
            if let (Some(seen), pixels) = canvas.owned(owner) {
                let list = if pixels as f32 >= SEEN * whole as f32 { &mut truth.persons } else { &mut truth.hidden };
                list.push(seen);
            }
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.noise_seed);
        rng.set_stream((seconds * 1000.0).round() as u64);
        canvas.expose(self.light, self.noise, &mut rng);
        (canvas, truth)
    }
}

/// A number of `[low, high)`.
fn between(rng: &mut ChaCha8Rng, low: f32, high: f32) -> f32 {
    low + (high - low) * (rng.next_u32() >> 8) as f32 / (1 << 24) as f32
}
