//! Thumbnails: small JPEG files of the detector's frames that are nearest to the middles of the segments.
//!
//! A video has at most [`THUMBNAILS_MAX`]. When there are more, every second one is dropped, and from then on only every
//! second segment gets one. They stay evenly spread over a video of any length, and are the same each time.
//!
//! The decoder process only delivers scaled pixels. This process encodes the files, so they are safe to open.

use jpeg_encoder::{ColorType, Encoder};

use crate::decode::{Image, ImageSpec, Letterbox};
use crate::error::{Error, Result};

/// Maximum number of thumbnails of a video.
pub const THUMBNAILS_MAX: usize = 32;

/// Long side of a thumbnail, pixels.
const LONG_SIDE: usize = 320;

/// Quality of the JPEG, 1 to 100. A picture takes about 8 kB.
const QUALITY: u8 = 70;

/// The images to take thumbnails from if there is no detector.
pub const WITHOUT_DETECTOR: ImageSpec = ImageSpec { width: 640, height: 640, frames_per_second: 1.0 };

/// A small picture of a frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Thumbnail {
    /// Number of the frame in presentation order, from 0.
    pub frame: i64,
    /// Time in seconds from the first presented frame.
    pub time_seconds: f64,
    /// Width, pixels.
    pub width: usize,
    /// Height, pixels.
    pub height: usize,
    /// The JPEG file.
    pub jpeg: Vec<u8>,
}

/// Collects the thumbnails of a video.
#[derive(Debug)]
pub struct Thumbnails {
    /// Width and height of the letterboxed images, pixels.
    image_size: (usize, usize),
    /// The requested times are `first_seconds + k * distance_seconds`, for each k that is a multiple of `step`.
    first_seconds: f64,
    distance_seconds: f64,
    step: i64,
    kept: Vec<(i64, Thumbnail)>,
    nearest: Option<Nearest>,
}

/// The frame that is nearest to the requested time `k` so far.
#[derive(Debug)]
struct Nearest {
    k: i64,
    offset_seconds: f64,
    frame: i64,
    time_seconds: f64,
    picture: Picture,
}

/// An RGB picture, interleaved.
#[derive(Debug)]
struct Picture {
    width: usize,
    height: usize,
    data: Vec<u8>,
}

impl Thumbnails {
    /// Takes thumbnails from images of `image_size` pixels, at `first_seconds` and every `distance_seconds` after that.
    pub fn new(image_size: (usize, usize), first_seconds: f64, distance_seconds: f64) -> Self {
        Self { image_size, first_seconds, distance_seconds, step: 1, kept: Vec::new(), nearest: None }
    }

    /// Considers an image. Images must be pushed by time.
    ///
    /// # Errors
    /// If the picture cannot be encoded. No such picture is known.
    pub fn push(&mut self, image: &Image) -> Result<()> {
        let size = (image.width as usize, image.height as usize);
        self.look(image.frame, image.time_seconds, |image_size| scaled(image.slot.bytes(), size, image_size))
    }

    /// Returns the thumbnails of the whole video, by time.
    ///
    /// # Errors
    /// As for [`Self::push`].
    pub fn finish(mut self) -> Result<Vec<Thumbnail>> {
        self.keep()?;
        Ok(self.kept.into_iter().map(|(_, thumbnail)| thumbnail).collect())
    }

    fn look(&mut self, frame: i64, time_seconds: f64, picture: impl FnOnce((usize, usize)) -> Picture) -> Result<()> {
        let k = (((time_seconds - self.first_seconds) / self.distance_seconds).round() as i64).max(0);
        if k % self.step != 0 {
            return Ok(());
        }
        let offset_seconds = (time_seconds - self.first_seconds - k as f64 * self.distance_seconds).abs();
        match &self.nearest {
            Some(nearest) if nearest.k == k && nearest.offset_seconds <= offset_seconds => return Ok(()),
            Some(nearest) if nearest.k != k => self.keep()?,
            _ => {}
        }
        // The one that was just kept may exceed the limit.
        if k % self.step == 0 {
            self.nearest = Some(Nearest { k, offset_seconds, frame, time_seconds, picture: picture(self.image_size) });
        }
        Ok(())
    }

    fn keep(&mut self) -> Result<()> {
        let Some(Nearest { k, frame, time_seconds, picture, .. }) = self.nearest.take() else { return Ok(()) };
        let Picture { width, height, .. } = picture;
        self.kept.push((k, Thumbnail { frame, time_seconds, width, height, jpeg: jpeg(&picture)? }));
        if self.kept.len() > THUMBNAILS_MAX {
            self.step *= 2;
            self.kept.retain(|(k, _)| k % self.step == 0);
        }
        Ok(())
    }
}

