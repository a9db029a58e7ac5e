//! The actions of a scene: one after another, each possible in the posture in which the previous one ends.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng as _;
use serde::Serialize;

use super::between;

/// An action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say everything")]
pub enum Action {
    Stand,
    WalkLeft,
    WalkRight,
    Wave,
    Clap,
    Jump,
    SitDown,
    Sit,
    StandUp,
    Fall,
    Lie,
}

/// An action during `[start_seconds, end_seconds)`.
#[derive(Debug, Clone, Serialize)]
pub struct Act {
    /// What everyone who is not idle does.
    pub label: Action,
    /// Time since the first frame.
    pub start_seconds: f32,
    /// The next action starts here.
    pub end_seconds: f32,
}

/// Minimum length of a clip.
const SECONDS: f32 = 8.0;

impl Action {
    /// The label of the demo's model.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stand => "stand",
            Self::WalkLeft => "walk_left",
            Self::WalkRight => "walk_right",
            Self::Wave => "wave",
            Self::Clap => "clap",
            Self::Jump => "jump",
            Self::SitDown => "sit_down",
            Self::Sit => "sit",
            Self::StandUp => "stand_up",
            Self::Fall => "fall",
            Self::Lie => "lie",
        }
    }

    /// Direction of movement: -1 left, 1 right, 0 none.
    pub(crate) fn heading(self) -> f32 {
        match self {
            Self::WalkLeft => -1.0,
            Self::WalkRight => 1.0,
            _ => 0.0,
        }
    }

    /// The actions that may follow.
    fn followers(self) -> &'static [Self] {
        match self {
            Self::SitDown => &[Self::Sit],
            Self::Sit => &[Self::StandUp],
            Self::Fall => &[Self::Lie],
            Self::Lie => &[],
            _ => &UPRIGHT,
        }
    }

    /// Minimum and maximum duration.
    fn seconds(self) -> (f32, f32) {
        match self {
            Self::SitDown | Self::StandUp | Self::Fall => (1.1, 1.5),
            Self::WalkLeft | Self::WalkRight => (1.7, 2.5),
            Self::Stand | Self::Sit | Self::Lie => (1.5, 2.3),
            Self::Wave | Self::Clap | Self::Jump => (2.0, 3.0),
        }
    }
}

/// The actions that a standing person can start.
const UPRIGHT: [Action; 8] = [
    Action::WalkLeft,
    Action::Wave,
    Action::SitDown,
    Action::Jump,
    Action::WalkRight,
    Action::Clap,
    Action::Fall,
    Action::Stand,
];

/// The script of clip `number`, and the start position of the leader, in pixels from the middle. The leader stays
/// within `room` pixels of the middle. All actions except a fall are equally often the first one, and every third clip
/// ends with a fall.
pub(crate) fn script(rng: &mut ChaCha8Rng, number: usize, room: f32, speed: f32) -> (Vec<Act>, f32) {
    // A fall is never first, because nothing but lying can follow it.
    let begins: Vec<Action> = UPRIGHT.into_iter().filter(|&action| action != Action::Fall).collect();
    let mut label = begins[number % begins.len()];
    let start = if label.heading() == 0.0 { between(rng, -0.5, 0.5) * room } else { -label.heading() * room };
    let (mut place, mut time) = (start, 0.0);
    let mut acts: Vec<Act> = Vec::new();
    loop {
        let (shortest, longest) = label.seconds();
        // Times are multiples of 0.1 s.
        let mut seconds = (between(rng, shortest, longest) * 10.0).round() / 10.0;
        if label.heading() != 0.0 {
            let left = room - place * label.heading();
            seconds = seconds.min((left / speed * 10.0).floor() / 10.0).max(1.3);
            place += label.heading() * speed * seconds;
        }
        let end = ((time + seconds) * 10.0_f32).round() / 10.0;
        acts.push(Act { label, start_seconds: time, end_seconds: end });
        time = end;
        let mut choices: Vec<Action> = label
            .followers()
            .iter()
            .copied()
            .filter(|&next| next != label && (next.heading() == 0.0 || room - place * next.heading() >= 1.3 * speed))
            // A fall ends the clip, so it must not come too early.
            .filter(|&next| next != Action::Fall || time > SECONDS - 4.0)
            .collect();
        if number.is_multiple_of(3) && choices.contains(&Action::Fall) {
            choices = vec![Action::Fall];
        }
        let count = |action: &Action| acts.iter().filter(|act| act.label == *action).count();
        let Some(fewest) = choices.iter().map(count).min() else { break };
        let is_posture_done = !matches!(label, Action::SitDown | Action::Fall);
        if time >= SECONDS && is_posture_done {
            break;
        }
        let choices: Vec<Action> = choices.into_iter().filter(|action| count(action) == fewest).collect();
        label = choices[rng.next_u32() as usize % choices.len()];
    }
    (acts, start)
}
