//! SlowFast networks (Feichtenhofer et al., 2019) with the structure and parameter names of PyTorchVideo's
//! `create_slowfast`.
//!
//! Two ResNets process the same clip: the Slow pathway has few frames and many channels, the Fast pathway has every
//! frame and an eighth of the channels. After the stem and after each stage but the last, Fast's features are added to
//! Slow's channels. Each pathway also exists as a network of its own (Slow is PyTorchVideo's `create_resnet`).

mod blocks;
mod head;
mod lateral;
mod name;

use crate::error::{Error, Result};
pub use crate::zoo::graph::Affinity;
use crate::zoo::graph::{FREE, GraphBuilder};
use crate::zoo::onnx::ModelProto;
use crate::zoo::weights::Weights;
use blocks::Pathway;
pub use name::{OPTIONS, named};

/// Name of the Slow pathway's input, `[batch, 3, frames / alpha, crop, crop]`.
pub const SLOW_INPUT: &str = "slow";
/// Name of the Fast pathway's input, `[batch, 3, frames, crop, crop]`.
pub const FAST_INPUT: &str = "fast";
/// Name of the additional input of a network for detection, `[boxes, 5]`: index of the clip in the batch, and x1, y1,
/// x2, y2 in pixels of its frames.
pub const BOXES_INPUT: &str = "boxes";
/// Name of the output, `[batch, classes]` or `[boxes, classes]`: scores before softmax or sigmoid.
pub const LOGITS: &str = "logits";
/// Name of the second output, `[batch, features]`: the pooled features before the classifier. Networks for detection do
/// not have it.
pub const EMBEDDING: &str = "embedding";

/// The network halves height and width five times.
const SPATIAL_STRIDE: usize = 32;

/// Settings of a SlowFast network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlowFastConfig {
    /// Layers of the ResNets: 50 or 101.
    pub depth: usize,
    /// The pathways that the network has.
    pub pathways: Pathways,
    /// Number of frames of the Fast pathway, or of the only pathway.
    pub frames: usize,
    /// Fast frames per Slow frame; 1 if there is only one pathway.
    pub alpha: usize,
    /// Slow channels per Fast channel. The number of Fast channels is rounded down.
    pub beta_inv: usize,
    /// Channels of the Slow stem: 64 in the paper, fewer for a narrow network.
    pub width: usize,
    /// What the Fast pathway takes from its frames.
    pub fast_input: FastInput,
    /// How Fast's features are passed to Slow.
    pub lateral: Lateral,
    /// Temporal size of the fusion convolutions, frames.
    pub fusion_kernel: usize,
    /// Number of blocks in the third stage (`res4`) that span three frames; the others span one.
    pub temporal_blocks: usize,
    /// Positions of the non-local blocks: stage (2 is `res4`) and block after which they follow, in the Slow pathway or
    /// the only one.
    pub non_local: Vec<(usize, usize)>,
    /// How non-local blocks compare positions.
    pub affinity: Affinity,
    /// Height and width of the input, pixels.
    pub crop: usize,
    /// Height and width of the head's average pool: the training crop divided by 32 ([`head_pool`]), but at most the
    /// size of the last stage's features.
    pub head_pool: usize,
    /// Number of classes.
    pub classes: usize,
    /// Whether the network takes boxes and scores each of them (AVA), in frames of any height and width. `crop` and
    /// `head_pool` are unused then. The last stage does not reduce height and width, and has a dilation of 2 instead.
    pub boxes: bool,
    /// The training that determines the input's preprocessing.
    pub recipe: Recipe,
}

/// The training that a network had, which determines its input's preprocessing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Recipe {
    /// PyTorchVideo and PySlowFast: pixels with a mean of 0.45 and a deviation of 0.225; Slow's frames evenly from
    /// Fast's first to its last.
    #[default]
    PyTorchVideo,
    /// mmaction2: pixels with ImageNet's means and deviations; Slow's frames are every alpha-th of Fast's.
    Mmaction2,
}

/// The pathways of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pathways {
    /// Both pathways.
    #[default]
    Both,
    /// Only the Slow pathway.
    Slow,
    /// Only the Fast pathway.
    Fast,
}

/// How Fast's features are passed to Slow, where they become additional channels (section 3.3 of the paper).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lateral {
    /// A convolution with a stride of alpha frames, which produces twice Fast's channels.
    #[default]
    Convolution,
    /// The same convolution without batch norm and ReLU, as in mmaction2.
    BareConvolution,
    /// The alpha frames of a Slow frame, stacked as channels.
    TimeToChannel,
    /// The first of the alpha frames.
    Sampling,
}

