//! `vidindex models`: listing, downloading, writing models and looking at them.

mod list;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::Console;
use crate::console;
use crate::device::{Device, DeviceChoice, Precision};
use crate::error::Result;
use crate::infer::session::Runtime;
use crate::telemetry::Transfer;
use crate::zoo::descriptor::{Activation, Descriptor, Labels, RANDOM};
use crate::zoo::inspect::ModelInfo;
use crate::zoo::lower::Lowering;
use crate::zoo::pull::{self, Mirror};
use crate::zoo::registry::{self, Official};
use crate::zoo::{self, BuildOptions};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the models: what is here, sizes, published accuracy, licences.
    #[command(after_help = "Examples:\n  vidindex models list\n  vidindex models list --json | jq -r '.[].name'")]
    List {
        /// Where to look for what is here.
        #[arg(short, long, default_value = "models")]
        out: PathBuf,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Download an official checkpoint and write its model.
    #[command(after_help = "Examples:
  vidindex models pull slowfast-r50-8x8
  vidindex models pull yolov5s --mirror https://models.example.org/zoo/

Checkpoints are kept in $XDG_CACHE_HOME/vidindex (~/.cache/vidindex). A download that was cut goes on where it was; the
SHA-256 is recorded the first time and compared ever after. Proxies: HTTPS_PROXY, HTTP_PROXY, NO_PROXY.
Nothing is ever downloaded by another command.")]
    Pull {
        /// Its name in `models list`, or its publisher's (SLOWFAST_8x8_R50).
        name: String,
        /// A site's own copy, where files of the publishers' names lie: http(s)://, file:// or a directory.
        #[arg(long, value_name = "URL", env = "VIDINDEX_MIRROR")]
        mirror: Option<Mirror>,
        /// Leave it at the checkpoint, and print its path.
        #[arg(long)]
        checkpoint_only: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Write a model as an ONNX file, and its description beside it.
    #[command(after_help = "Example:\n  vidindex models build slowfast-r50-8x8 --out models\n
Without --weights the weights are random: the graph and its speed are real, its labels mean nothing.")]
    Build {
        /// slowfast-r50-8x8, yolov5n... An unknown name lists them all.
        name: String,
        /// Draws the random weights.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// The parameters under their official names, as .safetensors.
        #[arg(long, value_name = "FILE")]
        weights: Option<PathBuf>,
        #[command(flatten)]
        target: Target,
    },
    /// Write the model of a checkpoint: a SlowFast of PyTorchVideo, PySlowFast or mmaction2, a YOLOv5 of v4.0 to v7.0.
    #[command(after_help = "Examples:
  vidindex models convert yolov5s.pt --out models
  vidindex models convert SLOWFAST_8x8_R50.pyth --out models/slowfast.onnx
  vidindex models convert SLOWFAST_8x8_R50.pkl --arch slowfast-r50-8x8
  vidindex models convert mine.pyth --labels classes.txt --side 128 --trained-side 112

Which network it is stands in the parameters' names and shapes; what they do not tell (frames, their distance, the size
of the input) is as the file's own settings say (PySlowFast's cfg), else as in the official checkpoint that is most like
it, or as --arch says. Nothing in the file is run.")]
    Convert {
        /// A .pyth, .pth, .pt, .pkl or .safetensors file.
        file: PathBuf,
        /// A network that has the same frames and the same input, as for `models build`.
        #[arg(long, value_name = "NAME")]
        arch: Option<String>,
        #[command(flatten)]
        target: Target,
    },
    /// Show what a model takes and gives, its size and its hash.
    #[command(after_help = "Example:\n  vidindex models inspect models/yolov5n.onnx")]
    Inspect {
        /// An ONNX file.
        file: PathBuf,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

/// What is written, and for which machine.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// The file (.onnx) or the folder to write.
    #[arg(short, long, default_value = "models")]
    out: PathBuf,
    /// Other classes: a file with one on each line, or kinetics-400, ava-80, ava-60, coco-80.
    #[arg(long, value_name = "FILE|NAME")]
    labels: Option<String>,
    /// Another height and width of the input, in pixels.
    #[arg(long, value_name = "PIXELS")]
    side: Option<usize>,
    /// SlowFast: height and width of the input in its training, in pixels, where they are not those of the official one:
    /// the head pools over so much of a larger input.
    #[arg(long, value_name = "PIXELS")]
    trained_side: Option<usize>,
    /// SlowFast: plain, packed or folded 3-D convolutions. The results are the same, the speed is not: auto takes
    /// what is fastest on the device.
    #[arg(long, default_value = "auto")]
    lowering: String,
    /// Where the model will run: auto, cpu, openvino, cuda, tensorrt.
    #[arg(long, default_value = "auto", env = "VIDINDEX_DEVICE")]
    device: String,
    /// SlowFast: what turns the output into scores, where own classes need another than the model's own.
    #[arg(long, value_enum)]
    activation: Option<Activation>,
    /// Store the weights as 16-bit floats: half the file, the same results but for rounding.
    #[arg(long)]
    half: bool,
}

