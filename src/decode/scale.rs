//! Converts a decoded frame into a model's input: RGB, upright, then a normalised crop or a letterboxed image.

use std::ops::Range;

use ffmpeg_next::format::Pixel;
use ffmpeg_next::frame::Video as Frame;
use ffmpeg_next::software::scaling::{Context, Flags};
use ffmpeg_next::{Error, ffi};
use half::f16;
use half::slice::HalfFloatSliceExt as _;

use super::yuv::{Matrix, Yuv};
use super::{ClipSpec, Letterbox, Orientation, View};

/// Grey value of letterbox bars, as YOLOv5 pads.
const LETTERBOX_GREY: u8 = 114;

/// A picture as displayed, from which models' inputs are sampled.
pub struct Picture<'a>(Pixels<'a>);

enum Pixels<'a> {
    Rgb(Rgb),
    /// A frame that is displayed as stored, not converted yet.
    Yuv(Yuv<'a>),
}

/// An upright picture in 8-bit interleaved RGB, with rows without padding.
#[derive(Debug, Default)]
struct Rgb {
    width: usize,
    height: usize,
    /// `height * width * 3` bytes.
    data: Vec<u8>,
}

impl Picture<'_> {
    /// Width and height, pixels.
    pub fn size(&self) -> (usize, usize) {
        match &self.0 {
            Pixels::Rgb(rgb) => (rgb.width, rgb.height),
            Pixels::Yuv(yuv) => (yuv.width, yuv.height),
        }
    }

    /// Writes these columns of a row to `pixels`, a row of the picture in red, green, blue and zero.
    fn row(&self, y: usize, columns: Range<usize>, pixels: &mut [[u8; 4]]) {
        match &self.0 {
            Pixels::Yuv(yuv) => yuv.row(y, columns, pixels),
            Pixels::Rgb(rgb) => {
                let row = rgb.data[(y * rgb.width + columns.start) * 3..].as_chunks::<3>().0;
                for (pixel, [red, green, blue]) in pixels[columns].iter_mut().zip(row) {
                    *pixel = [*red, *green, *blue, 0];
                }
            }
        }
    }
}

/// Converts frames to RGB as displayed. Keeps the conversion's tables between frames.
pub struct Converter {
    context: Option<(Source, Context)>,
    converted: Frame,
}

// SAFETY: the context belongs to this converter alone, and libswscale does not bind it to a thread.
unsafe impl Send for Converter {}

/// The properties of a frame that the conversion's tables depend on.
#[derive(PartialEq, Eq, Clone, Copy)]
struct Source {
    format: Pixel,
    width: u32,
    height: u32,
    colorspace: i32,
    full_range: bool,
}

impl Source {
    fn of(frame: &Frame) -> Self {
        // SAFETY: `frame` is a live AVFrame; both fields are plain integers.
        let (colorspace, range) = unsafe { ((*frame.as_ptr()).colorspace as i32, (*frame.as_ptr()).color_range) };
        Self {
            format: frame.format(),
            width: frame.width(),
            height: frame.height(),
            colorspace,
            full_range: range == ffi::AVColorRange::AVCOL_RANGE_JPEG,
        }
    }
}

impl Default for Converter {
    fn default() -> Self {
        Self { context: None, converted: Frame::empty() }
    }
}

impl Converter {
    /// The frame as displayed, except that non-square pixels stay as stored.
    pub fn picture<'f>(&mut self, frame: &'f Frame, orientation: Orientation) -> Result<Picture<'f>, Error> {
        let source = Source::of(frame);
        if orientation == Orientation::default()
            && let Some(yuv) = planes(frame, source)
        {
            return Ok(Picture(Pixels::Yuv(yuv)));
        }
        self.rgb(frame, source, orientation).map(|rgb| Picture(Pixels::Rgb(rgb)))
    }

    /// The frame as displayed: its width, its height, and red, green and blue of each pixel.
    pub(super) fn upright(
        &mut self,
        frame: &Frame,
        orientation: Orientation,
    ) -> Result<(usize, usize, Vec<u8>), Error> {
        let Rgb { width, height, data } = self.rgb(frame, Source::of(frame), orientation)?;
        Ok((width, height, data))
    }

    fn rgb(&mut self, frame: &Frame, source: Source, orientation: Orientation) -> Result<Rgb, Error> {
        if self.context.as_ref().is_none_or(|(made_for, _)| *made_for != source) {
            self.context = Some((source, conversion(source)?));
            self.converted = Frame::empty();
        }
        let Some((_, context)) = &mut self.context else { return Err(Error::Bug) };
        context.run(frame, &mut self.converted)?;
        let stored = (frame.width() as usize, frame.height() as usize);
        let (width, height) = orientation.displayed(stored);
        let data = orientation.apply(self.converted.data(0), self.converted.stride(0), stored);
        Ok(Rgb { width, height, data })
    }
}