/// What the Fast pathway takes from its frames (section 4.1 of the paper, "weaker spatial inputs"). The network's input
/// is RGB in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FastInput {
    /// All channels.
    #[default]
    Colour,
    /// Luma (Rec. 601) as a single channel.
    Grey,
    /// The difference from the previous frame; zero for the first frame.
    Difference,
}

impl Default for SlowFastConfig {
    /// The default is R50 8x8 of the model zoo: trained with crops of 224, run at 256, Kinetics-400.
    fn default() -> Self {
        Self {
            depth: 50,
            pathways: Pathways::Both,
            frames: 32,
            alpha: 4,
            beta_inv: 8,
            width: 64,
            fast_input: FastInput::Colour,
            lateral: Lateral::Convolution,
            fusion_kernel: 7,
            temporal_blocks: usize::MAX,
            non_local: vec![],
            affinity: Affinity::DotProduct,
            crop: 256,
            head_pool: 7,
            classes: 400,
            boxes: false,
            recipe: Recipe::PyTorchVideo,
        }
    }
}

/// Size of the head's average pool for a network trained with pictures of this height and width, pixels.
pub fn head_pool(trained_side: usize) -> usize {
    trained_side / SPATIAL_STRIDE
}

impl SlowFastConfig {
    /// Number of blocks in the four stages.
    fn blocks(&self) -> Result<[usize; 4]> {
        match self.depth {
            50 => Ok([3, 4, 6, 3]),
            101 => Ok([3, 4, 23, 3]),
            depth => Err(Error::usage(format!("no SlowFast has depth {depth}: it must be 50 or 101"))),
        }
    }

    fn check(&self) -> Result<()> {
        let fail = |what: String| Err(Error::usage(format!("invalid SlowFast: {what}")));
        if self.alpha == 0 || self.frames == 0 || !self.frames.is_multiple_of(self.alpha) {
            return fail(format!("{} frames cannot be divided into alpha = {}", self.frames, self.alpha));
        }
        if self.pathways != Pathways::Both && self.alpha != 1 {
            return fail("a single pathway has all frames, so alpha must be 1".into());
        }
        if self.beta_inv == 0 || self.width < self.beta_inv {
            return fail(format!("{} channels cannot be divided by beta_inv = {}", self.width, self.beta_inv));
        }
        if !self.boxes && (self.head_pool == 0 || self.crop < SPATIAL_STRIDE) {
            return fail(format!("pictures must have at least {SPATIAL_STRIDE} pixels, not {}", self.crop));
        }
        if self.classes == 0 || self.fusion_kernel.is_multiple_of(2) {
            return fail("it needs at least one class and an odd fusion kernel".into());
        }
        let blocks = self.blocks()?;
        match self.non_local.iter().find(|(stage, block)| blocks.get(*stage).is_none_or(|count| block >= count)) {
            Some((stage, block)) => fail(format!("stage {stage} has no block {block} for a non-local block to follow")),
            None => Ok(()),
        }
    }

    /// The pathways, Slow before Fast.
    fn resnets(&self) -> Vec<Pathway> {
        let both = self.pathways == Pathways::Both;
        let slow = Pathway {
            index: both.then_some(0),
            input: SLOW_INPUT,
            frames: self.frames / self.alpha,
            sees: FastInput::Colour,
            width: self.width,
            stem_kernel: 1,
            kernels: [1, 1, 3, 3],
        };
        let fast = Pathway {
            index: both.then_some(1),
            input: FAST_INPUT,
            frames: self.frames,
            sees: self.fast_input,
            width: self.width / self.beta_inv,
            stem_kernel: 5,
            kernels: [3, 3, 3, 3],
        };
        match self.pathways {
            Pathways::Both => vec![slow, fast],
            Pathways::Slow => vec![slow],
            Pathways::Fast => vec![fast],
        }
    }
}

