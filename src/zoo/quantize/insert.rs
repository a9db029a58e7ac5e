//! Writes the rounding into the graph: weights and biases as integers, and pairs of `QuantizeLinear` and `DequantizeLinear`
//! behind the values that are rounded.

use std::collections::{HashMap, HashSet};

use super::observe::Scale;
use super::points::Points;
use super::{Layer, Observations, WeightBits};
use crate::zoo::graph::{float_tensor, int, node};
use crate::zoo::onnx::{GraphProto, NodeProto, TensorProto, number};

/// Biases are 32-bit integers, and must not overflow when products are added to them.
const BIAS_MAX: f32 = (1 << 30) as f32;

/// Weights in 8 bits, with a scale per output channel.
#[derive(Debug)]
pub(super) struct QuantizedWeight {
    values: Vec<f32>,
    integers: Vec<i8>,
    scales: Vec<f32>,
}

impl QuantizedWeight {
    pub(super) fn of(weight: &TensorProto, bits: WeightBits) -> Self {
        let limit = bits.max();
        let values = weight.floats().unwrap_or_default();
        let outputs = weight.dims.first().map_or(1, |&outputs| outputs.max(1) as usize);
        let length = (values.len() / outputs).max(1);
        let scale = |filter: &[f32]| {
            let max = filter.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
            // A filter of zeros has no scale of its own.
            if max > 0.0 { max / limit } else { 1.0 }
        };
        let scales: Vec<f32> = values.chunks(length).map(scale).collect();
        let rounded = |(filter, &scale): (&[f32], &f32)| {
            filter.iter().map(|value| (value / scale).round().clamp(-limit, limit) as i8).collect::<Vec<_>>()
        };
        let integers = values.chunks(length).zip(&scales).flat_map(rounded).collect();
        Self { values, integers, scales }
    }

    /// The mean squared error, relative to the mean square.
    pub(super) fn noise(&self) -> f64 {
        let (mut error, mut power) = (0.0, 0.0);
        for (value, rounding) in self.values.iter().zip(self.errors()) {
            error += f64::from(rounding * rounding);
            power += f64::from(value * value);
        }
        if power > 0.0 { error / power } else { 0.0 }
    }

    /// What rounding takes from each weight.
    fn errors(&self) -> impl Iterator<Item = f32> {
        let length = (self.values.len() / self.scales.len().max(1)).max(1);
        let error = move |(at, value): (usize, &f32)| value - f32::from(self.integers[at]) * self.scales[at / length];
        self.values.iter().enumerate().map(error)
    }

    /// What rounding takes from the mean of each output channel, given the mean of each input channel.
    fn bias_errors(&self, means: &[f64], groups: usize) -> Vec<f64> {
        let outputs = self.scales.len();
        let length = (self.values.len() / outputs.max(1)).max(1);
        let inputs = means.len() / groups;
        let area = (length / inputs.max(1)).max(1);
        let mut lost = vec![0.0; outputs];
        for (at, error) in self.errors().enumerate() {
            let (output, input) = (at / length, at % length / area);
            let group = output * groups / outputs.max(1);
            lost[output] += f64::from(error) * means.get(group * inputs + input).copied().unwrap_or(0.0);
        }
        lost
    }
}

/// Replaces the weights of a convolution by integers. `input_scale` is the scale of its rounded input, with which runtimes
/// expect the bias to be scaled.
pub(super) fn quantize_layer(
    graph: &mut GraphProto,
    layer: &Layer,
    observations: &Observations,
    input_scale: f32,
    bits: WeightBits,
) {
    let find = |name: &str| graph.initializer.iter().find(|tensor| tensor.name == name).cloned();
    let Some(weight) = find(&layer.weight) else { return };
    let mut quantized = QuantizedWeight::of(&weight, bits);
    let mut bias = layer.bias.as_deref().and_then(find).and_then(|bias| bias.floats());
    if let Some(observed) = observations.get(&layer.input) {
        let lost = quantized.bias_errors(&observed.means(), layer.groups);
        let exact = bias.get_or_insert_with(|| vec![0.0; quantized.scales.len()]);
        exact.iter_mut().zip(lost).for_each(|(bias, lost)| *bias += lost as f32);
    }
    if let Some(bias) = &bias {
        let least = bias.iter().map(|bias| bias.abs() / BIAS_MAX / input_scale);
        let raised: Vec<f32> = quantized.scales.iter().zip(least).map(|(scale, least)| scale.max(least)).collect();
        if raised != quantized.scales {
            let length = quantized.values.len() / raised.len();
            for (at, integer) in quantized.integers.iter_mut().enumerate() {
                *integer = (quantized.values[at] / raised[at / length]).round() as i8;
            }
            quantized.scales = raised;
        }
    }
    // Several convolutions may share a weight, but not the scale of a bias.
    let name = graph.node[layer.node].output[0].clone();
    let weight_name = format!("{name}.int8_weight");
    let bytes = quantized.integers.iter().map(|integer| integer.to_le_bytes()[0]).collect();
    let mut added = vec![dequantize(
        graph,
        &weight_name,
        raw_tensor(&weight_name, &weight.dims, number::INT8, bytes),
        &quantized.scales,
    )];
    let mut inputs = vec![layer.input.clone(), added[0].output[0].clone()];
    if let Some(bias) = bias {
        let scales: Vec<f32> = quantized.scales.iter().map(|scale| scale * input_scale).collect();
        let integers = bias.iter().zip(&scales).map(|(bias, scale)| (bias / scale).round() as i32);
        let bytes = integers.flat_map(i32::to_le_bytes).collect();
        let bias_name = format!("{name}.int32_bias");
        let tensor = raw_tensor(&bias_name, &[scales.len() as i64], number::INT32, bytes);
        added.push(dequantize(graph, &bias_name, tensor, &scales));
        inputs.push(added[1].output[0].clone());
    }
    graph.node[layer.node].input = inputs;
    graph.node.append(&mut added);
}

