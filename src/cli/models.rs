//! `vidindex models`: lists, downloads, builds, converts and inspects models.

mod list;
mod quantize;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::Console;
use crate::console;
use crate::device::{Device, DeviceChoice, Precision};
use crate::error::Result;
use crate::infer::session::Runtime;
use crate::telemetry::Transfer;
use crate::zoo::deploy::Deployment;
use crate::zoo::descriptor::{Activation, Descriptor, Labels, RANDOM};
use crate::zoo::inspect::ModelInfo;
use crate::zoo::lower::Lowering;
use crate::zoo::pull::{self, Mirror};
use crate::zoo::registry::{self, Official};
use crate::zoo::{self, BuildOptions};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the models: local files, sizes, published accuracy, licences.
    #[command(after_help = "Examples:
  vidindex models list
  vidindex models list --cost                      how long the models in models/ take on this machine
  vidindex models list --json | jq -r '.[].name'")]
    List {
        /// Directory with local models.
        #[arg(short, long, default_value = "models")]
        out: PathBuf,
        /// Measure how long each local model takes for one clip or picture.
        #[arg(long)]
        cost: bool,
        /// Device to measure on: auto, cpu, openvino, cuda:0, tensorrt:0.
        #[arg(long, env = "VIDINDEX_DEVICE", default_value = "auto")]
        device: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Download an official checkpoint and convert it to a model.
    #[command(after_help = "Examples:
  vidindex models pull slowfast-r50-8x8
  vidindex models pull yolov5s --mirror https://models.example.org/zoo/

Checkpoints are kept in $XDG_CACHE_HOME/vidindex (~/.cache/vidindex). Interrupted downloads are resumed. The
SHA-256 is recorded at the first download and verified later. Proxies: HTTPS_PROXY, HTTP_PROXY, NO_PROXY.
No other command downloads anything.")]
    Pull {
        /// Name in `models list`, or the publisher's name (SLOWFAST_8x8_R50).
        name: String,
        /// A mirror with files of the publishers' names: http(s)://, file:// or a directory.
        #[arg(long, value_name = "URL", env = "VIDINDEX_MIRROR")]
        mirror: Option<Mirror>,
        /// Only download the checkpoint, and print its path.
        #[arg(long)]
        checkpoint_only: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Build a model as an ONNX file, with its descriptor beside it.
    #[command(after_help = "Example:\n  vidindex models build slowfast-r50-8x8 --out models\n
Without --weights, the weights are random: the graph and its speed are real, but its labels are meaningless.")]
    Build {
        /// Name of the network, such as slowfast-r50-8x8 or yolov5n. The error about an unknown name lists all names.
        name: String,
        /// Seed of the random weights.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// A .safetensors file with the parameters under their official names.
        #[arg(long, value_name = "FILE")]
        weights: Option<PathBuf>,
        #[command(flatten)]
        target: Target,
    },
    /// Convert a checkpoint to a model: a SlowFast of PyTorchVideo, PySlowFast or mmaction2, a YOLOv5 of v4.0 to v7.0.
    #[command(after_help = "Examples:
  vidindex models convert yolov5s.pt --out models
  vidindex models convert SLOWFAST_8x8_R50.pyth --out models/slowfast.onnx
  vidindex models convert SLOWFAST_8x8_R50.pkl --arch slowfast-r50-8x8
  vidindex models convert mine.pyth --labels classes.txt --side 128 --trained-side 112

The network is recognized by the parameters' names and shapes. What they do not show (number and distance of frames,
input size) comes from --arch, otherwise from the file's own settings (PySlowFast's cfg) or from the most similar
official checkpoint. Nothing in the file is executed.")]
    Convert {
        /// A .pyth, .pth, .pt, .pkl or .safetensors file.
        file: PathBuf,
        /// A network with the same frames and input, named as for `models build`.
        #[arg(long, value_name = "NAME")]
        arch: Option<String>,
        #[command(flatten)]
        target: Target,
    },
    Quantize(quantize::Quantize),
    /// Show a model's inputs, outputs, size and hash.
    #[command(after_help = "Example:\n  vidindex models inspect models/yolov5n.onnx")]
    Inspect {
        /// An ONNX file.
        file: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// What is written, and for which device.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// The file (.onnx) or directory to write.
    #[arg(short, long, default_value = "models")]
    out: PathBuf,
    /// Other class names: a file with one per line, or kinetics-400, kinetics-600,
    /// kinetics-700, ucf-101, hmdb-51, charades-157, ucf-crime, ava-80, ava-60, coco-80.
    #[arg(long, value_name = "FILE|NAME")]
    labels: Option<String>,
    /// Height and width of the input, in pixels, instead of the network's own.
    #[arg(long, value_name = "PIXELS")]
    side: Option<usize>,
    /// SlowFast: height and width of the input during training, in pixels, if they differ from the official network.
    /// The head pools over that size in a larger input.
    #[arg(long, value_name = "PIXELS")]
    trained_side: Option<usize>,
    /// SlowFast: plain, packed or folded 3-D convolutions. The results are the same, the speed differs. auto selects
    /// the fastest for the device.
    #[arg(long, default_value = "auto")]
    lowering: String,
    /// Device that the model will run on: auto, cpu, openvino, cuda, tensorrt.
    #[arg(long, default_value = "auto", env = "VIDINDEX_DEVICE")]
    device: String,
    /// SlowFast: function that turns the output into scores, if your classes need another one.
    #[arg(long, value_enum)]
    activation: Option<Activation>,
    /// Store the weights as 16-bit floats: half the file size, same results except for rounding.
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
    /// Runs the command and returns the exit code.
    pub(super) async fn run(self, console: &Console, onnxruntime: Option<&Path>) -> Result<u8> {
        match self {
            Self::List { out, cost, device, json } => {
                let load = || Runtime::load(onnxruntime, device.parse()?, Precision::Auto);
                list::print(&out, cost.then(load).transpose()?.as_ref(), json)?;
            }
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
            Self::Quantize(command) => command.run(onnxruntime).await?,
            Self::Inspect { file, json } => inspect(&file, json)?,
        }
        Ok(0)
    }
}

