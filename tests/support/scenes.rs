//! Draws short scenes of people who walk, wave, jump and squat, and encodes them in the containers and codecs that
//! archives hold: the demo's clips, and test clips whose truth is known.
//!
//! The same seed gives the same clips. `truth.json` says, for each video, which action happens when and where each
//! person is in each frame (the figure's extent in pixels of the frame as displayed, clipped to it; a person behind
//! another keeps the whole box).

#[path = "scenes/canvas.rs"]
mod canvas;
#[path = "scenes/encode.rs"]
mod encode;
#[path = "scenes/figure.rs"]
mod figure;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;

use clap::Parser;
use ffmpeg_next::log;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use serde::Serialize;

use canvas::{Canvas, Part, extent, shade};
use encode::{Kind, encode};
use figure::Person;

/// Stored frame size of every clip.
const SIZE: (usize, usize) = (480, 360);

/// The ways a clip is stored; a longer archive repeats them.
const KINDS: [Kind; 6] = [
    Kind { extension: "mp4", encoder: "libx264", frame_rate: (25, 1), rotated: false },
    Kind { extension: "webm", encoder: "libvpx-vp9", frame_rate: (30, 1), rotated: false },
    Kind { extension: "mov", encoder: "libx264", frame_rate: (30, 1), rotated: true },
    Kind { extension: "avi", encoder: "mpeg4", frame_rate: (30_000, 1001), rotated: false },
    Kind { extension: "mkv", encoder: "libx265", frame_rate: (25, 1), rotated: false },
    Kind { extension: "mkv", encoder: "libx264", frame_rate: (30_000, 1001), rotated: false },
];

/// Draws and encodes the clips, then writes their truth beside them.
fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    ffmpeg_next::init()?;
    log::set_level(log::Level::Error);
    let mut videos = Vec::new();
    for number in 0..arguments.clips {
        let mut rng = ChaCha8Rng::seed_from_u64(arguments.seed);
        rng.set_stream(number as u64);
        let kind = &KINDS[number % KINDS.len()];
        let path = format!("cam-{}/clip-{:02}.{}", number % 2 + 1, number + 1, kind.extension);
        let file = arguments.out.join(&path);
        std::fs::create_dir_all(file.parent().unwrap_or(&arguments.out))?;
        let scene = Scene::new(&mut rng, kind.displayed_size(), number);
        let frames = encode(&file, kind, &scene).map_err(|error| format!("{path}: {error}"))?;
        println!("{path}  {:.1} s  {}", scene.seconds(), scene.labels().join(", "));
        videos.push(Truth { path, actions: scene.script, frames });
    }
    let truth = BTreeMap::from([("videos", videos)]);
    std::fs::write(arguments.out.join("truth.json"), serde_json::to_vec(&truth)?)?;
    Ok(())
}

/// Draws scenes of moving people and encodes them as video clips.
#[derive(Parser)]
struct Arguments {
    /// Another seed, other scenes.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many clips.
    #[arg(long, default_value_t = 6)]
    clips: usize,
    /// The folder to write to.
    #[arg(long)]
    out: PathBuf,
}

/// One video of `truth.json`.
#[derive(Serialize)]
struct Truth {
    path: String,
    actions: Vec<Act>,
    frames: Vec<FrameTruth>,
}

/// What everybody in the scene does during `[start_seconds, end_seconds)`.
#[derive(Serialize)]
struct Act {
    label: Action,
    start_seconds: f32,
    end_seconds: f32,
}

/// The boxes `[x1, y1, x2, y2]` of one frame.
#[derive(Serialize)]
struct FrameTruth {
    time_seconds: f64,
    persons: Vec<[f32; 4]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Action {
    Walking,
    Waving,
    JumpingJacks,
    Squatting,
}

/// A background, people in it from back to front, and what they do.
struct Scene {
    background: Canvas,
    people: Vec<Person>,
    script: Vec<Act>,
}

impl Scene {
    /// The scene of the `number`th clip: six to eight seconds, two or three actions; all of them appear over four clips.
    fn new(rng: &mut ChaCha8Rng, (width, height): (usize, usize), number: usize) -> Self {
        const ACTIONS: [Action; 4] = [Action::Walking, Action::Waving, Action::JumpingJacks, Action::Squatting];
        let seconds = (between(rng, 6.0, 8.0) * 10.0).round() / 10.0;
        let acts = 2 + number % 2;
        let step = 1 + 2 * (number / 4 % 2);
        let script = (0..acts)
            .map(|act| Act {
                label: ACTIONS[(number + act * step) % ACTIONS.len()],
                start_seconds: (seconds * 10.0 * act as f32 / acts as f32).round() / 10.0,
                end_seconds: (seconds * 10.0 * (act + 1) as f32 / acts as f32).round() / 10.0,
            })
            .collect();
        let people = 1 + (rng.next_u32() % if width > height { 3 } else { 2 }) as usize;
        let mut people: Vec<Person> =
            (0..people).map(|index| Person::new(rng, (width, height), (index as f32 + 0.5) / people as f32)).collect();
        people.sort_by(|a, b| a.ground.total_cmp(&b.ground));
        Self { background: backdrop(rng, (width, height)), people, script }
    }

