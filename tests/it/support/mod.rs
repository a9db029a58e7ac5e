//! Helpers of the tests: jobs in a scratch directory, running `vidindex`, reading its tables, and the reference data,
//! if it is available.
#![expect(clippy::expect_used, reason = "a test that cannot be set up fails")]

pub(crate) mod archive;
pub(crate) mod breaking_proxy;
pub(crate) mod browser;
pub(crate) mod bucket;
pub(crate) mod ceph;
pub(crate) mod faults;
pub(crate) mod index;
pub(crate) mod s3;
pub(crate) mod site;
pub(crate) mod slurm;
pub(crate) mod tables;
pub(crate) mod tracking;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, OnceLock, PoisonError};

use tempfile::TempDir;
use vidindex::device::{Device, DeviceChoice, Precision};
use vidindex::infer::memory::InputTensor;
use vidindex::infer::session::{Model, Runtime};

/// The reference data (golden outputs, real clips, real weights). If `VIDINDEX_REFERENCE` is not set, reports that the
/// test is skipped and returns `None`.
///
/// # Panics
/// If `VIDINDEX_REFERENCE` is set, but contains no reference data.
pub(crate) fn reference() -> Option<PathBuf> {
    match std::env::var_os("VIDINDEX_REFERENCE").map(PathBuf::from) {
        Some(path) => {
            assert!(path.join("golden").is_dir(), "VIDINDEX_REFERENCE={} contains no reference data", path.display());
            Some(path)
        }
        None => {
            eprintln!("skipped: no reference data (VIDINDEX_REFERENCE is not set)");
            None
        }
    }
}

/// Python with the packages of `make setup-test`. If it is missing, reports that the test is skipped and returns
/// `None`.
pub(crate) fn python() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    if path.exists() {
        return Some(path);
    }
    assert!(std::env::var_os("VIDINDEX_TEST_REQUIRE").is_none(), "{} is missing: run make setup-test", path.display());
    eprintln!("skipped: {} is missing; run make setup-test", path.display());
    None
}

/// ONNX Runtime on the CPU, for tests that run models in this process: a process can load the library only once.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    // ONNX Runtime reads the environment without std's lock, so nothing may change the environment after this.
    s3::set_credentials();
    RUNTIME.get_or_init(|| Runtime::load(None, DeviceChoice::Named(Device::Cpu), Precision::Fp32).unwrap())
}

/// A scratch directory with a job.
pub(crate) struct Scratch {
    pub(crate) dir: TempDir,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self { dir: TempDir::new().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The folder of videos. It is created by the first call.
    pub(crate) fn videos(&self) -> PathBuf {
        let path = self.path("videos");
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.path("index")
    }

    /// Writes `job.toml`, with `videos/` as the input, `index/` as the output, and these further sections.
    pub(crate) fn job(&self, sections: &str) -> PathBuf {
        let job = self.path("job.toml");
        let text = format!(
            "[input]\nuri = \"{}\"\n[output]\nuri = \"{}\"\n{sections}",
            self.videos().display(),
            self.index().display()
        );
        std::fs::write(&job, text).unwrap();
        job
    }

    /// The job's sections for a tiny SlowFast and the smallest YOLOv5, with random weights: their results are
    /// meaningless, but reproducible.
    pub(crate) fn small_models(&self) -> String {
        let models = small_models();
        format!(
            "[actions]\nmodel = \"{}\"\n[persons]\nmodel = \"{}\"\nconfidence = 0.0001\n",
            models.join("slowfast-tiny.onnx").display(),
            models.join("yolov5n.onnx").display()
        )
    }

    /// Like [`Self::small_models`], with a tiny SlowFast that scores persons.
    pub(crate) fn small_person_models(&self) -> String {
        self.small_models().replace("slowfast-tiny.onnx", "slowfast-tiny-ava.onnx")
    }
}

/// Builds the models once for all tests.
fn small_models() -> PathBuf {
    static MODELS: OnceLock<PathBuf> = OnceLock::new();
    MODELS
        .get_or_init(|| {
            let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("models");
            let out = folder.to_str().unwrap();
            // Images of the network's own size would take most of the tests' time.
            for (name, side) in [("slowfast-tiny", None), ("slowfast-tiny-ava", None), ("yolov5n", Some("160"))] {
                let side = side.into_iter().flat_map(|side| ["--side", side]);
                let built = vidindex(["models", "build", name, "--out", out].into_iter().chain(side)).output().unwrap();
                assert!(built.status.success(), "{}", said(&built));
            }
            folder
        })
        .clone()
}

/// Builds a model for small images, once, for tests that compare many rows. Its weights are random: its results change with
/// each pixel.
pub(crate) fn tiny_model(name: &str, side: &str) -> PathBuf {
    static DONE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("models-{side}"));
    let model = folder.join(format!("{name}.onnx"));
    let mut done = DONE.lock().unwrap_or_else(PoisonError::into_inner);
    if !done.contains(&model) {
        let built = vidindex(["models", "build", name, "--side", side, "--out"]).arg(&folder).output().unwrap();
        assert!(built.status.success(), "{}", said(&built));
        done.push(model.clone());
    }
    model
}

