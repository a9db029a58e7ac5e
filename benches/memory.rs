//! Peak memory of a run (parent and decoders, shared pages counted once) on a short and on a long video. It must not
//! grow with the length.
//!
//! ```text
//! cargo bench --bench memory               all cases, about thirty minutes on two cores
//! cargo bench --bench memory -- models     full-size models, 1 minute and 30 minutes of video
//! cargo bench --bench memory -- rows       30 boxes in each of 5 frames a second, 1 hour and 8 hours of video
//! cargo bench --bench memory -- tracks     the same, followed from frame to frame, 1 hour and 4 hours of video
//! ```
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run fails")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use prost::Message;
use vidindex::zoo::graph::GraphBuilder;
use vidindex::zoo::weights::RandomWeights;

const VIDINDEX: &str = env!("CARGO_BIN_EXE_vidindex");

/// Side of the input images of [`thirty_boxes`]' detector.
const SIDE: usize = 64;

/// Number of predictions of a YOLOv5 for an image of this side: three for each cell of its three grids.
const PREDICTIONS: usize = 3 * (8 * 8 + 4 * 4 + 2 * 2);

fn main() {
    let requested: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_requested = |case: &str| requested.is_empty() || requested.iter().any(|argument| argument == case);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("memory");
    std::fs::create_dir_all(&folder).unwrap();
    if is_requested("models") {
        let models = ["slowfast-r50-8x8", "yolov5n"].map(|name| build(&folder, name));
        compare(&folder, "models", "size=640x360:rate=30", [1, 30], &sections(&models));
    }
    let actions = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo-slowfast.onnx");
    // OpenVINO cannot open a graph whose output is constant.
    let boxes = |keys: &str| {
        let models = sections(&[actions.clone(), thirty_boxes(&folder)]);
        format!("{models}frames_per_second = 5\n{keys}[run]\ndevice = \"cpu\"\n")
    };
    if is_requested("rows") {
        compare(&folder, "rows", "size=160x120:rate=5", [60, 480], &boxes(""));
    }
    if is_requested("tracks") {
        compare(&folder, "tracks", "size=160x120:rate=5", [60, 240], &boxes("track = true\n"));
    }
}

fn build(folder: &Path, name: &str) -> PathBuf {
    let model = folder.join(name).with_extension("onnx");
    if !model.exists() {
        let built = Command::new(VIDINDEX).args(["models", "build", name, "-q", "-o"]).arg(folder).output().unwrap();
        assert!(built.status.success());
    }
    model
}

/// Writes a detector that finds 30 persons in every image.
fn thirty_boxes(folder: &Path) -> PathBuf {
    let mut values = vec![0.0; PREDICTIONS * 6];
    for (number, prediction) in values.chunks_exact_mut(6).take(30).enumerate() {
        // Centre, size and confidence of a box, and score of its class. The boxes are in rows of six, and do not
        // overlap.
        let (column, row) = ((number % 6) as f32, (number / 6) as f32);
        prediction.copy_from_slice(&[5.0 + 10.0 * column, 12.0 + 10.0 * row, 8.0, 8.0, 0.9, 1.0]);
    }
    let mut weights = RandomWeights::new(1);
    let mut graph = GraphBuilder::new("thirty_boxes", &mut weights);
    graph.input("images", &[3, SIDE, SIDE]);
    let boxes = graph.constant(&[PREDICTIONS, 6], &values);
    let one = graph.constant(&[1, 1], &[1.0]);
    let boxes = graph.mul(&boxes, &one);
    graph.output(&boxes, "output0");
    let model = folder.join("thirty-boxes.onnx");
    std::fs::write(&model, graph.finish().unwrap().encode_to_vec()).unwrap();
    std::fs::write(model.with_extension("toml"), format!("kind = \"yolov5\"\nlabels = [\"person\"]\nside = {SIDE}\n"))
        .unwrap();
    model
}

fn sections([actions, persons]: &[PathBuf; 2]) -> String {
    format!("[actions]\nmodel = {actions:?}\n[persons]\nmodel = {persons:?}\n")
}

fn compare(folder: &Path, case: &str, picture: &str, minutes: [u32; 2], sections: &str) {
    let peaks = minutes.map(|minutes| {
        let (peak_bytes, seconds) = peak(folder, picture, minutes, sections);
        let peak_mib = peak_bytes as f64 / 1048576.0;
        println!("{case}: {minutes:>3} min of video: peak {peak_mib:.0} MiB, {seconds:.0} s");
        peak_mib
    });
    println!("{case}: ratio {:.3}", peaks[1] / peaks[0]);
}

/// Indexes one video. Returns the peak memory in bytes, and the seconds that the run took.
fn peak(folder: &Path, picture: &str, minutes: u32, sections: &str) -> (u64, f64) {
    let scratch = tempfile::tempdir_in(folder).unwrap();
    let videos = scratch.path().join("videos");
    std::fs::create_dir(&videos).unwrap();
    let source = format!("testsrc2={picture}:duration={}", minutes * 60);
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-f", "lavfi", "-i", &source, "-pix_fmt", "yuv420p", "-preset", "ultrafast"]);
    assert!(ffmpeg.arg(videos.join("video.mp4")).status().unwrap().success());
    let job = scratch.path().join("job.toml");
    let output = scratch.path().join("index");
    std::fs::write(&job, format!("[input]\nuri = {videos:?}\n[output]\nuri = {output:?}\n{sections}")).unwrap();
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

/// Proportional set size of a process and its descendants, in bytes.
fn memory_of(process: u32) -> u64 {
    // The kernel lists a child under the thread that started it.
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