/// The planes of a frame, if libswscale would convert it with the arithmetic of [`Yuv`]. It interpolates the chroma of frames
/// with an odd height.
fn planes(frame: &Frame, source: Source) -> Option<Yuv<'_>> {
    let is_full_range = match source.format {
        Pixel::YUV420P => source.full_range,
        Pixel::YUVJ420P => true,
        _ => return None,
    };
    // SAFETY: `frame` is a live AVFrame, and the field is an array of integers.
    let strides = unsafe { (*frame.as_ptr()).linesize };
    let is_upside_down = strides.iter().any(|stride| *stride < 0);
    if !source.height.is_multiple_of(2) || is_upside_down {
        return None;
    }
    // SAFETY: libswscale returns a pointer to four integers of a static table, whatever the argument is.
    let coefficients = unsafe { *ffi::sws_getCoefficients(source.colorspace).cast::<[i32; 4]>() };
    Some(Yuv {
        width: source.width as usize,
        height: source.height as usize,
        planes: [0, 1, 2].map(|plane| frame.data(plane)),
        strides: [0, 1, 2].map(|plane| frame.stride(plane)),
        matrix: Matrix::new(coefficients, is_full_range),
    })
}

/// YUV to RGB at the same size. 4:2:0 frames of an even height get the nearest chroma sample, others interpolated ones. Matrix
/// and range are the frame's own; the default is BT.601.
fn conversion(source: Source) -> Result<Context, Error> {
    let Source { format, width, height, .. } = source;
    let mut context = Context::get(format, width, height, Pixel::RGB24, width, height, Flags::BILINEAR)?;
    let unspecified = ffi::AVColorSpace::AVCOL_SPC_UNSPECIFIED as i32;
    if source.full_range || source.colorspace != unspecified {
        let (mut inverse, mut table) = (std::ptr::null_mut(), std::ptr::null_mut());
        let (mut from_range, mut to_range, mut brightness, mut contrast, mut saturation) = (0, 0, 0, 0, 0);
        // SAFETY: the context is live, and the out-pointers outlive the call. The tables that they receive belong to
        // the context or are static.
        unsafe {
            if ffi::sws_getColorspaceDetails(
                context.as_mut_ptr(),
                &mut inverse,
                &mut from_range,
                &mut table,
                &mut to_range,
                &mut brightness,
                &mut contrast,
                &mut saturation,
            ) >= 0
            {
                let coefficients = ffi::sws_getCoefficients(source.colorspace);
                let from_range = i32::from(source.full_range || from_range != 0);
                ffi::sws_setColorspaceDetails(
                    context.as_mut_ptr(),
                    coefficients,
                    from_range,
                    table,
                    to_range,
                    brightness,
                    contrast,
                    saturation,
                );
            }
        }
    }
    Ok(context)
}

/// Two neighbouring input pixels and the weight of the second. `second` is `first` if that has all the weight.
#[derive(Debug, Clone, Copy)]
struct Tap {
    first: usize,
    second: usize,
    weight: f32,
}

/// Plain bilinear interpolation with half-pixel centres and no antialiasing, as in `torch.nn.functional.interpolate`
/// and OpenCV's `INTER_LINEAR`: the taps of the outputs `from..from + count` when `input` pixels become `output`.
fn taps(input: usize, output: usize, from: usize, count: usize) -> Vec<Tap> {
    let scale = input as f32 / output as f32;
    (from..from + count)
        .map(|i| {
            let at = ((i as f32 + 0.5) * scale - 0.5).max(0.0);
            let first = (at as usize).min(input - 1);
            let weight = (at - first as f32).min(1.0);
            Tap { first, second: if weight == 0.0 { first } else { (first + 1).min(input - 1) }, weight }
        })
        .collect()
}

