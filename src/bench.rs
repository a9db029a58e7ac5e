//! Measures a job on this machine with a sample of its own videos: decoding and inference alone, both together, and which
//! of them is the limit. Nothing is written to the job's output.

mod cost;
mod report;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chrono::Utc;
pub use cost::milliseconds;
pub use report::{BenchReport, DecodeRate, InferenceRate, Limit, PipelineRate, Sample};
use tokio::task::JoinSet;

use crate::decode::{Decoders, Decoding, FullDecode, Request, SampledFrame};
use crate::device::Precision;
use crate::error::{Error, Result, WorkError};
use crate::infer::session::Runtime;
use crate::job::Job;
use crate::plan;
use crate::run::{RunId, RunRecord, VideoObject};
use crate::scratch::Scratch;
use crate::store::Store;
use crate::telemetry::{Progress, Usage};
use crate::work::fetch::Fetch;
use crate::work::models::{BareModel, JobModels, OpenModels};
use crate::work::restore::Restorer;
use crate::work::video::{DECODER_MEMORY_BYTES, Indexer};

/// Batch sizes that are measured on a GPU in the job's precision, unless a graph has only one. Other precisions are measured
/// with the usual one.
const GPU_BATCHES: [usize; 3] = [1, 8, 32];
/// Numbers of streams that are measured on a CPU, besides a higher one that is usual on this machine.
const CPU_STREAMS: [usize; 2] = [1, 2];
/// Runs of a batch, at least, after one that plans the graph.
const RUNS_MIN: usize = 3;

/// What to measure.
pub struct Bench {
    /// The job.
    pub job: Job,
    /// Its models.
    pub models: JobModels,
    /// The device.
    pub runtime: Arc<Runtime>,
    /// The store of the videos.
    pub input: Arc<dyn Store>,
    /// The store of the index. It is only read.
    pub output: Arc<dyn Store>,
    /// Starts decoder processes.
    pub decoders: Arc<Decoders>,
    /// Number of videos in the sample, at most.
    pub videos: usize,
    /// About how long all measurements take together.
    pub time: Duration,
}

impl Bench {
    /// Measures. Takes about [`Bench::time`], and the time for opening the models.
    ///
    /// # Errors
    /// If the input has no video that can be decoded, the store is unavailable, or a model fails.
    pub async fn run(&self) -> Result<BenchReport> {
        let (videos, of) = plan::sample(&self.job, &*self.input, &*self.output, self.videos).await?;
        if videos.is_empty() {
            return Err(Error::failed(format!("no video in {}", self.job.input.uri))
                .with_hint("check [input] uri and include; `vidindex plan JOB --dry-run` shows what was skipped"));
        }
        let bytes = videos.iter().map(|video| video.size_bytes).sum();
        let sample = Sample { videos: videos.len(), of, bytes };
        let videos: Arc<[VideoObject]> = videos.into();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);

        tracing::info!(videos = sample.videos, "measuring decoding");
        let (models, opening) = self.models.open(&self.runtime)?;
        opening.wait(&models).await?;
        let quarter = self.time / 4;
        let decoding = [
            self.decode(&models, &videos, Some(FullDecode::Requested), quarter / 2).await?,
            self.decode(&models, &videos, None, quarter / 2).await?,
        ];

        tracing::info!("measuring the whole job");
        let pipeline = self.pipeline(&models, &videos, quarter).await?;
        drop(models);

