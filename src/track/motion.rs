//! The expected place of a box in the next frame: a Kalman filter with constant velocity over centre, aspect ratio and
//! height, with the noise of DeepSORT (Wojke et al. 2017). A frame is the unit of time.

/// Standard deviation of a position, as a share of the height.
const POSITION: f64 = 1.0 / 20.0;

/// Standard deviation of a velocity, as a share of the height, if thirty frames a second are seen.
const VELOCITY: f64 = 1.0 / 160.0;

/// How much velocities change from one frame to the next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Noise {
    velocity: f64,
}

impl Noise {
    /// That of so many frames per second: a velocity wanders, so it changes with the square root of the time.
    pub(super) fn at(frames_per_second: f64) -> Self {
        Self { velocity: VELOCITY * (30.0 / frames_per_second).sqrt() }
    }
}

/// A box in motion.
#[derive(Debug, Clone)]
pub(super) struct Motion {
    /// Centre x, centre y, aspect ratio (width / height), height.
    states: [State; 4],
}

/// A value and its velocity. The values of a box are independent of each other, because all noise is.
#[derive(Debug, Clone, Copy)]
struct State {
    value: f64,
    velocity: f64,
    /// Variance of the value, covariance, variance of the velocity.
    covariance: [f64; 3],
}

const ASPECT: usize = 2;
const HEIGHT: usize = 3;

impl Motion {
    /// A box that was seen for the first time: left, top, right, bottom.
    pub(super) fn new(xyxy: [f32; 4], noise: Noise) -> Self {
        let measured = measured(xyxy);
        let height = measured[HEIGHT];
        let states = std::array::from_fn(|at| {
            let (value, velocity) = match at {
                ASPECT => (1e-2, 1e-5),
                _ => (2.0 * POSITION * height, 10.0 * noise.velocity * height),
            };
            State { value: measured[at], velocity: 0.0, covariance: [value * value, 0.0, velocity * velocity] }
        });
        Self { states }
    }

    /// Moves the box to the next frame. The height of a box that was not seen in the last one does not change.
    pub(super) fn predict(&mut self, was_seen: bool, noise: Noise) {
        if !was_seen {
            self.states[HEIGHT].velocity = 0.0;
        }
        let height = self.states[HEIGHT].value;
        for (at, state) in self.states.iter_mut().enumerate() {
            let (value, velocity) = match at {
                ASPECT => (1e-2, 1e-5),
                _ => (POSITION * height, noise.velocity * height),
            };
            let [a, b, c] = state.covariance;
            state.value += state.velocity;
            state.covariance = [a + 2.0 * b + c + value * value, b + c, c + velocity * velocity];
        }
    }

    /// Corrects the expected box by the box that was seen.
    pub(super) fn update(&mut self, xyxy: [f32; 4]) {
        let height = self.states[HEIGHT].value;
        for ((at, state), measured) in self.states.iter_mut().enumerate().zip(measured(xyxy)) {
            let noise = if at == ASPECT { 1e-1 } else { POSITION * height };
            let [a, b, c] = state.covariance;
            let variance = a + noise * noise;
            let difference = measured - state.value;
            state.value += a / variance * difference;
            state.velocity += b / variance * difference;
            state.covariance = [a - a * a / variance, b - a * b / variance, c - b * b / variance];
        }
    }

    /// Left, top, right, bottom.
    pub(super) fn xyxy(&self) -> [f32; 4] {
        let [x, y, aspect, height] = self.states.map(|state| state.value);
        let (half_width, half_height) = (aspect * height / 2.0, height / 2.0);
        [x - half_width, y - half_height, x + half_width, y + half_height].map(|corner| corner as f32)
    }
}

fn measured([x1, y1, x2, y2]: [f32; 4]) -> [f64; 4] {
    let [x1, y1, x2, y2] = [x1, y1, x2, y2].map(f64::from);
    // A box at the edge of a frame may be empty after it was clipped.
    let height = (y2 - y1).max(1e-3);
    [(x1 + x2) / 2.0, (y1 + y2) / 2.0, (x2 - x1) / height, height]
}
