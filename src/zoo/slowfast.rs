//! SlowFast networks (Feichtenhofer et al., 2019) as PyTorchVideo's `create_slowfast` makes them, with its parameter
//! names.
//!
//! Two ResNets see the same clip: Slow few frames with many channels, Fast every frame with an eighth of them. Behind
//! the stem and each stage but the last, a convolution strided in time brings Fast's features into Slow.

use crate::error::{Error, Result};
use crate::zoo::graph::{BatchNorm, FREE, GraphBuilder, Value, Window};
use crate::zoo::onnx::ModelProto;
use crate::zoo::weights::Weights;

/// Name of the Slow pathway's input, `[batch, 3, frames / alpha, crop, crop]`.
pub const SLOW_INPUT: &str = "slow";
/// Name of the Fast pathway's input, `[batch, 3, frames, crop, crop]`.
pub const FAST_INPUT: &str = "fast";
/// Name of the input that a network for detection has besides, `[boxes, 5]`: the clip's number in the batch, and x1, y1, x2,
/// y2 in pixels of its frames.
pub const BOXES_INPUT: &str = "boxes";
/// Name of the output, `[batch, classes]` or `[boxes, classes]`: scores before softmax or sigmoid.
pub const LOGITS: &str = "logits";
/// Name of the optional second output, `[batch, features]` or `[boxes, features]`: pooled features before the classifier.
pub const EMBEDDING: &str = "embedding";

/// PyTorchVideo's batch norms add this to the variance.
const EPSILON: f32 = 1e-5;
/// A fusion brings twice Fast's channels into Slow.
const FUSION_RATIO: usize = 2;
/// The network halves height and width five times.
const SPATIAL_STRIDE: usize = 32;
/// The network for detection halves them four times.
const BOX_SCALE: f32 = 1.0 / 16.0;
/// What is below a box is brought to this height and width.
const BOX_SIDE: usize = 7;

/// Which SlowFast.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Layers of the ResNets: 50 or 101.
    pub depth: usize,
    /// Frames that the Fast pathway sees.
    pub frames: usize,
    /// Fast frames to each Slow one.
    pub alpha: usize,
    /// Slow channels to each Fast one.
    pub beta_inv: usize,
    /// Channels of the Slow stem: 64 in the paper; smaller makes a narrow network.
    pub width: usize,
    /// Size in time of the fusion convolutions.
    pub fusion_kernel: usize,
    /// How many blocks of the third stage (`res4`) see three frames at once; the others see one.
    pub temporal_blocks: usize,
    /// Height and width of the input.
    pub crop: usize,
    /// Height and width of the head's average pool: a 32nd of the crop in training.
    pub head_pool: usize,
    /// How many classes.
    pub classes: usize,
    /// Whether the pooled features become a second output, `embedding`.
    pub embedding: bool,
    /// Whether it takes boxes and scores each (AVA), in frames of any height and width: `crop` and `head_pool` mean nothing
    /// then. The last stage keeps its height and width, and sees as far by a dilation of 2.
    pub boxes: bool,
}

impl Default for Config {
    /// R50 8x8 of the model zoo: trained at crop 224, run at 256, Kinetics-400.
    fn default() -> Self {
        Self {
            depth: 50,
            frames: 32,
            alpha: 4,
            beta_inv: 8,
            width: 64,
            fusion_kernel: 7,
            temporal_blocks: usize::MAX,
            crop: 256,
            head_pool: 7,
            classes: 400,
            embedding: false,
            boxes: false,
        }
    }
}

impl Config {
    /// Blocks of the four stages.
    fn blocks(&self) -> Result<[usize; 4]> {
        match self.depth {
            50 => Ok([3, 4, 6, 3]),
            101 => Ok([3, 4, 23, 3]),
            depth => Err(Error::usage(format!("no SlowFast of depth {depth}: it is 50 or 101"))),
        }
    }

