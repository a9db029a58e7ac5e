//! Scenes to follow people through: they walk across the frame, cross each other, vanish behind a pillar, stop, leave and come
//! back. Each has a script of its own.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng as _;

use super::canvas::Part;
use super::encode::Kind;
use super::figure::Person;
use super::script::{Act, Action};
use super::{Actor, PAN, Pan, Scene, backdrop, between};

/// Length of a scene.
const SECONDS: f32 = 26.0;
/// People of a scene.
const PEOPLE: usize = 4;
/// Share of the height of a person who starts beside the frame that is between them and its edge.
const BESIDE: f32 = 0.3;

/// The scene of clip `clip`, with a pillar in front of the people.
pub(crate) fn scene(rng: &mut ChaCha8Rng, kind: &Kind, clip: usize) -> Scene {
    let size = kind.displayed_size();
    let (width, height) = (size.0 as f32, size.1 as f32);
    let mut people: Vec<Actor> = (0..PEOPLE).map(|number| actor(rng, size, number, clip.is_multiple_of(3))).collect();
    people.sort_by(|a, b| a.person.ground.total_cmp(&b.person.ground));
    let pillar = between(rng, 0.3, 0.7) * width;
    Scene {
        background: backdrop::draw(rng, (size.0 + 2 * PAN as usize, size.1)),
        size,
        people,
        front: vec![Part {
            from: [pillar, 0.0],
            to: [pillar, height],
            radii: [0.016 * width; 2],
            colour: [120, 116, 110],
        }],
        script: vec![],
        seconds: SECONDS,
        pan: Pan { pixels: 0.0, seconds: 1.0, phase: 0.0 },
        light: between(rng, 0.85, 1.1),
        noise: between(rng, 0.0, 4.0),
        noise_seed: rng.next_u64(),
    }
}

/// Every second person comes from the right. The first stops for a while on the way. In each third scene, the second leaves and comes
/// back.
fn actor(rng: &mut ChaCha8Rng, size: (usize, usize), number: usize, comes_back: bool) -> Actor {
    let person = Person::new(rng, size, 0.5);
    let (width, speed) = (size.0 as f32, person.walking_speed());
    let (there, back) = match number.is_multiple_of(2) {
        true => (Action::WalkRight, Action::WalkLeft),
        false => (Action::WalkLeft, Action::WalkRight),
    };
    let beside = BESIDE * person.height;
    let start = if there.heading() > 0.0 { -beside } else { width + beside };
    let across = (width + 2.0 * beside) / speed;
    let wait = between(rng, 0.0, 0.6) + 3.0 * number as f32;
    let acts = match number {
        0 => vec![(Action::Stand, wait), (there, 0.25 * across), (Action::Stand, 2.5), (there, 0.75 * across)],
        1 if comes_back => vec![(Action::Stand, wait), (there, across), (Action::Stand, 3.0), (back, across)],
        _ => vec![(Action::Stand, wait), (there, across)],
    };
    let mut script: Vec<Act> = Vec::new();
    for (label, seconds) in acts {
        let start_seconds = script.last().map_or(0.0, |act| act.end_seconds);
        script.push(Act { label, start_seconds, end_seconds: start_seconds + seconds });
    }
    Actor { person: person.placed(start), script }
}