    fn seconds(&self) -> f32 {
        self.script.last().map_or(0.0, |act| act.end_seconds)
    }

    fn labels(&self) -> Vec<String> {
        self.script.iter().map(|act| format!("{:?}", act.label)).collect()
    }

    /// Draws the moment, and says where the people are.
    fn draw(&self, seconds: f32) -> (Canvas, Vec<[f32; 4]>) {
        let mut canvas = self.background.clone();
        let mut boxes = Vec::new();
        for person in &self.people {
            let figure = person.figure(&self.script, seconds);
            person.cast_shadow(&figure, &mut canvas);
            figure.iter().for_each(|part| part.draw(&mut canvas));
            boxes.extend(extent(&figure, &canvas));
        }
        (canvas, boxes)
    }
}

/// A room or a park: wall or sky, floor, and a few things that are not people.
fn backdrop(rng: &mut ChaCha8Rng, (width, height): (usize, usize)) -> Canvas {
    let outdoors = rng.next_u32().is_multiple_of(2);
    let (far, near) = if outdoors { ([150, 190, 225], [104, 142, 84]) } else { ([198, 186, 166], [138, 104, 78]) };
    let tint = between(rng, 0.85, 1.1);
    let horizon = 0.6 * height as f32;
    let mut canvas = Canvas { width, height, rgb: vec![0; width * height * 3] };
    for y in 0..height {
        let below = y as f32 >= horizon;
        let light = tint * if below { 0.8 + 0.3 * y as f32 / height as f32 } else { 1.1 - 0.25 * y as f32 / horizon };
        for x in 0..width {
            // Planks or mown stripes that run towards the horizon, so that the floor has texture.
            let run = (x as f32 - width as f32 / 2.0) / (y as f32 - 0.45 * height as f32).abs().max(1.0);
            let stripe = if below && (run * 6.0).rem_euclid(2.0) < 1.0 { 0.94 } else { 1.0 };
            canvas.blend(x, y, shade(if below { near } else { far }, light * stripe), 1.0);
        }
    }
    for place in 0..3 {
        let x = (place as f32 + between(rng, 0.2, 0.8)) / 3.0 * width as f32;
        let part = |from, to, radii, colour| Part { from, to, radii, colour };
        if outdoors {
            let top = horizon - between(rng, 60.0, 110.0);
            part([x, top], [x, horizon + 6.0], [5.0, 8.0], [92, 68, 50]).draw(&mut canvas);
            for (dx, dy, radius) in [(-16.0, 0.0, 24.0), (18.0, -4.0, 26.0), (0.0, -24.0, 28.0)] {
                part([x + dx, top + dy], [x + dx, top + dy], [radius; 2], [66, 112, 62]).draw(&mut canvas);
            }
        } else {
            let (top, half) = (between(rng, 30.0, 60.0), between(rng, 26.0, 42.0));
            for (grow, colour) in [(5, [112, 88, 70]), (0, [120 + place * 30, 160, 190 - place * 40])] {
                for y in top as usize - grow..top as usize + 70 + grow {
                    for x in (x - half) as isize - grow as isize..(x + half) as isize + grow as isize {
                        canvas.blend(x.clamp(0, width as isize - 1) as usize, y, colour, 1.0);
                    }
                }
            }
        }
    }
    canvas
}

/// A number of `[low, high)`.
fn between(rng: &mut ChaCha8Rng, low: f32, high: f32) -> f32 {
    low + (high - low) * (rng.next_u32() >> 8) as f32 / (1 << 24) as f32
}
