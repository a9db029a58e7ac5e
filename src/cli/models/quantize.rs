//! `vidindex models quantize`.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::args::JsonArg;
use crate::console;
use crate::error::{Error, Result};
use crate::job::Job;
use crate::pipeline::Pipeline;
use crate::quantize;
use crate::zoo::descriptor::Descriptor;
use crate::zoo::inspect::ModelInfo;

/// Quantise a model: its convolutions compute with 8-bit integers. Needs videos like those that it is for.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  vidindex models quantize models/yolov5n.onnx --calibrate jobs/local.toml
  vidindex models quantize models/slowfast-r50-8x8.onnx --calibrate ~/Videos --samples 256 -o models

It runs the model on clips or images of the videos, decides from the values that it sees how to round them, and compares
the result with the exact model on every fourth sample. Layers that cost too much accuracy stay in floating point. The
result is a model of its own, with an id of its own: name it in the job file.")]
pub(in crate::cli) struct Quantize {
    /// An ONNX file of a SlowFast or a detector.
    model: PathBuf,
    /// A job file, whose [input] and settings are used, or a folder of videos.
    #[arg(long, value_name = "JOB|FOLDER")]
    calibrate: PathBuf,
    /// Number of clips or images.
    #[arg(long, default_value = "128", value_parser = clap::value_parser!(u16).range(1..))]
    samples: u16,
    /// Largest accuracy that may be lost, 0 to 1. For actions it is how much the exact model prefers its own label to the
    /// chosen one, for persons 1 minus the average precision, with the exact model's boxes as the truth.
    #[arg(long, default_value_t = 0.01, value_name = "SHARE")]
    max_drop: f64,
    /// The file (.onnx) or directory to write. The default is NAME-int8.onnx beside the model.
    #[arg(short, long)]
    out: Option<PathBuf>,
    /// Override a value of the job file: `--set section.key=value`. Repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Device on which the models are compared: auto, cpu, openvino.
    #[arg(long, env = "VIDINDEX_DEVICE")]
    device: Option<String>,
    #[command(flatten)]
    json: JsonArg,
}

impl Quantize {
    pub(super) async fn run(self, onnxruntime: Option<&Path>) -> Result<()> {
        if !(0.0..=1.0).contains(&self.max_drop) {
            return Err(Error::usage(format!("--max-drop {}: must be between 0 and 1", self.max_drop)));
        }
        let job = self.job()?;
        let pipeline = Pipeline::new(onnxruntime.map(Path::to_owned));
        let report = pipeline.quantize(&job, self.samples.into(), self.max_drop, self.target()?).await?;
        match self.json.json {
            true => console::print(format_args!("{:#}", serde_json::json!(report)))?,
            false => console::print(&report)?,
        };
        Ok(())
    }

    /// The job with this model alone.
    fn job(&self) -> Result<Job> {
        let section = quantize::section(&Descriptor::for_model(&ModelInfo::read(&self.model)?)?);
        let quoted = |path: &Path| toml::Value::from(path.to_string_lossy().into_owned()).to_string();
        let model = format!("{section}.model={}", quoted(&self.model));
        let device = self.device.iter().map(|device| format!("run.device=\"{device}\""));
        let set: Vec<String> =
            self.set.iter().cloned().chain(device).chain(["run.precision=fp32".to_owned(), model]).collect();
        let mut job = match self.calibrate.is_dir() {
            true => {
                let (videos, nowhere) = (quoted(&self.calibrate), quoted(&std::env::temp_dir().join("vidindex-none")));
                let text = format!("[input]\nuri = {videos}\n[output]\nuri = {nowhere}\n[{section}]\n");
                Job::parse(&self.calibrate.display().to_string(), &text, &set)?
            }
            false => Job::load(&self.calibrate, &set)?,
        };
        match section {
            "actions" => job.persons = None,
            _ => job.actions = None,
        }
        Ok(job)
    }

    fn target(&self) -> Result<PathBuf> {
        let stem = self.model.file_stem().unwrap_or_default().to_string_lossy();
        let name = format!("{stem}-int8.onnx");
        let out = match &self.out {
            None => self.model.with_file_name(name),
            Some(out) if out.extension().is_some_and(|extension| extension == "onnx") => out.clone(),
            Some(out) => out.join(name),
        };
        match out == self.model {
            true => Err(Error::usage(format!("-o {}: would overwrite the model itself", out.display()))),
            false => Ok(out),
        }
    }
}
