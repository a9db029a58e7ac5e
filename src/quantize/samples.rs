//! Samples: clips or images from the user's videos, spread over the archive. They are kept in files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use half::f16;

use super::Quantize;
use super::subject::Subject;
use crate::decode::{ClipSpec, Decoding, ImageSpec, Request, SampledFrame, View};
use crate::error::{Error, Result, VideoError, WorkError};
use crate::plan;
use crate::run::VideoObject;
use crate::scratch::Scratch;
use crate::work::fetch::Fetch;
use crate::work::video::DECODER_MEMORY_BYTES;

/// Seconds between two samples of a video, if it is long enough for so many. Otherwise they follow each other as in the job,
/// or overlap.
const SPACINGS: [f64; 2] = [60.0, 15.0];

/// Samples overlap by up to three quarters.
const OVERLAP: f64 = 0.25;

/// Threads of a decoder.
const DECODER_THREADS: usize = 2;

/// A sample in a file.
pub(super) struct Sample {
    file: PathBuf,
    /// Width and height, pixels: of the clip's frames, or of the image's frame as displayed.
    pub(super) frame: (u32, u32),
}

/// The samples.
pub(super) struct Samples {
    samples: Vec<Sample>,
    /// Number of videos that they are from.
    pub(super) videos: usize,
    _scratch: Scratch,
}

impl Sample {
    /// The values of a clip.
    pub(super) fn halves(&self) -> Result<Vec<f16>> {
        Ok(self.read()?.as_chunks::<2>().0.iter().map(|&bytes| f16::from_ne_bytes(bytes)).collect())
    }

    /// The clip's 16-bit floats, or the image's pixels.
    pub(super) fn read(&self) -> Result<Vec<u8>> {
        std::fs::read(&self.file)
            .map_err(|error| Error::failed(format!("{}: failed to read: {error}", self.file.display())))
    }
}

impl Samples {
    pub(super) fn len(&self) -> usize {
        self.samples.len()
    }

    /// One of `parts` samples, and the others.
    pub(super) fn split(&self, parts: usize) -> (Vec<&Sample>, Vec<&Sample>) {
        let numbered = self.samples.iter().enumerate();
        let (some, rest): (Vec<_>, Vec<_>) = numbered.partition(|(number, _)| number % parts == parts - 1);
        (some.into_iter().map(|(_, sample)| sample).collect(), rest.into_iter().map(|(_, sample)| sample).collect())
    }

    /// Collects as many samples as are wanted, or as there are.
    pub(super) async fn collect(wanted: &Quantize, subject: &Subject) -> Result<Self> {
        let count = wanted.samples;
        let (videos, _) = plan::sample(&wanted.job, &*wanted.input, &*wanted.output, count).await?;
        if videos.is_empty() {
            return Err(Error::usage(format!("no video in {}", wanted.job.input.uri))
                .with_hint("calibrate with a folder of videos, or a job file whose [input] has some"));
        }
        tracing::info!(videos = videos.len(), "collecting samples");
        let scratch = Scratch::new()?;
        let usual = subject.spacing();
        let spacings = SPACINGS.into_iter().filter(|spacing| *spacing > usual).chain([usual, usual * OVERLAP]);
        let mut best: Vec<Vec<Sample>> = Vec::new();
        for spacing in spacings {
            let found = pass(wanted, subject, &videos, spacing, scratch.path()).await?;
            best = found;
            if best.iter().map(Vec::len).sum::<usize>() >= count {
                break;
            }
        }
        let videos = best.iter().filter(|samples| !samples.is_empty()).count();
        Ok(Self { samples: in_turn(best, count), videos, _scratch: scratch })
    }
}

/// The first sample of each video, then the second of each, and so on.
fn in_turn(videos: Vec<Vec<Sample>>, count: usize) -> Vec<Sample> {
    let mut videos: Vec<_> = videos.into_iter().map(Vec::into_iter).collect();
    let mut samples = Vec::new();
    loop {
        let before = samples.len();
        samples.extend(videos.iter_mut().filter_map(Iterator::next));
        if samples.len() == before || samples.len() >= count {
            samples.truncate(count);
            return samples;
        }
    }
}

/// The samples of a video, or its URI and why it could not be decoded.
type OfVideo = (Vec<Sample>, Option<(String, VideoError)>);