/// Returns the official checkpoint of a model in the cache, downloading it if necessary.
async fn pull(name: &str, official: &Official, mirror: Option<&Mirror>, console: &Console) -> Result<PathBuf> {
    if official.licence == registry::AGPL {
        tracing::warn!(
            licence = official.licence,
            "the weights of {name} are licensed under the {}: read its terms before you distribute or serve \
             anything made with them",
            official.licence
        );
    }
    let mut transfer = Transfer::start(official.file, console.format, console.quiet);
    pull::pull(official, mirror, &pull::cache()?, &mut transfer).await
}

/// The lowering with this name, or the fastest for the device with this name.
fn lowering(name: &str, device: &str, onnxruntime: Option<&Path>) -> Result<Lowering> {
    let choice: DeviceChoice = device.parse()?;
    if name != "auto" {
        return name.parse();
    }
    let device = match choice {
        DeviceChoice::Named(device) => device,
        // A model can be built on a machine that cannot run it.
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
    let mut deployment = Deployment::read(file)?;
    let (half, all) = (deployment.compute_in_half(), deployment.convolutions());
    if json {
        let described = descriptor.as_ref().map(Descriptor::to_toml).ok();
        let shown = serde_json::json!({
            "model": info,
            "id": info.model_id(),
            "random": random,
            "descriptor": described,
            "convolutions": {"all": all, "in_16_bits_on_cuda": half},
        });
        console::print(format_args!("{shown:#}"))?;
    } else {
        let usable = match descriptor {
            Ok(descriptor) => descriptor.to_toml(),
            Err(error) => format!("cannot be used in a job: {error}"),
        };
        let on_cuda = format!("on cuda     {half} of {all} convolutions in 16-bit floats, unless precision = \"fp32\"");
        console::print(format_args!("{info}{on_cuda}\n\n{}", usable.trim_end()))?;
    }
    Ok(())
}
