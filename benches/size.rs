//! What coordinating commands need for a large index: time, memory and requests of `status`, `seal`, `plan`, `compact`,
//! `prune` and `report --current`, each in a process of its own. The rows are synthetic and few for each video. The store is a
//! directory that answers as slowly as S3, and counts requests as S3 does.
//!
//! ```text
//! cargo bench --bench size                           10 million videos in 10,000 shards: half an hour, 10 GB of disk
//! VIDINDEX_BENCH_MILLIONS=1 cargo bench --bench size
//! VIDINDEX_BENCH_LATENCY_MS=0 cargo bench --bench size     without the simulated latency of 20 ms a request
//! ```
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run fails")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use vidindex::job::Job;
use vidindex::plan::{self, PlanOptions};
use vidindex::run::attempt::AttemptId;
use vidindex::run::commit::ShardTotals;
use vidindex::run::record::job_key;
use vidindex::run::{ModelRef, PlanModels, RunId, RunRecord, Todo, VideoObject, record};
use vidindex::store::{self, FolderFilter, ObjectMeta, PutNew, RangeRead, Scanned, Store, StoreResult};
use vidindex::tables::{ActionRow, LabelScore, PersonRow, Provenance, VideoRow, VideoStatus};
use vidindex::work::commit::{ShardRows, commit};
use vidindex::work::encode::ShardEncoder;
use vidindex::{compact, prune, report, seal, status};

/// Videos of a shard.
const SHARD: u64 = 1000;

/// The second run indexes every tenth video again.
const AGAIN: u64 = 10;

const STEPS: [&str; 8] =
    ["status", "seal", "plan", "seal again", "report --current", "compact", "prune", "plan afterwards"];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if let [_, step, folder, ..] = &arguments[..]
        && STEPS.contains(&step.as_str())
    {
        runtime.block_on(run_step(step, Path::new(folder)));
        return;
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let shards = (millions() * 1e6) as u64 / SHARD;
    let started = Instant::now();
    let first = Utc::now() - TimeDelta::days(3);
    runtime.block_on(write_run(folder.path(), first, shards, 1));
    println!("{} videos in {shards} shards, written in {:.0} s", shards * SHARD, started.elapsed().as_secs_f64());
    println!("{:<18} {:>8} {:>8} {:>10}  requests", "", "seconds", "CPU s", "peak MiB");
    for step in STEPS {
        if step == "seal again" {
            runtime.block_on(write_run(folder.path(), first + TimeDelta::days(1), shards / AGAIN, AGAIN));
        }
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.arg(step).arg(folder.path()).env("TMPDIR", folder.path()).stdin(Stdio::null());
        assert!(child.status().unwrap().success(), "{step} failed");
    }
}

fn millions() -> f64 {
    std::env::var("VIDINDEX_BENCH_MILLIONS").ok().map_or(10.0, |text| text.parse().unwrap())
}

fn job(folder: &Path) -> Job {
    let file = folder.join("job.toml");
    let index = folder.join("index");
    let text = format!(
        "[input]\nuri = \"s3://archive/\"\n[output]\nuri = {index:?}\n[actions]\nmodel = \"a.onnx\"\n[persons]\nmodel = \"p.onnx\"\n"
    );
    std::fs::write(&file, text).unwrap();
    Job::load(&file, &[]).unwrap()
}

fn models() -> PlanModels {
    let model = |id: &str| Some(ModelRef { id: id.to_owned(), sha256: "00".to_owned(), random: false });
    PlanModels { actions: model("slowfast-r50-8x8-1f3a"), persons: model("yolov5s-77c0") }
}