impl Target {
    fn options(self, onnxruntime: Option<&Path>) -> Result<BuildOptions> {
        let Self { out, labels, side, trained_side, activation, lowering, device, half } = self;
        let lowering = self::lowering(&lowering, &device, onnxruntime)?;
        let labels = labels.as_deref().map(Labels::read).transpose()?;
        Ok(BuildOptions { out, labels, side, trained_side, activation, lowering, half, ..BuildOptions::default() })
    }
}

impl Command {
    /// Gives the exit code.
    pub(super) async fn run(self, console: &Console, onnxruntime: Option<&Path>) -> Result<u8> {
        match self {
            Self::List { out, json } => list::print(&out, json)?,
            Self::Pull { name, mirror, checkpoint_only, target } => {
                let (name, official) = registry::official(&name)?;
                let checkpoint = pull(name, &official, mirror.as_ref(), console).await?;
                if checkpoint_only {
                    console::print(checkpoint.display())?;
                    return Ok(0);
                }
                let mut options = target.options(onnxruntime)?;
                if options.out.extension().is_none_or(|extension| extension != "onnx") {
                    options.out = options.out.join(format!("{name}.onnx"));
                }
                console::print(zoo::convert(&checkpoint, Some(name), &options)?.onnx.display())?;
            }
            Self::Build { name, seed, weights, target } => {
                let options = BuildOptions { seed, weights, ..target.options(onnxruntime)? };
                let built = zoo::build(&name, &options)?;
                if built.descriptor.is_random() {
                    tracing::warn!(model = %built.onnx.display(), "{RANDOM}");
                }
                console::print(built.onnx.display())?;
            }
            Self::Convert { file, arch, target } => {
                let options = target.options(onnxruntime)?;
                let built = zoo::convert(&file, arch.as_deref(), &options)?;
                console::print(built.onnx.display())?;
            }
            Self::Inspect { file, json } => inspect(&file, json)?,
        }
        Ok(0)
    }
}

/// The official checkpoint of a model, in the cache.
async fn pull(name: &str, official: &Official, mirror: Option<&Mirror>, console: &Console) -> Result<PathBuf> {
    if official.licence == registry::AGPL {
        tracing::warn!(
            licence = official.licence,
            "the weights of {name} are licensed under the {}: read what it asks of those who distribute or serve what \
             is made with them",
            official.licence
        );
    }
    let mut transfer = Transfer::start(official.file, console.format, console.quiet);
    pull::pull(official, mirror, &pull::cache()?, &mut transfer).await
}

/// The lowering of this name, or the fastest on the device of this name.
fn lowering(name: &str, device: &str, onnxruntime: Option<&Path>) -> Result<Lowering> {
    let choice: DeviceChoice = device.parse()?;
    if name != "auto" {
        return name.parse();
    }
    let device = match choice {
        DeviceChoice::Named(device) => device,
        // A model can be written where none can run.
        DeviceChoice::Auto => {
            Runtime::load(onnxruntime, choice, Precision::Auto).map_or(Device::Cpu, |runtime| runtime.device())
        }
    };
    Ok(Lowering::for_device(device))
}

fn inspect(file: &Path, json: bool) -> Result<()> {
    let info = ModelInfo::read(file)?;
    let descriptor = Descriptor::for_model(&info);
    let random = descriptor.as_ref().is_ok_and(Descriptor::is_random);
    if random {
        tracing::warn!(model = %file.display(), "{RANDOM}");
    }
    if json {
        let described = descriptor.as_ref().map(Descriptor::to_toml).ok();
        let shown =
            serde_json::json!({"model": info, "id": info.model_id(), "random": random, "descriptor": described});
        console::print(format_args!("{shown:#}"))?;
    } else {
        let usable = match descriptor {
            Ok(descriptor) => descriptor.to_toml(),
            Err(error) => format!("not usable in a job: {error}"),
        };
        console::print(format_args!("{info}\n{}", usable.trim_end()))?;
    }
    Ok(())
}