/// The picture of `size` pixels that is letterboxed in `image`, scaled down: each pixel is the mean of those it covers.
fn scaled(image: &[u8], size: (usize, usize), image_size: (usize, usize)) -> Picture {
    let from = Letterbox::new(size, image_size);
    let long = from.width.max(from.height);
    let shorter = |length: usize| (length * LONG_SIDE.min(long)).div_ceil(long);
    let (width, height) = (shorter(from.width), shorter(from.height));
    let span = |at: usize, of: usize, count: usize| at * count / of..((at + 1) * count / of).max(at * count / of + 1);
    let mut data = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        let rows = span(y, height, from.height);
        for x in 0..width {
            let columns = span(x, width, from.width);
            let count = (rows.len() * columns.len()) as u32;
            let mut sums = [count / 2; 3];
            for row in rows.clone() {
                let start = ((from.top + row) * image_size.0 + from.left) * 3;
                for pixel in image[start + columns.start * 3..start + columns.end * 3].chunks_exact(3) {
                    (0..3).for_each(|c| sums[c] += u32::from(pixel[c]));
                }
            }
            data.extend(sums.map(|sum| (sum / count) as u8));
        }
    }
    Picture { width, height, data }
}

fn jpeg(picture: &Picture) -> Result<Vec<u8>> {
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, QUALITY);
    encoder.set_optimized_huffman_tables(true);
    encoder
        .encode(&picture.data, picture.width as u16, picture.height as u16, ColorType::Rgb)
        .map_err(|error| Error::failed(format!("cannot encode a thumbnail: {error}")))?;
    Ok(file)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// The times of the thumbnails of these frames, with a requested time every two seconds, starting at 1 s.
    fn times(frames: impl IntoIterator<Item = f64>) -> Vec<f64> {
        let mut thumbnails = Thumbnails::new((4, 4), 1.0, 2.0);
        for (number, time) in frames.into_iter().enumerate() {
            thumbnails.look(number as i64, time, |_| Picture { width: 2, height: 1, data: vec![9; 6] }).unwrap();
        }
        thumbnails.finish().unwrap().iter().map(|thumbnail| thumbnail.time_seconds).collect()
    }

    #[test]
    fn the_frame_nearest_to_each_segments_middle_is_taken() {
        assert_eq!(times((0..7).map(f64::from)), [1.0, 3.0, 5.0, 6.0], "the last one has begun");
        assert_eq!(times([0.0, 0.7, 1.4, 2.1, 2.8, 3.5]), [0.7, 2.8]);
        assert_eq!(times([0.0]), [0.0], "a video shorter than half a segment");
        assert_eq!(times([]), [0.0; 0]);
    }

    #[test]
    fn a_long_video_has_a_bounded_number_evenly_spread() {
        for seconds in [64_u32, 66, 1000, 20_000] {
            let times = times((0..seconds).map(f64::from));
            assert!((THUMBNAILS_MAX / 2..=THUMBNAILS_MAX).contains(&times.len()), "{seconds}: {}", times.len());
            let distance = times[1] - times[0];
            assert!(times.windows(2).all(|pair| pair[1] - pair[0] == distance), "{seconds}: {times:?}");
            assert!(f64::from(seconds) - times[times.len() - 1] <= 2.0 * distance, "{seconds}: {times:?}");
        }
    }

    #[test]
    fn the_letterbox_is_cut_off_and_what_is_left_is_averaged() {
        // 1280 x 640 in 640 x 640: bars of 160 pixels above and below; then four pixels become one.
        let mut image = vec![114; 640 * 640 * 3];
        for (i, pixel) in image[160 * 640 * 3..480 * 640 * 3].chunks_exact_mut(3).enumerate() {
            pixel.copy_from_slice(&[if i % 2 == 0 { 10 } else { 20 }, 200, 0]);
        }
        let picture = scaled(&image, (1280, 640), (640, 640));
        assert_eq!((picture.width, picture.height), (320, 160));
        assert!(picture.data.chunks_exact(3).all(|pixel| pixel == [15, 200, 0]));
        assert!(jpeg(&picture).unwrap().starts_with(&[0xff, 0xd8]));
        // The same in 640 x 384: bars of 32 pixels.
        let picture = scaled(&image[128 * 640 * 3..512 * 640 * 3], (1280, 640), (640, 384));
        assert_eq!((picture.width, picture.height), (320, 160));
        assert!(picture.data.chunks_exact(3).all(|pixel| pixel == [15, 200, 0]));
    }

    #[test]
    fn any_size_that_a_decoder_may_report_gives_a_picture() {
        let image = vec![1; 64 * 64 * 3];
        for size in [(1, 1), (1, 100_000), (100_000, 1), (3, 2), (usize::from(u16::MAX), 7)] {
            let picture = scaled(&image, size, (64, 64));
            assert!(picture.width.max(picture.height) <= 64 && picture.width.min(picture.height) > 0, "{size:?}");
            assert_eq!(picture.data.len(), picture.width * picture.height * 3);
            jpeg(&picture).unwrap();
        }
    }
}