    fn check(&self) -> Result<()> {
        let fail = |what: String| Err(Error::usage(format!("no such SlowFast: {what}")));
        if self.alpha == 0 || self.frames == 0 || !self.frames.is_multiple_of(self.alpha) {
            return fail(format!("{} frames cannot be divided into alpha = {}", self.frames, self.alpha));
        }
        if self.beta_inv == 0 || self.width == 0 || !self.width.is_multiple_of(self.beta_inv) {
            return fail(format!("{} channels cannot be divided by beta_inv = {}", self.width, self.beta_inv));
        }
        if !self.boxes && (self.head_pool == 0 || self.crop < self.head_pool * SPATIAL_STRIDE) {
            let least = self.head_pool * SPATIAL_STRIDE;
            return fail(format!("crop {} is below what its head pools over ({least})", self.crop));
        }
        if self.classes == 0 || self.fusion_kernel.is_multiple_of(2) {
            return fail("it needs at least one class and an odd fusion kernel".into());
        }
        Ok(())
    }
}

/// One of the two ResNets.
struct Pathway {
    /// Its number in the official names: Slow is 0, Fast 1.
    index: usize,
    /// Channels of its stem.
    width: usize,
    /// Size in time of the stem.
    stem_kernel: usize,
    /// Size in time of each stage's first convolution.
    kernels: [usize; 4],
}

/// Writes the network.
///
/// # Errors
/// When there is no such network, or the weights are not its own.
pub fn build(config: &Config, weights: &mut dyn Weights) -> Result<ModelProto> {
    config.check()?;
    let blocks = config.blocks()?;
    let mut detection = DetectionWeights(weights);
    let weights = if config.boxes { &mut detection } else { detection.0 };
    let mut builder = GraphBuilder::new(&format!("slowfast-r{}", config.depth), weights);
    let graph = &mut builder;
    let pathways = [
        Pathway { index: 0, width: config.width, stem_kernel: 1, kernels: [1, 1, 3, 3] },
        Pathway { index: 1, width: config.width / config.beta_inv, stem_kernel: 5, kernels: [3, 3, 3, 3] },
    ];
    let side = if config.boxes { FREE } else { config.crop };
    let slow = graph.input(SLOW_INPUT, &[3, config.frames / config.alpha, side, side]);
    let fast = graph.input(FAST_INPUT, &[3, config.frames, side, side]);
    let mut slow = stem(graph, &pathways[0], &slow)?;
    let mut fast = stem(graph, &pathways[1], &fast)?;
    for (number, &count) in blocks.iter().enumerate() {
        slow = fuse(graph, config, number, &slow, &fast)?;
        let dilated = config.boxes && number == 3;
        let stage = Stage { number, blocks: count, temporal_blocks: config.temporal_blocks, dilated };
        slow = stage.build(graph, &pathways[0], &slow)?;
        fast = stage.build(graph, &pathways[1], &fast)?;
    }
    let features = match config.boxes {
        true => pool_boxes(graph, &slow, &fast),
        false => pool(graph, config, &slow, &fast),
    };
    let logits = graph.linear("blocks.6.proj", &features, config.classes)?;
    graph.output(&logits, LOGITS);
    if config.embedding {
        graph.output(&features, EMBEDDING);
    }
    builder.finish()
}

impl Pathway {
    fn name(&self, block: usize) -> String {
        format!("blocks.{block}.multipathway_blocks.{}", self.index)
    }
}

fn stem(graph: &mut GraphBuilder<'_>, pathway: &Pathway, input: &Value) -> Result<Value> {
    let name = pathway.name(0);
    let window = Window::same(&[pathway.stem_kernel, 7, 7], &[1, 2, 2]);
    let norm = format!("{name}.norm");
    let value = normed(graph, &format!("{name}.conv"), &norm, input, pathway.width, &window)?;
    let value = graph.relu(&value);
    Ok(graph.max_pool(&value, &Window::same(&[1, 3, 3], &[1, 2, 2])))
}