/// Samples the picture at `columns` x `rows`, and passes each output row to `put(y, pixels)`: red, green, blue (0..=255) and
/// zero. Rows and columns that no output takes are not converted.
// The fourth channel makes a pixel as large as a vector register.
fn sample(picture: &Picture<'_>, columns: &[Tap], rows: &[Tap], mut put: impl FnMut(usize, &[[f32; 4]])) {
    let new = || Line { y: None, pixels: vec![[0.0; 4]; columns.len()] };
    let mut lines = [new(), new()];
    let mut row_pixels = vec![[0; 4]; picture.size().0];
    let mut blended = vec![[0.0; 4]; columns.len()];
    for (y, row) in rows.iter().enumerate() {
        let is_single = row.weight == 0.0;
        // A line that is there already is not sampled again.
        if lines[1].y == Some(row.first) || (!is_single && lines[0].y == Some(row.second)) {
            lines.swap(0, 1);
        }
        for (line, y) in lines.iter_mut().zip([row.first, row.second]).take(if is_single { 1 } else { 2 }) {
            line.fill(picture, y, columns, &mut row_pixels);
        }
        let [upper, lower] = &lines;
        if is_single {
            put(y, &upper.pixels);
            continue;
        }
        let values = upper.pixels.as_flattened().iter().zip(lower.pixels.as_flattened());
        for (blended, (upper, lower)) in blended.as_flattened_mut().iter_mut().zip(values) {
            *blended = upper + (lower - upper) * row.weight;
        }
        put(y, &blended);
    }
}

/// A row of a picture, sampled at the columns.
struct Line {
    y: Option<usize>,
    pixels: Vec<[f32; 4]>,
}

impl Line {
    fn fill(&mut self, picture: &Picture<'_>, y: usize, columns: &[Tap], row: &mut [[u8; 4]]) {
        if self.y.replace(y) == Some(y) {
            return;
        }
        let (Some(first), Some(last)) = (columns.first(), columns.last()) else { return };
        picture.row(y, first.first..last.second + 1, row);
        for (pixel, column) in self.pixels.iter_mut().zip(columns) {
            let [left, right] = [row[column.first], row[column.second]].map(|pixel| pixel.map(f32::from));
            *pixel = std::array::from_fn(|c| left[c] + (right[c] - left[c]) * column.weight);
        }
    }
}

/// Writes the picture as a frame of a clip: its red, green and blue planes of `size` (width, height). Scales the short side to
/// `side`, crops the centre, and computes (RGB/255 - mean) / std. Equals PyTorchVideo's ShortSideScale, CenterCrop and
/// Normalize, rounded to halves. A whole picture is scaled to `size` regardless of its aspect ratio, or gets bars of zeros.
pub fn clip_frame(picture: &Picture<'_>, spec: &ClipSpec, size: (usize, usize), mut planes: [&mut [f16]; 3]) {
    let (width, height) = picture.size();
    let scaled = match spec.view {
        View::Within(_) if spec.scaled(width, height) != size => {
            let letterbox = Letterbox::new((width, height), size);
            planes.iter_mut().for_each(|plane| plane.fill(f16::ZERO));
            (letterbox.width, letterbox.height)
        }
        View::Centre(_) => spec.scaled(width, height),
        View::Whole | View::Within(_) => size,
    };
    let start = |scaled: usize, shown: usize| (scaled.saturating_sub(shown) as f64 / 2.0).round_ties_even() as usize;
    let (left, top) = (start(size.0, scaled.0), start(size.1, scaled.1));
    let columns = taps(width, scaled.0, start(scaled.0, size.0), size.0.min(scaled.0));
    let rows = taps(height, scaled.1, start(scaled.1, size.1), size.1.min(scaled.1));
    let gain: [f32; 3] = std::array::from_fn(|c| 1.0 / (255.0 * spec.std[c]));
    let shift: [f32; 3] = std::array::from_fn(|c| -spec.mean[c] / spec.std[c]);
    let mut row = vec![0.0; columns.len()];
    sample(picture, &columns, &rows, |y, pixels| {
        for (c, plane) in planes.iter_mut().enumerate() {
            for (value, pixel) in row.iter_mut().zip(pixels) {
                *value = pixel[c] * gain[c] + shift[c];
            }
            plane[(top + y) * size.0 + left..][..row.len()].convert_from_f32_slice(&row);
        }
    });
}

