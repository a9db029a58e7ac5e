//! Peak memory of a run (parent and decoders, shared pages counted once) on a short and on a long video, with full-size
//! models: it must not grow with a video's length.
//!
//! ```text
//! cargo bench --bench memory                        1 minute against 30 minutes, some ten minutes on two cores
//! VIDINDEX_BENCH_MINUTES=5 cargo bench --bench memory
//! ```
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run fails")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const VIDINDEX: &str = env!("CARGO_BIN_EXE_vidindex");

fn main() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("memory");
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["slowfast-r50-8x8", "yolov5n"] {
        if !folder.join(name).with_extension("onnx").exists() {
            let built =
                Command::new(VIDINDEX).args(["models", "build", name, "-q", "-o"]).arg(&folder).output().unwrap();
            assert!(built.status.success());
        }
    }
    let long: u32 = std::env::var("VIDINDEX_BENCH_MINUTES").ok().map_or(30, |text| text.parse().unwrap());
    let peaks = [1, long].map(|minutes| {
        let (peak_bytes, seconds) = peak(&folder, minutes);
        println!("{minutes:>3} min of video: peak {:.0} MiB, {seconds:.0} s", peak_bytes as f64 / 1048576.0);
        peak_bytes as f64
    });
    println!("ratio {:.3}", peaks[1] / peaks[0]);
}

/// Indexes one video of so many minutes; gives the largest sum of memory seen, and the seconds that it took.
fn peak(folder: &Path, minutes: u32) -> (u64, f64) {
    let scratch = tempfile::tempdir_in(folder).unwrap();
    let videos = scratch.path().join("videos");
    std::fs::create_dir(&videos).unwrap();
    let source = format!("testsrc2=size=640x360:rate=30:duration={}", minutes * 60);
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-f", "lavfi", "-i", &source, "-pix_fmt", "yuv420p", "-preset", "ultrafast"]);
    assert!(ffmpeg.arg(videos.join("video.mp4")).status().unwrap().success());
    let job = scratch.path().join("job.toml");
    let text = format!(
        "[input]\nuri = {videos:?}\n[output]\nuri = {:?}\n[actions]\nmodel = {:?}\n[persons]\nmodel = {:?}\n",
        scratch.path().join("index"),
        folder.join("slowfast-r50-8x8.onnx"),
        folder.join("yolov5n.onnx")
    );
    std::fs::write(&job, text).unwrap();
    let started = Instant::now();
    let mut run = Command::new(VIDINDEX).arg("run").arg(&job).arg("-q").stdout(Stdio::null()).spawn().unwrap();
    let mut peak = 0;
    let status = loop {
        peak = peak.max(memory_of(run.id()));
        if let Some(status) = run.try_wait().unwrap() {
            break status;
        }
        std::thread::park_timeout(Duration::from_millis(50));
    };
    assert!(status.success());
    (peak, started.elapsed().as_secs_f64())
}

/// Proportional set size of a process and its children, in bytes.
fn memory_of(process: u32) -> u64 {
    // A child belongs to the thread that started it.
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let children: String =
        tasks.map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default()).collect();
    let rollup = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap_or_default();
    let own = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
        .unwrap_or(0);
    own * 1024 + children.split_whitespace().filter_map(|child| child.parse().ok()).map(memory_of).sum::<u64>()
}
