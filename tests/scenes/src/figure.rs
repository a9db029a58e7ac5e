//! The people: their build, their clothes, and the shapes that draw them.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng as _;

use super::between;
use super::canvas::{Canvas, Part, shade};
use super::pose::{Manner, Pose, WALK_HZ, pose, smooth};
use super::script::{Act, Action};

/// Distance per walking cycle (two steps), in standing heights.
const STRIDE: f32 = 0.72;
/// Duration of the transition from one action to the next.
const CHANGE_SECONDS: f32 = 0.25;

/// One person: position, size and clothes.
pub(crate) struct Person {
    x: f32,
    pub(crate) ground: f32,
    /// Standing height in pixels.
    pub(crate) height: f32,
    /// Thickness of the limbs.
    build: f32,
    /// Whether the person only stands.
    is_idle: bool,
    manner: Manner,
    skin: [u8; 3],
    hair: [u8; 3],
    shirt: [u8; 3],
    trousers: [u8; 3],
    shoes: [u8; 3],
    short_sleeves: bool,
    short_trousers: bool,
    long_hair: bool,
}

impl Person {
    /// A random person at `place`, which is a share of the frame's width.
    pub(crate) fn new(rng: &mut ChaCha8Rng, (width, height): (usize, usize), place: f32) -> Self {
        let side = width.min(height) as f32;
        let nearness = between(rng, 0.0, 1.0);
        let pick = |rng: &mut ChaCha8Rng, colours: &[[u8; 3]]| colours[rng.next_u32() as usize % colours.len()];
        let dye = |rng: &mut ChaCha8Rng| [0; 3].map(|_: u8| 25 + (rng.next_u32() % 215) as u8);
        let chance = |rng: &mut ChaCha8Rng| rng.next_u32().is_multiple_of(2);
        Self {
            x: place * width as f32,
            ground: height as f32 * (0.76 + 0.2 * nearness),
            height: side * (0.38 + 0.14 * nearness) * between(rng, 0.8, 1.15),
            build: between(rng, 0.85, 1.3),
            is_idle: false,
            manner: Manner {
                side: if chance(rng) { 1.0 } else { -1.0 },
                tempo: between(rng, 0.85, 1.2),
                phase: between(rng, 0.0, 1.0),
                arms: rng.next_u32() % 6,
            },
            skin: pick(rng, &[[236, 196, 168], [205, 152, 118], [141, 93, 66], [94, 62, 46]]),
            hair: pick(rng, &[[40, 30, 26], [88, 58, 36], [170, 130, 74], [120, 116, 112], [196, 190, 182]]),
            shirt: dye(rng),
            trousers: dye(rng),
            shoes: pick(rng, &[[46, 40, 38], [210, 206, 200], [120, 70, 50]]),
            short_sleeves: chance(rng),
            short_trousers: rng.next_u32().is_multiple_of(4),
            long_hair: chance(rng),
        }
    }

    pub(crate) fn placed(self, x: f32) -> Self {
        Self { x, ..self }
    }

    /// Makes the person stand idle behind the one at `ground`.
    pub(crate) fn idle_behind(self, ground: f32) -> Self {
        Self { is_idle: true, ground: self.ground.min(ground - 1.0), ..self }
    }

    /// Speed in pixels per second.
    pub(crate) fn walking_speed(&self) -> f32 {
        STRIDE * WALK_HZ * self.height
    }

    /// The horizontal position at this time.
    fn place(&self, script: &[Act], seconds: f32) -> f32 {
        let walked = script.iter().map(|act| {
            act.label.heading() * (seconds.min(act.end_seconds) - act.start_seconds).max(0.0) * self.walking_speed()
        });
        self.x + walked.sum::<f32>()
    }

    /// The parts of the body at this time, from back to front.
    pub(crate) fn figure(&self, script: &[Act], seconds: f32) -> Vec<Part> {
        if self.is_idle {
            return self.assemble(&pose(Action::Stand, seconds, 1.0, &self.manner), self.x);
        }
        let at =
            |act: &Act| pose(act.label, seconds - act.start_seconds, act.end_seconds - act.start_seconds, &self.manner);
        let current = script.iter().rposition(|act| seconds >= act.start_seconds).unwrap_or(0);
        let mut own = at(&script[current]);
        if let Some(before) = current.checked_sub(1).map(|index| &script[index]) {
            let share = ((seconds - before.end_seconds) / CHANGE_SECONDS).clamp(0.0, 1.0);
            own = at(before).towards(&own, smooth(share));
        }
        self.assemble(&own, self.place(script, seconds))
    }

    /// The stools on which the person sits during the scene. They are visible from the start.
    pub(crate) fn stools(&self, script: &[Act]) -> Vec<Part> {
        let acts = script.iter().filter(|act| act.label == Action::SitDown && !self.is_idle);
        let stool = |act: &Act| {
            let (x, top) = (self.place(script, act.start_seconds), self.ground - 0.2 * self.height);
            let half = 0.1 * self.height;
            let leg = |x: f32, foot: f32| Part {
                from: [x, top],
                to: [foot, self.ground - 0.02 * self.height],
                radii: [0.016 * self.height; 2],
                colour: [96, 70, 50],
            };
            let seat = Part {
                from: [x - half, top],
                to: [x + half, top],
                radii: [0.03 * self.height; 2],
                colour: [134, 98, 68],
            };
            [leg(x - 0.8 * half, x - half), leg(x + 0.8 * half, x + half), seat]
        };
        acts.flat_map(stool).collect()
    }

