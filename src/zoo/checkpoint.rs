//! Checkpoints: the trained parameters of a SlowFast or a YOLOv5 as training tools save them, and the network that
//! their names and shapes imply.

mod caffe2;
mod names;
mod pickle;
mod settings;
mod torch;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::{Error, Result};
use crate::zoo::weights::{SafeTensors, Weights};
use crate::zoo::{Network, slowfast, yolov5};
use caffe2::Caffe2;
use pickle::Pickle;
use settings::Settings;
use torch::Torch;

/// How many names of each kind an error message lists.
const SHOWN_MAX: usize = 3;

/// The official depth multiples of YOLOv5.
const DEPTH_MULTIPLES: [f64; 4] = [0.33, 0.67, 1.0, 1.33];

/// Name of the weight of a SlowFast's classifier.
const CLASSIFIER: &str = "blocks.6.proj.weight";

const EXPECTED: &str =
    "expected a PyTorch file (.pyth, .pth or .pt), a .pkl file of PySlowFast's model zoo, or a .safetensors file";

/// First bytes of a file that PyTorch wrote before version 1.6: a pickle of its magic number.
const LEGACY_TORCH: [u8; 14] = *b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19";

/// A checkpoint's parameters under the official names, by which the zoo's networks request them.
#[derive(Debug)]
pub struct Checkpoint {
    source: Source,
    /// Name in the file and shape of each parameter that was not requested yet.
    left: BTreeMap<String, (String, Vec<usize>)>,
    labels: Option<Vec<String>>,
    settings: Settings,
    /// Only for mmaction2's SlowFast, whose classifier takes Fast's features before Slow's: the number of Fast
    /// features.
    fast_first: Option<usize>,
    path: std::path::PathBuf,
}

#[derive(Debug)]
enum Source {
    Torch(Box<Torch>),
    SafeTensors(SafeTensors),
    Caffe2(Caffe2),
}