/// Adds the pairs, puts all nodes in order, and removes weights that nothing reads any more.
pub(super) fn quantize_values(graph: &mut GraphProto, points: &Points, observations: &Observations) {
    // The nodes of the weights depend on nothing.
    let (weights, nodes): (Vec<_>, Vec<_>) =
        std::mem::take(&mut graph.node).into_iter().partition(|node| node.op_type == "DequantizeLinear");
    let inputs = graph.input.iter().map(|input| input.name.clone());
    let values: Vec<String> = inputs.chain(nodes.iter().flat_map(|node| node.output.clone())).collect();
    let mut pairs: HashMap<String, [NodeProto; 2]> = HashMap::new();
    for value in values {
        if let Some((root, observed)) = points.root(&value).and_then(|root| Some((root, observations.get(root)?))) {
            let pair = pair(graph, &value, root, observed.scale());
            pairs.insert(value, pair);
        }
    }
    let rounded: HashMap<String, String> =
        pairs.iter().map(|(value, [_, dequantize])| (value.clone(), dequantize.output[0].clone())).collect();
    graph.node = weights;
    let given: Vec<String> = graph.input.iter().map(|input| input.name.clone()).collect();
    graph.node.extend(given.iter().filter_map(|input| pairs.remove(input)).flatten());
    for mut node in nodes {
        for input in &mut node.input {
            if let Some(rounded) = rounded.get(input) {
                input.clone_from(rounded);
            }
        }
        let made: Vec<NodeProto> = node.output.iter().filter_map(|output| pairs.remove(output)).flatten().collect();
        graph.node.push(node);
        graph.node.extend(made);
    }
    let read: HashSet<&String> =
        graph.node.iter().flat_map(|node| &node.input).chain(graph.output.iter().map(|output| &output.name)).collect();
    let weights: HashSet<String> = graph.initializer.iter().map(|tensor| tensor.name.clone()).collect();
    graph.initializer.retain(|tensor| read.contains(&tensor.name));
    // Old exporters list weights among the inputs.
    graph.input.retain(|input| read.contains(&input.name) || !weights.contains(&input.name));
}

/// The pair that rounds a value.
fn pair(graph: &mut GraphProto, value: &str, root: &str, scale: Scale) -> [NodeProto; 2] {
    let (scale_name, zero_name) = (format!("{root}.scale"), format!("{root}.zero"));
    if !graph.initializer.iter().any(|tensor| tensor.name == scale_name) {
        graph.initializer.push(float_tensor(&scale_name, &[], &[scale.scale]));
        graph.initializer.push(raw_tensor(&zero_name, &[], number::UINT8, vec![scale.zero]));
    }
    let (rounded, exact) = (format!("{value}.quantized"), format!("{value}.dequantized"));
    [
        node("QuantizeLinear", &rounded, &[value, &scale_name, &zero_name], &rounded, vec![]),
        node("DequantizeLinear", &exact, &[&rounded, &scale_name, &zero_name], &exact, vec![]),
    ]
}

/// Adds integers with a scale per element of the first dimension, and returns the node that converts them.
fn dequantize(graph: &mut GraphProto, name: &str, integers: TensorProto, scales: &[f32]) -> NodeProto {
    let scale = format!("{name}.scale");
    graph.initializer.push(integers);
    graph.initializer.push(float_tensor(&scale, &[scales.len()], scales));
    node(
        "DequantizeLinear",
        &format!("{name}.dequantized"),
        &[name, &scale],
        &format!("{name}.dequantized"),
        vec![int("axis", 0)],
    )
}

fn raw_tensor(name: &str, dims: &[i64], element: i32, bytes: Vec<u8>) -> TensorProto {
    TensorProto {
        dims: dims.to_vec(),
        data_type: element,
        name: name.into(),
        raw_data: Some(bytes.into()),
        ..TensorProto::default()
    }
}
