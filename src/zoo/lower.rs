//! Lowering: rewrites a network of 3-D convolutions into a faster one with the same inputs, outputs and results.
//!
//! Inference libraries are best at 2-D convolutions: ONNX Runtime's kernels keep a blocked channel layout through
//! chains of them, but have nothing comparable for 3-D ones. Every library also wastes most of its vector lanes on a
//! stem with eight channels. Operations that a lowering does not support stay unchanged, and the layout is converted
//! where the two meet.

mod filters;
mod pass;
mod window;

use std::fmt;
use std::str::FromStr;

use crate::device::Device;
use crate::error::Error;
use crate::zoo::inspect;
use crate::zoo::onnx::ModelProto;

/// How a network handles the time dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lowering {
    /// Unchanged.
    #[default]
    Plain,
    /// Like plain, but the Fast stem computes two frames at once. For libraries with good 3-D kernels.
    Packed,
    /// Time is part of the batch and convolutions are 2-D: `1 x k x k` ones unchanged, `k x 1 x 1` ones as the sum of
    /// `k` pointwise ones whose results are shifted in time, and all others over frames that are stacked as channels.
    Folded,
}

impl Lowering {
    /// All lowerings.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Packed, Self::Folded];

    /// The fastest lowering on this device, as measured with `cargo bench --bench lowering`. It was not measured on
    /// GPUs.
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

/// Lowers a model. Its original parameter and multiply-add counts are stored in its metadata, because they can no
/// longer be derived from its nodes.
///
/// Models with an operator set below 15 stay unchanged. So does every operation on values with unknown channels or
/// frames, or whose weights are not float32 initializers (so weights are halved after lowering, not before). Heights,
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