        tracing::info!("measuring inference");
        let inference = tokio::task::block_in_place(|| self.inference(self.time / 2))?;
        Ok(self.report(cores, sample, decoding, inference, pipeline))
    }

    fn report(
        &self,
        cores: usize,
        sample: Sample,
        decoding: [DecodeRate; 2],
        inference: Vec<InferenceRate>,
        mut pipeline: PipelineRate,
    ) -> BenchReport {
        let device = self.runtime.device();
        let decodes = decoding[1].times_real_time;
        let infers = self.inference_bound(&inference);
        pipeline.bound = match device.is_cpu() {
            true => 1.0 / (1.0 / decodes + 1.0 / infers),
            false => decodes.min(infers),
        };
        let cores_to_feed = (!device.is_cpu()).then(|| (cores as f64 * infers / decodes).ceil() as usize);
        BenchReport {
            device: device.to_string(),
            cores,
            sample,
            decoding,
            inference,
            pipeline,
            limit: if infers < decodes { Limit::Inference } else { Limit::Decoding },
            cores_to_feed,
        }
    }

    /// Seconds of video per second that the models take together, each at its best batch size in the job's precision.
    fn inference_bound(&self, rates: &[InferenceRate]) -> f64 {
        let refs = self.models.refs();
        let best = |id: &str| {
            let usual = (self.runtime.precision(), self.runtime.streams());
            let same = |rate: &&InferenceRate| rate.model == id && (rate.precision, rate.streams) == usual;
            rates.iter().filter(same).map(|rate| rate.per_second).fold(0.0, f64::max)
        };
        let actions = self.models.actions.as_ref().zip(refs.actions.as_ref());
        let persons = self.models.persons.as_ref().zip(refs.persons.as_ref());
        let per_second = [
            actions.map(|(model, of)| 1.0 / model.clips.stride_seconds / best(&of.id)),
            persons.map(|(model, of)| model.images.frames_per_second / best(&of.id)),
        ];
        1.0 / per_second.into_iter().flatten().sum::<f64>()
    }

    /// Decodes without inference.
    async fn decode(
        &self,
        models: &OpenModels,
        videos: &Arc<[VideoObject]>,
        in_full: Option<FullDecode>,
        time: Duration,
    ) -> Result<DecodeRate> {
        let reached = Arc::new(Reached::default());
        let request = Request {
            clips: models.actions.as_ref().map(|model| model.clips.clone()),
            images: models.persons.as_ref().map(|model| model.images.clone()),
            threads: DECODER_THREADS,
            memory_bytes: DECODER_MEMORY_BYTES,
            in_full,
            ..Request::default()
        };
        let timeout = Duration::from_secs(self.job.run.video_timeout_seconds);
        let one = {
            let (input, decoders, reached) = (self.input.clone(), self.decoders.clone(), reached.clone());
            move |video: VideoObject| {
                let (input, decoders, reached) = (input.clone(), decoders.clone(), reached.clone());
                let request = Request { size_bytes: video.size_bytes, ..request.clone() };
                async move {
                    let source = Arc::new(Fetch::new(input, &video));
                    decode_one(&decoders, request, source, timeout, &reached).await
                }
            }
        };
        let seconds = cycle(videos, time, one).await?;
        let video_seconds = reached.microseconds.load(Ordering::Relaxed) as f64 / 1e6;
        if video_seconds == 0.0 {
            return Err(Error::failed("no video of the sample gave a frame in time").with_hint("give more --seconds"));
        }
        Ok(DecodeRate {
            frames: if in_full.is_some() { "every_frame" } else { "as_needed" },
            frames_per_second: reached.frames.load(Ordering::Relaxed) as f64 / 1e3 / seconds,
            times_real_time: video_seconds / seconds,
        })
    }

    /// Indexes without writing.
    async fn pipeline(&self, models: &OpenModels, videos: &Arc<[VideoObject]>, time: Duration) -> Result<PipelineRate> {
        let scratch = Scratch::new()?;
        let indexer = Arc::new(self.indexer(models, scratch.path()));
        let one = move |video: VideoObject| {
            let indexer = indexer.clone();
            async move { indexer.index(&video, 0, None).await.map(drop) }
        };
        let seconds = cycle(videos, time, one).await?;
        let used: Vec<(&str, Usage)> =
            models.counters().into_iter().map(|(name, counter)| (name, counter.usage())).collect();
        // The slower model has seen less of the videos.
        let video_seconds = used.iter().filter_map(|(name, usage)| {
            let inputs = usage.inputs as f64;
            match *name {
                "actions" => models.actions.as_ref().map(|model| inputs * model.clips.stride_seconds),
                _ => models.persons.as_ref().map(|model| inputs / model.images.frames_per_second),
            }
        });
        Ok(PipelineRate {
            precision: self.runtime.precision(),
            seconds,
            times_real_time: video_seconds.fold(f64::INFINITY, f64::min) / seconds,
            busy: used.iter().map(|(name, usage)| (*name, (usage.busy_seconds / seconds).min(1.0))).collect(),
            bound: 0.0,
        })
    }

    fn indexer(&self, models: &OpenModels, scratch: &Path) -> Indexer {
        let created_at = Utc::now();
        let refs = self.models.refs();
        let run = RunRecord {
            run_id: RunId::new(created_at),
            created_at,
            newest_row: None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            fingerprint: self.job.fingerprint(&refs.hashes()),
            actions_model: refs.actions.clone(),
            persons_model: refs.persons.clone(),
            shards: 1,
            videos: 0,
            bytes: 0,
            job: self.job.clone(),
        };
        Indexer {
            input: self.input.clone(),
            restorer: Restorer::new(self.output.clone()),
            models: models.clone(),
            run: Arc::new(run),
            decoders: self.decoders.clone(),
            scratch_dir: scratch.to_owned(),
            decoder_threads: DECODER_THREADS,
            in_full: None,
            timeout: Duration::from_secs(self.job.run.video_timeout_seconds),
            progress: Arc::new(Progress::default()),
        }
    }

    fn inference(&self, time: Duration) -> Result<Vec<InferenceRate>> {
        let settings = self.settings();
        let share = time / (2 * settings.len()) as u32;
        let mut rates: Vec<InferenceRate> = Vec::new();
        for Setting { precision, batch, streams } in settings {
            let runtime = self.runtime.with_precision(precision)?.with_streams(streams);
            let open = |open: &dyn Fn() -> Result<BareModel>| (0..streams).map(|_| open()).collect::<Result<Vec<_>>>();
            let actions = self.models.actions.as_ref().map(|model| open(&|| model.open_bare(&runtime, batch)));
            let persons = self.models.persons.as_ref().map(|model| open(&|| model.open_bare(&runtime, batch)));
            for models in actions.into_iter().chain(persons) {
                let models = models?;
                let Some(BareModel { id: model, batch, .. }) = models.first() else { continue };
                let (model, batch) = (model.clone(), *batch);
                // A graph may have only one batch size.
                let of = |rate: &InferenceRate| (rate.precision, rate.batch, rate.streams);
                if rates.iter().any(|rate| rate.model == model && of(rate) == (precision, batch, streams)) {
                    continue;
                }
                let seconds = median_seconds(share, models)?;
                let (batch_ms, per_second) = (1e3 * seconds, (streams * batch) as f64 / seconds);
                rates.push(InferenceRate { model, precision, batch, streams, batch_ms, per_second });
            }
        }
        rates.sort_by(|a, b| a.model.cmp(&b.model));
        Ok(rates)
    }

    /// How the models are measured.
    fn settings(&self) -> Vec<Setting> {
        let (precision, streams) = (self.runtime.precision(), self.runtime.streams());
        let usual = Setting { precision, batch: None, streams };
        let many = (streams > 2).then_some(streams);
        let mut settings: Vec<Setting> = match self.runtime.device().is_cpu() {
            true => CPU_STREAMS.into_iter().chain(many).map(|streams| Setting { streams, ..usual }).collect(),
            false => GPU_BATCHES.into_iter().map(|batch| Setting { batch: Some(batch), ..usual }).collect(),
        };
        let others = self.runtime.precisions().into_iter().filter(|&other| other != precision);
        settings.extend(others.map(|precision| Setting { precision, ..usual }));
        settings
    }
}

