//! Decoding alone, without inference: full decoding compared with `ffmpeg -f null`, and sparse jobs, which decode
//! selectively, compared with full decoding and with a PyAV script that seeks.
//!
//! ```text
//! cargo bench --bench decode                                       1080p H.264 with B-frames, encoded for this
//! VIDINDEX_BENCH_PYTHON=venv/bin/python cargo bench --bench decode with PyAV, if `av` and `numpy` are installed there
//! VIDINDEX_BENCH_ROUNDS=5 cargo bench --bench decode -- 1 8.3      groups of these lengths only
//! cargo bench --bench decode -- conversion                         conversion of a frame to models' inputs only
//! cargo bench --bench decode -- short                              180 clips of 2 s only
//! ```
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run fails")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ffmpeg_next::format::Pixel;
use ffmpeg_next::frame::Video as Frame;
use ffmpeg_next::software::scaling::{Context, Flags};
use futures::{StreamExt, stream};
use half::f16;
use vidindex::decode::scale::{Converter, clip_frame, letterboxed};
use vidindex::decode::{
    ByteSource, ClipSpec, Decoders, Decoding, FullDecode, ImageSpec, Orientation, Request, Totals, View,
};
use vidindex::run::VideoObject;
use vidindex::store::Store;
use vidindex::store::memory::MemoryStore;
use vidindex::work::fetch::Fetch;

const VIDINDEX: &str = env!("CARGO_BIN_EXE_vidindex");
const SECONDS: u32 = 60;
const RATE: u32 = 30;

/// Seconds between two groups of pictures. The encoder starts no others.
const GROUPS: [(&str, f64); 4] = [("0.5", 0.5), ("1", 1.0), ("2", 2.0), ("8.3", 250.0 / 30.0)];

/// A job: its name, images a second, and seconds between two clips of SlowFast 8x8.
type Sampling = (&'static str, Option<f64>, Option<f64>);

const JOBS: [Sampling; 7] = [
    ("persons, 1 a second", Some(1.0), None),
    ("persons, 1 in 5 s", Some(0.2), None),
    ("persons, 1 in 10 s", Some(0.1), None),
    ("clips without a pause", None, Some(64.0 / 30.0)),
    ("clips every 5 s", None, Some(5.0)),
    ("clips every 10 s", None, Some(10.0)),
    ("clips every 60 s", None, Some(60.0)),
];

/// What one decoding took.
struct Decoded {
    wall: f64,
    totals: Totals,
}

fn main() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-decode");
    std::fs::create_dir_all(&folder).unwrap();
    let rounds: usize = std::env::var("VIDINDEX_BENCH_ROUNDS").ok().map_or(3, |text| text.parse().unwrap());
    let decoders = Decoders::new(VIDINDEX);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    println!("{SECONDS} s of 1920x1080 H.264 with B-frames at {RATE} frames a second; medians of {rounds}");
    let chosen: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_chosen = |name: &str| chosen.is_empty() || chosen.iter().any(|chosen| chosen == name);
    if is_chosen("conversion") {
        conversions();
    }
    if is_chosen("short") {
        let videos = short_clips(&folder);
        let ours = median_seconds(rounds, || runtime.block_on(decode_all(&decoders, &videos)));
        println!("\n{} clips of 2 s, an image a second: {ours:.2} s", videos.len());
        if let Some(python) = std::env::var_os("VIDINDEX_BENCH_PYTHON") {
            let seconds = median_seconds(rounds, || loop_with_pyav(Path::new(&python), &videos));
            println!("PyAV, one after another: {seconds:.2} s, ratio {:.2}", ours / seconds);
        }
    }
    for (name, seconds) in GROUPS.into_iter().filter(|(name, _)| is_chosen(name)) {
        let video = encoded(&folder, name, seconds);
        let full =
            median(rounds, || runtime.block_on(decode(&decoders, &video, (None, None), Some(FullDecode::Requested))));
        let null = median_seconds(rounds, || ffmpeg_null(&video));
        println!(
            "\ngroups of {name} s: every frame in {:.2} s; ffmpeg -f null {null:.2} s, ratio {:.2}",
            full.wall,
            full.wall / null
        );
        println!(
            "  {:<22} {:>8} {:>8} {:>10} {:>10} {:>10} {:>12} {:>10}",
            "job", "decoded", "fetched", "full", "selective", "ratio", "real time", "PyAV"
        );
        for (job, images, clips) in JOBS {
            let in_full = median(rounds, || {
                runtime.block_on(decode(&decoders, &video, (images, clips), Some(FullDecode::Requested)))
            });
            let found = median(rounds, || runtime.block_on(decode(&decoders, &video, (images, clips), None)));
            assert!(found.totals.in_full.is_none(), "{job}: {:?}", found.totals.in_full);
            let share = 100.0 * found.totals.frames_decoded as f64 / found.totals.frames_presented as f64;
            let fetched = 100.0 * runtime.block_on(fetched_share(&decoders, &video, (images, clips)));
            let seeking = match (std::env::var_os("VIDINDEX_BENCH_PYTHON"), images) {
                (Some(python), Some(rate)) => {
                    let seconds = median_seconds(rounds, || seek_with_pyav(Path::new(&python), &video, 1.0 / rate));
                    format!("{seconds:.2} s")
                }
                _ => "-".to_owned(),
            };
            println!(
                "  {job:<22} {share:>7.1}% {fetched:>7.1}% {:>8.2} s {:>8.2} s {:>10.2} {:>11.0}x {seeking:>10}",
                in_full.wall,
                found.wall,
                in_full.wall / found.wall,
                f64::from(SECONDS) / found.wall
            );
        }
    }
}

