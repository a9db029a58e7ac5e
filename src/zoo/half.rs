//! Stores a model's weights as 16-bit floats, which halves the file. They are widened to 32 bits when the model is
//! opened, so computations still use 32-bit floats.

use std::collections::{HashMap, HashSet};

use half::f16;

use crate::zoo::graph::{attribute, float_tensor, int, node};
use crate::zoo::onnx::{ModelProto, NodeProto, TensorProto, number};

/// Converts the weights of convolutions and matrix products to 16 bits, each followed by a `Cast` that runtimes fold
/// away. Biases stay as they are, and so do weights that a 16-bit float cannot represent (65 520 and above, or NaN).
pub fn halve(mut model: ModelProto) -> ModelProto {
    let Some(graph) = model.graph.as_mut() else { return model };
    let products = graph.node.iter().filter(|node| matches!(node.op_type.as_str(), "Conv" | "Gemm" | "MatMul"));
    let weights: HashSet<String> = products.flat_map(|node| node.input.iter().take(2).cloned()).collect();
    let mut casts = Vec::new();
    for tensor in graph.initializer.iter_mut().filter(|tensor| weights.contains(&tensor.name)) {
        let Some(halves) = halves(tensor) else { continue };
        let stored = format!("{}.half", tensor.name);
        let to = vec![int("to", number::FLOAT.into())];
        casts.push(node("Cast", &stored, &[&stored], &tensor.name, to));
        tensor.name = stored;
        tensor.data_type = number::FLOAT16;
        tensor.raw_data = Some(halves.into());
    }
    graph.node.splice(..0, casts);
    model
}

/// Stores weights as 32-bit floats again: the reverse of [`halve`], with the rounded weights.
pub(super) fn widen(model: &mut ModelProto) {
    let Some(graph) = model.graph.as_mut() else { return };
    let is_to_float = |node: &&NodeProto| {
        node.op_type == "Cast" && attribute(node, "to").is_some_and(|to| to.i == Some(number::FLOAT.into()))
    };
    let casts = graph.node.iter().filter(is_to_float);
    let made: HashMap<String, String> = casts.map(|node| (node.input[0].clone(), node.output[0].clone())).collect();
    let mut widened = HashSet::new();
    for tensor in &mut graph.initializer {
        if let Some((name, values)) = made.get(&tensor.name).zip(tensor.halves()) {
            let shape: Vec<usize> = tensor.dims.iter().map(|&length| length as usize).collect();
            *tensor = float_tensor(name, &shape, &values);
            widened.insert(name.clone());
        }
    }
    graph.node.retain(|node| !widened.contains(&node.output[0]));
}

/// A tensor's elements as little-endian 16-bit floats, if it is a float32 tensor and all elements fit.
fn halves(tensor: &TensorProto) -> Option<Vec<u8>> {
    let raw = tensor.raw_data.as_ref().filter(|_| tensor.data_type == number::FLOAT)?;
    let (words, _) = raw.as_chunks::<4>();
    let mut halves = Vec::with_capacity(raw.len() / 2);
    for &word in words {
        let half = f16::from_f32(f32::from_le_bytes(word));
        if !half.is_finite() {
            return None;
        }
        halves.extend_from_slice(&half.to_le_bytes());
    }
    Some(halves)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use prost::Message;

    use super::*;
    use crate::error::Result;
    use crate::zoo::graph::{GraphBuilder, Window};
    use crate::zoo::inspect;
    use crate::zoo::weights::{RandomWeights, Weights};
    use crate::zoo::yolov5;

    #[test]
    fn the_file_is_half_as_large_and_has_the_same_counts() {
        let config = yolov5::YoloConfig { height: 64, width: 64, ..yolov5::YoloConfig::of_size('n').unwrap() };
        let model = yolov5::build(&config, &mut RandomWeights::new(1)).unwrap();
        let halved = halve(model.clone());
        let share = halved.encoded_len() as f64 / model.encoded_len() as f64;
        assert!((0.5..0.52).contains(&share), "{share}");
        let count = |model: &ModelProto| inspect::count(model.graph.as_ref().unwrap());
        assert_eq!(count(&halved), count(&model));
        assert_eq!(halve(halved.clone()), halved, "there is nothing left to halve");
        let mut widened = halved.clone();
        widen(&mut widened);
        assert_eq!(halve(widened), halved);
    }

    #[test]
    fn a_weight_that_does_not_fit_stays() {
        struct Same(f32);

        impl Weights for Same {
            fn tensor(&mut self, _: &str, shape: &[usize]) -> Result<Vec<f32>> {
                Ok(vec![self.0; shape.iter().product()])
            }
        }

        for (value, data_type) in [(65_519.0, number::FLOAT16), (65_520.0, number::FLOAT), (f32::NAN, number::FLOAT)] {
            let mut weights = Same(value);
            let mut builder = GraphBuilder::new("g", &mut weights);
            let input = builder.input("x", &[3, 4]);
            let output = builder.conv("conv", &input, 2, &Window::valid(&[1], &[1]), None).unwrap();
            builder.output(&output, "y");
            let graph = halve(builder.finish().unwrap()).graph.unwrap();
            assert_eq!(graph.initializer[0].data_type, data_type, "{value}");
            assert_eq!(graph.initializer[1].data_type, number::FLOAT, "the bias");
        }
    }
}