/// How a model is measured.
#[derive(Debug, Clone, Copy)]
struct Setting {
    precision: Precision,
    /// `None` for the usual one.
    batch: Option<usize>,
    streams: usize,
}

/// Threads of each decoder: as many videos are decoded at a time as there are cores.
const DECODER_THREADS: usize = 2;

/// How far decoding has come, in sums over all videos.
#[derive(Debug, Default)]
struct Reached {
    microseconds: AtomicU64,
    /// Thousandths of a frame.
    frames: AtomicU64,
}

async fn decode_one(
    decoders: &Decoders,
    mut request: Request,
    source: Arc<Fetch>,
    timeout: Duration,
    reached: &Reached,
) -> Result<(), WorkError> {
    let (mut rate, mut until) = (0.0, 0.0_f64);
    loop {
        let mut decoding =
            Decoding::start(decoders, request.clone(), source.clone(), timeout).map_err(WorkError::Fatal)?;
        while let Some(frame) = decoding.next().await? {
            let at = match &frame {
                SampledFrame::Opened(info) => {
                    rate = info.frames_per_second.unwrap_or_default();
                    0.0
                }
                SampledFrame::Clip(clip) => clip.end_seconds,
                SampledFrame::Image(image) => image.time_seconds,
            };
            if at > until {
                let more = at - until;
                until = at;
                reached.microseconds.fetch_add((1e6 * more) as u64, Ordering::Relaxed);
                reached.frames.fetch_add((1e3 * more * rate) as u64, Ordering::Relaxed);
            }
        }
        match decoding.needs_full() {
            Some(reason) => request.in_full = Some(reason),
            None => return Ok(()),
        }
    }
}