/// Compares the conversion of a frame to a detector's image and to a frame of a clip with libswscale's conversion of the whole
/// frame to RGB, from which they would have to be sampled.
fn conversions() {
    const ROUNDS: usize = 51;
    println!("\n{:<12} {:>12} {:>12} {:>12}", "conversion", "whole frame", "image of 640", "clip of 256");
    for (width, height) in [(1920, 1080), (1280, 720), (640, 360)] {
        let mut frame = Frame::new(Pixel::YUV420P, width, height);
        for plane in 0..3 {
            frame.data_mut(plane).iter_mut().enumerate().for_each(|(i, byte)| *byte = ((i * 7919) >> 3) as u8);
        }
        let mut context =
            Context::get(Pixel::YUV420P, width, height, Pixel::RGB24, width, height, Flags::BILINEAR).unwrap();
        let mut whole = Frame::empty();
        let rgb = median_seconds(ROUNDS, || context.run(&frame, &mut whole).unwrap());
        let mut converter = Converter::default();
        let (mut image, mut clip) = (vec![0; 3 * 640 * 640], [0; 3].map(|_| vec![f16::ZERO; 256 * 256]));
        let of_image = median_seconds(ROUNDS, || {
            letterboxed(&converter.picture(&frame, Orientation::default()).unwrap(), (640, 640), &mut image);
        });
        let spec = ClipSpec { frames: 1, ..clip_spec(1.0) };
        let of_clip = median_seconds(ROUNDS, || {
            let picture = converter.picture(&frame, Orientation::default()).unwrap();
            clip_frame(&picture, &spec, (256, 256), clip.each_mut().map(Vec::as_mut_slice));
        });
        let [rgb, of_image, of_clip] = [rgb, of_image, of_clip].map(|seconds| format!("{:.2} ms", 1000.0 * seconds));
        println!("{:<12} {rgb:>12} {of_image:>12} {of_clip:>12}", format!("{width} x {height}"));
    }
}

fn clip_spec(stride_seconds: f64) -> ClipSpec {
    ClipSpec {
        frames: 32,
        side: 256,
        view: View::Centre(256),
        mean: [0.45; 3],
        std: [0.225; 3],
        clip_seconds: 64.0 / 30.0,
        stride_seconds,
    }
}

/// Encodes a moving picture with noise, which costs a decoder about as much as a real one.
fn encoded(folder: &Path, name: &str, group_seconds: f64) -> PathBuf {
    let video = folder.join(format!("groups-{name}.mp4"));
    if !video.exists() {
        let source = format!("testsrc2=size=1920x1080:rate={RATE}:duration={SECONDS},noise=alls=12:allf=t");
        let group = (group_seconds * f64::from(RATE)).round().to_string();
        let partial = folder.join("partial.mp4");
        let mut command = Command::new("ffmpeg");
        command.args([
            "-v", "error", "-nostdin", "-y", "-f", "lavfi", "-i", &source, "-c:v", "libx264", "-preset", "fast",
        ]);
        command.args(["-b:v", "5M", "-bf", "3", "-g", &group, "-sc_threshold", "0", "-pix_fmt", "yuv420p"]);
        assert!(command.arg(&partial).status().unwrap().success());
        std::fs::rename(partial, &video).unwrap();
    }
    video
}

/// Encodes parts of a moving picture with noise.
fn short_clips(folder: &Path) -> Vec<PathBuf> {
    let videos: Vec<PathBuf> = (0..180).map(|n| folder.join(format!("short-{n}.mp4"))).collect();
    for (n, video) in videos.iter().enumerate().filter(|(_, video)| !video.exists()) {
        let mut command = Command::new("ffmpeg");
        let source = format!("testsrc2=size=340x256:rate=30,noise=alls=8:allf=t:all_seed={n}");
        command.args(["-v", "error", "-nostdin", "-y", "-f", "lavfi", "-i", &source, "-t", "2"]);
        command.args(["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p"]);
        let partial = folder.join("partial.mp4");
        assert!(command.arg(&partial).status().unwrap().success());
        std::fs::rename(partial, video).unwrap();
    }
    videos
}

