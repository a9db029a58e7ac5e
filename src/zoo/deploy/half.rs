//! Computes in 16-bit floats: everything that leads to a convolution, as far as its operators exist in 16 bits and its
//! weights fit. What follows the last convolution stays in 32 bits: a detector's box coordinates, which 16 bits would round
//! to half a pixel, and a classifier.

use std::collections::{HashMap, HashSet};

use half::f16;

use crate::zoo::graph::{attribute, cast, int};
use crate::zoo::onnx::{AttributeProto, GraphProto, NodeProto, TensorProto, number};

/// Operators that ONNX Runtime's CUDA provider has for 16-bit floats, or that only move values.
const OPERATORS: [&str; 41] = [
    "Add",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Clip",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Conv",
    "ConvTranspose",
    "Div",
    "Exp",
    "Expand",
    "Flatten",
    "Gather",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Identity",
    "LeakyRelu",
    "MatMul",
    "MaxPool",
    "Mul",
    "Pad",
    "ReduceMax",
    "ReduceMean",
    "ReduceSum",
    "Relu",
    "Reshape",
    "Resize",
    "Sigmoid",
    "Slice",
    "Softmax",
    "Split",
    "Squeeze",
    "Sub",
    "Sum",
    "Tanh",
    "Transpose",
    "Unsqueeze",
    "Upsample",
];

/// Operators whose results are not 32-bit floats, whatever their inputs are.
const NOT_FLOAT: [&str; 16] = [
    "And",
    "ArgMax",
    "ArgMin",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "IsInf",
    "IsNaN",
    "Less",
    "LessOrEqual",
    "NonMaxSuppression",
    "NonZero",
    "Not",
    "QuantizeLinear",
    "Shape",
    "Size",
];

pub(super) fn compute_in_half(graph: &mut GraphProto) -> usize {
    let has_subgraph =
        |attribute: &AttributeProto| matches!(attribute.r#type, number::ATTRIBUTE_GRAPH | number::ATTRIBUTE_GRAPHS);
    // A subgraph reads values by their names, which change.
    if graph.node.iter().flat_map(|node| &node.attribute).any(has_subgraph) {
        return 0;
    }
    let nodes = std::mem::take(&mut graph.node);
    let floats = float_values(graph, &nodes);
    let weights = std::mem::take(&mut graph.initializer);
    let weights: HashMap<String, TensorProto> =
        weights.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
    let leads = leads_to_convolution(&nodes);
    let mut pass =
        Pass { floats, weights, halves: HashMap::new(), wide: HashSet::new(), narrow: HashSet::new(), nodes: vec![] };
    let mut changed = 0;
    for (node, leads) in nodes.into_iter().zip(leads) {
        let is_half = leads && pass.can_halve(&node);
        changed += usize::from(is_half && is_convolution(&node));
        pass.add(node, is_half);
    }
    for output in &graph.output {
        pass.value(&output.name, false);
    }
    let read: HashSet<&String> = pass.nodes.iter().flat_map(|node| &node.input).collect();
    let is_output = |name: &String| graph.output.iter().any(|output| output.name == *name);
    let weights = pass.weights.into_iter().chain(pass.halves);
    let mut weights: Vec<(String, TensorProto)> =
        weights.filter(|(name, _)| read.contains(name) || is_output(name)).collect();
    weights.sort_by(|(a, _), (b, _)| a.cmp(b));
    graph.initializer = weights.into_iter().map(|(_, tensor)| tensor).collect();
    graph.node = pass.nodes;
    // Their types may have changed, and the runtime infers them anyway.
    graph.value_info.clear();
    changed
}

/// The names of all 32-bit floats: inputs, weights and results.
fn float_values(graph: &GraphProto, nodes: &[NodeProto]) -> HashSet<String> {
    let is_float = |element: i32| element == number::FLOAT;
    let inputs = graph.input.iter().filter(|input| {
        let tensor = input.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref());
        tensor.is_some_and(|tensor| is_float(tensor.elem_type))
    });
    let weights = graph.initializer.iter().filter(|tensor| is_float(tensor.data_type));
    let mut floats: HashSet<String> =
        inputs.map(|input| input.name.clone()).chain(weights.map(|tensor| tensor.name.clone())).collect();
    for node in nodes {
        let of_input = |at: usize| node.input.get(at).is_some_and(|input| floats.contains(input));
        let is_float = match node.op_type.as_str() {
            "Cast" => attribute(node, "to").is_some_and(|to| to.i == Some(number::FLOAT.into())),
            "Constant" | "ConstantOfShape" => match attribute(node, "value") {
                Some(value) => value.t.as_ref().is_some_and(|tensor| is_float(tensor.data_type)),
                None => {
                    node.op_type == "ConstantOfShape"
                        || node.attribute.iter().any(|a| a.name.starts_with("value_float"))
                }
            },
            "Where" | "DequantizeLinear" => of_input(1),
            operator if NOT_FLOAT.contains(&operator) => false,
            _ => of_input(0),
        };
        // Second results are positions or masks, but for those of a split.
        let results = if node.op_type == "Split" { node.output.len() } else { 1 };
        if is_float {
            floats.extend(node.output.iter().take(results).cloned());
        }
    }
    floats
}