impl Checkpoint {
    /// Reads the names and shapes in a `.pyth`, `.pt`, `.pth`, `.pkl` or `.safetensors` file. Pickles are read as data;
    /// nothing in them is executed.
    ///
    /// # Errors
    /// If the file has another format, is damaged, or refers to something that does not belong in a checkpoint.
    pub fn open(path: &Path) -> Result<Self> {
        let mistake = |what: String| Error::usage(format!("{}: {what}", path.display()));
        let mut magic = Vec::new();
        let read = File::open(path).and_then(|file| file.take(LEGACY_TORCH.len() as u64).read_to_end(&mut magic));
        read.map_err(|error| mistake(format!("failed to read: {error}")))?;
        let is_named_safe = path.extension().is_some_and(|extension| extension == "safetensors");
        let (mut labels, mut settings) = (None, Settings::default());
        let (source, shapes): (Source, Vec<(String, Vec<usize>)>) = match magic.as_slice() {
            [b'P', b'K', 3, 4, ..] => {
                let mut torch = Torch::open(path)?;
                labels = torch.labels.take();
                settings = std::mem::take(&mut torch.settings);
                let shapes = torch.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shape.clone())).collect();
                (Source::Torch(Box::new(torch)), shapes)
            }
            _ if is_named_safe => {
                let safe = SafeTensors::read(path)?;
                let shapes = safe.shapes();
                (Source::SafeTensors(safe), shapes)
            }
            magic if *magic == LEGACY_TORCH => {
                return Err(mistake("checkpoints written before PyTorch 1.6 are not supported".to_owned())
                    .with_hint("save it again with a newer PyTorch: torch.save(torch.load(FILE), FILE)"));
            }
            [0x80, ..] => {
                let bytes = std::fs::read(path).map_err(|error| mistake(format!("failed to read: {error}")))?;
                let pickle = Pickle::parse(&bytes).map_err(|refusal| mistake(refusal.to_string()))?;
                drop(bytes);
                let caffe2 = Caffe2::read(pickle).map_err(mistake)?.ok_or_else(|| {
                    mistake("a pickle without the `blobs` of a Caffe2 checkpoint".to_owned()).with_hint(EXPECTED)
                })?;
                settings = caffe2.settings();
                let shapes = caffe2.arrays.iter().map(|(name, array)| (name.clone(), array.shape.clone())).collect();
                (Source::Caffe2(caffe2), shapes)
            }
            _ => return Err(mistake("not a checkpoint".to_owned()).with_hint(EXPECTED)),
        };
        let is_mmaction2 = shapes.iter().any(|(name, _)| name.contains("backbone.slow_path."));
        let left = names::official(shapes)
            .map_err(|problem| mistake(problem).with_hint("save the parameters of a single network"))?;
        let mut checkpoint = Self { source, left, labels, settings, fast_first: None, path: path.to_owned() };
        if is_mmaction2 {
            checkpoint.fast_first = checkpoint.fast_features();
        }
        Ok(checkpoint)
    }

    /// Class names, if the checkpoint contains them.
    pub fn labels(&self) -> Option<&[String]> {
        self.labels.as_deref()
    }

    /// The network that these parameters belong to. What they do not show (number and distance of frames, input size)
    /// is taken from `base`, or from the most similar official checkpoint.
    ///
    /// # Errors
    /// If the parameters belong neither to a SlowFast nor to a YOLOv5, or to another kind of network than `base`.
    pub fn network(&self, base: Option<Network>) -> Result<Network> {
        let other = |kind| {
            self.mistake(
                format!("it is a checkpoint of a {kind}"),
                "name a network of that kind with --arch, or omit --arch",
            )
        };
        match (self.is_yolov5(), base) {
            (true, Some(Network::SlowFast(..))) => Err(other("YOLOv5")),
            (true, Some(Network::Yolov5(base))) => self.yolov5(Some(base)).map(Network::Yolov5),
            (true, None) => self.yolov5(None).map(Network::Yolov5),
            (false, Some(Network::Yolov5(_))) => Err(other("SlowFast")),
            (false, base) => self.slowfast(base),
        }
    }

    /// Compares the parameters that a network needs with those in the checkpoint.
    ///
    /// # Errors
    /// The message names the parameters that are missing, have another shape, or are not part of the network.
    pub fn check(&self, network: &Network) -> Result<()> {
        let mut asked = Asked::default();
        network.graph(&mut asked)?;
        let find = |name: &String| self.left.get(name);
        let missing: Vec<String> =
            asked.0.keys().filter(|name| find(name).is_none()).map(|name| format!("`{name}`")).collect();
        let misshapen = asked.0.iter().filter_map(|(name, needed)| {
            let (_, shape) = find(name)?;
            (shape != needed).then(|| format!("`{name}` has the shape {shape:?} instead of {needed:?}"))
        });
        let misshapen: Vec<String> = misshapen.collect();
        let extra = self.left.keys().filter(|name| !asked.0.contains_key(*name) && !names::is_bookkeeping(name));
        let extra: Vec<String> = extra.map(|name| format!("`{name}`")).collect();
        let problems: Vec<String> =
            [(missing, "missing"), (misshapen, "of the wrong shape"), (extra, "not part of this network")]
                .into_iter()
                .filter(|(names, _)| !names.is_empty())
                .map(|(names, what)| {
                    let more = if names.len() > SHOWN_MAX { ", ..." } else { "" };
                    format!("{} {what} ({}{more})", names.len(), names[..names.len().min(SHOWN_MAX)].join(", "))
                })
                .collect();
        if problems.is_empty() {
            return Ok(());
        }
        Err(self.mistake(format!("parameters {}", problems.join(", ")), "name the network with --arch NAME"))
    }

    fn shape(&self, name: &str) -> Result<&[usize]> {
        match self.left.get(name) {
            Some((_, shape)) => Ok(shape),
            None => Err(self.mistake(
                format!("the parameter `{name}` is missing: this is not a SlowFast or YOLOv5 checkpoint"),
                "the parameter names of PyTorchVideo, PySlowFast, mmaction2's SlowFast and YOLOv5 are supported",
            )),
        }
    }

    /// One dimension of a parameter's shape.
    fn length(&self, name: &str, dimension: usize) -> Result<usize> {
        let shape = self.shape(name)?;
        let length = shape.get(dimension).copied().filter(|length| *length > 0);
        length.ok_or_else(|| {
            self.mistake(format!("`{name}` has the shape {shape:?}"), "check that the checkpoint is of this network")
        })
    }

    /// Counts the blocks whose names consist of `prefix` followed by a number.
    fn blocks(&self, prefix: &str) -> usize {
        let numbers = self.left.keys().filter_map(|name| name.strip_prefix(prefix)?.split('.').next()?.parse().ok());
        numbers.max().map_or(0, |last: usize| last + 1)
    }

    /// The number of the classifier's features that come from the Fast pathway.
    fn fast_features(&self) -> Option<usize> {
        let length = |name: &str, dimension| self.length(name, dimension).ok();
        let stem = |index| length(&format!("blocks.0.multipathway_blocks.{index}.conv.weight"), 0);
        let (slow, fast) = (stem(0)?, stem(1)?);
        Some(length(CLASSIFIER, 1)? * fast / (slow + fast))
    }

    fn is_yolov5(&self) -> bool {
        self.left.contains_key("model.24.anchors") || self.left.contains_key("model.33.anchors")
    }

    fn yolov5(&self, base: Option<yolov5::YoloConfig>) -> Result<yolov5::YoloConfig> {
        let is_p6 = self.left.contains_key("model.33.anchors");
        let detect = if is_p6 { "model.33" } else { "model.24" };
        let official = yolov5::YoloConfig::of_size('l').map(|large| if is_p6 { large.p6() } else { large });
        let base = base.or(official).ok_or_else(|| Error::failed("the model zoo has no yolov5l"))?;
        let is_v5 = self.left.contains_key(yolov5::parameters::FOCUS);
        let generation = if is_v5 { yolov5::Generation::V5 } else { yolov5::Generation::V6 };
        // Large enough that rounding channels to multiples of eight does not matter.
        let width_multiple = match is_p6 {
            true => self.length("model.9.conv.weight", 0)? as f64 / 1024.0,
            false => self.length("model.7.conv.weight", 0)? as f64 / 1024.0,
        };
        let anchors_per_cell = self.length(&format!("{detect}.anchors"), 1)?;
        let columns = self.length(&format!("{detect}.m.0.weight"), 0)? / anchors_per_cell;
        let sized = |depth_multiple| yolov5::YoloConfig {
            generation,
            is_fused: !self.left.keys().any(|name| name.ends_with(".bn.weight")),
            grids: if is_p6 { 4 } else { 3 },
            depth_multiple,
            width_multiple,
            classes: columns.saturating_sub(5),
            anchors_per_cell,
            ..base.clone()
        };
        let found = ["model.2.m.", "model.4.m.", "model.6.m."].map(|prefix| self.blocks(prefix));
        let of_large = if is_v5 { [3, 9, 9] } else { [3, 6, 9] };
        let fits = |config: &yolov5::YoloConfig| of_large.map(|count| config.repeats(count)) == found;
        let fitting = DEPTH_MULTIPLES.into_iter().chain([base.depth_multiple]).map(sized).find(fits);
        fitting.ok_or_else(|| {
            self.mistake(
                format!("its first stages have {found:?} blocks, which no YOLOv5 has"),
                "name the most similar network with --arch",
            )
        })
    }

    fn slowfast(&self, base: Option<Network>) -> Result<Network> {
        let boxes = self.left.contains_key("detection_head.proj.weight");
        let wants_boxes = self.settings.detects || matches!(&base, Some(Network::SlowFast(config, _)) if config.boxes);
        if self.left.keys().any(|name| name.starts_with("roi_head.")) || wants_boxes && !boxes {
            return Err(self.mistake(
                "it lacks PyTorchVideo's head for the actions of each person".to_owned(),
                "detection networks (AVA) are only supported with PyTorchVideo's parameter names",
            ));
        }
        let root = if boxes { "model." } else { "" };
        let is_both = self.left.keys().any(|name| name.contains("multipathway_blocks"));
        let pathway = |block: usize, index: usize| match is_both {
            true => format!("{root}blocks.{block}.multipathway_blocks.{index}"),
            false => format!("{root}blocks.{block}"),
        };
        let stem = |index| format!("{}.conv.weight", pathway(0, index));
        let width = self.length(&stem(0), 0)?;
        let res4 = format!("{}.res_blocks.", pathway(3, 0));
        let blocks = self.blocks(&res4);
        let depth = match blocks {
            6 => 50,
            23 => 101,
            _ => {
                return Err(self.mistake(
                    format!("res4 has {blocks} blocks instead of 6 or 23"),
                    "depths 50 and 101 are supported",
                ));
            }
        };
        let temporal =
            |block: &usize| self.length(&format!("{res4}{block}.branch2.conv_a.weight"), 2).is_ok_and(|size| size > 1);
        let temporal_blocks = (0..blocks).take_while(temporal).count();
        let temporal_blocks = if temporal_blocks == blocks { usize::MAX } else { temporal_blocks };
        let is_fast = !is_both && self.length(&stem(0), 2)? == 5;
        let fusion = format!("{root}blocks.0.multipathway_fusion.conv_fast_to_slow.weight");
        let fusion_kernel = if self.left.contains_key(&fusion) { Some(self.length(&fusion, 2)?) } else { None };
        let (config, sampling_rate) = match base {
            Some(Network::SlowFast(config, sampling_rate)) => (config, sampling_rate),
            _ => self.most_like(is_both, is_fast, depth, fusion_kernel, temporal_blocks)?,
        };
        let pathways = match (is_both, is_fast) {
            (true, _) => slowfast::Pathways::Both,
            (_, true) => slowfast::Pathways::Fast,
            _ => slowfast::Pathways::Slow,
        };
        if pathways != config.pathways {
            return Err(self.mistake(
                "its pathways differ from those of the network that --arch names".to_owned(),
                "omit --arch, or name another network",
            ));
        }
        let classifier = match (boxes, is_both) {
            (true, _) => "detection_head.proj.weight",
            (_, true) => CLASSIFIER,
            _ => "blocks.5.proj.weight",
        };
        let mut config = slowfast::SlowFastConfig {
            depth,
            width: if is_fast { width * config.beta_inv } else { width },
            beta_inv: if is_both { width / self.length(&stem(1), 0)? } else { config.beta_inv },
            fusion_kernel: fusion_kernel.unwrap_or(config.fusion_kernel),
            temporal_blocks,
            classes: self.length(classifier, 0)?,
            boxes,
            ..config
        };
        if let Some(side) = self.settings.trained_side {
            config.head_pool = slowfast::head_pool(side);
        }
        if self.fast_first.is_some() {
            config.recipe = slowfast::Recipe::Mmaction2;
            config.head_pool = usize::MAX;
            if !self.left.contains_key("blocks.0.multipathway_fusion.norm.weight") {
                config.lateral = slowfast::Lateral::BareConvolution;
            }
        }
        Ok(Network::SlowFast(config, sampling_rate))
    }

    /// The official network with these features. The parameters do not show the number and distance of frames; the
    /// checkpoint's training settings do, if it has them.
    fn most_like(
        &self,
        is_both: bool,
        is_fast: bool,
        depth: usize,
        fusion_kernel: Option<usize>,
        temporal_blocks: usize,
    ) -> Result<(slowfast::SlowFastConfig, usize)> {
        let name = match (is_both, depth, fusion_kernel) {
            (false, ..) if is_fast => "fast-r50-32x2",
            (false, ..) => "slow-r50-8x8",
            (_, 50, Some(5)) => "slowfast-r50-4x16",
            (_, 101, Some(5)) if self.fast_first.is_some() => "slowfast-r101-4x16",
            (_, 101, _) if temporal_blocks == 6 => "slowfast-r101-16x8",
            (_, 101, _) => "slowfast-r101-8x8",
            _ => "slowfast-r50-8x8",
        };
        let (config, sampling_rate) =
            slowfast::named(name).ok_or_else(|| Error::failed(format!("the model zoo has no {name}")))?;
        let Settings { frames, sampling_rate: distance, alpha, side, .. } = self.settings;
        if frames.is_none() {
            tracing::info!(
                arch = name,
                "number and distance of frames and the input size are assumed to be those of this network"
            );
        }
        let config = slowfast::SlowFastConfig {
            frames: frames.unwrap_or(config.frames),
            alpha: alpha.filter(|_| is_both).unwrap_or(config.alpha),
            crop: side.unwrap_or(config.crop),
            ..config
        };
        Ok((config, distance.unwrap_or(sampling_rate)))
    }

    /// A parameter's values in the order of the zoo's networks: mmaction2's classifier takes Fast's features before
    /// Slow's.
    fn in_order(&self, name: &str, mut values: Vec<f32>, row: usize) -> Vec<f32> {
        if let Some(fast) = self.fast_first.filter(|_| name == CLASSIFIER) {
            values.chunks_exact_mut(row).for_each(|row| row.rotate_left(fast));
        }
        values
    }

    fn mistake(&self, what: String, hint: &str) -> Error {
        let kind = if matches!(self.source, Source::Caffe2(_)) { " (a Caffe2 checkpoint)" } else { "" };
        Error::usage(format!("{}{kind}: {what}", self.path.display())).with_hint(hint.to_owned())
    }
}

