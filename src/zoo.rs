//! The model zoo: builds SlowFast and YOLOv5 networks as ONNX files, converts checkpoints, and inspects models.
//!
//! - [`build`] writes a network by name (see [`registry`]), [`convert`] writes one from a checkpoint ([`checkpoint`]),
//!   and [`pull`] downloads official checkpoints.
//! - [`inspect`] reads what an ONNX file says about itself. [`descriptor`] is the small TOML file beside a model that
//!   says how the model expects its input.
//! - [`deploy`] changes a graph when it is opened, for the device that it runs on.
//! - [`slowfast`] and [`yolov5`] define the networks in terms of [`graph`], and [`lower`] rewrites them for faster
//!   inference.
//!
//! Nothing here runs a model.

pub mod checkpoint;
pub mod deploy;
pub mod descriptor;
pub mod detector;
mod exporter;
mod external;
pub mod graph;
pub mod half;
pub mod inspect;
pub mod labels;
pub mod lower;
pub mod onnx;
pub mod pull;
mod python;
pub mod quantize;
pub mod registry;
pub mod slowfast;
pub mod weights;
pub mod yolov5;

use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;

use crate::error::{Error, Result};
use checkpoint::Checkpoint;
use descriptor::{Activation, Descriptor, DetectorDescriptor, LabelSet, Labels, Origin, Size, SlowSampling};
use inspect::ModelInfo;
use lower::Lowering;
use slowfast::{Pathways, Recipe};
use weights::{RandomWeights, SafeTensors, Weights};

/// ImageNet's means of red, green and blue, in 0..1.
const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// ImageNet's standard deviations of red, green and blue, in 0..1.
const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Options of `models build` and `models convert`.
#[derive(Debug, Clone, Default)]
pub struct BuildOptions {
    /// Seed of the random weights. Used if `weights` is `None`.
    pub seed: u64,
    /// A `.safetensors` file with the model's parameters under their official names.
    pub weights: Option<PathBuf>,
    /// The ONNX file to write (ending in `.onnx`), or the directory for `NAME.onnx`, which is created if it does not
    /// exist.
    pub out: PathBuf,
    /// Class names that replace the model's own. Their number sets the size of the network's last layer.
    pub labels: Option<Labels>,
    /// Height and width of the input, pixels. `None` for the model's own.
    pub side: Option<usize>,
    /// SlowFast: height and width of the pictures in training, pixels. The head pools over that size.
    pub trained_side: Option<usize>,
    /// SlowFast: how its convolutions are rewritten.
    pub lowering: Lowering,
    /// SlowFast: the activation that the descriptor states instead of the usual one.
    pub activation: Option<Activation>,
    /// Whether weights are stored as 16-bit floats, which halves the file size.
    pub half: bool,
}

/// The files that a build wrote, and their content.
#[derive(Debug, Clone)]
pub struct BuiltModel {
    /// The ONNX file.
    pub onnx: PathBuf,
    /// The descriptor beside it.
    pub toml: PathBuf,
    /// What the ONNX file says about itself.
    pub info: ModelInfo,
    /// Content of the descriptor.
    pub descriptor: Descriptor,
}

/// A network architecture with its settings.
#[derive(Debug, Clone)]
pub enum Network {
    /// Recognizes actions in clips. The number is the distance between two sampled frames, in frames of a 30 fps video.
    SlowFast(slowfast::SlowFastConfig, usize),
    /// Detects objects in pictures.
    Yolov5(yolov5::YoloConfig),
}

/// Builds the model of this name and writes it with its descriptor beside it. Each file is written completely or not at
/// all.
///
/// # Errors
/// If there is no such model (the message suggests the most similar name), the weights belong to another model, or a
/// file cannot be written.
pub fn build(name: &str, options: &BuildOptions) -> Result<BuiltModel> {
    let mut network = registry::network(name)?;
    network.apply(options)?;
    match &options.weights {
        Some(path) => write(&network, name, options, &mut SafeTensors::read(path)?, Origin::Trained),
        None => write(&network, name, options, &mut RandomWeights::new(options.seed), Origin::Random),
    }
}

