//! How a stored frame is rotated and mirrored for display: reads FFmpeg's display matrices and moves the pixels.

use ffmpeg_next::frame::{Video as Frame, side_data};
use serde::{Deserialize, Serialize};

/// How a player displays a stored frame: it rotates the frame, then mirrors it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orientation {
    /// Degrees clockwise, 0 to 359. Angles other than 0, 90, 180 and 270 keep the frame's size, so its corners are cut
    /// off.
    pub rotation: u16,
    /// Whether the frame is mirrored left to right, after rotation.
    pub mirrored: bool,
}

impl Orientation {
    /// Reads a display matrix as FFmpeg returns it: nine native-endian 32-bit integers. Follows the autorotation of the
    /// ffmpeg tool: it rounds angles to whole degrees, ignores scale and translation, leaves the frame as stored if the
    /// matrix is degenerate, and does not mirror frames at other angles than multiples of 90 degrees.
    pub(super) fn from_matrix(matrix: &[u8]) -> Self {
        let mut numbers = matrix.as_chunks::<4>().0.iter().map(|bytes| f64::from(i32::from_ne_bytes(*bytes)));
        let mut next = || numbers.next().unwrap_or(0.0);
        // The pixel at (x, y) is displayed at (a x + c y, b x + d y).
        let [a, b, _, c, d] = std::array::from_fn(|_| next());
        let (width, height) = (a.hypot(c), b.hypot(d));
        if width == 0.0 || height == 0.0 {
            return Self::default();
        }
        let degrees = (b / height).atan2(a / width).to_degrees().round().rem_euclid(360.0) as u16;
        match degrees.is_multiple_of(90) && a * d < b * c {
            // The matrix mirrors before it rotates; an `Orientation` mirrors afterwards.
            true => Self { rotation: (540 - degrees) % 360, mirrored: true },
            false => Self { rotation: degrees, mirrored: false },
        }
    }

    /// Width and height as displayed of a frame that is stored with the given width and height.
    pub(super) fn displayed<T>(self, (width, height): (T, T)) -> (T, T) {
        if matches!(self.rotation, 90 | 270) { (height, width) } else { (width, height) }
    }

    /// Returns the pixels as displayed, without padding. `data` is an RGB picture of `size` (width, height) with
    /// `stride` bytes per row.
    pub(super) fn apply(self, data: &[u8], stride: usize, size: (usize, usize)) -> Vec<u8> {
        if !self.rotation.is_multiple_of(90) {
            return tilted(data, stride, size, f64::from(self.rotation));
        }
        let (width, height) = self.displayed(size);
        let mut out = Vec::with_capacity(width * height * 3);
        let (last_x, last_y) = ((size.0 - 1) as isize * 3, (size.1 - 1) as isize * stride as isize);
        let stride = stride as isize;
        // Offset of the displayed picture's first pixel in the stored picture, and of one step right and one step down.
        let (mut origin, mut right, down) = match self.rotation {
            90 => (last_y, -stride, 3),
            180 => (last_x + last_y, -3, -stride),
            270 => (last_x, stride, -3),
            _ => (0, 3, stride),
        };
        if self.mirrored {
            origin += right * (width as isize - 1);
            right = -right;
        }
        for y in 0..height as isize {
            let row = origin + y * down;
            if right == 3 {
                out.extend_from_slice(&data[row as usize..][..width * 3]);
            } else {
                (0..width as isize).for_each(|x| out.extend_from_slice(&data[(row + x * right) as usize..][..3]));
            }
        }
        out
    }
}

/// Rotates the picture about its centre in a frame of the same size. The area outside the picture is black.
fn tilted(data: &[u8], stride: usize, (width, height): (usize, usize), degrees: f64) -> Vec<u8> {
    let (sine, cosine) = degrees.to_radians().sin_cos();
    let centre = ((width as f64 - 1.0) / 2.0, (height as f64 - 1.0) / 2.0);
    let mut out = vec![0; width * height * 3];
    for (i, pixel) in out.chunks_exact_mut(3).enumerate() {
        let (x, y) = ((i % width) as f64 - centre.0, (i / width) as f64 - centre.1);
        let (x, y) = (centre.0 + x * cosine + y * sine, centre.1 - x * sine + y * cosine);
        // Repeat the edge once around the picture, as ffmpeg's rotate filter does.
        if x < -1.0 || x >= width as f64 + 1.0 || y < -1.0 || y >= height as f64 + 1.0 {
            continue;
        }
        let (x, y) = (x.clamp(0.0, width as f64 - 1.0), y.clamp(0.0, height as f64 - 1.0));
        let (left, top) = (x as usize, y as usize);
        let (right, bottom) = ((left + 1).min(width - 1), (top + 1).min(height - 1));
        for (c, value) in pixel.iter_mut().enumerate() {
            let at = |x: usize, y: usize| f64::from(data[y * stride + x * 3 + c]);
            let row = |y: usize| at(left, y) + (at(right, y) - at(left, y)) * x.fract();
            let (upper, lower) = (row(top), row(bottom));
            *value = (upper + (lower - upper) * y.fract()).round() as u8;
        }
    }
    out
}

