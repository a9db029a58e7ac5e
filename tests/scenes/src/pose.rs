//! The poses of each action.

use std::f32::consts::TAU;

use super::script::Action;

/// Angles of the limbs in the picture plane (0 is down, positive angles are to the right), and the posture of the body.
#[derive(Clone)]
pub(crate) struct Pose {
    /// Upper and lower arm of both sides, and then upper and lower leg of both sides.
    pub(crate) limbs: [[f32; 2]; 4],
    /// Height of the whole figure above the ground, in standing heights.
    pub(crate) lift: f32,
    pub(crate) lean: f32,
    /// Direction of view: -1 left, 0 the camera, 1 right.
    pub(crate) facing: f32,
}

/// Individual differences in movement.
pub(crate) struct Manner {
    /// Side for turning, falling and waving: 1 or -1.
    pub(crate) side: f32,
    /// Relative speed of movement cycles.
    pub(crate) tempo: f32,
    /// Start of a movement cycle, from 0 to 1.
    pub(crate) phase: f32,
    /// Arms of an idle person: 1 on the hips, 2 one raised, 3 hands together, other values hanging.
    pub(crate) arms: u32,
}

/// Walking cycles (two steps) per second.
pub(crate) const WALK_HZ: f32 = 0.85;

/// The pose after `elapsed` of the action's `seconds`.
pub(crate) fn pose(action: Action, elapsed: f32, seconds: f32, manner: &Manner) -> Pose {
    let side = manner.side;
    let cycles = |hertz: f32| manner.phase + hertz * manner.tempo * elapsed.max(0.0);
    let done = (elapsed / seconds).clamp(0.0, 1.0);
    match action {
        Action::Stand => idle(elapsed, manner),
        Action::WalkLeft | Action::WalkRight => {
            walk(TAU * (manner.phase + WALK_HZ * elapsed.max(0.0)), action.heading())
        }
        Action::Wave => {
            let angle = 2.9 + 0.6 * (TAU * cycles(1.6)).sin();
            let mut pose = upright(mirrored([0.14, 0.1]), 0.15 * side);
            pose.limbs[usize::from(side > 0.0)] = [2.3 * side, angle * side];
            pose
        }
        Action::Clap => {
            let open = 0.5 - 0.5 * (TAU * cycles(2.0)).cos();
            upright(mirrored([0.4 + 0.45 * open, -1.95 + 1.75 * open]), 0.15 * side)
        }
        Action::Jump => jump(cycles(0.95).fract(), side),
        Action::SitDown => upright(mirrored([0.14, 0.1]), 0.7 * side).towards(&seated(side), smooth(done)),
        Action::StandUp => seated(side).towards(&upright(mirrored([0.14, 0.1]), 0.7 * side), smooth(done)),
        Action::Sit => {
            let mut pose = seated(side);
            pose.lean += 0.03 * (TAU * cycles(0.25)).sin();
            pose
        }
        // The fall accelerates.
        Action::Fall => upright(mirrored([0.3, 0.4]), 0.5 * side).towards(&lying(side), (done / 0.85).min(1.0).powi(2)),
        Action::Lie => {
            let mut pose = lying(side);
            pose.limbs[0][1] += 0.06 * (TAU * cycles(0.2)).sin();
            pose
        }
    }
}

impl Pose {
    /// Interpolates between this pose (share 0) and the other (share 1).
    pub(crate) fn towards(&self, other: &Self, share: f32) -> Self {
        let mix = |own: f32, other: f32| own + share * (other - own);
        Self {
            limbs: std::array::from_fn(|limb| {
                std::array::from_fn(|bone| mix(self.limbs[limb][bone], other.limbs[limb][bone]))
            }),
            lift: mix(self.lift, other.lift),
            lean: mix(self.lean, other.lean),
            facing: mix(self.facing, other.facing),
        }
    }
}

/// Smooths a share, so that a movement starts and ends slowly.
pub(crate) fn smooth(share: f32) -> f32 {
    share * share * (3.0 - 2.0 * share)
}

fn mirrored([upper, lower]: [f32; 2]) -> [[f32; 2]; 2] {
    [[-upper, -lower], [upper, lower]]
}

fn upright(arms: [[f32; 2]; 2], facing: f32) -> Pose {
    let legs = mirrored([0.07, 0.05]);
    Pose { limbs: [arms[0], arms[1], legs[0], legs[1]], lift: 0.0, lean: 0.0, facing }
}

/// Stands and sways a little. The arms may be as in another action, but they do not move.
fn idle(elapsed: f32, manner: &Manner) -> Pose {
    let sway = (TAU * (manner.phase + 0.22 * manner.tempo * elapsed)).sin();
    let mut arms = mirrored(match manner.arms {
        1 => [0.75, -0.65],
        3 => [0.4, -1.95],
        _ => [0.14, 0.1],
    });
    if manner.arms == 2 {
        arms[usize::from(manner.side > 0.0)] = [2.3 * manner.side, 2.9 * manner.side];
    }
    arms[0][1] += 0.05 * sway;
    let mut pose = upright(arms, 0.4 * manner.side);
    pose.lean = 0.02 * sway;
    pose
}

fn walk(angle: f32, heading: f32) -> Pose {
    let swing = |turn: f32| 0.42 * (angle + turn).sin();
    let leg = |turn: f32| {
        let knee = 0.1 + 0.75 * (angle + turn).cos().max(0.0);
        [heading * swing(turn), heading * (swing(turn) - knee)]
    };
    let arm = |turn: f32| [-heading * swing(turn), heading * (0.35 - swing(turn))];
    let half = TAU / 2.0;
    Pose { limbs: [arm(0.0), arm(half), leg(0.0), leg(half)], lift: 0.0, lean: 0.06 * heading, facing: heading }
}

/// Crouches, jumps with raised arms, and lands.
fn jump(cycle: f32, side: f32) -> Pose {
    let flight = ((cycle - 0.35) / 0.45).clamp(0.0, 1.0);
    let crouch = if flight == 0.0 { (cycle / 0.35 * TAU / 2.0).sin() } else { ((cycle - 0.8) / 0.2).max(0.0) * 0.4 };
    let air = 4.0 * flight * (1.0 - flight);
    let arms = mirrored([0.25 + 2.3 * air, 0.2 + 2.6 * air]);
    let leg = |outward: f32| [outward * (0.08 + 0.75 * crouch), outward * (0.06 - 0.6 * crouch)];
    let legs = [leg(-1.0), leg(1.0)];
    Pose { limbs: [arms[0], arms[1], legs[0], legs[1]], lift: 0.24 * air, lean: 0.0, facing: 0.2 * side }
}

/// Sits on a stool, seen from the side.
fn seated(side: f32) -> Pose {
    let arm = [0.35 * side, 1.1 * side];
    let leg = |ahead: f32| [side * (1.42 + ahead), side * 0.04];
    Pose { limbs: [arm, arm, leg(0.0), leg(0.08)], lift: 0.0, lean: 0.05 * side, facing: 0.8 * side }
}

/// Lies flat on the ground.
fn lying(side: f32) -> Pose {
    let flat = -1.5 * side;
    let limbs = [[flat + 0.5, flat + 0.2], [flat - 0.4, flat - 0.1], [flat, flat], [flat + 0.12, flat - 0.1]];
    Pose { limbs, lift: 0.0, lean: 1.5 * side, facing: 0.6 * side }
}