/// Converts a checkpoint into an ONNX model and writes it with its descriptor beside it.
///
/// `arch` names a network of the zoo that supplies what the parameters do not show, such as the number of frames and
/// the input size. `options.weights` and `options.seed` are ignored. Labels come from `options`, otherwise from the
/// checkpoint.
///
/// # Errors
/// If the file is not a checkpoint of a SlowFast or a YOLOv5 (or asks to run code), parameters are missing, superfluous
/// or have the wrong shape, or a file cannot be written.
pub fn convert(path: &Path, arch: Option<&str>, options: &BuildOptions) -> Result<BuiltModel> {
    let mut checkpoint = Checkpoint::open(path)?;
    let mut network = checkpoint.network(arch.map(registry::network).transpose()?)?;
    let mut options = options.clone();
    if options.labels.is_none() {
        options.labels = checkpoint.labels().map(Labels::of_names);
    }
    let classes = network.classes();
    if let Some(labels) = options.labels.as_ref().filter(|labels| labels.len() != classes) {
        return Err(Error::usage(format!(
            "{}: the network has {classes} classes, but {} labels were given",
            path.display(),
            labels.len()
        )));
    }
    options.labels.get_or_insert_with(|| network.usual_labels());
    network.apply(&options)?;
    checkpoint.check(&network)?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    write(&network, &name, &options, &mut checkpoint, Origin::Trained)
}

fn write(
    network: &Network,
    name: &str,
    options: &BuildOptions,
    weights: &mut dyn Weights,
    origin: Origin,
) -> Result<BuiltModel> {
    let model = network.graph(weights)?;
    let lowering = network.lowering(options);
    let model = lower::lower(model, lowering);
    let model = if options.half { half::halve(model) } else { model };
    let content = Bytes::from(model.encode_to_vec());
    drop(model);
    let is_file = options.out.extension().is_some_and(|extension| extension == "onnx");
    let onnx = if is_file { options.out.clone() } else { options.out.join(format!("{name}.onnx")) };
    let toml = Descriptor::path(&onnx);
    let info = ModelInfo::parse(&onnx, content.clone())?;
    let descriptor = network.descriptor(options, origin);
    write_files(&onnx, &descriptor.to_toml(), &content)?;
    tracing::info!(model = %onnx.display(), parameters = info.parameters, %lowering, sha256 = %info.sha256, "model built");
    Ok(BuiltModel { onnx, toml, info, descriptor })
}

impl Network {
    fn apply(&mut self, options: &BuildOptions) -> Result<()> {
        match self {
            Self::SlowFast(config, _) => {
                config.classes = options.labels.as_ref().map_or(config.classes, Labels::len);
                config.crop = options.side.unwrap_or(config.crop);
                config.head_pool = options.trained_side.map_or(config.head_pool, slowfast::head_pool);
            }
            Self::Yolov5(config) => {
                if options.activation.is_some() {
                    return Err(Error::usage("an activation can only be set for a SlowFast: a YOLOv5 outputs scores"));
                }
                if options.trained_side.is_some() {
                    return Err(Error::usage(
                        "a trained side can only be set for a SlowFast: a YOLOv5 has no pooling head",
                    ));
                }
                config.classes = options.labels.as_ref().map_or(config.classes, Labels::len);
                config.height = options.side.unwrap_or(config.height);
                config.width = options.side.unwrap_or(config.width);
            }
        }
        Ok(())
    }

    fn classes(&self) -> usize {
        match self {
            Self::SlowFast(config, _) => config.classes,
            Self::Yolov5(config) => config.classes,
        }
    }

    /// The built-in labels if their number matches the classes, otherwise numbers.
    fn usual_labels(&self) -> Labels {
        let set = match self {
            Self::SlowFast(config, _) if config.boxes => LabelSet::Ava80,
            Self::SlowFast(..) => LabelSet::Kinetics400,
            Self::Yolov5(_) => LabelSet::Coco80,
        };
        Labels::of_count(set, self.classes())
    }

    fn graph(&self, weights: &mut dyn Weights) -> Result<onnx::ModelProto> {
        match self {
            Self::SlowFast(config, _) => slowfast::build(config, weights),
            Self::Yolov5(config) => yolov5::build(config, weights),
        }
    }

