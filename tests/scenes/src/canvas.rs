//! A picture, and the shape with which figures are drawn.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng as _;

/// An RGB picture, with the owner of each pixel.
pub(crate) struct Canvas {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) rgb: Vec<u8>,
    /// Number of the person who is visible at each pixel, or 0.
    owners: Vec<u8>,
}

/// A bar with round ends, between two discs. Figures consist of such parts.
pub(crate) struct Part {
    pub(crate) from: [f32; 2],
    pub(crate) to: [f32; 2],
    pub(crate) radii: [f32; 2],
    pub(crate) colour: [u8; 3],
}

impl Canvas {
    pub(crate) fn new(width: usize, height: usize) -> Self {
        Self { width, height, rgb: vec![0; width * height * 3], owners: vec![0; width * height] }
    }

    /// The part of a wider picture that starts at `left`, which may be between two pixels.
    pub(crate) fn view(&self, width: usize, left: f32) -> Self {
        let mut view = Self::new(width, self.height);
        let (first, share) = (left.floor() as usize, left.fract());
        for (row, own) in view.rgb.chunks_mut(width * 3).zip(self.rgb.chunks(self.width * 3)) {
            let left = &own[first * 3..][..width * 3];
            row.copy_from_slice(left);
            if share > 0.0 {
                for ((pixel, left), right) in row.iter_mut().zip(left).zip(&own[(first + 1) * 3..]) {
                    *pixel = rounded(f32::from(*left) + share * (f32::from(*right) - f32::from(*left)));
                }
            }
        }
        view
    }

    /// The box around a person's pixels, and their number.
    pub(crate) fn owned(&self, owner: u8) -> (Option<[f32; 4]>, usize) {
        let (mut left, mut top, mut right, mut bottom) = (usize::MAX, usize::MAX, 0, 0);
        let mut pixels = 0;
        for (y, row) in self.owners.chunks(self.width).enumerate().filter(|(_, row)| row.contains(&owner)) {
            let is_own = |by: &u8| *by == owner;
            if let (Some(first), Some(last)) = (row.iter().position(is_own), row.iter().rposition(is_own)) {
                (left, right) = (left.min(first), right.max(last + 1));
                (top, bottom) = (top.min(y), y + 1);
                pixels += row[first..=last].iter().filter(|by| is_own(by)).count();
            }
        }
        ((pixels > 0).then_some([left as f32, top as f32, right as f32, bottom as f32]), pixels)
    }

    /// Applies the brightness and the noise of a camera.
    pub(crate) fn expose(&mut self, light: f32, noise: f32, rng: &mut ChaCha8Rng) {
        /// Standard deviation of a random byte.
        const BYTE: f32 = 73.9;
        let mut grain = vec![0; self.width * self.height];
        rng.fill_bytes(&mut grain);
        // A table of all results is smaller than a picture.
        let noise = |grain: u8| (f32::from(grain) - 127.5) * noise / BYTE;
        let exposed = |grain| (0..=255u8).map(move |value| rounded(f32::from(value) * light + noise(grain)));
        let table: Vec<u8> = (0..=255u8).flat_map(exposed).collect();
        for (pixel, grain) in self.rgb.chunks_exact_mut(3).zip(grain) {
            let exposed = &table[usize::from(grain) * 256..][..256];
            pixel.iter_mut().for_each(|value| *value = exposed[usize::from(*value)]);
        }
    }

    pub(crate) fn blend(&mut self, x: usize, y: usize, colour: [u8; 3], opacity: f32) {
        let start = (y * self.width + x) * 3;
        for (own, new) in self.rgb[start..start + 3].iter_mut().zip(colour) {
            *own = rounded(f32::from(*own) + opacity * (f32::from(new) - f32::from(*own)));
        }
    }

