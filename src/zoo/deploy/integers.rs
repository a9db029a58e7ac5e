//! Quantised models on devices that decide themselves where to compute with integers.

use std::collections::{HashMap, HashSet};

use crate::zoo::graph::float_tensor;
use crate::zoo::onnx::{GraphProto, TensorProto, number};

/// Removes the rounding of values that no convolution takes. ONNX Runtime's own kernels need it to compute with integers in
/// between; other libraries would only round more.
pub(super) fn round_only_before_convolutions(graph: &mut GraphProto) {
    let quantized: HashMap<String, String> = graph
        .node
        .iter()
        .filter(|node| node.op_type == "QuantizeLinear")
        .map(|node| (node.output[0].clone(), node.input[0].clone()))
        .collect();
    let convolved: HashSet<&String> =
        graph.node.iter().filter(|node| node.op_type == "Conv").filter_map(|node| node.input.first()).collect();
    let removed: HashMap<String, String> = graph
        .node
        .iter()
        .filter(|node| node.op_type == "DequantizeLinear" && !convolved.contains(&node.output[0]))
        .filter_map(|node| Some((node.output[0].clone(), quantized.get(&node.input[0])?.clone())))
        .collect();
    for input in graph.node.iter_mut().flat_map(|node| &mut node.input) {
        if let Some(exact) = removed.get(input) {
            input.clone_from(exact);
        }
    }
    graph.node.retain(|node| !removed.contains_key(&node.output[0]));
    let read: HashSet<String> = graph.node.iter().flat_map(|node| node.input.clone()).collect();
    graph.node.retain(|node| node.op_type != "QuantizeLinear" || read.contains(&node.output[0]));
}