    /// A YOLOv5 is never lowered.
    fn lowering(&self, options: &BuildOptions) -> Lowering {
        match self {
            Self::SlowFast(..) => options.lowering,
            Self::Yolov5(_) => Lowering::Plain,
        }
    }

    fn descriptor(&self, options: &BuildOptions, weights: Origin) -> Descriptor {
        match self {
            Self::SlowFast(config, sampling_rate) => {
                let default = descriptor::SlowFastDescriptor::default();
                let (mean, std, slow_sampling) = match config.recipe {
                    Recipe::PyTorchVideo => (default.mean, default.std, default.slow_sampling),
                    Recipe::Mmaction2 => (IMAGENET_MEAN, IMAGENET_STD, SlowSampling::Stride),
                };
                let (labels, activation) = match config.boxes {
                    true => (LabelSet::Ava80, Activation::Sigmoid),
                    false => (LabelSet::Kinetics400, Activation::Softmax),
                };
                Descriptor::SlowFast(descriptor::SlowFastDescriptor {
                    labels: options.labels.clone().unwrap_or(Labels::Set(labels)),
                    activation: options.activation.unwrap_or(activation),
                    frames: config.frames,
                    sampling_rate: *sampling_rate,
                    alpha: if config.pathways == Pathways::Both { config.alpha } else { 0 },
                    side: config.crop,
                    crop: config.crop,
                    persons: config.boxes,
                    mean,
                    std,
                    slow_sampling,
                    weights,
                })
            }
            Self::Yolov5(config) => {
                let default = DetectorDescriptor::default();
                let labels = options.labels.clone().unwrap_or(default.labels);
                let size = Size { height: config.height, width: config.width };
                Descriptor::Detector(DetectorDescriptor { labels, size, weights, ..default })
            }
        }
    }
}

/// Writes a model's file and its descriptor.
///
/// # Errors
/// If a file cannot be written.
pub fn write_files(onnx: &Path, descriptor: &str, content: &[u8]) -> Result<()> {
    // The model is written last, so that a model is never without its descriptor.
    write_whole(&Descriptor::path(onnx), descriptor.as_bytes())?;
    write_whole(onnx, content)
}