/// Builds the network.
///
/// # Errors
/// If the settings are invalid, or the weights belong to another network.
pub fn build(config: &SlowFastConfig, weights: &mut dyn Weights) -> Result<ModelProto> {
    config.check()?;
    let blocks = config.blocks()?;
    let mut detection = head::DetectionWeights(weights);
    let weights = if config.boxes { &mut detection } else { detection.0 };
    let mut builder = GraphBuilder::new(&format!("slowfast-r{}", config.depth), weights);
    let graph = &mut builder;
    let pathways = config.resnets();
    let side = if config.boxes { FREE } else { config.crop };
    let mut values = Vec::new();
    for pathway in &pathways {
        let clip = graph.input(pathway.input, &[3, pathway.frames, side, side]);
        values.push(pathway.stem(graph, &clip)?);
    }
    for (stage, &count) in blocks.iter().enumerate() {
        if let [slow, fast] = values.as_mut_slice() {
            *slow = lateral::fuse(graph, config, stage, slow, fast)?;
        }
        for (pathway, value) in pathways.iter().zip(&mut values) {
            *value = pathway.stage(graph, config, stage, count, value)?;
        }
    }
    head::build(graph, config, &values)?;
    builder.finish()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Records the parameters that are requested.
    #[derive(Default)]
    struct Recorder(Vec<(String, Vec<usize>)>);

    impl Weights for Recorder {
        fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
            self.0.push((name.into(), shape.into()));
            Ok(vec![0.0; shape.iter().product()])
        }
    }

    fn asked(config: &SlowFastConfig) -> Vec<(String, Vec<usize>)> {
        let mut recorder = Recorder::default();
        build(config, &mut recorder).unwrap();
        recorder.0
    }

    /// Temporal size of the first convolution in every block of this stage's Slow pathway.
    fn temporal_kernels(config: &SlowFastConfig, stage: usize) -> Vec<usize> {
        let prefix = format!("blocks.{stage}.multipathway_blocks.0.res_blocks.");
        let asked = asked(config).into_iter();
        let firsts = asked.filter(|(name, _)| name.starts_with(&prefix) && name.ends_with("conv_a.weight"));
        firsts.map(|(_, shape)| shape[2]).collect()
    }

    #[test]
    fn parameters_have_the_official_names_and_shapes() {
        let asked = asked(&SlowFastConfig { width: 8, classes: 10, ..SlowFastConfig::default() });
        // 110 convolutions with five tensors each, and two of the classifier.
        assert_eq!(asked.len(), 552);
        let shape = |name: &str| asked.iter().find(|(asked, _)| asked == name).unwrap().1.clone();
        assert_eq!(shape("blocks.0.multipathway_blocks.1.conv.weight"), [1, 3, 5, 7, 7]);
        assert_eq!(shape("blocks.2.multipathway_fusion.conv_fast_to_slow.weight"), [16, 8, 7, 1, 1]);
        assert_eq!(shape("blocks.3.multipathway_blocks.0.res_blocks.0.branch2.conv_a.weight"), [32, 80, 3, 1, 1]);
        assert_eq!(shape("blocks.6.proj.weight"), [10, 288]);
    }

    #[test]
    fn other_networks_have_the_official_names_too() {
        let names =
            |name: &str| -> Vec<String> { asked(&named(name).unwrap().0).into_iter().map(|(name, _)| name).collect() };
        let slow = names("slow-tiny-8x8");
        for name in ["blocks.0.conv.weight", "blocks.4.res_blocks.2.branch2.norm_c.bias", "blocks.5.proj.bias"] {
            assert!(slow.contains(&name.to_owned()), "{name}");
        }
        let detection = names("slowfast-tiny-ava-nl");
        for name in [
            "model.blocks.0.multipathway_blocks.1.conv.weight",
            "model.blocks.3.multipathway_blocks.0.nonlocal5.conv_out.bias",
            "detection_head.proj.bias",
        ] {
            assert!(detection.contains(&name.to_owned()), "{name}");
        }
    }

    #[test]
    fn stages_span_the_time_that_the_config_says() {
        let r50 = SlowFastConfig { width: 8, ..SlowFastConfig::default() };
        assert_eq!(temporal_kernels(&r50, 2), [1; 4]);
        assert_eq!(temporal_kernels(&r50, 3), [3; 6]);
        let r101 = SlowFastConfig { depth: 101, temporal_blocks: 6, ..r50 };
        assert_eq!(temporal_kernels(&r101, 3), [[3; 6].as_slice(), &[1; 17]].concat());
        assert_eq!(temporal_kernels(&r101, 4), [3; 3]);
    }

    #[test]
    fn impossible_networks_are_refused() {
        let r50 = SlowFastConfig::default();
        for config in [
            SlowFastConfig { depth: 18, ..r50.clone() },
            SlowFastConfig { frames: 30, ..r50.clone() },
            SlowFastConfig { alpha: 0, ..r50.clone() },
            SlowFastConfig { width: 4, ..r50.clone() },
            SlowFastConfig { crop: 31, ..r50.clone() },
            SlowFastConfig { head_pool: 0, ..r50.clone() },
            SlowFastConfig { classes: 0, ..r50.clone() },
            SlowFastConfig { fusion_kernel: 4, ..r50.clone() },
            SlowFastConfig { pathways: Pathways::Slow, ..r50.clone() },
            SlowFastConfig { non_local: vec![(2, 6)], ..r50.clone() },
            SlowFastConfig { non_local: vec![(4, 0)], ..r50 },
        ] {
            assert_eq!(build(&config, &mut Recorder::default()).unwrap_err().exit_code(), 2, "{config:?}");
        }
    }
}