/// For each node, whether a convolution takes its result, or the result of a node that takes it, and so on.
fn leads_to_convolution(nodes: &[NodeProto]) -> Vec<bool> {
    let mut taken: HashSet<&String> = HashSet::new();
    let mut leads = vec![false; nodes.len()];
    for (node, leads) in nodes.iter().zip(&mut leads).rev() {
        *leads = is_convolution(node) || node.output.iter().any(|output| taken.contains(output));
        if *leads {
            let inputs = node.input.iter().enumerate().filter(|(at, _)| !is_always_float(node, *at));
            taken.extend(inputs.map(|(_, input)| input));
        }
    }
    leads
}

pub(super) fn is_convolution(node: &NodeProto) -> bool {
    node.domain.is_empty() && matches!(node.op_type.as_str(), "Conv" | "ConvTranspose")
}

/// Whether this input has 32 bits in any case: regions and scales.
fn is_always_float(node: &NodeProto, input: usize) -> bool {
    matches!((node.op_type.as_str(), input), ("Resize", 1 | 2) | ("Upsample", 1))
}

struct Pass {
    /// The names of all values that were 32-bit floats.
    floats: HashSet<String>,
    weights: HashMap<String, TensorProto>,
    /// 16-bit copies of weights, by their new names.
    halves: HashMap<String, TensorProto>,
    /// Results that exist in 32 bits, although their node computes in 16.
    wide: HashSet<String>,
    /// Values that exist in 16 bits.
    narrow: HashSet<String>,
    nodes: Vec<NodeProto>,
}

impl Pass {
    fn can_halve(&self, node: &NodeProto) -> bool {
        let fits = |(at, input): (usize, &String)| {
            is_always_float(node, at)
                || self
                    .weights
                    .get(input)
                    .is_none_or(|tensor| tensor.data_type != number::FLOAT || halved(tensor).is_some())
        };
        let is_known = node.domain.is_empty() && OPERATORS.contains(&node.op_type.as_str());
        is_known && node.input.iter().enumerate().all(fits) && (!makes_constant(node) || constant_fits(node))
    }

    fn add(&mut self, mut node: NodeProto, is_half: bool) {
        for at in 0..node.input.len() {
            node.input[at] = self.value(&node.input[at].clone(), is_half && !is_always_float(&node, at));
        }
        if is_half {
            let mut made_half = false;
            for output in node.output.iter_mut().filter(|output| self.floats.contains(*output)) {
                self.narrow.insert(output.clone());
                *output = half_name(output);
                made_half = true;
            }
            if made_half {
                halve_attributes(&mut node);
            }
        }
        self.nodes.push(node);
    }

    /// The name of a value with this number of bits. Converts it if necessary.
    fn value(&mut self, name: &str, is_half: bool) -> String {
        if !self.floats.contains(name) {
            return name.to_owned();
        }
        let half = half_name(name);
        if is_half {
            if self.narrow.insert(name.to_owned()) {
                match self.weights.get(name).and_then(halved) {
                    Some(tensor) => {
                        self.halves.insert(half.clone(), TensorProto { name: half.clone(), ..tensor });
                    }
                    None => {
                        self.wide.insert(name.to_owned());
                        self.nodes.push(cast(name, &half, number::FLOAT16));
                    }
                }
            }
            return half;
        }
        let is_made = !self.narrow.contains(name) || self.weights.contains_key(name);
        if !is_made && self.wide.insert(name.to_owned()) {
            self.nodes.push(cast(&half, name, number::FLOAT));
        }
        name.to_owned()
    }
}

fn half_name(name: &str) -> String {
    format!("{name}.f16")
}

/// Makes a node that says its result's type say 16 bits.
fn halve_attributes(node: &mut NodeProto) {
    match node.op_type.as_str() {
        "Cast" => node.attribute = vec![int("to", number::FLOAT16.into())],
        _ if makes_constant(node) => {
            for tensor in node.attribute.iter_mut().filter_map(|attribute| attribute.t.as_mut()) {
                if let Some(half) = halved(tensor) {
                    *tensor = half;
                }
            }
        }
        _ => {}
    }
}

fn makes_constant(node: &NodeProto) -> bool {
    matches!(node.op_type.as_str(), "Constant" | "ConstantOfShape")
}

/// Whether the value of a node that makes a constant is a tensor that fits into 16 bits or is not of floats.
fn constant_fits(node: &NodeProto) -> bool {
    let tensor = attribute(node, "value").and_then(|value| value.t.as_ref());
    tensor.is_some_and(|tensor| tensor.data_type != number::FLOAT || halved(tensor).is_some())
}