/// The samples of each video, so many seconds apart. A video that cannot be decoded has none.
async fn pass(
    wanted: &Quantize,
    subject: &Subject,
    videos: &[VideoObject],
    spacing: f64,
    folder: &Path,
) -> Result<Vec<Vec<Sample>>> {
    let each = wanted.samples.div_ceil(videos.len());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let decode = |(number, video): (usize, &VideoObject)| {
        let (clips, images) = subject.sampled_every(spacing);
        let request = Request {
            size_bytes: video.size_bytes,
            clips,
            images,
            threads: DECODER_THREADS,
            memory_bytes: DECODER_MEMORY_BYTES,
            ..Request::default()
        };
        let source = Arc::new(Fetch::new(wanted.input.clone(), video));
        let prefix = folder.join(format!("{number}-"));
        let uri = video.uri.clone();
        async move {
            match of_video(wanted, request, source, each, &prefix).await {
                Ok(samples) => Ok((samples, None)),
                Err(WorkError::Video(error)) => Ok((vec![], Some((uri, error)))),
                Err(WorkError::Transient(error)) => Err(Error::from(error)),
                Err(WorkError::Fatal(error)) => Err(error),
            }
        }
    };
    let found: Vec<OfVideo> =
        futures::stream::iter(videos.iter().enumerate().map(decode)).buffered(cores).try_collect().await?;
    let failed = found.iter().filter_map(|(_, failed)| failed.as_ref());
    for (uri, error) in failed.clone() {
        tracing::warn!(uri, %error, "skipped");
    }
    if failed.clone().count() == videos.len() {
        let reasons = failed.map(|(uri, error)| format!("{uri}: {error}")).next().unwrap_or_default();
        return Err(Error::failed(format!("none of {} videos could be decoded: {reasons}", videos.len())));
    }
    Ok(found.into_iter().map(|(samples, _)| samples).collect())
}

async fn of_video(
    wanted: &Quantize,
    mut request: Request,
    source: Arc<Fetch>,
    count: usize,
    prefix: &Path,
) -> Result<Vec<Sample>, WorkError> {
    let timeout = Duration::from_secs(wanted.job.run.video_timeout_seconds);
    loop {
        let mut samples = Vec::new();
        let mut decoding =
            Decoding::start(&wanted.decoders, request.clone(), source.clone(), timeout).map_err(WorkError::Fatal)?;
        while samples.len() < count
            && let Some(frame) = decoding.next().await?
        {
            let (slot, frame) = match frame {
                SampledFrame::Opened(_) => continue,
                SampledFrame::Clip(clip) => (clip.slot, (clip.width as u32, clip.height as u32)),
                SampledFrame::Image(image) => (image.slot, (image.width, image.height)),
            };
            let file = PathBuf::from(format!("{}{}", prefix.display(), samples.len()));
            std::fs::write(&file, slot.bytes()).map_err(|error| {
                let failed = Error::failed(format!("{}: failed to write a sample: {error}", file.display()));
                WorkError::Fatal(failed.with_hint("set TMPDIR to a directory with free space"))
            })?;
            samples.push(Sample { file, frame });
        }
        match decoding.needs_full() {
            Some(reason) if samples.len() < count => request.in_full = Some(reason),
            _ => return Ok(samples),
        }
    }
}

impl Subject {
    /// Seconds from one input to the next in a job.
    fn spacing(&self) -> f64 {
        match self {
            Self::Actions(model) | Self::PersonActions(model) => model.clips.stride_seconds,
            Self::Persons(model) => 1.0 / model.images.frames_per_second,
        }
    }

    /// What a decoder must produce for an input every so many seconds.
    fn sampled_every(&self, seconds: f64) -> (Option<ClipSpec>, Option<ImageSpec>) {
        match self {
            Self::Actions(model) => {
                // Squares, whatever part of a frame the job looks at.
                let view = View::Centre(model.crop());
                (Some(ClipSpec { stride_seconds: seconds, view, ..model.clips.clone() }), None)
            }
            Self::PersonActions(model) => (Some(ClipSpec { stride_seconds: seconds, ..model.clips.clone() }), None),
            Self::Persons(model) => {
                (None, Some(ImageSpec { frames_per_second: 1.0 / seconds, ..model.images.clone() }))
            }
        }
    }
}
