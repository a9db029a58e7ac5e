//! Estimates what a plan takes: hours of video, of decoding and of inference, requests to the stores, and what it costs.
//!
//! The hours of video come from the headers of a sample of the videos; the speed from the records of an earlier run or from the
//! report of `vidindex bench`.

mod show;
mod speed;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use serde::Serialize;

use crate::decode::{Decoders, Decoding, Request, SampledFrame};
use crate::error::Result;
use crate::job::Job;
use crate::plan::Plan;
use crate::run::VideoObject;
use crate::store::Store;
use crate::work::fetch::{AHEAD_BYTES, Fetch};
use crate::work::thumbnails::WITHOUT_DETECTOR;
use crate::work::video::DECODER_MEMORY_BYTES;
pub use speed::Speed;

/// Time limit for reading one header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Headers that are read at the same time.
const HEADERS_AT_ONCE: usize = 8;

/// Reads of a video besides those of its bytes: a decoder jumps to the index of the file and back.
const JUMPS: u64 = 3;

/// Number of videos from which on the length is estimated by regression, otherwise by the ratio of seconds to bytes.
const REGRESSION_MIN: usize = 8;

/// Objects in one answer to a list request.
const LISTED_AT_ONCE: u64 = 1000;

const GIB: f64 = (1_u64 << 30) as f64;

/// What a plan takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    /// Number of videos that are read.
    pub videos: u64,
    /// Their size, bytes. Less is read if a job needs only a few frames of each.
    pub bytes: u64,
    /// How long they are. `None` if no header of the sample says it.
    pub length: Option<Length>,
    /// How fast they are processed, if it is known.
    pub speed: Option<Speed>,
    /// What follows from both.
    pub time: Option<Time>,
    /// Number of requests.
    pub requests: Requests,
    /// By the job's prices, if it has any.
    pub cost: Option<Cost>,
}

/// How long videos are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Length {
    /// Hours of all videos together.
    pub hours: f64,
    /// Twice the standard error of the hours, as a share of them. 0 if every header was read.
    pub error: f64,
    /// Number of headers that say how long the video is.
    pub headers: usize,
    /// Number of headers that were read, or could not be.
    pub sample: usize,
}

/// How long a run takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Time {
    /// Hours of all tasks together: GPU-hours, if each has a GPU.
    pub task_hours: f64,
    /// Hours of decoding, summed over the decoders that run at the same time.
    pub decode_hours: f64,
    /// Hours in which a model computes, summed over the models.
    pub inference_hours: f64,
    /// Number of tasks that share the work.
    pub tasks: u32,
    /// Hours from the start to the end, if that many tasks run at the same time.
    pub hours: f64,
}

/// Number of requests to the stores, about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Requests {
    /// Reads of parts of videos.
    pub reads: u64,
    /// Writes and copies of files of the index.
    pub writes: u64,
    /// Pages of the input's listing.
    pub lists: u64,
}

/// What a run costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cost {
    /// The currency.
    pub currency: String,
    /// The tasks. `None` if the speed is unknown.
    pub tasks: Option<f64>,
    /// The requests.
    pub requests: f64,
    /// The bytes read.
    pub bytes: f64,
}

/// Estimates what a plan takes with this number of tasks.
///
/// # Errors
/// If a decoder cannot be started.
pub async fn estimate(
    job: &Job,
    plan: &Plan,
    input: Arc<dyn Store>,
    decoders: &Arc<Decoders>,
    speed: Option<Speed>,
    tasks: u32,
) -> Result<Estimate> {
    let sample = plan.sample();
    let headers: Vec<_> = futures::stream::iter(sample.iter().map(async |video| header(&input, decoders, video).await))
        .buffered(HEADERS_AT_ONCE)
        .collect()
        .await;
    let (videos, bytes) = (plan.videos_to_read(), plan.run.bytes);
    let known: Vec<(f64, f64)> =
        sample.iter().zip(headers).filter_map(|(video, header)| Some((video.size_bytes as f64, header?))).collect();
    let length = length(&known, sample.len(), videos, bytes);
    let time = length.zip(speed.as_ref()).map(|(length, speed)| {
        let task_hours = length.hours * speed.task_seconds;
        // A task takes whole shards.
        let shards = u64::from(plan.run.shards.max(1));
        let share = shards.div_ceil(u64::from(tasks.max(1))) as f64 / shards as f64;
        Time {
            task_hours,
            decode_hours: length.hours * speed.decode_seconds,
            inference_hours: length.hours * speed.inference_seconds,
            tasks,
            hours: task_hours * share,
        }
    });
    let requests = requests(job, plan, videos, bytes);
    let cost = job.prices.as_ref().map(|prices| Cost {
        currency: prices.currency.clone(),
        tasks: time.map(|time| time.task_hours * prices.task_hour),
        requests: requests.reads as f64 / 1e3 * prices.thousand_reads
            + (requests.writes + requests.lists) as f64 / 1e3 * prices.thousand_writes,
        bytes: bytes as f64 / GIB * prices.gib_read,
    });
    Ok(Estimate { videos, bytes, length, speed, time, requests, cost })
}