/// Fast's features, one in `alpha` frames, behind Slow's.
fn fuse(graph: &mut GraphBuilder<'_>, config: &Config, block: usize, slow: &Value, fast: &Value) -> Result<Value> {
    let name = format!("blocks.{block}.multipathway_fusion");
    let window = Window::same(&[config.fusion_kernel, 1, 1], &[config.alpha, 1, 1]);
    let channels = fast.shape[0] * FUSION_RATIO;
    let lateral =
        normed(graph, &format!("{name}.conv_fast_to_slow"), &format!("{name}.norm"), fast, channels, &window)?;
    let lateral = graph.relu(&lateral);
    Ok(graph.concat(&[slow, &lateral], 0))
}

/// One stage of residual blocks (`res2` to `res5` are 0 to 3).
struct Stage {
    number: usize,
    blocks: usize,
    temporal_blocks: usize,
    /// Whether it keeps height and width, and its 3x3 convolutions leave gaps.
    dilated: bool,
}

impl Stage {
    fn build(&self, graph: &mut GraphBuilder<'_>, pathway: &Pathway, input: &Value) -> Result<Value> {
        let inner = pathway.width << self.number;
        let mut value = input.clone();
        for block in 0..self.blocks {
            let name = format!("{}.res_blocks.{block}", pathway.name(self.number + 1));
            let stride = if block == 0 && self.number > 0 && !self.dilated { 2 } else { 1 };
            let sees_time = self.number != 2 || block < self.temporal_blocks;
            let kernel = if sees_time { pathway.kernels[self.number] } else { 1 };
            let spatial = Window::same(&[1, 3, 3], &[1, stride, stride]);
            let spatial = if self.dilated { spatial.dilated(&[1, 2, 2]) } else { spatial };
            value = bottleneck(graph, &name, &value, inner, kernel, &spatial)?;
        }
        Ok(value)
    }
}

/// 1x1 (over `kernel` frames) to `inner` channels, 3x3 in space, 1x1 to four times as many, and the shortcut.
fn bottleneck(
    graph: &mut GraphBuilder<'_>,
    name: &str,
    input: &Value,
    inner: usize,
    kernel: usize,
    spatial: &Window,
) -> Result<Value> {
    let outer = inner * 4;
    let shortcut = if input.shape[0] == outer && spatial.stride == [1, 1, 1] {
        input.clone()
    } else {
        let window = Window::valid(&[1, 1, 1], &spatial.stride);
        normed(graph, &format!("{name}.branch1_conv"), &format!("{name}.branch1_norm"), input, outer, &window)?
    };
    let mut value = input.clone();
    for (letter, channels, window) in [
        ("a", inner, Window::same(&[kernel, 1, 1], &[1, 1, 1])),
        ("b", inner, spatial.clone()),
        ("c", outer, Window::valid(&[1, 1, 1], &[1, 1, 1])),
    ] {
        let (conv, norm) = (format!("{name}.branch2.conv_{letter}"), format!("{name}.branch2.norm_{letter}"));
        value = normed(graph, &conv, &norm, &value, channels, &window)?;
        if letter != "c" {
            value = graph.relu(&value);
        }
    }
    let sum = graph.add(&shortcut, &value);
    Ok(graph.relu(&sum))
}

/// Fully convolutional: the average of each pathway, over all its frames and a training crop's worth of positions, at
/// stride one. The mean over the positions comes before the classifier, not behind it as in PyTorchVideo: the classifier
/// is linear, so the logits are the same, and the mean features are an output for free.
fn pool(graph: &mut GraphBuilder<'_>, config: &Config, slow: &Value, fast: &Value) -> Value {
    let mut pool = |value: &Value| {
        let window = Window::valid(&[value.shape[1], config.head_pool, config.head_pool], &[1, 1, 1]);
        graph.average_pool(value, &window)
    };
    let (slow, fast) = (pool(slow), pool(fast));
    let pooled = graph.concat(&[&slow, &fast], 0);
    graph.global_average(&pooled)
}

/// The mean of each pathway over all its frames, and of that the largest value below each box.
fn pool_boxes(graph: &mut GraphBuilder<'_>, slow: &Value, fast: &Value) -> Value {
    let (slow, fast) = (graph.mean(slow, 1), graph.mean(fast, 1));
    let pooled = graph.concat(&[&slow, &fast], 0);
    let below = graph.roi_align(&pooled, BOXES_INPUT, BOX_SIDE, BOX_SCALE);
    graph.global_max(&below)
}

