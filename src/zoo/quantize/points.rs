//! Where values are rounded to 8 bits: at the input and the output of each quantised convolution, and along the way from one
//! to the next as far as the operators between them have 8-bit versions.

use std::collections::{HashMap, HashSet};

use super::Layer;
use crate::zoo::onnx::{GraphProto, NodeProto};

/// Operators that have 8-bit versions, with scales of their own.
const COMPUTING: [&str; 4] = ["Add", "Mul", "Sigmoid", "Concat"];

/// Operators that only move values, so that the result has the scale of the input.
const MOVING: [&str; 10] =
    ["MaxPool", "Reshape", "Transpose", "Slice", "Gather", "Resize", "Flatten", "Squeeze", "Unsqueeze", "Pad"];

/// The values that are rounded, each with the value that it has its scale from.
#[derive(Debug, Default)]
pub(super) struct Points(HashMap<String, String>);

impl Points {
    pub(super) fn of(graph: Option<&GraphProto>, layers: &[&Layer]) -> Self {
        let Some(graph) = graph else { return Self::default() };
        let mut readers: HashMap<&str, Vec<&NodeProto>> = HashMap::new();
        for node in &graph.node {
            node.input.iter().for_each(|input| readers.entry(input).or_default().push(node));
        }
        let outputs: HashSet<&str> = graph.output.iter().map(|output| output.name.as_str()).collect();
        // The value behind an activation that is fused with the operator before it.
        let activated = |value: &str| match readers.get(value).map(Vec::as_slice) {
            Some([node]) if node.op_type == "Relu" && !outputs.contains(value) => node.output[0].clone(),
            _ => value.to_owned(),
        };
        let inputs: HashSet<&str> = layers.iter().map(|layer| layer.input.as_str()).collect();
        let chosen: HashSet<usize> = layers.iter().map(|layer| layer.node).collect();
        let mut points = HashMap::new();
        for input in graph.input.iter().filter(|input| inputs.contains(input.name.as_str())) {
            points.insert(input.name.clone(), input.name.clone());
        }
        for (number, node) in graph.node.iter().enumerate() {
            let is_moved = MOVING.contains(&node.op_type.as_str());
            if let Some(root) = node.input.first().and_then(|input| points.get(input)).filter(|_| is_moved).cloned() {
                points.insert(node.output[0].clone(), root);
                continue;
            }
            let computes =
                COMPUTING.contains(&node.op_type.as_str()) && node.input.iter().all(|input| points.contains_key(input));
            if chosen.contains(&number) || computes {
                let made = activated(&node.output[0]);
                points.insert(made.clone(), made);
            }
            for output in node.output.iter().filter(|output| inputs.contains(output.as_str())) {
                points.entry(output.clone()).or_insert_with(|| output.clone());
            }
        }
        Self(points)
    }

    /// The values that have scales of their own.
    pub(super) fn roots(&self) -> impl Iterator<Item = String> {
        self.0.iter().filter(|(value, root)| value == root).map(|(value, _)| value.clone())
    }

    /// The value that this one has its scale from, if it is rounded.
    pub(super) fn root(&self, value: &str) -> Option<&String> {
        self.0.get(value)
    }
}