/// The length that a video's header declares, seconds. `None` if it does not, or the header cannot be read.
async fn header(input: &Arc<dyn Store>, decoders: &Arc<Decoders>, video: &VideoObject) -> Option<f64> {
    let request = Request {
        size_bytes: video.size_bytes,
        images: Some(WITHOUT_DETECTOR),
        threads: 1,
        memory_bytes: DECODER_MEMORY_BYTES,
        ..Request::default()
    };
    let source = Arc::new(Fetch::new(input.clone(), video));
    let opened = async {
        let mut decoding = Decoding::start(decoders, request, source, HEADER_TIMEOUT).ok()?;
        match decoding.next().await {
            Ok(Some(SampledFrame::Opened(info))) => info.duration_seconds,
            _ => None,
        }
    };
    opened.await.filter(|seconds| seconds.is_finite() && *seconds > 0.0)
}

/// The length of `videos` videos of `bytes` together, from the (bytes, seconds) of some of them: by linear regression of seconds on
/// bytes, with the standard error of a regression estimator. Where all videos are equally long, their sizes do not matter; where
/// they are equally compressed, only their sizes do.
fn length(known: &[(f64, f64)], sample: usize, videos: u64, bytes: u64) -> Option<Length> {
    let count = known.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| known.iter().map(of).sum::<f64>() / count;
    let (size, seconds) = (mean(|video| video.0), mean(|video| video.1));
    if known.is_empty() || seconds <= 0.0 {
        return None;
    }
    let products = known.iter().map(|video| (video.0 - size) * (video.1 - seconds)).sum::<f64>();
    let squares = known.iter().map(|video| (video.0 - size).powi(2)).sum::<f64>();
    // With few videos, a line would fit them by chance.
    let slope = if known.len() < REGRESSION_MIN || squares <= 0.0 { seconds / size } else { products / squares };
    let predicted = |bytes: f64| seconds + slope * (bytes - size);
    let each = predicted(bytes as f64 / videos.max(1) as f64).max(0.0);
    let spread = known.iter().map(|video| (video.1 - predicted(video.0)).powi(2)).sum::<f64>();
    let missing = (1.0 - count / videos.max(1) as f64).max(0.0);
    let error = match known.len() {
        _ if missing == 0.0 => 0.0,
        // The spread of so few videos is unknown.
        1 | 2 => 1.0,
        _ => 2.0 * (missing * spread / (count - 2.0) / count).sqrt() / each,
    };
    Some(Length { hours: each * videos as f64 / 3600.0, error, headers: known.len(), sample })
}

fn requests(job: &Job, plan: &Plan, videos: u64, bytes: u64) -> Requests {
    let sections = [job.actions.is_some(), job.persons.is_some(), job.report.thumbnails];
    let files = 1 + sections.into_iter().filter(|has| *has).count() as u64;
    Requests {
        reads: videos * JUMPS + bytes.div_ceil(AHEAD_BYTES),
        // Of each shard: its files, their copies for readers, the commit, and the record of the attempt.
        writes: u64::from(plan.run.shards) * (2 * files + 2),
        lists: plan.objects_seen.div_ceil(LISTED_AT_ONCE),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_exact_if_every_header_was_read_and_its_error_shrinks_with_the_sample() {
        let all = [(1000.0, 3600.0), (3000.0, 7200.0)];
        let whole = length(&all, 2, 2, 4000).unwrap();
        assert!((whole.hours - 3.0).abs() < 1e-12 && whole.error == 0.0, "{whole:?}");
        assert_eq!(length(&[], 5, 9, 100), None);
        assert_eq!(length(&all[..1], 1, 2, 4000).unwrap().error, 1.0);
        let of = |repeats: usize| {
            let videos = [(1000.0, 3600.0), (3000.0, 7200.0), (2000.0, 6000.0)].repeat(repeats);
            length(&videos, videos.len(), 1_500_000, 3_000_000_000).unwrap()
        };
        assert!((of(4).hours - 1_500_000.0 * 5600.0 / 3600.0).abs() < 1.0, "{:?}", of(4));
        assert!(of(4).error > 2.0 * of(32).error && of(32).error > 0.0, "{:?} {:?}", of(4), of(32));
    }

    #[test]
    fn videos_of_one_length_are_estimated_well_however_they_are_compressed() {
        let videos: Vec<(f64, f64)> = (0..10).map(|n| (f64::from(1000 + 9000 * (n % 2)), 60.0)).collect();
        let found = length(&videos, 10, 1000, 2_000_000).unwrap();
        assert!((found.hours * 60.0 - 1000.0).abs() < 1e-6 && found.error < 1e-9, "{found:?}");
    }

    #[test]
    fn the_true_length_lies_within_the_error_for_most_samples() {
        let mut state = 7_u64;
        let mut random = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / f64::from(1_u32 << 31)
        };
        // Bit rates differ by a factor of four.
        let videos: Vec<(f64, f64)> = (0..300)
            .map(|_| {
                let size = 100.0 + 9900.0 * random();
                (size, size * (0.5 + 1.5 * random()))
            })
            .collect();
        let (bytes, seconds) = videos.iter().fold((0.0, 0.0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
        let within = (0..500).filter(|_| {
            let sample: Vec<_> = (0..32).map(|_| videos[(random() * 300.0) as usize]).collect();
            let found = length(&sample, 32, 300, bytes as u64).unwrap();
            (found.hours * 3600.0 / seconds - 1.0).abs() <= found.error
        });
        let share = within.count() as f64 / 500.0;
        assert!((0.88..0.99).contains(&share), "{share}");
    }
}
