//! Work: processes the shards of a task one after another. A shard goes through fetch, decode, batch, infer, encode and
//! commit.

pub mod attempt;
pub mod batch;
pub mod commit;
pub mod driver;
pub mod encode;
pub mod fetch;
pub mod key_frames;
pub mod models;
mod pieces;
pub mod restore;
pub mod rows;
pub mod spill;
pub(crate) mod stop;
pub mod thumbnails;
pub mod video;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::task::JoinSet;

use crate::decode::{Decoders, FullDecode};
use crate::error::{Error, Result, WorkError};
use crate::infer::session::Runtime;
pub use crate::run::Task;
use crate::run::commit::{Computed, ShardTotals, is_committed};
use crate::run::piece::{self, videos_key};
use crate::run::{PlanFile, RunRecord, Shard};
use crate::scratch::Scratch;
use crate::store::Store;
use crate::tables::Provenance;
use crate::telemetry::{self, Progress, StageTimings, VideoDone};
use attempt::Attempt;
use commit::{Committed, ShardRows};
use encode::ShardEncoder;
use models::{JobModels, OpenModels, Opening};
use pieces::Pieces;
use restore::Restorer;
use rows::VideoRows;
use video::Indexer;

/// Retries of a shard during an outage of the store. After them the task fails, and the engine retries it.
const RETRIES: usize = 2;

/// The wait before the first retry of a shard. The second wait is four times as long.
const DELAY_MIN: Duration = Duration::from_secs(4);

/// Number of finished videos that may wait for an earlier one, because rows are written in order.
const WAITING_MAX: usize = 512;

/// Everything that a task needs.
pub struct Worker {
    /// The store of the videos.
    pub input: Arc<dyn Store>,
    /// The store of the index.
    pub output: Arc<dyn Store>,
    /// The run.
    pub run: Arc<RunRecord>,
    /// The models of the job.
    pub models: JobModels,
    /// Starts decoder processes.
    pub decoders: Arc<Decoders>,
    /// Time limit for decoding a video.
    pub video_timeout: Duration,
    /// How often the finished videos of a shard are saved.
    pub save_interval: Duration,
    /// Receives progress, for people and metrics.
    pub progress: Arc<Progress>,
}

/// The result of a task.
#[derive(Debug, Clone)]
pub struct Done {
    /// Number of shards that this task committed.
    pub shards: u32,
    /// Number of shards that were committed before.
    pub committed_before: u32,
    /// How long each stage took.
    pub timings: StageTimings,
}

impl Worker {
    /// Processes each shard of the task that is not committed yet. `runtime` loads ONNX Runtime. It is called only if
    /// there is a shard to process.
    ///
    /// # Errors
    /// If the store is unavailable for too long, a model fails, or the decoder cannot be started. Committed shards stay
    /// committed.
    pub async fn work(
        &self,
        plan: &PlanFile,
        task: Task,
        runtime: &(dyn Fn() -> Result<Arc<Runtime>> + Send + Sync),
    ) -> Result<Done> {
        let started = Instant::now();
        let (mut opened, mut open_seconds) = (None, 0.0);
        let (mut shards, mut committed_before) = (0, 0);
        let mut to_do = Vec::new();
        for index in task.shards(plan.shard_count()) {
            if is_committed(&*self.output, self.run.run_id.as_str(), index).await? {
                committed_before += 1;
            } else {
                let shard = plan.shard(&*self.output, index).await?;
                self.progress.expect(shard.videos.len() as u64, shard.size_bytes());
                to_do.push(index);
            }
        }
        for index in to_do {
            let shard = plan.shard(&*self.output, index).await?;
            if let Some(models) = &opened {
                self.shard(&shard, task, models).await?;
            } else {
                // The first videos are decoded meanwhile.
                let (models, opening) = self.open(runtime)?;
                let models = opened.insert(models);
                let (opening, shard) = tokio::join!(opening.wait(models), self.shard(&shard, task, models));
                // It is why the shard failed, too.
                open_seconds = opening?;
                shard?;
            }
            shards += 1;
        }
        let timings = StageTimings {
            ended: self.progress.ended(),
            wall_seconds: started.elapsed().as_secs_f64(),
            open_seconds,
            write_seconds: self.progress.write_seconds(),
            models: self.progress.models(),
            device: opened.map(|models| models.device.to_string()),
        };
        Ok(Done { shards, committed_before, timings })
    }

