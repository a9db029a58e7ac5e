//! A complete run compared with its lower bound: the wall time of `vidindex run`, the time of the same inferences alone
//! on the same provider, and their ratio. Also decoding alone, compared with `ffmpeg -f null`.
//!
//! ```text
//! make bench                                            synthetic clips, full-size models with random weights
//! VIDINDEX_BENCH_VIDEOS=/mnt/clips make bench           the videos of a folder
//! VIDINDEX_BENCH_ROUNDS=5 VIDINDEX_DEVICE=cpu make bench
//! ```
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run fails")]

#[path = "support/job.rs"]
mod job;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use half::f16;
use job::{Run, VIDINDEX, models, run, videos};
use vidindex::decode::{Decoders, Decoding, FullDecode, Request};
use vidindex::device::Precision;
use vidindex::infer::boxes::Thresholds;
use vidindex::infer::detector::Detector;
use vidindex::infer::session::Runtime;
use vidindex::infer::slowfast::{ClipOptions, ClipView, SlowFast};
use vidindex::zoo::descriptor::Descriptor;
use vidindex::zoo::inspect::ModelInfo;

fn main() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench");
    std::fs::create_dir_all(&folder).unwrap();
    let rounds: usize = std::env::var("VIDINDEX_BENCH_ROUNDS").ok().map_or(3, |text| text.parse().unwrap());
    let device = std::env::var("VIDINDEX_DEVICE").unwrap_or_else(|_| "auto".to_owned());
    let videos = videos(&folder);
    let models = models(&folder);

    let mut runs: Vec<Run> = (0..rounds).map(|_| run(&folder, &videos, &models, &["--device", &device])).collect();
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
    let mut slowfast = SlowFast::open(&runtime, &action_info, &descriptor, ClipOptions::default()).unwrap();
    let clip: Vec<f16> = (0..3 * descriptor.frames * descriptor.crop * descriptor.crop)
        .map(|i| f16::from_f32((i % 1021) as f32 / 510.0 - 1.0))
        .collect();
    let clip_seconds = inference_seconds(clips, slowfast.batch(), rounds, |n| {
        let batch =
            slowfast.tensors().batch(&vec![ClipView::all(&clip, (descriptor.crop, descriptor.crop)); n]).unwrap();
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