/// Runs a step and prints what it needed.
async fn run_step(step: &str, folder: &Path) {
    let job = job(folder);
    let store: Arc<Counted> = Arc::new(Counted::new(store::open(&job.output.uri, &job.store).await.unwrap()));
    let output: Arc<dyn Store> = store.clone();
    let runs = record::runs(&*output).await.unwrap();
    let newest = runs.last().unwrap();
    let started = Instant::now();
    let result = match step {
        "status" => status::of_run(&*output, newest).await.unwrap().line(),
        "seal" | "seal again" => {
            let record = record::read_record(&*output, newest).await.unwrap();
            let summary = seal::seal(&*output, newest.as_str(), record.shards, record.created_at).await.unwrap();
            // As if it had been yesterday, so that its files may be merged.
            age(folder, newest);
            format!("{} shards", summary.shards_committed)
        }
        "plan" | "plan afterwards" => {
            let videos = (millions() * 1e6) as u64;
            let plan =
                plan::plan(&job, &models(), &Archive { videos }, &*output, PlanOptions::default()).await.unwrap();
            format!("{} to index", plan.run.videos)
        }
        "report --current" => {
            let page = report::page_of_index(&*output).await.unwrap().unwrap();
            format!("{} MiB", page.len() >> 20)
        }
        "compact" => {
            let compaction = compact::find(&*output, Utc::now(), compact::TARGET_BYTES).await.unwrap();
            compaction.run(&output, &job).await.unwrap().to_string().replace('\n', "; ")
        }
        "prune" => {
            let prunable = prune::find(&*output, Utc::now() + TimeDelta::days(2)).await.unwrap();
            prunable.remove(&*output).await.unwrap();
            prunable.to_string().lines().next().unwrap().to_owned()
        }
        _ => unreachable!("a step of STEPS"),
    };
    let seconds = started.elapsed().as_secs_f64();
    let requests: Vec<_> = store.counts.lock().unwrap().iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let (cpu, peak) = usage();
    println!("{step:<18} {seconds:>8.1} {cpu:>8.1} {peak:>10}  {}   ({result})", requests.join(", "));
}

/// CPU seconds and the largest memory of this process in MiB.
fn usage() -> (f64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let ticks = stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2);
    (
        ticks.map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0,
        peak.unwrap().parse::<u64>().unwrap() / 1024,
    )
}

fn age(folder: &Path, run: &RunId) {
    let file = folder.join(format!("index/_vidindex/runs/{run}/summary.json"));
    let mut summary: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    summary["sealed_at"] = serde_json::json!(Utc::now() - TimeDelta::hours(30));
    std::fs::write(&file, summary.to_string()).unwrap();
}

/// Commits a run over every `step`th video, with two threads.
async fn write_run(folder: &Path, created_at: DateTime<Utc>, shards: u64, step: u64) {
    let job = job(folder);
    let created_at = created_at.trunc_subsecs(6);
    let models = models();
    let record = RunRecord {
        run_id: RunId::new(created_at),
        created_at,
        newest_row: None,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        fingerprint: job.fingerprint(&models.hashes()),
        actions_model: models.actions,
        persons_model: models.persons,
        shards: shards as u32,
        videos: shards * SHARD,
        bytes: 0,
        job: job.clone(),
    };
    let output = store::open(&job.output.uri, &job.store).await.unwrap();
    output.put(&job_key(&record.run_id), serde_json::to_vec(&record).unwrap().into()).await.unwrap();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let tasks = (0..shards).map(|shard| {
        let (record, output, folder) = (record.clone(), output.clone(), folder.to_owned());
        tokio::spawn(async move { write_shard(&folder, &*output, &record, shard, step).await })
    });
    stream::iter(tasks).buffer_unordered(threads).for_each(async |done| done.unwrap()).await;
}

async fn write_shard(folder: &Path, output: &dyn Store, run: &RunRecord, shard: u64, step: u64) {
    let scratch = tempfile::tempdir_in(folder).unwrap();
    let provenance = Provenance {
        run_id: run.run_id.to_string(),
        shard: shard as u32,
        fingerprint: run.fingerprint.clone(),
        actions_model: run.actions_model.as_ref().map(|model| model.id.clone()),
        persons_model: run.persons_model.as_ref().map(|model| model.id.clone()),
    };
    let mut encoder = ShardEncoder::new(scratch.path(), provenance);
    let mut totals = ShardTotals::default();
    for n in (shard * SHARD * step..(shard + 1) * SHARD * step).step_by(step as usize) {
        let (partition, video, action, person) = rows(n, run);
        totals.add(&video);
        let uri = video.uri.clone();
        encoder.push_rows(&partition, &uri, &[action]).unwrap();
        encoder.push_rows(&partition, &uri, &[person]).unwrap();
        encoder.push(&partition, video).unwrap();
    }
    let parts = encoder.finish().unwrap();
    let rows = ShardRows::merged(&parts, totals);
    commit(output, run.run_id.as_str(), shard as u32, &AttemptId::unique(), rows).await.unwrap();
}

