//! The people: what they wear, how each action bends their limbs, and the shapes that draw them.

use std::f32::consts::TAU;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng as _;

use crate::canvas::{Canvas, Part, shade};
use crate::{Act, Action, SIZE, between};

/// One figure: where it stands, how large it is, what it wears.
pub(crate) struct Person {
    x: f32,
    pub(crate) ground: f32,
    /// Standing height in pixels.
    height: f32,
    frame_width: f32,
    /// 1 walks to the right first, -1 to the left.
    heading: f32,
    /// Of a cycle, so that two people do not move as one.
    phase: f32,
    skin: [u8; 3],
    hair: [u8; 3],
    shirt: [u8; 3],
    trousers: [u8; 3],
}

/// Angles of the limbs in the picture plane (0 hangs down, positive swings to the right) and the body's attitude.
struct Pose {
    /// Upper and lower arm of both sides, then upper and lower leg.
    limbs: [[f32; 2]; 4],
    /// Of the whole figure above the ground, in standing heights.
    lift: f32,
    lean: f32,
    /// -1 looks left, 0 at the camera, 1 right.
    facing: f32,
}

impl Person {
    pub(crate) fn new(rng: &mut ChaCha8Rng, (width, height): (usize, usize), place: f32) -> Self {
        let nearness = between(rng, 0.0, 1.0);
        let pick = |rng: &mut ChaCha8Rng, colours: &[[u8; 3]]| colours[rng.next_u32() as usize % colours.len()];
        Self {
            x: (place + between(rng, -0.06, 0.06)) * width as f32,
            ground: height as f32 * (0.74 + 0.22 * nearness),
            height: SIZE.1 as f32 * (0.46 + 0.26 * nearness) * width.min(SIZE.1 + 40) as f32 / 400.0,
            frame_width: width as f32,
            heading: if rng.next_u32().is_multiple_of(2) { 1.0 } else { -1.0 },
            phase: between(rng, 0.0, 1.0),
            skin: pick(rng, &[[236, 196, 168], [205, 152, 118], [141, 93, 66], [94, 62, 46]]),
            hair: pick(rng, &[[40, 30, 26], [88, 58, 36], [170, 130, 74], [120, 116, 112]]),
            shirt: pick(rng, &[[190, 48, 48], [44, 92, 168], [232, 190, 70], [70, 70, 78], [230, 230, 226]]),
            trousers: pick(rng, &[[44, 52, 82], [60, 58, 56], [120, 104, 82], [30, 32, 36]]),
        }
    }

    /// The parts of the body at this moment, from back to front.
    pub(crate) fn figure(&self, script: &[Act], seconds: f32) -> Vec<Part> {
        let walked: f32 = script
            .iter()
            .filter(|act| act.label == Action::Walking)
            .map(|act| (seconds.min(act.end_seconds) - act.start_seconds).max(0.0))
            .sum();
        // To and fro between the frame's edges: a step keeps pace with the legs' swing, 0.75 of a height per cycle.
        let margin = 0.2 * self.height;
        let span = self.frame_width - 2.0 * margin;
        let along = self.heading * 0.75 * self.height * WALK_HZ * walked + self.x - margin;
        let lap = along.rem_euclid(2.0 * span);
        let (x, heading) = if lap < span { (lap, self.heading) } else { (2.0 * span - lap, -self.heading) };
        let current = script.iter().rposition(|act| seconds >= act.start_seconds).unwrap_or(0);
        let cycles = |act: &Act| self.phase + (seconds - act.start_seconds).max(0.0) * hertz(act.label);
        let mut pose = attitude(script[current].label, cycles(&script[current]), heading);
        if let Some(before) = current.checked_sub(1).map(|index| &script[index]) {
            let eased = ((seconds - before.end_seconds) / 0.3).clamp(0.0, 1.0);
            let left = 1.0 - eased * eased * (3.0 - 2.0 * eased);
            pose = pose.eased_from(&attitude(before.label, cycles(before), heading), left);
        }
        self.assemble(&pose, x + margin)
    }