/// A float32 tensor in 16 bits. `None` if it is not one, is stored in another file, or has an element that does not fit.
fn halved(tensor: &TensorProto) -> Option<TensorProto> {
    let halves: Vec<f16> = tensor.floats()?.into_iter().map(f16::from_f32).collect();
    halves.iter().all(|half| half.is_finite()).then(|| TensorProto {
        dims: tensor.dims.clone(),
        data_type: number::FLOAT16,
        name: tensor.name.clone(),
        raw_data: Some(halves.iter().flat_map(|half| half.to_le_bytes()).collect::<Vec<u8>>().into()),
        ..TensorProto::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zoo::graph::{float_tensor, int_tensor, node};
    use crate::zoo::onnx::{TensorTypeProto, TypeProto, ValueInfoProto};

    fn value(name: &str) -> ValueInfoProto {
        let tensor = TensorTypeProto { elem_type: number::FLOAT, shape: None };
        ValueInfoProto {
            name: name.into(),
            r#type: Some(TypeProto { tensor_type: Some(tensor), ..TypeProto::default() }),
        }
    }

    /// An image is enlarged, goes through a convolution, and is scaled. `weight` is the convolution's.
    fn graph(weight: f32) -> GraphProto {
        GraphProto {
            node: vec![
                node("Resize", "large", &["x", "", "scales"], "large", vec![]),
                node("Conv", "made", &["large", "weight"], "made", vec![]),
                node("Shape", "shape", &["made"], "shape", vec![]),
                node("Mul", "y", &["made", "gain"], "y", vec![]),
            ],
            initializer: vec![
                float_tensor("scales", &[4], &[1.0, 1.0, 2.0, 2.0]),
                float_tensor("weight", &[1, 1, 1, 1], &[weight]),
                float_tensor("gain", &[], &[70_000.0]),
                int_tensor("unused", &[1], &[1]),
            ],
            input: vec![value("x")],
            output: vec![value("y")],
            ..GraphProto::default()
        }
    }

    fn nodes(graph: &GraphProto) -> Vec<String> {
        let text =
            |node: &NodeProto| format!("{}({}) = {}", node.op_type, node.input.join(", "), node.output.join(", "));
        graph.node.iter().map(text).collect()
    }

    #[test]
    fn what_leads_to_a_convolution_has_16_bits_and_the_rest_32() {
        let mut graph = graph(2.0);
        assert_eq!(compute_in_half(&mut graph), 1);
        assert_eq!(
            nodes(&graph),
            [
                "Cast(x) = x.f16",
                "Resize(x.f16, , scales) = large.f16",
                "Conv(large.f16, weight.f16) = made.f16",
                "Cast(made.f16) = made",
                "Shape(made) = shape",
                "Mul(made, gain) = y",
            ]
        );
        let weights: Vec<(&str, i32)> =
            graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor.data_type)).collect();
        assert_eq!(weights, [("gain", number::FLOAT), ("scales", number::FLOAT), ("weight.f16", number::FLOAT16)]);
    }

    #[test]
    fn a_convolution_whose_weights_do_not_fit_stays() {
        let mut graph = graph(65_520.0);
        assert_eq!(compute_in_half(&mut graph), 0);
        assert!(nodes(&graph).contains(&"Conv(large, weight) = made".to_owned()));
    }

    #[test]
    fn integers_before_a_convolution_become_floats_of_16_bits() {
        let mut graph = GraphProto {
            node: vec![
                node("QuantizeLinear", "integers", &["x", "scale"], "integers", vec![]),
                node("DequantizeLinear", "rounded", &["integers", "scale"], "rounded", vec![]),
                node("Conv", "y", &["rounded", "weight"], "y", vec![]),
            ],
            initializer: vec![float_tensor("scale", &[], &[0.5]), float_tensor("weight", &[1, 1, 1, 1], &[2.0])],
            ..graph(2.0)
        };
        assert_eq!(compute_in_half(&mut graph), 1);
        assert_eq!(
            nodes(&graph),
            [
                "QuantizeLinear(x, scale) = integers",
                "DequantizeLinear(integers, scale) = rounded",
                "Cast(rounded) = rounded.f16",
                "Conv(rounded.f16, weight.f16) = y.f16",
                "Cast(y.f16) = y",
            ]
        );
    }

    #[test]
    fn a_graph_with_a_branch_stays() {
        let mut graph = graph(2.0);
        let branch = AttributeProto { r#type: number::ATTRIBUTE_GRAPH, ..AttributeProto::default() };
        graph.node.push(node("If", "branch", &["shape"], "z", vec![branch]));
        let before = graph.clone();
        assert_eq!(compute_in_half(&mut graph), 0);
        assert_eq!(graph, before);
    }
}
