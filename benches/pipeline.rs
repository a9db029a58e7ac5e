//! A complete run compared with its lower bound: the wall time of `vidindex run`, the time of the same inferences alone
//! on the same provider, and their ratio. Also decoding alone, compared with `ffmpeg -f null`.
//!
//! ```text
//! make bench                                            synthetic clips, full-size models with random weights
//! VIDINDEX_BENCH_VIDEOS=/mnt/clips make bench           the videos of a folder
//! VIDINDEX_BENCH_ROUNDS=5 VIDINDEX_DEVICE=cpu make bench
//! ```
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run fails")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use half::f16;
use vidindex::decode::{Decoders, Decoding, FullDecode, Request};
use vidindex::device::Precision;
use vidindex::infer::boxes::Thresholds;
use vidindex::infer::detector::Detector;
use vidindex::infer::session::Runtime;
use vidindex::infer::slowfast::SlowFast;
use vidindex::zoo::descriptor::Descriptor;
use vidindex::zoo::inspect::ModelInfo;

const VIDINDEX: &str = env!("CARGO_BIN_EXE_vidindex");

fn main() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench");
    std::fs::create_dir_all(&folder).unwrap();
    let rounds: usize = std::env::var("VIDINDEX_BENCH_ROUNDS").ok().map_or(3, |text| text.parse().unwrap());
    let device = std::env::var("VIDINDEX_DEVICE").unwrap_or_else(|_| "auto".to_owned());
    let videos = videos(&folder);
    let models = models(&folder);

    let mut runs: Vec<Run> = (0..rounds).map(|_| run(&folder, &videos, &models, &device)).collect();
    runs.sort_by(|a, b| a.work_seconds.total_cmp(&b.work_seconds));
    let median_run = &runs[rounds / 2];
    let floor = floor(&models, &device, median_run.clips, median_run.images, rounds);
    println!("device                      {}", floor.device);
    println!(
        "input                       {:.1} s of video, {} clips, {} images",
        median_run.video_seconds, median_run.clips, median_run.images
    );
    println!("wall, whole process         {:.2} s (median of {rounds})", median_run.process_seconds);
    println!("  of it opening the models  {:.2} s", median_run.open_seconds);
    println!("wall, plan to commit        {:.2} s without opening the models", median_run.work_seconds);
    println!(
        "floor, inference alone      {:.2} s ({:.1} ms a clip, {:.1} ms an image)",
        floor.seconds, floor.clip_ms, floor.image_ms
    );
    println!("ratio                       {:.3} (goal: at most 1.15)", median_run.work_seconds / floor.seconds);
    println!("times real time             {:.2}", median_run.video_seconds / median_run.process_seconds);

    let frames = decode(&videos);
    let ours = median(rounds, || decode_alone(&videos));
    let ffmpeg = median(rounds, || ffmpeg_null(&videos));
    let per_second = |seconds: f64| frames as f64 / seconds;
    println!("decode, no models           {:.0} frames a second", per_second(ours));
    println!("ffmpeg -f null              {:.0} frames a second", per_second(ffmpeg));
    println!("ratio                       {:.2}", ffmpeg / ours);
}

/// The videos of the requested folder, or synthetic clips.
fn videos(folder: &Path) -> Vec<PathBuf> {
    let requested = std::env::var_os("VIDINDEX_BENCH_VIDEOS").map(PathBuf::from);
    let clips = requested.unwrap_or_else(|| {
        let clips = folder.join("clips");
        if !clips.join("one.mp4").exists() {
            std::fs::create_dir_all(&clips).unwrap();
            for name in ["one.mp4", "two.mp4"] {
                let source = "testsrc2=size=340x256:rate=30:duration=10";
                let mut ffmpeg = Command::new("ffmpeg");
                ffmpeg.args(["-v", "error", "-y", "-f", "lavfi", "-i", source, "-pix_fmt", "yuv420p"]);
                assert!(ffmpeg.arg(clips.join(name)).status().unwrap().success());
            }
        }
        clips
    });
    let mut files: Vec<_> = std::fs::read_dir(clips).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.is_file());
    files.sort();
    files
}

/// Full-size models, which are built only once.
fn models(folder: &Path) -> [PathBuf; 2] {
    ["slowfast-r50-8x8", "yolov5n"].map(|name| {
        let file = folder.join("models").join(format!("{name}.onnx"));
        if !file.exists() {
            let out = folder.join("models");
            let built = Command::new(VIDINDEX).args(["models", "build", name, "-q", "-o"]).arg(out).output().unwrap();
            assert!(built.status.success());
        }
        file
    })
}

struct Run {
    process_seconds: f64,
    open_seconds: f64,
    /// From the first listing to the last commit, without opening the models.
    work_seconds: f64,
    video_seconds: f64,
    clips: u64,
    images: u64,
}

