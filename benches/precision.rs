//! A whole job (decoding, SlowFast-R50 8x8, YOLOv5n, Parquet) in each number format, in turn, compared with the same job in
//! Python (`peer_pytorch.py`); and the accuracy of the demo's models in each of them.
//!
//! ```text
//! make bench-precision                                              installs PyTorch in .peer/ (6 GB) first
//! cargo bench --bench precision                                     without PyTorch, unless .peer/ exists
//! VIDINDEX_BENCH_VIDEOS=/mnt/clips cargo bench --bench precision    the videos of a folder
//! VIDINDEX_BENCH_ROUNDS=5 VIDINDEX_DEVICE=cpu cargo bench --bench precision
//! ```
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run fails")]

#[path = "support/job.rs"]
mod job;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use job::{VIDINDEX, models, run, videos};
use vidindex::device::Precision;
use vidindex::infer::session::Runtime;

/// Clips of this seed were not seen by the demo's models, neither in training nor for their quantisation.
const SEED: u64 = 20_260;
const STRIDE_SECONDS: &str = "0.5";
const FRAMES_PER_SECOND: &str = "2.0";

/// A way to do the job.
struct Contender {
    name: String,
    /// Models, and the job's precision. `None` for the script.
    job: Option<([PathBuf; 2], &'static str)>,
    /// Of the whole process.
    seconds: Vec<f64>,
    /// Of it, for opening the models, and from the first listing to the last commit without that.
    parts: Option<[f64; 2]>,
}

fn main() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench");
    std::fs::create_dir_all(&folder).unwrap();
    let rounds: usize = std::env::var("VIDINDEX_BENCH_ROUNDS").ok().map_or(3, |text| text.parse().unwrap());
    let device = std::env::var("VIDINDEX_DEVICE").unwrap_or_else(|_| "auto".to_owned());
    let runtime = Runtime::load(None, device.parse().unwrap(), Precision::Auto).unwrap();
    let device = runtime.device().to_string();
    let files = videos(&folder);
    let exact = models(&folder);
    let quantised = exact.each_ref().map(|model| quantise(model, files[0].parent().unwrap(), &device));
    let formats: Vec<&str> = runtime.precisions().into_iter().map(Precision::as_str).collect();

    let python = std::env::var_os("VIDINDEX_BENCH_PYTHON").map(PathBuf::from);
    let python = python.or_else(|| Some(PathBuf::from(".peer/bin/python")).filter(|python| python.exists()));
    let ours = |name: &str, models: &[PathBuf; 2], precision| Contender {
        name: name.to_owned(),
        job: Some((models.clone(), precision)),
        seconds: vec![],
        parts: None,
    };
    let mut contenders = Vec::new();
    contenders.extend(python.iter().map(|_| Contender {
        name: "PyTorch".to_owned(),
        job: None,
        seconds: vec![],
        parts: None,
    }));
    contenders
        .extend(["fp32", "bf16"].into_iter().filter(|format| formats.contains(format)).map(|f| ours(f, &exact, f)));
    contenders.push(ours("int8", &quantised, "auto"));

    let (mut video_seconds, mut inputs) = (0.0, (0, 0));
    for _ in 0..rounds {
        for contender in &mut contenders {
            let seconds = match (&contender.job, &python) {
                (Some((models, precision)), _) => {
                    let precision = format!("run.precision={precision}");
                    let run = run(&folder, &files, models, &["--device", &device, "--set", &precision]);
                    (video_seconds, inputs) = (run.video_seconds, (run.clips, run.images));
                    contender.parts = Some([run.open_seconds, run.work_seconds]);
                    run.process_seconds
                }
                (None, Some(python)) => peer(python, &files, &folder),
                (None, None) => continue,
            };
            contender.seconds.push(seconds);
        }
    }
    println!("{video_seconds:.1} s of video, {} clips, {} images, on {device}; whole processes", inputs.0, inputs.1);
    let base = median(&contenders[0].seconds);
    println!(
        "{:8} {:>8} {:>8} {:>8}  {:24} times {}",
        "", "median", "least", "most", "opening + work", contenders[0].name
    );
    for Contender { name, seconds, parts, .. } in &contenders {
        let least = seconds.iter().copied().fold(f64::INFINITY, f64::min);
        let most = seconds.iter().copied().fold(0.0, f64::max);
        let median = median(seconds);
        let parts = parts.map(|[opening, work]| format!("{opening:.2} s + {work:.2} s")).unwrap_or_default();
        println!("{name:8} {median:>6.2} s {least:>6.2} s {most:>6.2} s  {parts:24} {:.2}", base / median);
    }
    accuracy(&folder, &device, &formats);
}