/// Number of clips that [`drawn_clips`] draws: two of each kind.
pub(crate) const DRAWN_CLIPS: usize = 24;

/// The folder of drawn clips that tests share, with their `truth.json`. The demo's models were not trained on scenes of
/// this seed.
pub(crate) fn drawn_clips() -> &'static Path {
    static DRAWN: OnceLock<PathBuf> = OnceLock::new();
    DRAWN.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clips");
        scenes::write(&folder, 20_260, DRAWN_CLIPS).unwrap();
        folder
    })
}

/// The drawn clip of this number, from 0.
pub(crate) fn drawn_clip(number: usize) -> PathBuf {
    let camera = drawn_clips().join(format!("cam-{}", number % 3 + 1));
    let name = format!("clip-{:03}.", number + 1);
    let mut clips = std::fs::read_dir(camera).unwrap().map(|file| file.unwrap().path());
    clips.find(|clip| clip.file_name().unwrap().to_str().unwrap().starts_with(&name)).unwrap()
}

/// Copies the first of the drawn clips into a folder, at most one of each kind.
pub(crate) fn copy_drawn_clips(folder: &Path) {
    for clip in (0..DRAWN_CLIPS / 2).map(drawn_clip) {
        std::fs::copy(&clip, folder.join(clip.file_name().unwrap())).unwrap();
    }
}

/// The binary, without the variables of the caller's environment that would affect it.
pub(crate) fn vidindex<I: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = I>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vidindex"));
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR"));
    for name in ["VIDINDEX_TASK", "VIDINDEX_DEVICE", "SLURM_ARRAY_TASK_ID", "AWS_BATCH_JOB_ARRAY_INDEX"] {
        command.env_remove(name);
    }
    command
}

/// Runs `vidindex run JOB ARGS...` on the CPU and checks its exit code.
pub(crate) fn run(job: &Path, args: &[&str], code: i32) -> Output {
    let output = vidindex(["run".as_ref(), job.as_os_str()]).args(["--device", "cpu"]).args(args).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", said(&output));
    output
}

/// The output of `vidindex query INDEX ARGS...` with the DuckDB of `make setup-test`.
pub(crate) fn query(index: &Path, args: &[&str]) -> String {
    let duckdb = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/duckdb");
    let mut command = vidindex(["query".as_ref(), index.as_os_str()]);
    let output = command.args(args).env("VIDINDEX_DUCKDB", duckdb).output().unwrap();
    assert!(output.status.success(), "{args:?} {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// The exit status and both outputs of a command, for the message of an assertion.
pub(crate) fn said(output: &Output) -> String {
    format!(
        "{}\n--- standard output\n{}\n--- standard error\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Standard output without the newline.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Standard error.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs the `ffmpeg` tool, to create a file for a test.
pub(crate) fn ffmpeg(args: &[&str]) {
    let output = Command::new("ffmpeg").args(["-v", "error", "-nostdin", "-y"]).args(args).output();
    let output = output.expect("the ffmpeg tool is installed by make setup-test");
    assert!(output.status.success(), "ffmpeg {args:?}: {}", said(&output));
}

/// Runs FFmpeg with these arguments. `@NAME` is replaced by the path of the file `NAME` in the folder.
pub(crate) fn make(folder: &Path, words: &str) {
    let words: Vec<String> = words
        .split_whitespace()
        .map(|word| word.strip_prefix('@').map_or(word.to_owned(), |file| folder.join(file).display().to_string()))
        .collect();
    ffmpeg(&words.iter().map(String::as_str).collect::<Vec<_>>());
}

/// Writes FFmpeg's moving test picture, encoded with `options`. Many tests use the same videos, which are encoded once.
pub(crate) fn test_video(file: &Path, size: &str, rate: &str, seconds: f64, options: &[&str]) {
    let source = format!("testsrc2=size={size}:rate={rate}:duration={seconds}");
    let mut args = vec!["-f", "lavfi", "-i", &source];
    args.extend(options);
    let mut hasher = DefaultHasher::new();
    args.hash(&mut hasher);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("videos");
    let extension = file.extension().unwrap().to_str().unwrap();
    let encoded = folder.join(format!("{:016x}.{extension}", hasher.finish()));
    if !encoded.exists() {
        std::fs::create_dir_all(&folder).unwrap();
        let unfinished = TempDir::new_in(&folder).unwrap();
        let unfinished = unfinished.path().join(format!("video.{extension}"));
        args.push(unfinished.to_str().unwrap());
        ffmpeg(&args);
        std::fs::rename(unfinished, &encoded).unwrap();
    }
    std::fs::copy(encoded, file).unwrap();
}

/// Input tensors of 32-bit floats: name, shape and elements.
pub(crate) fn floats(model: &Model, inputs: &[(&str, Vec<i64>, &[f32])]) -> Vec<InputTensor> {
    let memory = model.memory();
    let input = |(name, shape, data): &(&str, Vec<i64>, &[f32])| {
        let shape: Vec<usize> = shape.iter().map(|&length| length as usize).collect();
        memory.input(name, &shape, |values: &mut [f32]| values.copy_from_slice(data)).unwrap()
    };
    inputs.iter().map(input).collect()
}