fn object(n: u64) -> ObjectMeta {
    // Shards have one day each.
    let day = n / (SHARD * AGAIN) % 28 + 1;
    ObjectMeta {
        key: format!("cam-{:03}/2026-10-{day:02}/recording-{n:09}.mp4", n / SHARD % 500),
        size_bytes: 20_000_000 + n.wrapping_mul(2_654_435_761) % 80_000_000,
        etag: format!("{:032x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        last_modified: format!("2026-10-{day:02}T05:00:00Z").parse().unwrap(),
        version_id: None,
        archived: None,
    }
}

fn rows(n: u64, run: &RunRecord) -> (String, VideoRow, ActionRow, PersonRow) {
    let listed = object(n);
    let object = VideoObject {
        uri: format!("s3://archive/{}", listed.key),
        key: listed.key,
        size_bytes: listed.size_bytes,
        etag: listed.etag,
        version_id: None,
        last_modified: listed.last_modified,
        partition: Vec::new(),
        todo: Todo::default(),
    };
    let (video_id, uri): (Arc<str>, Arc<str>) = (object.video_id().into(), object.uri.as_str().into());
    let run_id: Arc<str> = run.run_id.as_str().into();
    let model = |model: &Option<ModelRef>| model.as_ref().map(|model| model.id.as_str().into());
    let label = LabelScore { label_id: (n % 14) as i32, label: format!("label {}", n % 14).into(), score: 0.8 };
    let action = ActionRow {
        video_id: video_id.clone(),
        uri: uri.clone(),
        segment: 0,
        start_seconds: 0.0,
        end_seconds: 2.0,
        frames: 64,
        top_label: Some(label.label.clone()),
        top_score: Some(label.score),
        top: vec![label],
        scores: None,
        embedding: None,
        run_id: run_id.clone(),
    };
    let person = PersonRow {
        video_id: video_id.clone(),
        uri: uri.clone(),
        segment: Some(0),
        time_seconds: 0.0,
        frame: 0,
        r#box: 0,
        label: "person".into(),
        x1: (n % 97) as f32,
        y1: (n % 89) as f32,
        x2: (n % 97) as f32 + 80.0,
        y2: (n % 89) as f32 + 200.0,
        confidence: 0.9,
        actions: None,
        track_id: None,
        run_id: run_id.clone(),
    };
    let video = VideoRow {
        video_id,
        uri,
        etag: object.etag.clone(),
        size_bytes: object.size_bytes as i64,
        last_modified: object.last_modified,
        status: VideoStatus::Ok,
        duration_seconds: Some(2.0),
        segments: 1,
        boxes: 1,
        frames_decoded: 64,
        actions_model: model(&run.actions_model),
        persons_model: model(&run.persons_model),
        fingerprint: run.fingerprint.as_str().into(),
        indexed_at: run.created_at + TimeDelta::minutes(5),
        run_id,
        ..VideoRow::default()
    };
    (object.partition_path(), video, action, person)
}

/// The input: it lists videos and holds none.
#[derive(Debug)]
struct Archive {
    videos: u64,
}

#[async_trait::async_trait]
impl Store for Archive {
    fn uri(&self, key: &str) -> String {
        format!("s3://archive/{key}")
    }

    fn list(&self, _prefix: &str) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        stream::iter((0..self.videos).map(|n| Ok(object(n)))).boxed()
    }

    fn scan(&self, _enter: FolderFilter) -> BoxStream<'static, StoreResult<Scanned>> {
        self.list("").map_ok(Scanned::Object).boxed()
    }

    async fn head(&self, _key: &str) -> StoreResult<ObjectMeta> {
        unreachable!("a plan reads no videos")
    }

    async fn get_range(&self, _key: &str, _offset: u64, _length: u64) -> StoreResult<RangeRead> {
        unreachable!("a plan reads no videos")
    }

    async fn get(&self, _key: &str) -> StoreResult<Bytes> {
        unreachable!("a plan reads no videos")
    }

    async fn put(&self, _key: &str, _body: Bytes) -> StoreResult<()> {
        unreachable!("the input is not written")
    }

    async fn put_new(&self, _key: &str, _body: Bytes) -> StoreResult<PutNew> {
        unreachable!("the input is not written")
    }

    async fn put_file(&self, _key: &str, _file: &Path) -> StoreResult<()> {
        unreachable!("the input is not written")
    }

    async fn publish(&self, _from: &str, _to: &str) -> StoreResult<()> {
        unreachable!("the input is not written")
    }

    async fn delete(&self, _keys: &[String]) -> StoreResult<()> {
        unreachable!("the input is not written")
    }
}

