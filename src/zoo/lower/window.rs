//! The window of a 3-D convolution or pool, parsed from its node.

use crate::zoo::graph::attribute;
use crate::zoo::onnx::{AttributeProto, NodeProto};

/// A window over time, height and width, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window3d {
    pub(super) kernel: [usize; 3],
    pub(super) stride: [usize; 3],
    pub(super) dilation: [usize; 3],
    /// Padding before the first position.
    pub(super) begin: [usize; 3],
    /// Padding after the last position.
    pub(super) end: [usize; 3],
}

impl Window3d {
    /// Returns `None` if the node's padding depends on its input, or if it is not 3-D.
    pub(super) fn of(node: &NodeProto, kernel: [usize; 3]) -> Option<Self> {
        if ints(node, "kernel_shape").is_some_and(|shape| triple(&shape) != Some(kernel))
            || attribute(node, "auto_pad").is_some_and(|pad| pad.s.as_deref() != Some(b"NOTSET"))
            || attribute(node, "ceil_mode").is_some_and(|mode| mode.i != Some(0))
        {
            return None;
        }
        let pads = ints(node, "pads").unwrap_or_else(|| vec![0; 6]);
        Some(Self {
            kernel,
            stride: triple(&ints(node, "strides").unwrap_or_else(|| vec![1; 3]))?,
            dilation: triple(&ints(node, "dilations").unwrap_or_else(|| vec![1; 3]))?,
            begin: triple(pads.get(..3)?)?,
            end: triple(pads.get(3..)?)?,
        })
    }

    /// The window of a pool, whose kernel size is an attribute.
    pub(super) fn of_pool(node: &NodeProto) -> Option<Self> {
        Self::of(node, triple(&ints(node, "kernel_shape")?)?)
    }

    /// Number of positions along an axis of this length. `None` if the window does not fit at all.
    pub(super) fn slide(&self, axis: usize, length: usize) -> Option<usize> {
        let reach = self.dilation[axis] * self.kernel[axis].checked_sub(1)? + 1;
        Some((length + self.begin[axis] + self.end[axis]).checked_sub(reach)?.checked_div(self.stride[axis])? + 1)
    }

    /// Whether each output frame depends only on the input frame at the same position.
    pub(super) fn is_spatial(&self) -> bool {
        (self.kernel[0], self.stride[0], self.begin[0], self.end[0]) == (1, 1, 0, 0)
    }

    /// Whether each output pixel depends only on the pixel at the same position, in one or more frames.
    pub(super) fn is_pixel(&self) -> bool {
        self.kernel[1..] == [1, 1] && self.begin[1..] == [0, 0] && self.end[1..] == [0, 0]
    }
}

/// A node's attributes for the same operation on single frames, without the time dimension.
pub(super) fn spatial(node: &NodeProto) -> Vec<AttributeProto> {
    let mut attributes = node.attribute.clone();
    for attribute in &mut attributes {
        match attribute.name.as_str() {
            "kernel_shape" | "strides" | "dilations" => drop(attribute.ints.remove(0)),
            "pads" => {
                attribute.ints.remove(3);
                attribute.ints.remove(0);
            }
            _ => {}
        }
    }
    attributes
}

fn ints(node: &NodeProto, name: &str) -> Option<Vec<i64>> {
    Some(attribute(node, name)?.ints.clone())
}

fn triple(values: &[i64]) -> Option<[usize; 3]> {
    let values: Option<Vec<usize>> = values.iter().map(|&value| usize::try_from(value).ok()).collect();
    values?.try_into().ok()
}
