//! What the tests of the binary share: jobs in a scratch directory, running `vidindex`, reading its tables, and the
//! reference data where it is there.
#![expect(clippy::expect_used, reason = "a test that cannot be set up fails")]

pub(crate) mod browser;
pub(crate) mod bucket;
pub(crate) mod ceph;
pub(crate) mod faults;
pub(crate) mod index;
pub(crate) mod line;
pub(crate) mod s3;
pub(crate) mod scenes;
pub(crate) mod site;
pub(crate) mod slurm;
pub(crate) mod tables;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use tempfile::TempDir;
use vidindex::device::{Device, DeviceChoice, Precision};
use vidindex::infer::session::Runtime;

/// The reference data (golden outputs, real clips, real weights), or `None` after saying that the test is skipped.
/// Where `VIDINDEX_REFERENCE` is set it must be there.
pub(crate) fn reference() -> Option<PathBuf> {
    match std::env::var_os("VIDINDEX_REFERENCE").map(PathBuf::from) {
        Some(path) => {
            assert!(path.join("golden").is_dir(), "VIDINDEX_REFERENCE={} holds no reference data", path.display());
            Some(path)
        }
        None => {
            eprintln!("skipped: no reference data (VIDINDEX_REFERENCE is not set)");
            None
        }
    }
}

/// Python with the packages of `make setup-test`, or `None` after saying that the test is skipped.
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
    // The library reads the environment by itself, so the environment must not change any more.
    s3::set_credentials();
    RUNTIME.get_or_init(|| Runtime::load(None, DeviceChoice::Named(Device::Cpu), Precision::Fp32).unwrap())
}

/// A scratch directory with a job in it.
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

    /// The folder of videos, made when first asked for.
    pub(crate) fn videos(&self) -> PathBuf {
        let path = self.path("videos");
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.path("index")
    }

    /// Writes `job.toml` over `videos/` and `index/`, with these further lines.
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

    /// A tiny SlowFast and the smallest YOLOv5, with random weights: what they see means nothing, but it is always the
    /// same. Gives the job's two sections.
    pub(crate) fn small_models(&self) -> String {
        let models = small_models();
        format!(
            "[actions]\nmodel = \"{}\"\n[persons]\nmodel = \"{}\"\nconfidence = 0.0001\n",
            models.join("slowfast-tiny.onnx").display(),
            models.join("yolov5n.onnx").display()
        )
    }

    /// The same with a tiny SlowFast that scores persons.
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
            for name in ["slowfast-tiny", "slowfast-tiny-ava", "yolov5n"] {
                let built = vidindex(["models", "build", name, "--out", folder.to_str().unwrap()]).output().unwrap();
                assert!(built.status.success(), "{}", said(&built));
            }
            folder
        })
        .clone()
}

/// The binary, with nothing of the caller's environment that would steer it.
pub(crate) fn vidindex<I: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = I>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vidindex"));
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR"));
    for name in ["VIDINDEX_TASK", "VIDINDEX_DEVICE", "SLURM_ARRAY_TASK_ID", "AWS_BATCH_JOB_ARRAY_INDEX"] {
        command.env_remove(name);
    }
    command
}

/// Runs `vidindex run JOB ARGS...` on the CPU provider and checks its exit code.
pub(crate) fn run(job: &Path, args: &[&str], code: i32) -> Output {
    let output = vidindex(["run".as_ref(), job.as_os_str()]).args(["--device", "cpu"]).args(args).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", said(&output));
    output
}

/// The answer of `vidindex query INDEX ARGS...`, by the DuckDB of `make setup-test`.
pub(crate) fn query(index: &Path, args: &[&str]) -> String {
    let duckdb = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/duckdb");
    let mut command = vidindex(["query".as_ref(), index.as_os_str()]);
    let output = command.args(args).env("VIDINDEX_DUCKDB", duckdb).output().unwrap();
    assert!(output.status.success(), "{args:?} {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Both outputs, for a failed assertion.
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

/// Runs the FFmpeg tool, to make a file for a test.
pub(crate) fn ffmpeg(args: &[&str]) {
    let output = Command::new("ffmpeg").args(["-v", "error", "-nostdin", "-y"]).args(args).output();
    let output = output.expect("the ffmpeg tool is installed by make setup-test");
    assert!(output.status.success(), "ffmpeg {args:?}: {}", said(&output));
}

/// Encodes FFmpeg's moving test picture: `seconds` at `rate`, with further output options before the file's name.
pub(crate) fn test_video(file: &Path, size: &str, rate: &str, seconds: f64, options: &[&str]) {
    let source = format!("testsrc2=size={size}:rate={rate}:duration={seconds}");
    let mut args = vec!["-f", "lavfi", "-i", &source];
    args.extend(options);
    args.push(file.to_str().unwrap());
    ffmpeg(&args);
}