/// Determines the orientation of each frame of a stream.
///
/// A frame can carry its own display matrix, for example from H.264's display orientation SEI. By the H.264
/// specification it applies until the next key frame, although FFmpeg attaches it to one frame only.
#[derive(Debug)]
pub(super) struct Orientations {
    stream: Orientation,
    own: Option<Orientation>,
}

impl Orientations {
    /// `stream` is the orientation that the container gives.
    pub(super) fn new(stream: Orientation) -> Self {
        Self { stream, own: None }
    }

    /// Whether a frame had an orientation of its own that is not the stream's.
    pub(super) fn differ(&self) -> bool {
        self.own.is_some_and(|own| own != self.stream)
    }

    /// The orientation of the next frame in presentation order.
    pub(super) fn next(&mut self, frame: &Frame) -> Orientation {
        match frame.side_data(side_data::Type::DisplayMatrix) {
            Some(matrix) => self.own = Some(Orientation::from_matrix(matrix.data())),
            None if frame.is_key() => self.own = None,
            None => {}
        }
        self.own.unwrap_or(self.stream)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: f64 = 65536.0;

    fn matrix([a, b, c, d]: [f64; 4]) -> Vec<u8> {
        let fixed = |value: f64| (value * ONE).round() as i32;
        let rows = [fixed(a), fixed(b), 0, fixed(c), fixed(d), 0, fixed(640.0), fixed(480.0), 1 << 30];
        rows.into_iter().flat_map(i32::to_ne_bytes).collect()
    }

    fn read(entries: [f64; 4]) -> (u16, bool) {
        let Orientation { rotation, mirrored } = Orientation::from_matrix(&matrix(entries));
        (rotation, mirrored)
    }

    #[test]
    fn the_eight_matrices_are_turns_then_mirrors() {
        assert_eq!(read([1.0, 0.0, 0.0, 1.0]), (0, false));
        assert_eq!(read([0.0, 1.0, -1.0, 0.0]), (90, false));
        assert_eq!(read([-1.0, 0.0, 0.0, -1.0]), (180, false));
        assert_eq!(read([0.0, -1.0, 1.0, 0.0]), (270, false));
        // Left to right, transposed, top to bottom, transposed about the other diagonal.
        assert_eq!(read([-1.0, 0.0, 0.0, 1.0]), (0, true));
        assert_eq!(read([0.0, 1.0, 1.0, 0.0]), (90, true));
        assert_eq!(read([1.0, 0.0, 0.0, -1.0]), (180, true));
        assert_eq!(read([0.0, -1.0, -1.0, 0.0]), (270, true));
    }

    #[test]
    fn other_matrices_are_read_as_the_ffmpeg_tool_reads_them() {
        assert_eq!(read([0.0; 4]), (0, false));
        assert_eq!(read([1.0, 0.0, 0.0, 0.0]), (0, false));
        assert_eq!(Orientation::from_matrix(&[]), Orientation::default());
        // The matrix scales: the pixels are not square and stay that way.
        assert_eq!(read([2.0, 0.0, 0.0, 1.0]), (0, false));
        assert_eq!(read([0.0, 0.5, 3.0, 0.0]), (90, true));
        let half = std::f64::consts::FRAC_1_SQRT_2;
        assert_eq!(read([half, half, -half, half]), (45, false));
        assert_eq!(read([-half, half, half, half]), (135, false));
        let small = 0.3_f64.to_radians();
        assert_eq!(read([small.sin(), small.cos(), -small.cos(), small.sin()]), (90, false));
    }

    /// The same by definition: quarter turns one after another, then the mirror.
    fn by_definition(orientation: Orientation, stored: &[[u8; 3]], size: (usize, usize)) -> Vec<[u8; 3]> {
        let (mut picture, (mut width, mut height)) = (stored.to_vec(), size);
        for _ in 0..orientation.rotation / 90 {
            let turned = (0..width).flat_map(|x| (0..height).rev().map(move |y| y * width + x));
            picture = turned.map(|i| picture[i]).collect();
            (width, height) = (height, width);
        }
        if orientation.mirrored {
            picture.chunks_exact_mut(width).for_each(<[_]>::reverse);
        }
        picture
    }

    proptest! {
        #[test]
        fn pixels_move_as_the_definition_says(
            (width, height, padding, seed) in (1..9usize, 1..9usize, 0..5usize, any::<u8>()),
            quarter in 0..4u16,
            mirrored: bool,
        ) {
            let orientation = Orientation { rotation: quarter * 90, mirrored };
            let pixel = |i: usize| [i as u8, (i / 7) as u8 ^ seed, seed];
            let stored: Vec<[u8; 3]> = (0..width * height).map(pixel).collect();
            let stride = width * 3 + padding;
            let mut data = Vec::new();
            for row in stored.chunks_exact(width) {
                data.extend_from_slice(row.as_flattened());
                data.resize(data.len() + padding, 255);
            }
            let displayed = by_definition(orientation, &stored, (width, height));
            prop_assert_eq!(orientation.apply(&data, stride, (width, height)), displayed.as_flattened());
        }
    }
}