    fn open(&self, runtime: &(dyn Fn() -> Result<Arc<Runtime>> + Send + Sync)) -> Result<(OpenModels, Opening)> {
        // Nothing else runs yet, so that it is no problem to block this thread.
        let runtime = tokio::task::block_in_place(runtime)?;
        let (models, opening) = self.models.open(&runtime)?;
        self.progress.watch(models.counters());
        Ok((models, opening))
    }

    /// Processes a shard, with retries, until it is committed.
    async fn shard(&self, shard: &Shard, task: Task, models: &OpenModels) -> Result<()> {
        let span = tracing::info_span!("shard", shard = shard.index);
        let mut delays =
            ExponentialBuilder::new().with_min_delay(DELAY_MIN).with_factor(4.0).with_max_times(RETRIES).build();
        loop {
            let run_id = self.run.run_id.as_str();
            // Until the attempt is recorded to have ended.
            let saves = stop::Saves::begin();
            let heartbeat = Attempt::begin(self.output.clone(), run_id, shard.index, Some(task), shard.videos.len());
            let result = tracing::Instrument::instrument(self.attempt(shard, &heartbeat, models), span.clone()).await;
            match &result {
                Ok(_) => heartbeat.end().await,
                Err(failure) => heartbeat.fail(&failure.to_string()).await,
            }
            drop(saves);
            match result {
                Ok(()) => return Ok(()),
                Err(WorkError::Transient(error)) => {
                    let Some(delay) = delays.next() else { return Err(error.into()) };
                    let (shard, wait_seconds) = (shard.index, delay.as_secs());
                    tracing::warn!(shard, %error, wait_seconds, "shard failed, retrying");
                    tokio::time::sleep(delay).await;
                }
                Err(WorkError::Fatal(error)) => return Err(error),
                Err(WorkError::Video(error)) => return Err(Error::failed(error.to_string())),
            }
        }
    }

    async fn attempt(&self, shard: &Shard, heartbeat: &Attempt, models: &OpenModels) -> Result<(), WorkError> {
        let started = Instant::now();
        let scratch = Scratch::new().map_err(WorkError::Fatal)?;
        let provenance = Provenance {
            run_id: self.run.run_id.to_string(),
            shard: shard.index,
            fingerprint: self.run.fingerprint.clone(),
            actions_model: self.run.actions_model.as_ref().map(|model| model.id.clone()),
            persons_model: self.run.persons_model.as_ref().map(|model| model.id.clone()),
        };
        let (output, id) = (self.output.clone(), heartbeat.id.clone());
        let mut pieces = Pieces::new(output, id, provenance.clone(), scratch.path(), self.save_interval);
        let mut encoder = ShardEncoder::new(scratch.path(), provenance);
        let mut totals = ShardTotals::default();
        self.videos(shard, heartbeat, models, &scratch, &mut encoder, &mut pieces, &mut totals).await?;
        // Afterwards, the seal may delete the attempt's files.
        pieces.saved().await;
        let writing = Instant::now();
        let parts = tokio::task::block_in_place(|| encoder.finish()).map_err(WorkError::Fatal)?;
        totals.wall_seconds = started.elapsed().as_secs_f64();
        let run_id = self.run.run_id.as_str();
        let computed = Some(Computed { device: models.device.to_string(), precision: models.precision });
        let rows = ShardRows { parts: &parts, totals, computed };
        let committed = commit::commit(&*self.output, run_id, shard.index, &heartbeat.id, rows).await;
        let committed = committed.map_err(WorkError::of_output)?;
        self.progress.wrote(writing.elapsed());
        let ours = committed == Committed::Ours;
        let seconds = telemetry::rounded(started.elapsed());
        tracing::info!(ours, videos = shard.videos.len(), seconds, "shard committed");
        Ok(())
    }