fn normed(
    graph: &mut GraphBuilder<'_>,
    conv: &str,
    norm: &str,
    input: &Value,
    channels: usize,
    window: &Window,
) -> Result<Value> {
    graph.conv(conv, input, channels, window, Some(BatchNorm { name: norm, epsilon: EPSILON }))
}

/// PyTorchVideo's networks for detection have the backbone below `model` and a head of their own.
struct DetectionWeights<'w>(&'w mut dyn Weights);

impl Weights for DetectionWeights<'_> {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        match name.strip_prefix("blocks.6.") {
            Some(layer) => self.0.tensor(&format!("detection_head.{layer}"), shape),
            None => self.0.tensor(&format!("model.{name}"), shape),
        }
    }

    fn finish(&mut self) -> Result<()> {
        self.0.finish()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Remembers what it is asked for.
    #[derive(Default)]
    struct Recorder(Vec<(String, Vec<usize>)>);

    impl Weights for Recorder {
        fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
            self.0.push((name.into(), shape.into()));
            Ok(vec![0.0; shape.iter().product()])
        }
    }

    fn asked(config: &Config) -> Vec<(String, Vec<usize>)> {
        let mut recorder = Recorder::default();
        build(config, &mut recorder).unwrap();
        recorder.0
    }

    /// Size in time of the first convolution of every block of this stage's Slow pathway.
    fn temporal_kernels(config: &Config, stage: usize) -> Vec<usize> {
        let prefix = format!("blocks.{stage}.multipathway_blocks.0.res_blocks.");
        let asked = asked(config).into_iter();
        let firsts = asked.filter(|(name, _)| name.starts_with(&prefix) && name.ends_with("conv_a.weight"));
        firsts.map(|(_, shape)| shape[2]).collect()
    }

    #[test]
    fn parameters_have_the_official_names_and_shapes() {
        let asked = asked(&Config { width: 8, classes: 10, ..Config::default() });
        // 110 convolutions with five tensors each, and the classifier's two.
        assert_eq!(asked.len(), 552);
        let shape = |name: &str| asked.iter().find(|(asked, _)| asked == name).unwrap().1.clone();
        assert_eq!(shape("blocks.0.multipathway_blocks.1.conv.weight"), [1, 3, 5, 7, 7]);
        assert_eq!(shape("blocks.2.multipathway_fusion.conv_fast_to_slow.weight"), [16, 8, 7, 1, 1]);
        assert_eq!(shape("blocks.3.multipathway_blocks.0.res_blocks.0.branch2.conv_a.weight"), [32, 80, 3, 1, 1]);
        assert_eq!(shape("blocks.6.proj.weight"), [10, 288]);
    }

    #[test]
    fn stages_see_as_much_time_as_the_config_says() {
        let r50 = Config { width: 8, ..Config::default() };
        assert_eq!(temporal_kernels(&r50, 2), [1; 4]);
        assert_eq!(temporal_kernels(&r50, 3), [3; 6]);
        let r101 = Config { depth: 101, temporal_blocks: 6, ..r50 };
        assert_eq!(temporal_kernels(&r101, 3), [[3; 6].as_slice(), &[1; 17]].concat());
        assert_eq!(temporal_kernels(&r101, 4), [3; 3]);
    }

    #[test]
    fn impossible_networks_are_refused() {
        let r50 = Config::default();
        for config in [
            Config { depth: 18, ..r50.clone() },
            Config { frames: 30, ..r50.clone() },
            Config { alpha: 0, ..r50.clone() },
            Config { width: 12, ..r50.clone() },
            Config { crop: 192, ..r50.clone() },
            Config { classes: 0, ..r50.clone() },
            Config { fusion_kernel: 4, ..r50 },
        ] {
            assert_eq!(build(&config, &mut Recorder::default()).unwrap_err().exit_code(), 2, "{config:?}");
        }
    }
}
