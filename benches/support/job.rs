//! A job over a few videos with full-size models, and how long it takes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

pub(crate) const VIDINDEX: &str = env!("CARGO_BIN_EXE_vidindex");

/// The videos of the requested folder, or synthetic clips.
pub(crate) fn videos(folder: &Path) -> Vec<PathBuf> {
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
pub(crate) fn models(folder: &Path) -> [PathBuf; 2] {
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

/// How long a run took.
pub(crate) struct Run {
    pub(crate) process_seconds: f64,
    pub(crate) open_seconds: f64,
    /// From the first listing to the last commit, without opening the models.
    pub(crate) work_seconds: f64,
    pub(crate) video_seconds: f64,
    pub(crate) clips: u64,
    pub(crate) images: u64,
}

/// Runs the job in a process of its own.
pub(crate) fn run(folder: &Path, videos: &[PathBuf], models: &[PathBuf; 2], args: &[&str]) -> Run {
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
    command.arg("run").arg(&job).args(["--log-format", "json"]).args(args);
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