fn run(folder: &Path, videos: &[PathBuf], models: &[PathBuf; 2], device: &str) -> Run {
    let scratch = tempfile::tempdir_in(folder).unwrap();
    let input = scratch.path().join("videos");
    std::fs::create_dir(&input).unwrap();
    for video in videos {
        let video = video.canonicalize().unwrap();
        std::os::unix::fs::symlink(&video, input.join(video.file_name().unwrap())).unwrap();
    }
    let job = scratch.path().join("job.toml");
    let text = format!(
        "[input]\nuri = {input:?}\n[output]\nuri = {:?}\n[actions]\nmodel = {:?}\n[persons]\nmodel = {:?}\n",
        scratch.path().join("index"),
        models[0],
        models[1]
    );
    std::fs::write(&job, text).unwrap();
    let started = Instant::now();
    let mut command = Command::new(VIDINDEX);
    command.arg("run").arg(&job).args(["--log-format", "json", "--device", device]);
    let output = command.output().unwrap();
    let process_seconds = started.elapsed().as_secs_f64();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let events: Vec<serde_json::Value> = String::from_utf8_lossy(&output.stderr)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .map(|event| event["fields"].clone())
        .collect();
    let done = events.iter().find(|event| event["message"] == "work done").unwrap();
    let inputs = |model: &str| {
        let event = events.iter().find(|event| event["model"] == model && event["message"] == "inference done");
        event.unwrap()["inputs"].as_u64().unwrap()
    };
    let seconds = |name: &str| done[name].as_f64().unwrap();
    Run {
        process_seconds,
        open_seconds: seconds("open_seconds"),
        work_seconds: seconds("wall_seconds") - seconds("open_seconds"),
        video_seconds: seconds("video_seconds"),
        clips: inputs("actions"),
        images: inputs("persons"),
    }
}

struct Floor {
    device: String,
    seconds: f64,
    clip_ms: f64,
    image_ms: f64,
}

/// Runs the same number of inferences on prepared tensors, and takes the median of each model's time.
fn floor(models: &[PathBuf; 2], device: &str, clips: u64, images: u64, rounds: usize) -> Floor {
    let runtime = Runtime::load(None, device.parse().unwrap(), Precision::Auto).unwrap();
    let [action_info, person_info] = models.each_ref().map(|model| ModelInfo::read(model).unwrap());
    let Descriptor::SlowFast(descriptor) = Descriptor::for_model(&action_info).unwrap() else {
        panic!("not a SlowFast")
    };
    let mut slowfast = SlowFast::open(&runtime, &action_info, &descriptor, false, None).unwrap();
    let clip: Vec<f16> = (0..3 * descriptor.frames * descriptor.crop * descriptor.crop)
        .map(|i| f16::from_f32((i % 1021) as f32 / 510.0 - 1.0))
        .collect();
    let clip_seconds = inference_seconds(clips, slowfast.batch(), rounds, |n| {
        let batch = slowfast.tensors().batch(&vec![&clip[..]; n]).unwrap();
        slowfast.run(&batch).unwrap().seconds
    });
    let thresholds = Thresholds { confidence: 0.25, iou: 0.45, classes: vec![0] };
    let Descriptor::Detector(descriptor) = Descriptor::for_model(&person_info).unwrap() else {
        panic!("not a detector")
    };
    let mut yolo = Detector::open(&runtime, &person_info, &descriptor, thresholds, None).unwrap();
    let image: Vec<u8> = (0..descriptor.size.height * descriptor.size.width * 3).map(|i| (i % 251) as u8).collect();
    let image_seconds = inference_seconds(images, yolo.batch(), rounds, |n| {
        let batch = yolo.tensors().batch(&vec![(&image[..], (640, 640)); n]).unwrap();
        yolo.run(&batch).unwrap().seconds
    });
    Floor {
        device: runtime.device().to_string(),
        seconds: clip_seconds + image_seconds,
        clip_ms: 1e3 * clip_seconds / clips.max(1) as f64,
        image_ms: 1e3 * image_seconds / images.max(1) as f64,
    }
}

/// Seconds that `count` inferences take in full batches, without the first one, which plans the graph.
fn inference_seconds(count: u64, batch_max: usize, rounds: usize, mut run: impl FnMut(usize) -> f64) -> f64 {
    run(batch_max);
    median(rounds, || {
        let mut seconds = 0.0;
        let mut remaining = count as usize;
        while remaining > 0 {
            let n = remaining.min(batch_max);
            seconds += run(n);
            remaining -= n;
        }
        Duration::from_secs_f64(seconds)
    })
}

fn median(rounds: usize, mut measure: impl FnMut() -> Duration) -> f64 {
    let mut seconds: Vec<f64> = (0..rounds).map(|_| measure().as_secs_f64()).collect();
    seconds.sort_by(f64::total_cmp);
    seconds[rounds / 2]
}

/// Decodes the videos one after another in decoder processes, and returns their total number of frames.
fn decode(videos: &[PathBuf]) -> u64 {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let threads = std::thread::available_parallelism().unwrap().get();
    runtime.block_on(async {
        let decoders = Decoders::new(VIDINDEX);
        let mut frames = 0;
        for video in videos {
            let file = std::fs::File::open(video).unwrap();
            let size_bytes = file.metadata().unwrap().len();
            let request = Request {
                size_bytes,
                threads,
                memory_bytes: 4 << 30,
                in_full: Some(FullDecode::Requested),
                ..Default::default()
            };
            let mut decoding = Decoding::start(&decoders, request, Arc::new(file), Duration::from_secs(3600)).unwrap();
            while let Ok(Some(_)) = decoding.next().await {}
            frames += decoding.totals().frames_decoded;
        }
        frames
    })
}

fn decode_alone(videos: &[PathBuf]) -> Duration {
    let started = Instant::now();
    decode(videos);
    started.elapsed()
}

fn ffmpeg_null(videos: &[PathBuf]) -> Duration {
    let started = Instant::now();
    for video in videos {
        let mut command = Command::new("ffmpeg");
        command.args(["-v", "quiet", "-nostdin", "-i"]).arg(video).args(["-map", "0:v:0", "-f", "null", "-"]);
        command.status().unwrap();
    }
    started.elapsed()
}