    /// Assembles the body, in standing heights, and then puts its lowest point on the ground.
    fn assemble(&self, pose: &Pose, x: f32) -> Vec<Part> {
        let (up, across) = ([pose.lean.sin(), -pose.lean.cos()], [pose.lean.cos(), pose.lean.sin()]);
        let at = |height: f32, side: f32| [up[0] * height + across[0] * side, up[1] * height + across[1] * side];
        let width = (1.0 - pose.facing * pose.facing).max(0.0).sqrt().max(0.25);
        let aside = |side: usize, half: f32| (side as f32 * 2.0 - 1.0) * half * width;
        let depth = |side: usize, colour| if side == 0 { shade(colour, 0.82) } else { colour };
        let limb = |start: [f32; 2], [upper, lower]: [f32; 2], [first, second]: [f32; 2]| {
            let joint = [start[0] + first * upper.sin(), start[1] + first * upper.cos()];
            (joint, [joint[0] + second * lower.sin(), joint[1] + second * lower.cos()])
        };
        let part = |from, to, radii, colour| Part { from, to, radii, colour };
        let thick = |radii: [f32; 2]| radii.map(|radius| radius * self.build);
        let forearm = if self.short_sleeves { self.skin } else { self.shirt };
        let shin = if self.short_trousers { self.skin } else { self.trousers };
        let arm = |side: usize| {
            let start = at(0.295, aside(side, 0.108));
            let (elbow, hand) = limb(start, pose.limbs[side], [0.165, 0.155]);
            [
                part(start, elbow, thick([0.036, 0.03]), depth(side, self.shirt)),
                part(elbow, hand, thick([0.027, 0.02]), depth(side, forearm)),
                part(hand, hand, [0.026; 2], depth(side, self.skin)),
            ]
        };
        let leg = |side: usize| {
            let start = at(0.0, aside(side, 0.05));
            let (knee, ankle) = limb(start, pose.limbs[2 + side], [0.245, 0.23]);
            let toe = [
                ankle[0] + (0.06 * pose.facing + aside(side, 0.014)) * pose.lean.cos() + 0.05 * pose.lean.sin(),
                ankle[1] + 0.012 - 0.05 * pose.lean.sin().abs(),
            ];
            [
                part(start, knee, thick([0.054, 0.041]), depth(side, self.trousers)),
                part(knee, ankle, thick([0.041, 0.028]), depth(side, shin)),
                part(ankle, toe, [0.025, 0.022], depth(side, self.shoes)),
            ]
        };
        let mut parts: Vec<Part> = arm(0).into_iter().chain(leg(0)).chain(leg(1)).collect();
        let look = 0.014 * pose.facing;
        if self.long_hair {
            parts.push(part(at(0.43, -2.0 * look), at(0.33, -3.0 * look), [0.06, 0.045], self.hair));
        }
        parts.extend([
            part(at(0.0, -0.02 * width), at(0.0, 0.02 * width), thick([0.06; 2]), self.trousers),
            part(at(0.26, 0.0), at(0.05, 0.0), thick([0.058 + 0.035 * width, 0.056 + 0.022 * width]), self.shirt),
            part(at(0.295, -0.085 * width), at(0.295, 0.085 * width), thick([0.042; 2]), self.shirt),
            part(at(0.32, 0.0), at(0.37, 0.0), [0.028; 2], shade(self.skin, 0.85)),
            part(at(0.43, -look), at(0.415, -look), [0.062; 2], self.hair),
            part(at(0.42, look), at(0.39, look), [0.054, 0.042], self.skin),
            part(at(0.462, 0.03 * width), at(0.462, -0.03 * width), [0.028; 2], self.hair),
        ]);
        for eye in [-0.02, 0.02] {
            let place = at(0.418, eye * width + 0.034 * pose.facing);
            parts.push(part(place, place, [0.007; 2], [40, 34, 34]));
        }
        parts.extend(arm(1));
        let lowest = parts.iter().map(Part::bottom).fold(f32::MIN, f32::max);
        let place = |[px, py]: [f32; 2]| [x + self.height * px, self.ground + self.height * (py - lowest - pose.lift)];
        for part in &mut parts {
            (part.from, part.to) = (place(part.from), place(part.to));
            part.radii = part.radii.map(|radius| radius * self.height);
        }
        parts
    }

    /// Darkens the ground below the figure. The shadow does not belong to the person's box.
    pub(crate) fn cast_shadow(&self, figure: &[Part], canvas: &mut Canvas) {
        let left = figure.iter().map(|part| part.from[0]).fold(f32::MAX, f32::min);
        let right = figure.iter().map(|part| part.from[0]).fold(f32::MIN, f32::max);
        let radii = [0.6 * (right - left) + 0.05 * self.height, 0.045 * self.height];
        canvas.darken([0.5 * (left + right), self.ground - 0.01 * self.height], radii);
    }
}
