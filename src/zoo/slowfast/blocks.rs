//! The parts of a pathway: stem, residual blocks, non-local blocks.

use super::{FastInput, SlowFastConfig};
use crate::error::Result;
use crate::zoo::graph::{BatchNorm, GraphBuilder, Value, Window};

/// Added to the variance by PyTorchVideo's batch norms.
const EPSILON: f32 = 1e-5;
/// Weights of red, green and blue in the luma (Rec. 601).
const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

/// One of the two ResNets.
pub(super) struct Pathway {
    /// Its number in the official names if there are two: Slow is 0, Fast is 1.
    pub(super) index: Option<usize>,
    /// Name of its input.
    pub(super) input: &'static str,
    /// Number of input frames.
    pub(super) frames: usize,
    /// What it takes from its frames.
    pub(super) sees: FastInput,
    /// Channels of its stem.
    pub(super) width: usize,
    /// Temporal size of the stem, frames.
    pub(super) stem_kernel: usize,
    /// Temporal size of the first convolution in each stage's blocks, frames.
    pub(super) kernels: [usize; 4],
}

impl Pathway {
    /// Builds the stem on the network's input.
    pub(super) fn stem(&self, graph: &mut GraphBuilder<'_>, clip: &Value) -> Result<Value> {
        let name = self.name(0);
        let clip = self.sees.of(graph, clip);
        let window = Window::same(&[self.stem_kernel, 7, 7], &[1, 2, 2]);
        let value = normed(graph, &format!("{name}.conv"), &format!("{name}.norm"), &clip, self.width, &window)?;
        let value = graph.relu(&value);
        Ok(graph.max_pool(&value, &Window::same(&[1, 3, 3], &[1, 2, 2])))
    }

    /// Builds one stage (`res2` to `res5` are 0 to 3) of residual blocks.
    pub(super) fn stage(
        &self,
        graph: &mut GraphBuilder<'_>,
        config: &SlowFastConfig,
        stage: usize,
        blocks: usize,
        input: &Value,
    ) -> Result<Value> {
        let inner = self.width << stage;
        let dilated = config.boxes && stage == 3;
        let is_fused_fast = self.index == Some(1);
        let mut value = input.clone();
        for block in 0..blocks {
            let name = self.name(stage + 1);
            let stride = if block == 0 && stage > 0 && !dilated { 2 } else { 1 };
            let sees_time = stage != 2 || block < config.temporal_blocks;
            let kernel = if sees_time { self.kernels[stage] } else { 1 };
            let spatial = Window::same(&[1, 3, 3], &[1, stride, stride]);
            let spatial = if dilated { spatial.dilated(&[1, 2, 2]) } else { spatial };
            value = bottleneck(graph, &format!("{name}.res_blocks.{block}"), &value, inner, kernel, &spatial)?;
            if !is_fused_fast && config.non_local.contains(&(stage, block)) {
                value = non_local(graph, config, &format!("{name}.nonlocal{block}"), &value)?;
            }
        }
        Ok(value)
    }

    fn name(&self, block: usize) -> String {
        match self.index {
            Some(index) => format!("blocks.{block}.multipathway_blocks.{index}"),
            None => format!("blocks.{block}"),
        }
    }
}

impl FastInput {
    fn of(self, graph: &mut GraphBuilder<'_>, clip: &Value) -> Value {
        match self {
            Self::Colour => clip.clone(),
            Self::Grey => {
                let parts = graph.constant(&[3, 1, 1, 1], &LUMA);
                let weighted = graph.mul(clip, &parts);
                graph.channel_sum(&weighted)
            }
            Self::Difference => {
                let first = graph.slice(clip, 1, 0..1, 1);
                let all_but_last = graph.slice(clip, 1, 0..clip.shape[1] - 1, 1);
                let before = graph.concat(&[&first, &all_but_last], 1);
                graph.sub(clip, &before)
            }
        }
    }
}

/// A residual block: 1x1 (over `kernel` frames) to `inner` channels, 3x3 in space, 1x1 to four times as many, and the
/// shortcut.
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

/// Adds attention over all positions to every position (Wang et al., 2018), with the structure and names of
/// PySlowFast's `Nonlocal`: half the channels, and keys and values pooled 2x2 in space.
fn non_local(graph: &mut GraphBuilder<'_>, config: &SlowFastConfig, name: &str, input: &Value) -> Result<Value> {
    let channels = input.shape[0];
    let point = Window::valid(&[1, 1, 1], &[1, 1, 1]);
    let pooled = graph.max_pool(input, &Window::valid(&[1, 2, 2], &[1, 2, 2]));
    let mut project =
        |leaf: &str, from: &Value| graph.conv(&format!("{name}.conv_{leaf}"), from, channels / 2, &point, None);
    let (query, key, value) = (project("theta", input)?, project("phi", &pooled)?, project("g", &pooled)?);
    let seen = graph.attend(&query, &key, &value, config.affinity);
    let norm = format!("{name}.norm");
    let norm = BatchNorm { name: &norm, epsilon: EPSILON, biased: true };
    let seen = graph.conv(&format!("{name}.conv_out"), &seen, channels, &point, Some(norm))?;
    Ok(graph.add(input, &seen))
}

/// A convolution without bias, followed by its batch norm.
pub(super) fn normed(
    graph: &mut GraphBuilder<'_>,
    conv: &str,
    norm: &str,
    input: &Value,
    channels: usize,
    window: &Window,
) -> Result<Value> {
    graph.conv(conv, input, channels, window, Some(BatchNorm { name: norm, epsilon: EPSILON, biased: false }))
}
