//! Converts a decoded frame into a model's input: RGB, upright, then a normalised crop or a letterboxed image.

use ffmpeg_next::format::Pixel;
use ffmpeg_next::frame::Video as Frame;
use ffmpeg_next::software::scaling::{Context, Flags};
use ffmpeg_next::{Error, ffi};

use super::{ClipSpec, Letterbox, Orientation, View};

/// Grey value of letterbox bars, as YOLOv5 pads.
const LETTERBOX_GREY: u8 = 114;

/// An upright picture in 8-bit interleaved RGB, with rows without padding.
#[derive(Debug, Default)]
pub struct Rgb {
    /// Width, pixels.
    pub width: usize,
    /// Height, pixels.
    pub height: usize,
    /// `height * width * 3` bytes.
    pub data: Vec<u8>,
}

/// Converts frames to RGB as displayed. Keeps the conversion's tables between frames.
pub struct Converter {
    context: Option<(Source, Context)>,
    converted: Frame,
}

/// The properties of a frame that the conversion's tables depend on.
#[derive(PartialEq, Eq, Clone, Copy)]
struct Source {
    format: Pixel,
    width: u32,
    height: u32,
    colorspace: i32,
    full_range: bool,
}

impl Default for Converter {
    fn default() -> Self {
        Self { context: None, converted: Frame::empty() }
    }
}

impl Converter {
    /// The frame as displayed, except that non-square pixels stay as stored.
    pub fn rgb(&mut self, frame: &Frame, orientation: Orientation) -> Result<Rgb, Error> {
        // SAFETY: `frame` is a live AVFrame; both fields are plain integers.
        let (colorspace, range) = unsafe { ((*frame.as_ptr()).colorspace as i32, (*frame.as_ptr()).color_range) };
        let source = Source {
            format: frame.format(),
            width: frame.width(),
            height: frame.height(),
            colorspace,
            full_range: range == ffi::AVColorRange::AVCOL_RANGE_JPEG,
        };
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

/// YUV to RGB at the same size. Chroma is interpolated. Matrix and range are the frame's own; the default is BT.601.
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

/// Two neighbouring input pixels and the weight of the second.
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
            Tap { first, second: (first + 1).min(input - 1), weight: (at - first as f32).min(1.0) }
        })
        .collect()
}

/// Samples the picture at `columns` x `rows` and passes each output pixel's three channels (0..=255) to `put(x, y,
/// rgb)`.
fn sample(picture: &Rgb, columns: &[Tap], rows: &[Tap], mut put: impl FnMut(usize, usize, [f32; 3])) {
    let stride = picture.width * 3;
    for (y, row) in rows.iter().enumerate() {
        let top = &picture.data[row.first * stride..][..stride];
        let bottom = &picture.data[row.second * stride..][..stride];
        for (x, column) in columns.iter().enumerate() {
            let (left, right) = (column.first * 3, column.second * 3);
            let rgb = std::array::from_fn(|c| {
                let upper = lerp(top[left + c], top[right + c], column.weight);
                let lower = lerp(bottom[left + c], bottom[right + c], column.weight);
                upper + (lower - upper) * row.weight
            });
            put(x, y, rgb);
        }
    }
}

fn lerp(a: u8, b: u8, weight: f32) -> f32 {
    let (a, b) = (f32::from(a), f32::from(b));
    a + (b - a) * weight
}