/// Counts the requests that S3 would get, and delays each of them.
#[derive(Debug)]
struct Counted {
    inner: Arc<dyn Store>,
    latency: Duration,
    counts: Arc<Mutex<BTreeMap<&'static str, u64>>>,
}

impl Counted {
    fn new(inner: Arc<dyn Store>) -> Self {
        let latency = std::env::var("VIDINDEX_BENCH_LATENCY_MS").ok().map_or(20, |text| text.parse().unwrap());
        Self { inner, latency: Duration::from_millis(latency), counts: Arc::default() }
    }

    async fn request(&self, kind: &'static str) {
        *self.counts.lock().unwrap().entry(kind).or_default() += 1;
        tokio::time::sleep(self.latency).await;
    }
}

#[async_trait::async_trait]
impl Store for Counted {
    fn uri(&self, key: &str) -> String {
        self.inner.uri(key)
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        let (counts, latency) = (self.counts.clone(), self.latency);
        let page = move |at: usize| {
            let counts = counts.clone();
            async move {
                if at.is_multiple_of(1000) {
                    *counts.lock().unwrap().entry("LIST").or_default() += 1;
                    tokio::time::sleep(latency).await;
                }
            }
        };
        let first = page(0);
        let objects = self.inner.list(prefix).enumerate().then(move |(at, object)| {
            let page = page(at + 1);
            async move {
                page.await;
                object
            }
        });
        stream::once(first).flat_map(|()| stream::empty()).chain(objects).boxed()
    }

    async fn folders(&self, prefix: &str) -> StoreResult<Vec<String>> {
        self.request("LIST").await;
        self.inner.folders(prefix).await
    }

    async fn head(&self, key: &str) -> StoreResult<ObjectMeta> {
        self.request("HEAD").await;
        self.inner.head(key).await
    }

    async fn get_range(&self, key: &str, offset: u64, length: u64) -> StoreResult<RangeRead> {
        self.request("GET").await;
        self.inner.get_range(key, offset, length).await
    }

    async fn get(&self, key: &str) -> StoreResult<Bytes> {
        self.request("GET").await;
        self.inner.get(key).await
    }

    async fn put(&self, key: &str, body: Bytes) -> StoreResult<()> {
        self.request("PUT").await;
        self.inner.put(key, body).await
    }

    async fn put_new(&self, key: &str, body: Bytes) -> StoreResult<PutNew> {
        self.request("PUT").await;
        self.inner.put_new(key, body).await
    }

    async fn put_file(&self, key: &str, file: &Path) -> StoreResult<()> {
        self.request("PUT").await;
        self.inner.put_file(key, file).await
    }

    async fn publish(&self, from: &str, to: &str) -> StoreResult<()> {
        self.request("COPY").await;
        self.inner.publish(from, to).await
    }

    async fn delete(&self, keys: &[String]) -> StoreResult<()> {
        for keys in keys.chunks(1000) {
            self.request("DELETE").await;
            self.inner.delete(keys).await?;
        }
        Ok(())
    }

    async fn clear_unfinished(&self, prefix: &str) -> StoreResult<()> {
        self.inner.clear_unfinished(prefix).await
    }
}