    /// Indexes the videos of a shard concurrently, and writes their rows in order. Takes over what earlier attempts saved.
    #[expect(clippy::too_many_arguments, reason = "the parts of one attempt")]
    async fn videos(
        &self,
        shard: &Shard,
        heartbeat: &Attempt,
        models: &OpenModels,
        scratch: &Scratch,
        encoder: &mut ShardEncoder,
        pieces: &mut Pieces,
        totals: &mut ShardTotals,
    ) -> Result<(), WorkError> {
        let cores = std::thread::available_parallelism().map_or(2, usize::from).max(2);
        let in_flight = cores.min(shard.videos.len());
        let indexer = Arc::new(Indexer {
            input: self.input.clone(),
            restorer: Restorer::new(self.output.clone()),
            models: models.clone(),
            scratch_dir: scratch.path().to_owned(),
            run: self.run.clone(),
            decoders: self.decoders.clone(),
            decoder_threads: (cores / in_flight.max(1)).clamp(2, 16),
            in_full: full_decode(),
            timeout: self.video_timeout,
            progress: self.progress.clone(),
        });
        let mut taken_over = self.saved_before(shard).await.map_err(WorkError::of_output)?;
        let mut running = JoinSet::new();
        let mut waiting: BTreeMap<usize, VideoRows> = BTreeMap::new();
        // Of those that wait.
        let mut saved: BTreeSet<usize> = BTreeSet::new();
        let (mut started, mut written) = (0, 0);
        let path = |position: usize| shard.videos[position].partition_path();
        while written < shard.videos.len() {
            while running.len() < in_flight && started < shard.videos.len() && waiting.len() < WAITING_MAX {
                let (indexer, object, index) = (indexer.clone(), shard.videos[started].clone(), shard.index);
                let span = tracing::info_span!("video", uri = %object.uri);
                let (position, source) = (started, taken_over.remove(&started));
                running.spawn(tracing::Instrument::instrument(
                    async move { (position, indexer.index(&object, index, source.as_deref()).await) },
                    span,
                ));
                started += 1;
            }
            let ended = tokio::select! {
                ended = running.join_next() => ended,
                () = stop::requested() => None,
            };
            let is_stopped = ended.is_none();
            if let Some(ended) = ended {
                let (position, rows) = ended
                    .map_err(|error| WorkError::Fatal(Error::failed(format!("indexing a video panicked: {error}"))))?;
                waiting.insert(position, rows?);
            }
            while let Some(rows) = waiting.remove(&written) {
                self.note(&rows, totals);
                let writing = Instant::now();
                tokio::task::block_in_place(|| {
                    rows.encode(&path(written), encoder)?;
                    if saved.remove(&written) { Ok(()) } else { pieces.add(written, &path(written), &rows) }
                })
                .map_err(WorkError::Fatal)?;
                self.progress.wrote(writing.elapsed());
                written += 1;
                heartbeat.done(written);
            }
            if is_stopped {
                // The piece before may still be on its way.
                pieces.saved().await;
            }
            if is_stopped || written < shard.videos.len() && pieces.is_due() {
                // A long video must not hold back those behind it.
                for (position, rows) in &waiting {
                    if saved.insert(*position) {
                        tokio::task::block_in_place(|| pieces.add(*position, &path(*position), rows))
                            .map_err(WorkError::Fatal)?;
                    }
                }
                pieces.save().map_err(WorkError::Fatal)?;
            }
            if is_stopped {
                pieces.saved().await;
                return Err(WorkError::Fatal(Error::failed(attempt::STOPPED_BY_SIGNAL)));
            }
        }
        Ok(())
    }

    /// The positions of the videos whose rows earlier attempts at the shard saved, and where these are.
    async fn saved_before(&self, shard: &Shard) -> Result<HashMap<usize, String>> {
        let run_id = self.run.run_id.as_str();
        let mut saved = HashMap::new();
        for (root, record) in piece::of_shard(&*self.output, run_id, shard.index).await? {
            for position in record.videos {
                let Some(video) = shard.videos.get(position) else { continue };
                saved.insert(position, videos_key(&root, &video.partition_path(), run_id, shard.index));
            }
        }
        if !saved.is_empty() {
            tracing::info!(videos = saved.len(), "taking over what an earlier attempt saved");
        }
        Ok(saved)
    }

    fn note(&self, rows: &VideoRows, totals: &mut ShardTotals) {
        let row = &rows.video;
        totals.add(row);
        let decoded = &rows.totals;
        self.progress.video(&VideoDone {
            uri: &row.uri,
            status: row.status,
            error: row.error_kind.map(|kind| (kind, row.error_message.as_deref().unwrap_or_default())),
            video_seconds: decoded.end_seconds,
            frames: decoded.frames_decoded,
            fetch_seconds: decoded.fetch_seconds,
            decode_seconds: decoded.decode_seconds,
            blocked_seconds: decoded.blocked_seconds,
        });
        match &row.error_kind {
            None => tracing::debug!(uri = %row.uri, segments = row.segments, boxes = row.boxes, "video indexed"),
            Some(kind) => {
                let (status, message) = (row.status.as_str(), row.error_message.as_deref().unwrap_or_default());
                tracing::warn!(uri = %row.uri, status, error_kind = kind.as_str(), message, "video not indexed completely");
            }
        }
    }
}

/// `VIDINDEX_DECODE=full` decodes every frame, to compare with selective decoding.
fn full_decode() -> Option<FullDecode> {
    (std::env::var_os("VIDINDEX_DECODE")? == "full").then_some(FullDecode::Requested)
}