    /// Darkens an ellipse, most strongly in its middle.
    pub(crate) fn darken(&mut self, centre: [f32; 2], radii: [f32; 2]) {
        for y in (centre[1] - radii[1]).max(0.0) as usize..((centre[1] + radii[1]) as usize + 1).min(self.height) {
            for x in
                (centre[0] - radii[0]).max(0.0) as usize..((centre[0] + radii[0]).max(0.0) as usize + 1).min(self.width)
            {
                let reach = ((x as f32 - centre[0]) / radii[0]).hypot((y as f32 - centre[1]) / radii[1]);
                self.blend(x, y, [30, 28, 26], 0.55 * (1.0 - reach * reach).max(0.0));
            }
        }
    }

    /// Rotates the picture by quarter turns counterclockwise, as a camera that is held rotated stores it.
    pub(crate) fn rotated(self, quarters: usize) -> Self {
        (0..quarters).fold(self, |canvas, _| {
            let mut rotated = Self::new(canvas.height, canvas.width);
            for y in 0..rotated.height {
                for x in 0..rotated.width {
                    let (to, from) = ((y * rotated.width + x) * 3, (x * canvas.width + canvas.width - 1 - y) * 3);
                    rotated.rgb[to..to + 3].copy_from_slice(&canvas.rgb[from..from + 3]);
                }
            }
            rotated
        })
    }
}

impl Part {
    /// Draws the part with soft edges and light from the upper left, and sets the owner of its pixels.
    pub(crate) fn draw(&self, canvas: &mut Canvas, owner: u8) {
        let [x1, y1, x2, y2] = self.bounds();
        let axis = [self.to[0] - self.from[0], self.to[1] - self.from[1]];
        let length = (axis[0] * axis[0] + axis[1] * axis[1]).max(1e-6);
        for y in (y1 - 1.0).max(0.0) as usize..((y2 + 2.0).max(0.0) as usize).min(canvas.height) {
            for x in (x1 - 1.0).max(0.0) as usize..((x2 + 2.0).max(0.0) as usize).min(canvas.width) {
                let offset = [x as f32 + 0.5 - self.from[0], y as f32 + 0.5 - self.from[1]];
                let along = ((offset[0] * axis[0] + offset[1] * axis[1]) / length).clamp(0.0, 1.0);
                let (dx, dy) = (offset[0] - along * axis[0], offset[1] - along * axis[1]);
                let radius = self.radii[0] + along * (self.radii[1] - self.radii[0]);
                // Most pixels of the bounds are outside.
                if dx * dx + dy * dy > (radius + 1.0).powi(2) {
                    continue;
                }
                let distance = dx.hypot(dy);
                let light = 0.95 - 0.16 * (0.5 * dx + 0.6 * dy) / radius - 0.1 * (distance / radius).powi(2);
                let opacity = (radius - distance + 0.5).clamp(0.0, 1.0);
                if opacity > 0.0 {
                    canvas.blend(x, y, shade(self.colour, light), opacity);
                }
                if opacity >= 0.5 {
                    canvas.owners[y * canvas.width + x] = owner;
                }
            }
        }
    }

    /// The part, moved to the right by `pixels`.
    pub(crate) fn shifted(&self, pixels: f32) -> Self {
        let moved = |[x, y]: [f32; 2]| [x + pixels, y];
        Self { from: moved(self.from), to: moved(self.to), ..*self }
    }

    fn bounds(&self) -> [f32; 4] {
        let low = |axis: usize| (self.from[axis] - self.radii[0]).min(self.to[axis] - self.radii[1]);
        let high = |axis: usize| (self.from[axis] + self.radii[0]).max(self.to[axis] + self.radii[1]);
        [low(0), low(1), high(0), high(1)]
    }

    pub(crate) fn bottom(&self) -> f32 {
        self.bounds()[3]
    }

    /// Left and right edge.
    pub(crate) fn sides(&self) -> (f32, f32) {
        let [left, _, right, _] = self.bounds();
        (left, right)
    }
}

pub(crate) fn shade(colour: [u8; 3], light: f32) -> [u8; 3] {
    colour.map(|channel| (f32::from(channel) * light).clamp(0.0, 255.0) as u8)
}

/// The nearest byte. Unlike `f32::round`, it is not a call of the C library on the processors that Rust builds for by default.
fn rounded(value: f32) -> u8 {
    (value + 0.5) as u8
}