/// The model beside it that is quantised with these videos.
fn quantise(model: &Path, videos: &Path, device: &str) -> PathBuf {
    let stem = model.file_stem().unwrap().to_str().unwrap();
    let out = model.with_file_name(format!("{stem}-int8.onnx"));
    if !out.exists() {
        let mut command = Command::new(VIDINDEX);
        // Boxes of random weights are never the same.
        command.args(["models", "quantize", "--max-drop", "1", "--samples", "32"]);
        if stem == "yolov5n" {
            command.args(["--set", "persons.confidence=0.0001"]);
        }
        command.args(["--device", device, "--calibrate"]).arg(videos).arg(model);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    out
}

/// Runs the script. Returns the seconds that its process took.
fn peer(python: &Path, videos: &[PathBuf], folder: &Path) -> f64 {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peer_pytorch.py");
    let threads = std::thread::available_parallelism().unwrap().get().to_string();
    let started = Instant::now();
    let mut command = Command::new(python);
    let output = command.args(["-W", "ignore"]).arg(script).arg(threads).arg(folder.join("peer.parquet")).args(videos);
    let output = output.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    started.elapsed().as_secs_f64()
}

/// Prints how well the demo's models do on drawn clips with ground truth.
fn accuracy(folder: &Path, device: &str, formats: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join(".venv/bin/python");
    if !python.exists() {
        println!("accuracy: not measured, because the comparison with the truth needs `make setup-test`");
        return;
    }
    let (clips, others) = (folder.join("drawn"), folder.join("drawn-others"));
    for (clips, seed, count) in [(&clips, SEED, 24), (&others, SEED + 2, 12)] {
        if !clips.join("truth.json").exists() {
            scenes::write(clips, seed, count).unwrap();
        }
    }
    let originals = ["demo-slowfast", "demo-yolov5"].map(|name| root.join(format!("models/{name}.onnx")));
    let quantised = originals.each_ref().map(|model| {
        let copy = folder.join(model.file_name().unwrap());
        std::fs::copy(model, &copy).unwrap();
        std::fs::copy(model.with_extension("toml"), copy.with_extension("toml")).unwrap();
        quantise(&copy, &others, device)
    });
    println!("\ndrawn clips    person AP at IoU 0.5    top-1 of segments");
    let kinds = formats.iter().map(|format| (*format, &originals, *format)).chain([("int8", &quantised, "auto")]);
    for (name, [actions, persons], precision) in kinds {
        let scratch = tempfile::tempdir_in(folder).unwrap();
        let job = scratch.path().join("job.toml");
        let index = scratch.path().join("index");
        let text = format!(
            "[input]\nuri = {clips:?}\n[output]\nuri = {index:?}\n[actions]\nmodel = {actions:?}\n\
             stride_seconds = {STRIDE_SECONDS}\n[persons]\nmodel = {persons:?}\n\
             frames_per_second = {FRAMES_PER_SECOND}\niou = 0.6\n[run]\nprecision = {precision:?}\n"
        );
        std::fs::write(&job, text).unwrap();
        let output = Command::new(VIDINDEX).arg("run").arg(&job).args(["--device", device]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut command = Command::new(&python);
        command.arg(root.join("tests/it/support/truth.py")).arg(clips.join("truth.json")).arg(&index);
        let compared = command.args([STRIDE_SECONDS, FRAMES_PER_SECOND]).output().unwrap();
        assert!(compared.status.success(), "{}", String::from_utf8_lossy(&compared.stderr));
        let found: serde_json::Value = serde_json::from_slice(&compared.stdout).unwrap();
        let metric = |metric: &str| found["all"][metric].as_f64().unwrap_or(f64::NAN);
        println!("{name:14} {:<23.4} {:.4}", metric("ap50"), metric("top1"));
    }
}

fn median(seconds: &[f64]) -> f64 {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
