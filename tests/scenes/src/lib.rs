//! Draws short scenes of people who walk, wave, sit down or fall, and encodes them with common containers and codecs.
//! The clips are used for the demo, to train the demo's models, and as test clips with ground truth.
//!
//! The same seed gives the same clips. `truth.json` contains, for each video, the actions with their times, and the box
//! of each person in each frame (around the visible part, in pixels of the frame as displayed). Some people in a scene
//! may stand idle; the action is that of the others.

mod backdrop;
mod canvas;
mod crowd;
mod encode;
mod figure;
mod pose;
mod script;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use ffmpeg_next::log;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use serde::Serialize;

use canvas::{Canvas, Part};
use encode::{CROWD, KINDS, Kind, encode};
use figure::Person;
use script::script;
pub use script::{Act, Action};

/// The error can be sent between threads.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Number of cameras: `cam-1` to `cam-3`.
const CAMERAS: usize = 3;
/// Maximum pan of the camera to each side, in pixels.
const PAN: f32 = 24.0;
/// A person with a smaller visible share than this is listed as hidden.
const VISIBLE_MIN: f32 = 0.4;
/// A person with a smaller share of their width inside the frame than this is listed as hidden.
const INSIDE_MIN: f32 = 0.5;

/// One video of `truth.json`.
#[derive(Serialize)]
pub struct Truth {
    /// Path relative to the archive.
    pub path: String,
    /// Consecutive actions that cover the whole video.
    pub actions: Vec<Act>,
    /// In presentation order.
    pub frames: Vec<FrameTruth>,
}

/// The boxes `[x1, y1, x2, y2]` of the people in one frame, around the visible part of each.
#[derive(Serialize)]
pub struct FrameTruth {
    /// Time since the first frame.
    pub time_seconds: f64,
    /// People who should be detected.
    pub persons: Vec<[f32; 4]>,
    /// The number of each of them, which is the same in all frames.
    pub numbers: Vec<u8>,
    /// People with a visible part that is too small.
    pub hidden: Vec<[f32; 4]>,
}

impl fmt::Display for Truth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.frames.last().map_or(0.0, |frame| frame.time_seconds);
        let labels: Vec<&str> = self.actions.iter().map(|act| act.label.name()).collect();
        write!(f, "{}  {seconds:.1} s  {}", self.path, labels.join(", "))
    }
}

/// Draws and encodes the clips on all cores, and writes `truth.json`.
pub fn write(out: &Path, seed: u64, clips: usize) -> Result<Vec<Truth>> {
    write_with(out, clips, |number| clip(out, seed, number))
}

/// As [`write`], with clips of people who walk across the frame, to follow them. They have no actions.
pub fn write_crowd(out: &Path, seed: u64, clips: usize) -> Result<Vec<Truth>> {
    write_with(out, clips, |number| crowd_clip(out, seed, number))
}

fn write_with(out: &Path, clips: usize, one: impl Fn(usize) -> Result<Truth> + Sync) -> Result<Vec<Truth>> {
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
            drawn.push((number, one(number)?));
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

/// Writes one clip of the archive. Consecutive clips have different kinds.
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

fn crowd_clip(out: &Path, seed: u64, number: usize) -> Result<Truth> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(number as u64);
    let kind = &CROWD;
    let path = format!("crowd-{:03}.{}", number + 1, kind.extension);
    std::fs::create_dir_all(out)?;
    let scene = crowd::scene(&mut rng, kind, number);
    let frames = encode(&out.join(&path), kind, &scene, &mut rng).map_err(|error| format!("{path}: {error}"))?;
    Ok(Truth { path, actions: vec![], frames })
}

/// A background, people from back to front, and their actions.
struct Scene {
    /// Wider than the frame, by the maximum pan to each side.
    background: Canvas,
    size: (usize, usize),
    people: Vec<Actor>,
    /// What is in front of them.
    front: Vec<Part>,
    script: Vec<Act>,
    seconds: f32,
    pan: Pan,
    light: f32,
    /// Noise of the sensor: standard deviation of a pixel's brightness, of 256 levels.
    noise: f32,
    noise_seed: u64,
}

/// A person, and what they do.
struct Actor {
    person: Person,
    script: Vec<Act>,
}

/// The movement of the camera from side to side.
struct Pan {
    pixels: f32,
    seconds: f32,
    phase: f32,
}