/// Writes a temporary file in the same directory and renames it to `path`.
fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        std::fs::create_dir_all(directory)?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(".vidindex-");
        #[cfg(unix)]
        {
            // Set the permissions that the umask allows: a temporary file is readable only by its owner, but others run
            // the jobs.
            use std::os::unix::fs::PermissionsExt as _;
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let mut file = builder.tempfile_in(directory)?;
        file.write_all(content)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(|error| Error::failed(format!("{}: failed to write: {error}", path.display())))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use inspect::Dim;

    fn tiny(out: &Path, seed: u64) -> BuiltModel {
        build("slowfast-tiny", &BuildOptions { seed, out: out.into(), ..BuildOptions::default() }).unwrap()
    }

    #[test]
    fn the_same_seed_writes_the_same_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let [a, b, c] =
            [("a", 1), ("b", 1), ("c", 2)].map(|(name, seed)| tiny(&directory.path().join(name), seed).info.sha256);
        assert_eq!(a, b);
        assert_ne!(a, c);
    }

    #[test]
    fn each_lowering_writes_a_file_of_its_own_and_always_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let build = |lowering| {
            let options = BuildOptions { out: directory.path().into(), lowering, ..BuildOptions::default() };
            let built = build("slowfast-tiny", &options).unwrap();
            assert_eq!(Descriptor::for_model(&built.info).unwrap(), built.descriptor);
            built.info.sha256
        };
        let hashes = Lowering::ALL.map(build);
        assert_eq!(hashes, Lowering::ALL.map(build));
        assert_eq!(std::collections::HashSet::from(hashes).len(), 3);
    }

    #[test]
    fn a_built_model_reads_back_with_its_descriptor() {
        let directory = tempfile::tempdir().unwrap();
        let built = tiny(directory.path(), 1);
        assert_eq!(built.onnx, directory.path().join("slowfast-tiny.onnx"));
        let info = ModelInfo::read(&built.onnx).unwrap();
        assert_eq!(info, built.info);
        let shapes: Vec<String> = info.inputs.iter().chain(&info.outputs).map(ToString::to_string).collect();
        assert_eq!(
            shapes,
            [
                "slow float32[batch, 3, 8, 64, 64]",
                "fast float32[batch, 3, 32, 64, 64]",
                "logits float32[batch, 400]",
                "embedding float32[batch, 288]"
            ]
        );
        assert_eq!(Descriptor::for_model(&info).unwrap(), built.descriptor);
        assert!(built.descriptor.is_random());
        std::fs::remove_file(&built.toml).unwrap();
        let Descriptor::SlowFast(described) = built.descriptor else { panic!("a YOLOv5") };
        // Only the descriptor knows that the weights are random; the graph does not show it.
        let inferred = descriptor::SlowFastDescriptor { weights: Origin::Trained, ..described };
        assert_eq!(Descriptor::for_model(&info).unwrap(), Descriptor::SlowFast(inferred));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing temporary is left");
    }

    #[test]
    fn labels_and_side_change_the_network() {
        let directory = tempfile::tempdir().unwrap();
        let options = BuildOptions {
            out: directory.path().join("mine.onnx"),
            labels: Some(Labels::List(vec!["walk".into(), "run".into()])),
            side: Some(96),
            ..BuildOptions::default()
        };
        let built = build("slowfast-tiny", &options).unwrap();
        assert_eq!(built.toml, directory.path().join("mine.toml"));
        assert_eq!(built.info.inputs[0].shape[4], Dim::Fixed(96));
        let outputs: Vec<String> = built.info.outputs.iter().map(ToString::to_string).collect();
        assert_eq!(outputs, ["logits float32[batch, 2]", "embedding float32[batch, 288]"]);
        assert_eq!(Descriptor::for_model(&built.info).unwrap().labels().names(), ["walk", "run"]);
    }

    #[test]
    fn a_yolov5_is_inferred_without_its_descriptor() {
        let directory = tempfile::tempdir().unwrap();
        let options = BuildOptions { out: directory.path().into(), side: Some(64), ..BuildOptions::default() };
        let built = build("yolov5n", &options).unwrap();
        // 8x8, 4x4 and 2x2 cells with three anchors each.
        assert_eq!(built.info.outputs[0].to_string(), "output0 float32[batch, 252, 85]");
        std::fs::remove_file(&built.toml).unwrap();
        let Descriptor::Detector(described) = built.descriptor else { panic!("a SlowFast") };
        let inferred = DetectorDescriptor { weights: Origin::Trained, ..described };
        assert_eq!(Descriptor::for_model(&built.info).unwrap(), Descriptor::Detector(inferred));
    }

    #[test]
    fn a_head_pools_over_its_training_crop_or_over_a_smaller_picture() {
        let pool = |options: BuildOptions| {
            let config = slowfast::SlowFastConfig { width: 8, ..slowfast::SlowFastConfig::default() };
            let mut network = Network::SlowFast(config, 2);
            network.apply(&options).unwrap();
            let graph = network.graph(&mut RandomWeights::new(0)).unwrap().graph.unwrap();
            let pool = graph.node.iter().find(|node| node.op_type == "AveragePool").unwrap();
            pool.attribute.iter().find(|attribute| attribute.name == "kernel_shape").unwrap().ints.clone()
        };
        let at = |side, trained_side| BuildOptions { side: Some(side), trained_side, ..BuildOptions::default() };
        assert_eq!(pool(BuildOptions::default()), [8, 7, 7], "224 of 256");
        assert_eq!(pool(at(64, None)), [8, 2, 2]);
        assert_eq!(pool(at(112, None)), [8, 4, 4], "all of 4x4");
        assert_eq!(pool(at(128, Some(112))), [8, 3, 3], "112 of 128");
    }

    #[test]
    fn unsupported_sides_are_refused_before_anything_is_written() {
        let directory = tempfile::tempdir().unwrap();
        for (name, side) in [("yolov5n", 100), ("slowfast-tiny", 31), ("yolov5n", 0)] {
            let options = BuildOptions { out: directory.path().into(), side: Some(side), ..BuildOptions::default() };
            assert_eq!(build(name, &options).unwrap_err().exit_code(), 2, "{name} {side}");
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