/// Writes the picture as frame `index` of a clip tensor `[3, frames, height, width]`, where `size` is (width, height):
/// scales the short side to `side`, crops the centre, and computes (RGB/255 - mean) / std. Equals PyTorchVideo's
/// ShortSideScale, CenterCrop and Normalize. A whole picture is scaled to `size` regardless of its aspect
/// ratio.
pub fn clip_frame(picture: &Rgb, spec: &ClipSpec, size: (usize, usize), index: usize, clip: &mut [f32]) {
    let scaled = match spec.view {
        View::Centre(_) => spec.scaled(picture.width, picture.height),
        View::Whole => size,
    };
    let start = |scaled: usize, shown: usize| (scaled.saturating_sub(shown) as f64 / 2.0).round_ties_even() as usize;
    let columns = taps(picture.width, scaled.0, start(scaled.0, size.0), size.0);
    let rows = taps(picture.height, scaled.1, start(scaled.1, size.1), size.1);
    let gain: [f32; 3] = std::array::from_fn(|c| 1.0 / (255.0 * spec.std[c]));
    let shift: [f32; 3] = std::array::from_fn(|c| -spec.mean[c] / spec.std[c]);
    let pixels = size.0 * size.1;
    let (red, rest) = clip.split_at_mut(spec.frames * pixels);
    let (green, blue) = rest.split_at_mut(spec.frames * pixels);
    let mut planes = [red, green, blue].map(|channel| &mut channel[index * pixels..][..pixels]);
    sample(picture, &columns, &rows, |x, y, rgb| {
        for c in 0..3 {
            planes[c][y * size.0 + x] = rgb[c] * gain[c] + shift[c];
        }
    });
}

/// Writes the picture letterboxed into `image`, which is interleaved RGB of `size` (width, height).
pub fn letterboxed(picture: &Rgb, size: (usize, usize), image: &mut [u8]) {
    let letterbox = Letterbox::new((picture.width, picture.height), size);
    image.fill(LETTERBOX_GREY);
    let columns = taps(picture.width, letterbox.width, 0, letterbox.width);
    let rows = taps(picture.height, letterbox.height, 0, letterbox.height);
    sample(picture, &columns, &rows, |x, y, rgb| {
        let at = ((letterbox.top + y) * size.0 + letterbox.left + x) * 3;
        image[at..at + 3].copy_from_slice(&rgb.map(|v| (v + 0.5) as u8));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ClipSpec {
        let (mean, std) = ([0.0; 3], [1.0; 3]);
        ClipSpec { frames: 2, side: 4, view: View::Centre(4), mean, std, clip_seconds: 1.0, stride_seconds: 1.0 }
    }

    #[test]
    fn a_picture_of_the_crops_size_is_only_normalised() {
        let data: Vec<u8> = (0..48).collect();
        let mut clip = vec![0.0; 2 * 48];
        clip_frame(&Rgb { width: 4, height: 4, data }, &spec(), (4, 4), 1, &mut clip);
        // channel 1 (green), frame 1, pixel (2, 1): byte (1*4+2)*3+1
        assert!((clip[(2 + 1) * 16 + 6] - 19.0 / 255.0).abs() < 1e-6);
        assert!(clip[..16].iter().all(|v| *v == 0.0));
    }

    #[test]
    fn a_whole_picture_fills_the_clips_frame() {
        let whole = ClipSpec { view: View::Whole, ..spec() };
        let data: Vec<u8> = (0..24).flat_map(|pixel| [pixel; 3]).collect();
        let mut clip = vec![-1.0; 3 * 2 * 24];
        clip_frame(&Rgb { width: 6, height: 4, data }, &whole, (6, 4), 0, &mut clip);
        let expected: Vec<f32> = (0..24).map(|pixel| pixel as f32 / 255.0).collect();
        assert!(clip[..24].iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6), "{clip:?}");
        // A video that becomes square keeps the size that it began with.
        clip_frame(&Rgb { width: 2, height: 2, data: vec![255; 12] }, &whole, (6, 4), 1, &mut clip);
        assert!(clip[24..48].iter().all(|v| (v - 1.0).abs() < 1e-6));
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
        letterboxed(&Rgb { width: 8, height: 4, data: vec![255; 96] }, (8, 8), &mut image);
        assert_eq!(image[0], LETTERBOX_GREY);
        assert_eq!(image[(2 * 8) * 3], 255);
        assert_eq!(image[(6 * 8) * 3], LETTERBOX_GREY);
        // 4 x 4 pixels in the middle of 8 x 4.
        letterboxed(&Rgb { width: 2, height: 2, data: vec![255; 12] }, (8, 4), &mut image[..96]);
        let is_grey = |pixel: &[u8]| pixel == [LETTERBOX_GREY; 3];
        let greys: Vec<bool> = image[..96].chunks_exact(3).map(is_grey).collect();
        assert_eq!(greys, [true, true, false, false, false, false, true, true].repeat(4));
    }
}
