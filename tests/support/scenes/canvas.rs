//! A picture, and the one shape that everything is drawn with.

/// An RGB picture.
#[derive(Clone)]
pub(crate) struct Canvas {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) rgb: Vec<u8>,
}

/// A round-ended bar from one disc to another, all that a figure is made of.
pub(crate) struct Part {
    pub(crate) from: [f32; 2],
    pub(crate) to: [f32; 2],
    pub(crate) radii: [f32; 2],
    pub(crate) colour: [u8; 3],
}

impl Canvas {
    pub(crate) fn blend(&mut self, x: usize, y: usize, colour: [u8; 3], opacity: f32) {
        let start = (y * self.width + x) * 3;
        for (own, new) in self.rgb[start..start + 3].iter_mut().zip(colour) {
            *own = (f32::from(*own) + opacity * (f32::from(new) - f32::from(*own))).round() as u8;
        }
    }

    /// Darkens an ellipse, most in its middle.
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

    /// The same picture turned a quarter against the clock: what a camera held upright stores.
    pub(crate) fn turned(&self) -> Self {
        let mut turned = Self { width: self.height, height: self.width, rgb: vec![0; self.rgb.len()] };
        for y in 0..turned.height {
            for x in 0..turned.width {
                let (to, from) = ((y * turned.width + x) * 3, (x * self.width + self.width - 1 - y) * 3);
                turned.rgb[to..to + 3].copy_from_slice(&self.rgb[from..from + 3]);
            }
        }
        turned
    }
}

impl Part {
    /// Paints it with soft edges, lit from the upper left as a round thing is.
    pub(crate) fn draw(&self, canvas: &mut Canvas) {
        let [x1, y1, x2, y2] = self.bounds();
        let axis = [self.to[0] - self.from[0], self.to[1] - self.from[1]];
        let length = (axis[0] * axis[0] + axis[1] * axis[1]).max(1e-6);
        for y in (y1 - 1.0).max(0.0) as usize..((y2 + 2.0).max(0.0) as usize).min(canvas.height) {
            for x in (x1 - 1.0).max(0.0) as usize..((x2 + 2.0).max(0.0) as usize).min(canvas.width) {
                let offset = [x as f32 + 0.5 - self.from[0], y as f32 + 0.5 - self.from[1]];
                let along = ((offset[0] * axis[0] + offset[1] * axis[1]) / length).clamp(0.0, 1.0);
                let (dx, dy) = (offset[0] - along * axis[0], offset[1] - along * axis[1]);
                let radius = self.radii[0] + along * (self.radii[1] - self.radii[0]);
                let distance = dx.hypot(dy);
                let light = 0.95 - 0.16 * (0.5 * dx + 0.6 * dy) / radius - 0.1 * (distance / radius).powi(2);
                let opacity = (radius - distance + 0.5).clamp(0.0, 1.0);
                canvas.blend(x, y, shade(self.colour, light), opacity);
            }
        }
    }

    fn bounds(&self) -> [f32; 4] {
        let low = |axis: usize| (self.from[axis] - self.radii[0]).min(self.to[axis] - self.radii[1]);
        let high = |axis: usize| (self.from[axis] + self.radii[0]).max(self.to[axis] + self.radii[1]);
        [low(0), low(1), high(0), high(1)]
    }

    pub(crate) fn bottom(&self) -> f32 {
        self.bounds()[3]
    }
}

/// The box around all parts, clipped to the canvas, in hundredths of a pixel; none where nothing of it is in view.
pub(crate) fn extent(parts: &[Part], canvas: &Canvas) -> Option<[f32; 4]> {
    let all = parts
        .iter()
        .map(Part::bounds)
        .reduce(|a, b| [a[0].min(b[0]), a[1].min(b[1]), a[2].max(b[2]), a[3].max(b[3])])?;
    let edges = [canvas.width as f32, canvas.height as f32];
    let clipped: [f32; 4] = std::array::from_fn(|side| (all[side].clamp(0.0, edges[side % 2]) * 100.0).round() / 100.0);
    (clipped[0] < clipped[2] && clipped[1] < clipped[3]).then_some(clipped)
}

pub(crate) fn shade(colour: [u8; 3], light: f32) -> [u8; 3] {
    colour.map(|channel| (f32::from(channel) * light).clamp(0.0, 255.0) as u8)
}
