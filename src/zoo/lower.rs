//! Rewrites a network of 3-D convolutions into a faster one with the same inputs, outputs and results.
//!
//! Inference libraries do 2-D convolutions best: ONNX Runtime's own kernels keep a blocked layout of channels through
//! chains of them and have nothing of the kind for 3-D ones. And every library wastes most of its vector lanes on a stem
//! of eight channels. What a lowering does not know stays as it is, with the layout converted at the border.

mod filters;
mod pass;
mod window;

use std::fmt;
use std::str::FromStr;

use crate::device::Device;
use crate::error::Error;
use crate::zoo::inspect;
use crate::zoo::onnx::ModelProto;

/// How a network sees time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lowering {
    /// As the exporters write it.
    #[default]
    Plain,
    /// Plain, but the Fast stem computes two frames at once: for libraries with good 3-D kernels.
    Packed,
    /// Time is part of the batch and convolutions are 2-D: `1 x k x k` ones as they are, `k x 1 x 1` ones as the sum of
    /// `k` pointwise ones whose results are shifted in time, and all others over frames laid side by side as channels.
    Folded,
}

impl Lowering {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Packed, Self::Folded];

    /// The fastest on this device, as `cargo bench --bench lowering` measured it. On GPUs it was not measured.
    pub fn for_device(device: Device) -> Self {
        match device {
            Device::Cpu => Self::Folded,
            Device::OpenVino => Self::Packed,
            Device::Cuda(_) | Device::TensorRt(_) => Self::Plain,
        }
    }
}

impl fmt::Display for Lowering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Packed => "packed",
            Self::Folded => "folded",
        })
    }
}

impl FromStr for Lowering {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let known = Self::ALL.into_iter().find(|lowering| lowering.to_string() == text);
        known.ok_or_else(|| {
            Error::usage(format!("unknown lowering `{text}`")).with_hint("one of: auto, plain, packed, folded")
        })
    }
}

/// Lowers a model. Its parameters and multiply-adds are noted in it: they cannot be counted from its nodes any more.
///
/// Models of an operator set below 15 stay as they are, and so does every operation on values whose channels or frames
/// are unknown or whose weights are no float32 initializers (so weights are halved after lowering, not before). Heights,
/// widths and the batch may be free.
pub fn lower(mut model: ModelProto, lowering: Lowering) -> ModelProto {
    const OPSET_MIN: i64 = 15;
    let opset = model.opset_import.iter().find(|set| set.domain.is_empty()).map_or(0, |set| set.version);
    if lowering == Lowering::Plain || opset < OPSET_MIN {
        return model;
    }
    let Some(graph) = model.graph.take() else { return model };
    let counts = inspect::counts(&graph);
    let (graph, changed) = pass::run(graph, lowering);
    model.graph = Some(graph);
    if changed {
        model.metadata_props.extend(counts);
    }
    model
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