    /// Hangs the limbs on the body in standing heights, then puts the lowest point on the ground.
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
        let arm = |side: usize| {
            let start = at(0.295, aside(side, 0.108));
            let (elbow, hand) = limb(start, pose.limbs[side], [0.165, 0.155]);
            [
                part(start, elbow, [0.036, 0.03], depth(side, self.shirt)),
                part(elbow, hand, [0.027, 0.02], depth(side, self.skin)),
                part(hand, hand, [0.026; 2], depth(side, self.skin)),
            ]
        };
        let leg = |side: usize| {
            let start = at(0.0, aside(side, 0.05));
            let (knee, ankle) = limb(start, pose.limbs[2 + side], [0.245, 0.23]);
            let toe = [ankle[0] + 0.06 * pose.facing + aside(side, 0.014), ankle[1] + 0.012];
            [
                part(start, knee, [0.054, 0.041], depth(side, self.trousers)),
                part(knee, ankle, [0.041, 0.028], depth(side, self.trousers)),
                part(ankle, toe, [0.025, 0.022], depth(side, [46, 40, 38])),
            ]
        };
        let mut parts: Vec<Part> = arm(0).into_iter().chain(leg(0)).chain(leg(1)).collect();
        let look = 0.014 * pose.facing;
        parts.extend([
            part(at(0.0, -0.02 * width), at(0.0, 0.02 * width), [0.06; 2], self.trousers),
            part(at(0.26, 0.0), at(0.05, 0.0), [0.058 + 0.035 * width, 0.056 + 0.022 * width], self.shirt),
            part(at(0.295, -0.085 * width), at(0.295, 0.085 * width), [0.042; 2], self.shirt),
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
        let lowest = parts.iter().map(|part| part.bottom()).fold(f32::MIN, f32::max);
        let place = |[px, py]: [f32; 2]| [x + self.height * px, self.ground + self.height * (py - lowest - pose.lift)];
        for part in &mut parts {
            (part.from, part.to) = (place(part.from), place(part.to));
            part.radii = part.radii.map(|radius| radius * self.height);
        }
        parts
    }

    /// Darkens the ground below the figure. No part of the person's box.
    pub(crate) fn cast_shadow(&self, figure: &[Part], canvas: &mut Canvas) {
        let left = figure.iter().map(|part| part.from[0]).fold(f32::MAX, f32::min);
        let right = figure.iter().map(|part| part.from[0]).fold(f32::MIN, f32::max);
        let radii = [0.6 * (right - left) + 0.05 * self.height, 0.045 * self.height];
        canvas.darken([0.5 * (left + right), self.ground - 0.01 * self.height], radii);
    }
}

const WALK_HZ: f32 = 0.95;

/// Cycles per second of an action.
fn hertz(action: Action) -> f32 {
    match action {
        Action::Walking => WALK_HZ,
        Action::Waving => 1.5,
        Action::JumpingJacks => 1.1,
        Action::Squatting => 0.55,
    }
}

/// The attitude after so many cycles of the action, towards the heading (-1 or 1).
fn attitude(action: Action, cycles: f32, heading: f32) -> Pose {
    let angle = TAU * cycles;
    let bent = 0.5 - 0.5 * angle.cos();
    let mirrored = |[upper, lower]: [f32; 2]| [[-upper, -lower], [upper, lower]];
    let (arms, legs, lift, lean, facing) = match action {
        Action::Walking => {
            let swing = |side: f32| 0.5 * (angle + side).sin();
            let leg = |side: f32| {
                let knee = 0.12 + 0.8 * (angle + side).cos().max(0.0);
                [heading * swing(side), heading * (swing(side) - knee)]
            };
            let arm = |side: f32| [-heading * swing(side), heading * (0.4 - swing(side))];
            let half = TAU / 2.0;
            ([arm(0.0), arm(half)], [leg(0.0), leg(half)], 0.0, 0.06 * heading, heading)
        }
        Action::Waving => {
            let mut arms = mirrored([0.14, 0.1]);
            arms[1] = [2.3, 2.9 + 0.55 * angle.sin()];
            (arms, mirrored([0.07, 0.05]), 0.0, 0.0, 0.0)
        }
        Action::JumpingJacks => {
            let arms = mirrored([0.2 + 2.4 * bent, 0.2 + 2.75 * bent]);
            (arms, mirrored([0.04 + 0.4 * bent, 0.04 + 0.36 * bent]), 0.07 * angle.sin().abs(), 0.0, 0.0)
        }
        Action::Squatting => {
            let arm = [heading * (0.1 + 1.4 * bent), heading * (0.2 + 1.35 * bent)];
            let leg = [heading * (0.05 + 1.35 * bent), heading * -0.65 * bent];
            ([arm; 2], [leg; 2], 0.0, 0.5 * heading * bent, 0.9 * heading)
        }
    };
    Pose { limbs: [arms[0], arms[1], legs[0], legs[1]], lift, lean, facing }
}

impl Pose {
    /// This pose, on the way from another: `share` of the other is left.
    fn eased_from(mut self, other: &Self, share: f32) -> Self {
        let mix = |own: &mut f32, other: f32| *own += share * (other - *own);
        for (own, other) in self.limbs.iter_mut().flatten().zip(other.limbs.iter().flatten()) {
            mix(own, *other);
        }
        mix(&mut self.lift, other.lift);
        mix(&mut self.lean, other.lean);
        mix(&mut self.facing, other.facing);
        self
    }
}