impl Weights for Checkpoint {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let Some((own, found)) = self.left.remove(name).filter(|(_, found)| found == shape) else {
            return Err(self.mistake(
                format!("the parameter `{name}` of shape {shape:?} is missing"),
                "check that the checkpoint is of this network",
            ));
        };
        let row = found.last().copied().unwrap_or(1);
        let read = match &mut self.source {
            Source::SafeTensors(safe) => {
                return safe.tensor(&own, &found).map(|values| self.in_order(name, values, row));
            }
            Source::Torch(torch) => {
                let tensor = torch.tensors.get(&own).cloned();
                tensor.ok_or_else(|| "is missing".to_owned()).and_then(|tensor| torch.read(&tensor))
            }
            Source::Caffe2(caffe2) => caffe2.numbers(&own),
        };
        let values = read.map_err(|problem| {
            self.mistake(format!("the parameter `{own}` {problem}"), "check that the file is complete")
        })?;
        Ok(self.in_order(name, values, row))
    }
}

/// Records the parameters that a network requests, without having any.
#[derive(Default)]
struct Asked(BTreeMap<String, Vec<usize>>);

impl Weights for Asked {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.0.insert(name.to_owned(), shape.to_vec());
        // A variance of 1 keeps the folding of batch norms finite.
        Ok(vec![1.0; shape.iter().product()])
    }
}

/// Parses a pickle, for fuzzing.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_pickle(data: &[u8]) {
    drop(pickle::Pickle::parse(data));
}