/// Writes the picture letterboxed into `image`, which is interleaved RGB of `size` (width, height).
pub fn letterboxed(picture: &Picture<'_>, size: (usize, usize), image: &mut [u8]) {
    let (width, height) = picture.size();
    let letterbox = Letterbox::new((width, height), size);
    image.fill(LETTERBOX_GREY);
    let columns = taps(width, letterbox.width, 0, letterbox.width);
    let rows = taps(height, letterbox.height, 0, letterbox.height);
    let mut rounded = vec![[0; 4]; columns.len()];
    sample(picture, &columns, &rows, |y, pixels| {
        for (rounded, value) in rounded.as_flattened_mut().iter_mut().zip(pixels.as_flattened()) {
            // SAFETY: the value is an interpolation of bytes, so it is finite and in the range of an i32. The checked
            // conversion is not vectorised.
            *rounded = unsafe { (value + 0.5).to_int_unchecked::<i32>() } as u8;
        }
        let at = ((letterbox.top + y) * size.0 + letterbox.left) * 3;
        for (pixel, [red, green, blue, _]) in image[at..].as_chunks_mut::<3>().0.iter_mut().zip(&rounded) {
            *pixel = [*red, *green, *blue];
        }
    });
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// A frame with random samples.
    fn noise(format: Pixel, width: u32, height: u32, seed: u64) -> Frame {
        let mut frame = Frame::new(format, width, height);
        let mut state = seed | 1;
        for plane in 0..frame.planes() {
            for byte in frame.data_mut(plane) {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                *byte = (state >> 56) as u8;
            }
        }
        frame
    }

    #[test]
    fn rows_are_converted_as_libswscale_does() {
        use ffmpeg_next::color::{Range, Space};
        // The arithmetic on other processors is rounded differently.
        let tolerance = if cfg!(target_arch = "x86_64") { 0 } else { 3 };
        let spaces = [Space::Unspecified, Space::BT709, Space::SMPTE170M, Space::BT2020NCL];
        let ranges = [Range::Unspecified, Range::MPEG, Range::JPEG];
        let sizes = [(256, 128), (2, 2), (34, 6), (130, 4), (1920, 16), (63, 8)];
        let cases =
            sizes.iter().flat_map(|size| spaces.iter().flat_map(move |space| ranges.map(|range| (size, space, range))));
        for (seed, (size, space, range)) in (1..).zip(cases) {
            for format in [Pixel::YUV420P, Pixel::YUVJ420P] {
                let mut frame = noise(format, size.0, size.1, seed);
                frame.set_color_space(*space);
                frame.set_color_range(range);
                let mut converter = Converter::default();
                let expected = converter.rgb(&frame, Source::of(&frame), Orientation::default()).unwrap();
                let yuv = planes(&frame, Source::of(&frame)).unwrap();
                let mut pixels = vec![[0_u8; 4]; yuv.width];
                for y in 0..yuv.height {
                    yuv.row(y, 0..yuv.width, &mut pixels);
                    let expected = expected.data[y * yuv.width * 3..].as_chunks::<3>().0;
                    for (x, ([found @ .., _], expected)) in pixels.iter().zip(expected).enumerate() {
                        let is_equal = found.iter().zip(expected).all(|(a, b)| a.abs_diff(*b) <= tolerance);
                        let case = format!("{format:?} {size:?} {space:?} {range:?} at ({x}, {y})");
                        assert!(is_equal, "{case}: {found:?}, not {expected:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_frame_is_sampled_as_its_rgb_picture() {
        for (size, out) in [((64, 48), (40, 40)), ((64, 36), (64, 64)), ((192, 108), (64, 64)), ((20, 30), (64, 64))] {
            let frame = noise(Pixel::YUV420P, size.0, size.1, 7);
            let mut converter = Converter::default();
            let rgb = Picture(Pixels::Rgb(converter.rgb(&frame, Source::of(&frame), Orientation::default()).unwrap()));
            let yuv = converter.picture(&frame, Orientation::default()).unwrap();
            assert!(matches!(yuv.0, Pixels::Yuv(_)));
            let [of_rgb, of_yuv] = [&rgb, &yuv].map(|picture| {
                let mut image = vec![0; out.0 * out.1 * 3];
                letterboxed(picture, out, &mut image);
                (image, clip_planes(picture, &spec(), (4, 4)))
            });
            assert_eq!(of_rgb, of_yuv);
        }
    }

    fn spec() -> ClipSpec {
        let (mean, std) = ([0.0; 3], [1.0; 3]);
        ClipSpec { frames: 2, side: 4, view: View::Centre(4), mean, std, clip_seconds: 1.0, stride_seconds: 1.0 }
    }

    fn clip_planes(picture: &Picture<'_>, spec: &ClipSpec, size: (usize, usize)) -> [Vec<f32>; 3] {
        let mut planes = [0; 3].map(|_| vec![f16::NAN; size.0 * size.1]);
        clip_frame(picture, spec, size, planes.each_mut().map(Vec::as_mut_slice));
        planes.map(|plane| plane.to_f32_vec())
    }

    #[test]
    fn a_picture_of_the_crops_size_is_only_normalised() {
        let data: Vec<u8> = (0..48).collect();
        let planes = clip_planes(&Picture(Pixels::Rgb(Rgb { width: 4, height: 4, data })), &spec(), (4, 4));
        for (i, value) in planes.iter().enumerate().flat_map(|(c, plane)| (c..).step_by(3).zip(plane)) {
            assert!((value - i as f32 / 255.0).abs() < 1e-4, "byte {i}: {value}");
        }
    }

    #[test]
    fn a_whole_picture_fills_the_clips_frame() {
        let whole = ClipSpec { view: View::Whole, ..spec() };
        let data: Vec<u8> = (0..24).flat_map(|pixel| [pixel; 3]).collect();
        let [red, ..] = clip_planes(&Picture(Pixels::Rgb(Rgb { width: 6, height: 4, data })), &whole, (6, 4));
        assert!(red.iter().enumerate().all(|(i, v)| (v - i as f32 / 255.0).abs() < 1e-4), "{red:?}");
        // A video that becomes square keeps the size that it began with.
        let square = Picture(Pixels::Rgb(Rgb { width: 2, height: 2, data: vec![255; 12] }));
        let [red, ..] = clip_planes(&square, &whole, (6, 4));
        assert!(red.iter().all(|v| (v - 1.0).abs() < 1e-3), "{red:?}");
    }

    #[test]
    fn an_elongated_picture_gets_bars_of_zeros() {
        let within = ClipSpec { view: View::Within(2), ..spec() };
        assert_eq!(within.size(16, 4), Some((8, 4)));
        assert_eq!(within.size(6, 4), Some((6, 4)));
        assert_eq!(within.size(4, 64), Some((4, 8)));
        let white = Picture(Pixels::Rgb(Rgb { width: 16, height: 4, data: vec![255; 192] }));
        let [red, ..] = clip_planes(&white, &within, (8, 4));
        let rows: Vec<&[f32]> = red.chunks(8).collect();
        assert!(rows[0].iter().chain(rows[3]).all(|v| *v == 0.0), "{rows:?}");
        assert!(rows[1].iter().chain(rows[2]).all(|v| (v - 1.0).abs() < 1e-3), "{rows:?}");
    }

    #[test]
    fn taps_have_half_pixel_centres_and_stay_inside() {
        let down = taps(4, 2, 0, 2);
        assert_eq!((down[0].first, down[0].second, down[0].weight), (0, 1, 0.5));
        let up = taps(2, 4, 0, 4);
        assert_eq!((up[0].first, up[0].weight), (0, 0.0));
        assert_eq!((up[3].first, up[3].second), (1, 1));
    }

    #[test]
    fn the_long_side_is_padded_with_grey() {
        let mut image = vec![0; 8 * 8 * 3];
        letterboxed(&Picture(Pixels::Rgb(Rgb { width: 8, height: 4, data: vec![255; 96] })), (8, 8), &mut image);
        assert_eq!(image[0], LETTERBOX_GREY);
        assert_eq!(image[(2 * 8) * 3], 255);
        assert_eq!(image[(6 * 8) * 3], LETTERBOX_GREY);
        // 4 x 4 pixels in the middle of 8 x 4.
        letterboxed(&Picture(Pixels::Rgb(Rgb { width: 2, height: 2, data: vec![255; 12] })), (8, 4), &mut image[..96]);
        let is_grey = |pixel: &[u8]| pixel == [LETTERBOX_GREY; 3];
        let greys: Vec<bool> = image[..96].chunks_exact(3).map(is_grey).collect();
        assert_eq!(greys, [true, true, false, false, false, false, true, true].repeat(4));
    }
}