/// Decodes as many videos at once as a worker does.
async fn decode_all(decoders: &Decoders, videos: &[PathBuf]) {
    let cores = std::thread::available_parallelism().unwrap().get();
    let decode = |video| decode(decoders, video, (Some(1.0), None), None);
    stream::iter(videos.iter().map(|video| decode(video.as_path()))).buffer_unordered(cores).collect::<Vec<_>>().await;
}

/// Decodes the videos one after another, and scales a frame a second.
fn loop_with_pyav(python: &Path, videos: &[PathBuf]) {
    const SCRIPT: &str = "\
import sys, av
for path in sys.argv[1:]:
    container = av.open(path)
    stream = container.streams.video[0]
    stream.thread_type = 'AUTO'
    at = 0.0
    for frame in container.decode(stream):
        if frame.time >= at - 1e-6:
            frame.reformat(640, 482, 'rgb24').to_ndarray()
            at += 1.0
";
    assert!(Command::new(python).args(["-c", SCRIPT]).args(videos).status().unwrap().success());
}

/// Decodes a video for images and clips at these rates; without either, decodes and sends nothing.
async fn decode(
    decoders: &Decoders,
    video: &Path,
    rates: (Option<f64>, Option<f64>),
    in_full: Option<FullDecode>,
) -> Decoded {
    let file = File::open(video).unwrap();
    let size_bytes = file.metadata().unwrap().len();
    decode_source(decoders, Arc::new(file), size_bytes, rates, in_full).await
}

/// The share of a video's bytes that selective decoding requests, if the video is in a bucket.
async fn fetched_share(decoders: &Decoders, video: &Path, rates: (Option<f64>, Option<f64>)) -> f64 {
    let store = MemoryStore::bucket("s3://videos/");
    store.insert("video.mp4", std::fs::read(video).unwrap());
    let listed = store.head("video.mp4").await.unwrap();
    let object = VideoObject {
        uri: store.uri(&listed.key),
        key: listed.key,
        size_bytes: listed.size_bytes,
        etag: listed.etag,
        version_id: None,
        last_modified: listed.last_modified,
        partition: Vec::new(),
        todo: Default::default(),
    };
    let source = Arc::new(Fetch::new(Arc::new(store.clone()), &object));
    decode_source(decoders, source, object.size_bytes, rates, None).await;
    store.fetched_bytes() as f64 / object.size_bytes as f64
}

async fn decode_source(
    decoders: &Decoders,
    source: Arc<dyn ByteSource>,
    size_bytes: u64,
    (images, clips): (Option<f64>, Option<f64>),
    in_full: Option<FullDecode>,
) -> Decoded {
    let request = Request {
        size_bytes,
        images: images.map(|frames_per_second| ImageSpec { width: 640, height: 640, frames_per_second }),
        clips: clips.map(clip_spec),
        threads: std::thread::available_parallelism().unwrap().get(),
        memory_bytes: 4 << 30,
        in_full,
        ..Default::default()
    };
    let started = Instant::now();
    let mut decoding = Decoding::start(decoders, request, source, Duration::from_secs(3600)).unwrap();
    while decoding.next().await.unwrap().is_some() {}
    assert!(decoding.needs_full().is_none(), "{:?}", decoding.needs_full());
    Decoded { wall: started.elapsed().as_secs_f64(), totals: decoding.totals() }
}

/// The decoding with the median wall time.
fn median(rounds: usize, measure: impl FnMut() -> Decoded) -> Decoded {
    let mut all: Vec<_> = std::iter::repeat_with(measure).take(rounds).collect();
    all.sort_by(|a, b| a.wall.total_cmp(&b.wall));
    all.swap_remove(rounds / 2)
}

fn median_seconds(rounds: usize, mut run: impl FnMut()) -> f64 {
    let mut all: Vec<_> = (0..rounds)
        .map(|_| {
            let started = Instant::now();
            run();
            started.elapsed().as_secs_f64()
        })
        .collect();
    all.sort_by(f64::total_cmp);
    all[rounds / 2]
}

fn ffmpeg_null(video: &Path) {
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "quiet", "-nostdin", "-i"]).arg(video).args(["-map", "0:v:0", "-f", "null", "-"]);
    assert!(command.status().unwrap().success());
}

/// Seeks to the key frame before each time, decodes up to it, and scales that frame.
fn seek_with_pyav(python: &Path, video: &Path, step_seconds: f64) {
    const SCRIPT: &str = "\
import sys, av
container = av.open(sys.argv[1])
stream = container.streams.video[0]
stream.thread_type = 'AUTO'
step, at, duration = float(sys.argv[2]), 0.0, container.duration / av.time_base
while at < duration:
    container.seek(int(at / stream.time_base), stream=stream, backward=True)
    for frame in container.decode(stream):
        if frame.time >= at - 1e-6:
            frame.reformat(640, 360, 'rgb24').to_ndarray()
            break
    at += step
";
    let mut command = Command::new(python);
    command.args(["-c", SCRIPT]).arg(video).arg(step_seconds.to_string());
    assert!(command.status().unwrap().success());
}
