//! Converts rows of 8-bit YUV 4:2:0 frames to RGB, so that only the rows and columns that a model takes are converted.
//!
//! The arithmetic is that of libswscale's converter for x86 (`libswscale/x86/yuv_2_rgb.asm`), which PyAV and OpenCV use as
//! well: 16-bit fixed point, and the nearest chroma sample. Results are equal.

use std::ops::Range;

/// Rows of a frame are converted in blocks of this many chroma samples, which the compiler turns into vector instructions.
const BLOCK: usize = 16;

/// Coefficients of the conversion, in units of 2^-13.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Matrix {
    /// Luma of black, times 8.
    black: i16,
    luma: i16,
    red_v: i16,
    green_u: i16,
    green_v: i16,
    blue_u: i16,
}

impl Matrix {
    /// `coefficients` are libswscale's of a colour space, in units of 2^-16: those of V for red, of U for blue, of U and V for
    /// green. They are for limited range.
    pub(super) fn new(coefficients: [i32; 4], full_range: bool) -> Self {
        let chroma = |coefficient: i32| {
            let coefficient = i64::from(coefficient);
            if full_range { coefficient * 224 / 255 } else { coefficient }
        };
        let [red_v, blue_u, green_u, green_v] = coefficients.map(chroma);
        let (luma, black) = if full_range { (1 << 16, 0) } else { ((1 << 16) * 255 / 219, 16 << 3) };
        // From units of 2^-16 to units of 2^-13, rounded.
        let fixed = |value: i64| (((value << 13) + (1 << 15)) >> 16).clamp(-0x7fff, 0x7fff) as i16;
        Self {
            black,
            luma: fixed(luma),
            red_v: fixed(red_v),
            green_u: fixed(-green_u),
            green_v: fixed(-green_v),
            blue_u: fixed(blue_u),
        }
    }
}

/// The planes of a frame: luma, and U and V at half of the width and height.
#[derive(Debug, Clone, Copy)]
pub(super) struct Yuv<'a> {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) planes: [&'a [u8]; 3],
    pub(super) strides: [usize; 3],
    pub(super) matrix: Matrix,
}

impl Yuv<'_> {
    /// Converts these columns of row `y` to `pixels`, a row of the frame in red, green, blue and zero.
    pub(super) fn row(&self, y: usize, columns: Range<usize>, pixels: &mut [[u8; 4]]) {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2.
            return unsafe { self.convert_row_with_avx2(y, columns, pixels) };
        }
        self.convert_row(y, columns, pixels);
    }

    /// The same instructions as in [`Self::convert_row`], vectorised by the compiler for AVX2: eight times as fast as for SSE2,
    /// which is what the binary is compiled for.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn convert_row_with_avx2(&self, y: usize, columns: Range<usize>, pixels: &mut [[u8; 4]]) {
        self.convert_row(y, columns, pixels);
    }

    #[inline(always)]
    fn convert_row(&self, y: usize, columns: Range<usize>, pixels: &mut [[u8; 4]]) {
        let (from, to) = (columns.start / 2, columns.end.div_ceil(2));
        let line = |plane: usize, y: usize, of: Range<usize>| &self.planes[plane][y * self.strides[plane]..][of];
        let luma = line(0, y, from * 2..(to * 2).min(self.width));
        let [u, v] = [1, 2].map(|plane| line(plane, y / 2, from..to));
        let blocks = luma.chunks(2 * BLOCK).zip(u.chunks(BLOCK).zip(v.chunks(BLOCK)));
        for (pixels, (luma, (u, v))) in pixels[from * 2..].chunks_mut(2 * BLOCK).zip(blocks) {
            match (pixels.as_mut_array(), luma.as_array(), u.as_array(), v.as_array()) {
                (Some(pixels), Some(luma), Some(u), Some(v)) => convert(&self.matrix, luma, u, v, pixels),
                // The last block is shorter.
                _ => {
                    let (mut whole, mut whole_u, mut whole_v) = ([0; 2 * BLOCK], [0; BLOCK], [0; BLOCK]);
                    whole[..luma.len()].copy_from_slice(luma);
                    whole_u[..u.len()].copy_from_slice(u);
                    whole_v[..v.len()].copy_from_slice(v);
                    let mut converted = [[0; 4]; 2 * BLOCK];
                    convert(&self.matrix, &whole, &whole_u, &whole_v, &mut converted);
                    pixels[..luma.len()].copy_from_slice(&converted[..luma.len()]);
                }
            }
        }
    }
}

#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "closures are not compiled for AVX2 with the function around them")]
fn convert(
    matrix: &Matrix,
    luma: &[u8; 2 * BLOCK],
    u: &[u8; BLOCK],
    v: &[u8; BLOCK],
    pixels: &mut [[u8; 4]; 2 * BLOCK],
) {
    let mut chroma = [[0; BLOCK]; 3];
    for i in 0..BLOCK {
        let u = (i16::from(u[i]) - 128) << 3;
        let v = (i16::from(v[i]) - 128) << 3;
        chroma[0][i] = high(v, matrix.red_v);
        chroma[1][i] = high(u, matrix.green_u).saturating_add(high(v, matrix.green_v));
        chroma[2][i] = high(u, matrix.blue_u);
    }
    for i in 0..BLOCK {
        for x in [2 * i, 2 * i + 1] {
            let luma = high((i16::from(luma[x]) << 3) - matrix.black, matrix.luma);
            for c in 0..3 {
                pixels[x][c] = luma.saturating_add(chroma[c][i]).clamp(0, 255) as u8;
            }
            pixels[x][3] = 0;
        }
    }
}

/// The upper half of a product.
#[inline(always)]
fn high(a: i16, b: i16) -> i16 {
    ((i32::from(a) * i32::from(b)) >> 16) as i16
}