/// Passes the videos to `one`, in turn and again and again, as many at a time as there are cores, until the time is over.
/// Returns the seconds that it took. A video that fails is skipped.
async fn cycle<F: Future<Output = Result<(), WorkError>> + Send + 'static>(
    videos: &Arc<[VideoObject]>,
    time: Duration,
    one: impl Fn(VideoObject) -> F + Clone + Send + 'static,
) -> Result<f64> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from).max(2);
    let (started, next) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
    let mut workers = JoinSet::new();
    for _ in 0..cores {
        let (videos, next, one) = (videos.clone(), next.clone(), one.clone());
        let work = async move {
            loop {
                let video = videos[next.fetch_add(1, Ordering::Relaxed) % videos.len()].clone();
                let uri = video.uri.clone();
                match one(video).await {
                    Ok(()) => {}
                    Err(WorkError::Video(error)) => tracing::debug!(uri = %uri, %error, "skipped"),
                    Err(WorkError::Transient(error)) => return Error::from(error),
                    Err(WorkError::Fatal(error)) => return error,
                }
            }
        };
        workers.spawn(tokio::time::timeout(time, work));
    }
    while let Some(ended) = workers.join_next().await {
        // A timeout is how they end.
        if let Ok(error) = ended.map_err(|error| Error::failed(format!("a measurement panicked: {error}")))? {
            return Err(error);
        }
    }
    Ok(started.elapsed().as_secs_f64())
}

/// Runs the models at the same time, each once and then until the time is over. Returns the median of the seconds.
fn median_seconds(time: Duration, models: Vec<BareModel>) -> Result<f64> {
    let until_over = |mut model: BareModel| {
        model.run()?;
        let started = Instant::now();
        let mut seconds = Vec::new();
        while seconds.len() < RUNS_MIN || started.elapsed() < time {
            seconds.push(model.run()?);
        }
        Ok(seconds)
    };
    let measured: Result<Vec<Vec<f64>>> = std::thread::scope(|scope| {
        let running: Vec<_> = models.into_iter().map(|model| scope.spawn(move || until_over(model))).collect();
        let ended = running.into_iter().map(|thread| thread.join());
        ended.map(|seconds| seconds.unwrap_or_else(|_| Err(Error::failed("a measurement panicked")))).collect()
    });
    let mut seconds = measured?.concat();
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[seconds.len() / 2])
}