impl Scene {
    /// The scene of clip `number`, which is eight to eleven seconds long.
    fn new(rng: &mut ChaCha8Rng, kind: &Kind, number: usize) -> Self {
        let (width, height) = kind.displayed_size();
        let side = width.min(height) as f32;
        let leader = Person::new(rng, (width, height), 0.5);
        // People walk only within the square in the middle of the frame, because an action model may see no more.
        let room = (0.36 * side - 0.1 * leader.height).max(0.0);
        let (script, start) = script(rng, number, room, leader.walking_speed());
        let front = leader.ground;
        let mut people = vec![leader.placed(width as f32 / 2.0 + start)];
        // The others stand alternately to the left and right, so that they do not overlap.
        let first_side = if rng.next_u32().is_multiple_of(2) { 1.0 } else { -1.0 };
        for other in 0..rng.next_u32() % 4 {
            let side = if other % 2 == 0 { first_side } else { -first_side };
            let place = 0.5 + side * if other < 2 { between(rng, 0.2, 0.42) } else { between(rng, 0.34, 0.44) };
            let other = Person::new(rng, (width, height), place);
            // On average, half of the others do the same as the leader.
            people.push(if rng.next_u32().is_multiple_of(2) { other } else { other.idle_behind(front) });
        }
        people.sort_by(|a, b| a.ground.total_cmp(&b.ground));
        let moves = rng.next_u32().is_multiple_of(2);
        let pan = Pan {
            pixels: if moves { between(rng, 4.0, PAN) } else { 0.0 },
            seconds: between(rng, 6.0, 14.0),
            phase: between(rng, 0.0, 1.0),
        };
        let people = people.into_iter().map(|person| Actor { person, script: script.clone() }).collect();
        Self {
            background: backdrop::draw(rng, (width + 2 * PAN as usize, height)),
            size: (width, height),
            people,
            front: vec![],
            seconds: script.last().map_or(0.0, |act| act.end_seconds),
            script,
            pan,
            light: between(rng, 0.75, 1.12),
            noise: between(rng, 0.0, 6.0),
            noise_seed: rng.next_u64(),
        }
    }

    /// Draws the frame at this time, and returns it with its ground truth.
    fn draw(&self, seconds: f32) -> (Canvas, FrameTruth) {
        let swing = (std::f32::consts::TAU * (seconds / self.pan.seconds + self.pan.phase)).sin();
        let offset = self.pan.pixels * swing;
        let mut canvas = self.background.view(self.size.0, PAN + offset);
        for Actor { person, script } in &self.people {
            person.stools(script).iter().for_each(|part| part.shifted(-offset).draw(&mut canvas, 0));
        }
        let mut full = Vec::new();
        for (Actor { person, script }, owner) in self.people.iter().zip(1..) {
            let mut figure = person.figure(script, seconds);
            figure.iter_mut().for_each(|part| *part = part.shifted(-offset));
            person.cast_shadow(&figure, &mut canvas);
            figure.iter().for_each(|part| part.draw(&mut canvas, owner));
            let (left, right) = figure
                .iter()
                .map(Part::sides)
                .fold((f32::MAX, f32::MIN), |sides, part| (sides.0.min(part.0), sides.1.max(part.1)));
            let inside = right.min(self.size.0 as f32) - left.max(0.0);
            full.push((canvas.owned(owner).1, inside >= INSIDE_MIN * (right - left)));
        }
        self.front.iter().for_each(|part| part.draw(&mut canvas, 0));
        let mut truth = FrameTruth { time_seconds: 0.0, persons: vec![], numbers: vec![], hidden: vec![] };
        for ((full, is_inside), owner) in full.into_iter().zip(1..) {
            if let (Some(visible), pixels) = canvas.owned(owner) {
                if is_inside && pixels as f32 >= VISIBLE_MIN * full as f32 {
                    truth.persons.push(visible);
                    truth.numbers.push(owner);
                } else {
                    truth.hidden.push(visible);
                }
            }
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.noise_seed);
        rng.set_stream((seconds * 1000.0).round() as u64);
        canvas.expose(self.light, self.noise, &mut rng);
        (canvas, truth)
    }
}

/// A random number in `[low, high)`.
fn between(rng: &mut ChaCha8Rng, low: f32, high: f32) -> f32 {
    low + (high - low) * (rng.next_u32() >> 8) as f32 / (1 << 24) as f32
}
