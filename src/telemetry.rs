//! What users and machines can observe: log lines, progress during a run, and the closing table.

mod json_lines;
mod metrics;
mod otlp;
mod readings;
mod steps;
mod transfer;
mod usage;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::console;
use crate::error::VideoErrorKind;
use crate::machine::host_name;
use crate::video_status::{StatusCounts, VideoStatus};
use json_lines::JsonLines;
pub(crate) use json_lines::identify;
pub use metrics::MetricsFile;
pub use otlp::Otlp;
pub(crate) use steps::Steps;
pub use transfer::Transfer;
pub use usage::{Usage, UsageCounter};

/// Maximum number of failures that the closing table lists by name.
const FAILURES_SHOWN: usize = 10;

/// Interval of progress lines in a log. A terminal is updated five times per second.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text for humans.
    Text,
    /// A JSON object per line, for machines.
    Json,
}

/// Sets up logging to standard error. `VIDINDEX_LOG` filters lines like `RUST_LOG` in other tools.
pub fn init(format: LogFormat, verbosity: i8) {
    let level = match verbosity {
        ..0 => "error",
        // The AWS SDK warns about every credentials provider that it skips.
        0 => "warn,aws_config=error,vidindex=info",
        1 => "info,aws_config=warn,vidindex=debug",
        2.. => "debug,vidindex=trace",
    };
    let on_screen = format == LogFormat::Text && verbosity >= 0 && console::is_screen(&io::stderr());
    steps::ON_SCREEN.store(on_screen, Ordering::Relaxed);
    let filter = EnvFilter::try_from_env("VIDINDEX_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(AroundBar);
    // A second initialisation (in tests) keeps the first one.
    let _ = match format {
        LogFormat::Json => builder.json().event_format(JsonLines::new(host_name())).try_init(),
        LogFormat::Text => builder.with_target(false).with_ansi(console::is_coloured(&io::stderr())).try_init(),
    };
}

/// Seconds rounded to hundredths, for log lines.
pub fn rounded(time: Duration) -> f64 {
    (time.as_secs_f64() * 100.0).round() / 100.0
}

static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Standard error, with the progress bar hidden while a line is written. Write errors are ignored, because the logging
/// code could only panic.
struct AroundBar;

impl Write for AroundBar {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let bar = BAR.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let _ = match bar {
            Some(bar) => bar.suspend(|| io::stderr().write_all(line)),
            None => io::stderr().write_all(line),
        };
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for AroundBar {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

/// Progress counters, which any thread may update.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    videos_total: AtomicU64,
    bytes_total: AtomicU64,
    bytes_done: AtomicU64,
    segments: AtomicU64,
    boxes: AtomicU64,
    write_us: AtomicU64,
    models: OnceLock<Vec<(&'static str, UsageCounter)>>,
    ended: Mutex<Ended>,
}

/// What is counted for a finished video.
#[derive(Debug, Clone, Copy)]
pub struct VideoDone<'a> {
    /// The video's URI.
    pub uri: &'a Arc<str>,
    /// Its status.
    pub status: VideoStatus,
    /// The kind of error and its message.
    pub error: Option<(VideoErrorKind, &'a str)>,
    /// Duration of the video, seconds.
    pub video_seconds: f64,
    /// Number of frames decoded.
    pub frames: u64,
    /// Seconds that the decoder waited for bytes.
    pub fetch_seconds: f64,
    /// Seconds that the decoder worked.
    pub decode_seconds: f64,
    /// Seconds that the decoder waited for inference.
    pub blocked_seconds: f64,
}

/// Sums over finished videos.
#[derive(Debug, Clone, Default)]
pub struct Ended {
    /// Videos by status.
    pub videos: StatusCounts,
    /// Seconds of video.
    pub video_seconds: f64,
    /// Number of frames decoded.
    pub frames: u64,
    /// Seconds that decoders waited for bytes.
    pub fetch_seconds: f64,
    /// Seconds that decoders worked.
    pub decode_seconds: f64,
    /// Seconds that decoders waited for inference.
    pub blocked_seconds: f64,
    /// Number of videos with an error, by kind.
    pub failures: BTreeMap<VideoErrorKind, u64>,
    /// The first failures: URI, kind and message.
    pub first_failures: Vec<(Arc<str>, VideoErrorKind, String)>,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            videos_total: AtomicU64::new(0),
            bytes_total: AtomicU64::new(0),
            bytes_done: AtomicU64::new(0),
            segments: AtomicU64::new(0),
            boxes: AtomicU64::new(0),
            write_us: AtomicU64::new(0),
            models: OnceLock::new(),
            ended: Mutex::default(),
        }
    }
}

impl Progress {
    /// Adds videos and bytes to the expected work.
    pub fn expect(&self, videos: u64, bytes: u64) {
        self.videos_total.fetch_add(videos, Ordering::Relaxed);
        self.bytes_total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds to the number of processed bytes.
    pub fn bytes(&self, bytes: u64) {
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts a segment that was scored.
    pub fn segment(&self) {
        self.segments.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the boxes of an image.
    pub fn boxes(&self, boxes: usize) {
        self.boxes.fetch_add(boxes as u64, Ordering::Relaxed);
    }

    /// Adds to the time spent on writing and uploading.
    pub fn wrote(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.write_us.fetch_add(micros, Ordering::Relaxed);
    }

    /// Registers the models in use. Call it once.
    pub fn watch(&self, models: Vec<(&'static str, UsageCounter)>) {
        let _ = self.models.set(models);
    }

    /// Each model's name and use so far. Empty before the models are open.
    pub fn models(&self) -> Vec<(&'static str, Usage)> {
        self.models.get().into_iter().flatten().map(|(name, counter)| (*name, counter.usage())).collect()
    }

    /// Seconds of writing and uploading so far.
    pub fn write_seconds(&self) -> f64 {
        self.write_us.load(Ordering::Relaxed) as f64 / 1e6
    }

    /// Counts a finished video.
    pub fn video(&self, video: &VideoDone<'_>) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.videos.add(video.status);
        ended.video_seconds += video.video_seconds;
        ended.frames += video.frames;
        ended.fetch_seconds += video.fetch_seconds;
        ended.decode_seconds += video.decode_seconds;
        ended.blocked_seconds += video.blocked_seconds;
        if let Some((kind, message)) = video.error {
            *ended.failures.entry(kind).or_default() += 1;
            if ended.first_failures.len() < FAILURES_SHOWN {
                ended.first_failures.push((video.uri.clone(), kind, message.to_owned()));
            }
        }
    }

    /// Sums over the finished videos.
    pub fn ended(&self) -> Ended {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Time since the work started.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn line(&self) -> String {
        let ended = self.ended();
        let elapsed = self.elapsed().as_secs_f64();
        let done = ended.videos.total();
        let total = self.videos_total.load(Ordering::Relaxed);
        let segments = self.segments.load(Ordering::Relaxed);
        let boxes = self.boxes.load(Ordering::Relaxed);
        let mut line = format!("{done}/{total} videos  {segments} segments  {boxes} boxes");
        if ended.video_seconds > 0.0 {
            let _ = write!(line, "  {:.1}x real time", ended.video_seconds / elapsed);
        }
        let failed = ended.videos.partial + ended.videos.failed;
        if failed > 0 {
            let _ = write!(line, "  {failed} failed or partial");
        }
        let share = self.share();
        if share > 0.01 && share < 1.0 {
            let left = Duration::from_secs_f64(elapsed / share * (1.0 - share));
            let _ = write!(line, "  ETA {}", HumanDuration(left));
        }
        line
    }

    fn share(&self) -> f64 {
        let total = self.bytes_total.load(Ordering::Relaxed).max(1);
        (self.bytes_done.load(Ordering::Relaxed) as f64 / total as f64).min(1.0)
    }
}

/// Displays progress until it is dropped: a bar on a terminal, lines otherwise.
pub struct ProgressDisplay {
    task: tokio::task::JoinHandle<()>,
}

impl ProgressDisplay {
    /// Starts the display. Nothing is displayed if `quiet`.
    pub fn start(progress: Arc<Progress>, quiet: bool) -> Self {
        let on_terminal = steps::ON_SCREEN.load(Ordering::Relaxed);
        let task = tokio::spawn(async move {
            if quiet {
                return;
            }
            if !on_terminal {
                let mut tick = tokio::time::interval(LOG_EVERY);
                tick.tick().await;
                loop {
                    tick.tick().await;
                    let share_percent = (progress.share() * 100.0).round();
                    tracing::info!(share_percent, "progress: {}", progress.line());
                }
            }
            let bar = ProgressBar::with_draw_target(Some(1000), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{elapsed:>4} [{bar:24}] {wide_msg}") {
                bar.set_style(style.progress_chars("=> "));
            }
            *BAR.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar.clone());
            let mut tick = tokio::time::interval(Duration::from_millis(200));
            loop {
                tick.tick().await;
                bar.set_position((progress.share() * 1000.0) as u64);
                bar.set_message(progress.line());
            }
        });
        Self { task }
    }
}

impl Drop for ProgressDisplay {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(bar) = BAR.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bar.finish_and_clear();
        }
    }
}

/// Where the time went, shown at the end of a run.
#[derive(Debug, Clone)]
pub struct StageTimings {
    /// Sums over the finished videos.
    pub ended: Ended,
    /// Wall-clock time of the work, seconds.
    pub wall_seconds: f64,
    /// Time for opening the models, seconds.
    pub open_seconds: f64,
    /// Time for writing and uploading, seconds.
    pub write_seconds: f64,
    /// Each model's name and use.
    pub models: Vec<(&'static str, Usage)>,
    /// The device that the models ran on.
    pub device: Option<String>,
}

impl StageTimings {
    /// Writes the same as a single log event, for machines.
    pub fn log(&self) {
        let ended = &self.ended;
        let StatusCounts { ok, partial, failed, deleted } = ended.videos;
        for (model, usage) in &self.models {
            let Usage { busy_seconds, batches, inputs } = *usage;
            tracing::info!(model, busy_seconds, batches, inputs, "inference done");
        }
        tracing::info!(
            videos_ok = ok,
            videos_partial = partial,
            videos_failed = failed,
            videos_deleted = deleted,
            video_seconds = ended.video_seconds,
            frames = ended.frames,
            wall_seconds = self.wall_seconds,
            open_seconds = self.open_seconds,
            fetch_seconds = ended.fetch_seconds,
            decode_seconds = ended.decode_seconds,
            blocked_seconds = ended.blocked_seconds,
            write_seconds = self.write_seconds,
            device = self.device,
            "work done"
        );
    }
}

impl std::fmt::Display for StageTimings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ended = &self.ended;
        let wall = self.wall_seconds.max(1e-9);
        writeln!(f, "videos     {}", ended.videos)?;
        writeln!(
            f,
            "speed      {:.1} s of video in {:.1} s: {:.1} times real time",
            ended.video_seconds,
            self.wall_seconds,
            ended.video_seconds / wall
        )?;
        writeln!(f, "{:<19} {:>10} {:>8}", "stage", "seconds", "of wall")?;
        let mut row = |name: &str, seconds: f64, note: String| {
            writeln!(f, "{name:<19} {seconds:>10.2} {:>7.0}%  {note}", 100.0 * seconds / wall)
        };
        row("open models", self.open_seconds, String::new())?;
        row("fetch (waited)", ended.fetch_seconds, String::new())?;
        let rate = ended.frames as f64 / ended.decode_seconds.max(1e-9);
        row("decode", ended.decode_seconds, format!("{} frames, {rate:.0} per second", ended.frames))?;
        row("decode (held back)", ended.blocked_seconds, "inference was behind".into())?;
        for (name, usage) in &self.models {
            let each = 1e3 * usage.busy_seconds / usage.inputs.max(1) as f64;
            let size = usage.inputs as f64 / usage.batches.max(1) as f64;
            let note = format!("{} inputs, {each:.1} ms each, {size:.1} per batch", usage.inputs);
            row(&format!("infer {name}"), usage.busy_seconds, note)?;
        }
        row("write", self.write_seconds, String::new())?;
        if let Some(device) = &self.device {
            let busy: f64 = self.models.iter().map(|(_, usage)| usage.busy_seconds).sum();
            writeln!(f, "inference  busy {:.0} % of the time on {device}", (100.0 * busy / wall).min(100.0))?;
        }
        for (kind, count) in &ended.failures {
            writeln!(f, "failed     {count} x {kind}")?;
        }
        for (uri, kind, message) in &ended.first_failures {
            writeln!(f, "  {uri}: {kind}: {message}")?;
        }
        let shown = ended.first_failures.len() as u64;
        let all: u64 = ended.failures.values().sum();
        if all > shown {
            writeln!(
                f,
                "  and {} more: select uri, error_kind, error_message from videos where status <> 'ok'",
                all - shown
            )?;
        }
        Ok(())
    }
}