/// Makes unsigned integers with a zero of their own signed ones with the zero 0, which is all that TensorRT takes, and biases
/// floats. A range that is not symmetric loses up to half of its levels.
pub(super) fn make_symmetric(graph: &mut GraphProto) {
    let weights: HashMap<String, TensorProto> =
        graph.initializer.iter().map(|tensor| (tensor.name.clone(), tensor.clone())).collect();
    let mut made: HashMap<String, TensorProto> = HashMap::new();
    let mut biases = HashSet::new();
    for node in &mut graph.node {
        match (node.op_type.as_str(), node.input.as_slice()) {
            ("QuantizeLinear" | "DequantizeLinear", [_, scale, zero]) => {
                let known = weights.get(scale).and_then(TensorProto::floats).zip(weights.get(zero));
                let Some((scales, zeros)) = known.filter(|(_, zero)| zero.data_type == number::UINT8) else { continue };
                let (Some(step), Some(from)) = (scales.first(), zeros.raw_data.as_ref().and_then(|raw| raw.first()))
                else {
                    continue;
                };
                let reach = f32::from((*from).max(u8::MAX - *from));
                let (scale, zero) = (format!("{scale}.symmetric"), format!("{zero}.symmetric"));
                let raw_data = Some(vec![0].into());
                let symmetric =
                    TensorProto { name: zero.clone(), data_type: number::INT8, raw_data, ..TensorProto::default() };
                made.insert(scale.clone(), float_tensor(&scale, &[], &[step * reach / f32::from(i8::MAX)]));
                made.insert(zero.clone(), symmetric);
                node.input.truncate(1);
                node.input.extend([scale, zero]);
            }
            ("DequantizeLinear", [integers, scale]) => {
                let integers = weights.get(integers).filter(|tensor| tensor.data_type == number::INT32);
                let integers = integers.and_then(|tensor| tensor.raw_data.as_ref());
                let scales = weights.get(scale).and_then(TensorProto::floats);
                let Some((integers, scales)) = integers.zip(scales) else { continue };
                let (words, _) = integers.as_chunks::<4>();
                let exact = words.iter().zip(&scales).map(|(&word, scale)| i32::from_le_bytes(word) as f32 * scale);
                let exact: Vec<f32> = exact.collect();
                let name = node.output[0].clone();
                made.insert(name.clone(), float_tensor(&name, &[exact.len()], &exact));
                biases.insert(name);
            }
            _ => {}
        }
    }
    graph.node.retain(|node| !biases.contains(&node.output[0]));
    let read: HashSet<&String> = graph.node.iter().flat_map(|node| &node.input).collect();
    graph.initializer.retain(|tensor| read.contains(&tensor.name));
    let mut made: Vec<TensorProto> = made.into_values().collect();
    made.sort_by(|a, b| a.name.cmp(&b.name));
    graph.initializer.extend(made);
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::error::Result;
    use crate::zoo::graph::{GraphBuilder, Window};
    use crate::zoo::quantize::{Observation, Observations, Quantizer, WeightBits};
    use crate::zoo::weights::Weights;

    struct Halves;

    impl Weights for Halves {
        fn tensor(&mut self, _: &str, shape: &[usize]) -> Result<Vec<f32>> {
            Ok(vec![0.5; shape.iter().product()])
        }
    }

    /// Two convolutions with a SiLU between them, quantised. All values reach from -1 to 4.
    fn quantised() -> GraphProto {
        let mut weights = Halves;
        let mut builder = GraphBuilder::new("g", &mut weights);
        let input = builder.input("x", &[3, 4]);
        let first = builder.conv("first", &input, 2, &Window::valid(&[1], &[1]), None).unwrap();
        let first = builder.silu(&first);
        let second = builder.conv("second", &first, 2, &Window::valid(&[1], &[1]), None).unwrap();
        builder.output(&second, "y");
        let quantizer = Quantizer::new(builder.finish().unwrap(), false, WeightBits::Eight).unwrap();
        let mut observation = Observation::default();
        observation.add(&[1, 3, 2], &[-1.0, 4.0, 0.0, 0.0, 0.0, 0.0]);
        let observations: Observations =
            quantizer.observed().into_iter().map(|name| (name, observation.clone())).collect();
        quantizer.quantize(&[0, 1].into(), &observations).graph.unwrap()
    }

    fn rounded(graph: &GraphProto) -> Vec<&str> {
        let rounding = graph.node.iter().filter(|node| node.op_type == "QuantizeLinear");
        rounding.map(|node| node.input[0].as_str()).collect()
    }

    #[test]
    fn only_values_that_convolutions_take_stay_rounded() {
        let mut graph = quantised();
        assert_eq!(rounded(&graph), ["x", "first", "Sigmoid_1", "Mul_2", "y"]);
        round_only_before_convolutions(&mut graph);
        assert_eq!(rounded(&graph), ["x", "Mul_2"]);
        let silu = graph.node.iter().find(|node| node.op_type == "Mul").unwrap();
        assert_eq!(silu.input, ["first", "Sigmoid_1"]);
    }

    #[test]
    fn unsigned_values_become_signed_with_the_same_reach_and_biases_floats() {
        let mut graph = quantised();
        make_symmetric(&mut graph);
        let weight = |name: &str| graph.initializer.iter().find(|tensor| tensor.name == name).unwrap();
        let quantize = graph.node.iter().find(|node| node.op_type == "QuantizeLinear").unwrap();
        let scale = weight(&quantize.input[1]).floats().unwrap()[0];
        assert!((scale * 127.0 - 4.0).abs() < 0.05, "{scale}");
        let zero = weight(&quantize.input[2]);
        assert_eq!((zero.data_type, zero.raw_data.as_deref()), (number::INT8, Some(&[0][..])));
        let conv = graph.node.iter().find(|node| node.op_type == "Conv").unwrap();
        assert!((weight(&conv.input[2]).floats().unwrap()[0] - 0.5).abs() < 1e-4);
        assert!(graph.initializer.iter().all(|tensor| !matches!(tensor.data_type, number::UINT8 | number::INT32)));
    }
}
