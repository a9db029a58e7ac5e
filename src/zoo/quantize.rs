//! Quantises a network: its convolutions compute with 8-bit integers, which is several times faster on processors with
//! instructions for them.
//!
//! Weights are signed and get a scale per output channel; activations are unsigned and get one scale and one zero per value
//! (Krishnamoorthi, arXiv 1806.08342). The graph says so with pairs of `QuantizeLinear` and `DequantizeLinear`, which ONNX
//! Runtime, OpenVINO and TensorRT fuse with the operators between them.

mod insert;
mod observe;
mod points;

use std::collections::{HashMap, HashSet};

pub use observe::{Observation, Scale};

use crate::error::{Error, Result};
use crate::zoo::graph::{attribute, output_info};
use crate::zoo::onnx::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, number};
use crate::zoo::{half, inspect};
use points::Points;

/// The oldest operator set in which weights can have a scale per channel.
const OPSET_MIN: i64 = 13;

/// What was seen of each value, by its name.
pub type Observations = HashMap<String, Observation>;

/// How many bits of an 8-bit weight are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum WeightBits {
    /// -63 to 63. Processors without instructions for 8-bit products (VNNI) add two of them in 16 bits, which would overflow
    /// otherwise.
    Seven,
    /// -127 to 127.
    Eight,
}

impl WeightBits {
    fn max(self) -> f32 {
        match self {
            Self::Seven => 63.0,
            Self::Eight => 127.0,
        }
    }
}

/// A network that can be quantised.
#[derive(Debug, Clone)]
pub struct Quantizer {
    model: ModelProto,
    layers: Vec<Layer>,
    bits: WeightBits,
}

/// A convolution that can be quantised.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Its name, or that of its output if it has none.
    pub name: String,
    /// Index of its node.
    node: usize,
    input: String,
    weight: String,
    bias: Option<String>,
    /// Number of groups of channels.
    groups: usize,
    /// Whether another convolution follows. The last ones of a detector stay in floating point, because boxes need more
    /// than 256 values.
    is_followed: bool,
}

impl Quantizer {
    /// Finds the convolutions that can be quantised. With `spare_last`, those that no other convolution follows cannot.
    ///
    /// # Errors
    /// A usage error if there is none or the graph does not allow it.
    pub fn new(mut model: ModelProto, spare_last: bool, bits: WeightBits) -> Result<Self> {
        let refused =
            |why: &str, hint: &str| Err(Error::usage(format!("the model cannot be quantised: {why}")).with_hint(hint));
        half::widen(&mut model);
        let opset = inspect::opset(&model);
        let Some(graph) = &model.graph else { return refused("it has no graph", "convert it again") };
        if graph.node.iter().any(|node| matches!(node.op_type.as_str(), "QuantizeLinear" | "DequantizeLinear")) {
            return refused("it is quantised already", "give the model that it was made from");
        }
        let has_subgraph =
            |attribute: &AttributeProto| matches!(attribute.r#type, number::ATTRIBUTE_GRAPH | number::ATTRIBUTE_GRAPHS);
        if graph.node.iter().flat_map(|node| &node.attribute).any(has_subgraph) {
            return refused("its graph has branches", "export it without control flow");
        }
        if opset < OPSET_MIN {
            let why =
                format!("it has operator set {opset}, but weights have a scale per channel only from {OPSET_MIN} on");
            return refused(
                &why,
                "export it with a newer operator set: `opset=17` in YOLOv5, `opset_version=17` in PyTorch",
            );
        }
        let mut layers = layers(graph);
        if spare_last {
            layers.retain(|layer| layer.is_followed);
        }
        if layers.is_empty() {
            return refused(
                "it has no convolution with 32-bit weights in the file itself",
                "export it in 32-bit floats and without external data",
            );
        }
        Ok(Self { model, layers, bits })
    }

    /// The exact network.
    pub fn original(&self) -> &ModelProto {
        &self.model
    }

    /// The convolutions that can be quantised.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The names of the values whose range must be known.
    pub fn observed(&self) -> Vec<String> {
        let all: HashSet<usize> = (0..self.layers.len()).collect();
        let points = self.points(&all);
        let mut names: Vec<String> =
            points.roots().chain(self.layers.iter().map(|layer| layer.input.clone())).collect();
        names.sort();
        names.dedup();
        names
    }

    /// The network with these values as further outputs.
    pub fn observing(&self, names: &[String]) -> ModelProto {
        let mut model = self.model.clone();
        if let Some(graph) = &mut model.graph {
            let is_new = |name: &&String| !graph.output.iter().any(|output| output.name == **name);
            let added: Vec<_> = names.iter().filter(is_new).map(|name| output_info(name)).collect();
            graph.output.extend(added);
        }
        model
    }

    /// How much the quantised convolution differs from the exact one: the power of the rounding errors of its input and its
    /// weights, each relative to the power of what is rounded.
    pub fn noise(&self, layer: &Layer, observations: &Observations) -> f64 {
        let of_input = observations.get(&layer.input).map_or(0.0, Observation::noise);
        let of_weight =
            self.weight(&layer.weight).map_or(0.0, |weight| insert::QuantizedWeight::of(&weight, self.bits).noise());
        of_input + of_weight
    }

    /// The network in which the layers with these numbers are quantised.
    pub fn quantize(&self, layers: &HashSet<usize>, observations: &Observations) -> ModelProto {
        let points = self.points(layers);
        let mut model = self.model.clone();
        if !model.metadata_props.iter().any(|entry| entry.key == inspect::NOTED_PARAMETERS) {
            let counts = model.graph.as_ref().map(inspect::counts);
            model.metadata_props.extend(counts.into_iter().flatten());
        }
        if let Some(graph) = &mut model.graph {
            let chosen = self.layers.iter().enumerate().filter(|(number, _)| layers.contains(number));
            for (_, layer) in chosen {
                let root = points.root(&layer.input).and_then(|root| observations.get(root));
                let input_scale = root.map_or(1.0, |observed| observed.scale().scale);
                insert::quantize_layer(graph, layer, observations, input_scale, self.bits);
            }
            insert::quantize_values(graph, &points, observations);
        }
        model
    }

    fn points(&self, layers: &HashSet<usize>) -> Points {
        let chosen = self.layers.iter().enumerate().filter(|(number, _)| layers.contains(number));
        let chosen: Vec<&Layer> = chosen.map(|(_, layer)| layer).collect();
        Points::of(self.model.graph.as_ref(), &chosen)
    }

    fn weight(&self, name: &str) -> Option<TensorProto> {
        self.model.graph.as_ref()?.initializer.iter().find(|tensor| tensor.name == name).cloned()
    }
}

fn layers(graph: &GraphProto) -> Vec<Layer> {
    let weights: HashMap<&str, &TensorProto> =
        graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let is_known = |name: &str| weights.get(name).is_some_and(|tensor| tensor.floats().is_some());
    let followed = followed_by_convolution(graph);
    let layer = |(number, node): (usize, &NodeProto)| {
        let (input, weight) = (node.input.first()?, node.input.get(1)?);
        let bias = node.input.get(2).filter(|bias| !bias.is_empty());
        let is_fit = is_weighted(node) && is_known(weight) && bias.is_none_or(|bias| is_known(bias));
        let outputs = weights.get(weight.as_str())?.dims.first().copied();
        // A single output channel is a weighted mean, such as that of the distances in the head of a YOLOv8.
        (is_fit && outputs > Some(1)).then(|| Layer {
            name: if node.name.is_empty() { node.output[0].clone() } else { node.name.clone() },
            node: number,
            input: input.clone(),
            weight: weight.clone(),
            bias: bias.cloned(),
            groups: attribute(node, "group").and_then(|group| group.i).map_or(1, |groups| groups.max(1) as usize),
            is_followed: followed[number],
        })
    };
    graph.node.iter().enumerate().filter_map(layer).collect()
}

fn is_weighted(node: &NodeProto) -> bool {
    node.domain.is_empty() && node.op_type == "Conv"
}

/// For each node, whether its result reaches a convolution of more than one channel.
fn followed_by_convolution(graph: &GraphProto) -> Vec<bool> {
    let channels: HashMap<&str, Option<i64>> =
        graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor.dims.first().copied())).collect();
    let is_wide = |node: &NodeProto| {
        let weight = node.input.get(1).and_then(|weight| channels.get(weight.as_str()));
        is_weighted(node) && weight.copied().flatten() != Some(1)
    };
    let mut reaching: HashSet<&str> = HashSet::new();
    let mut followed = vec![false; graph.node.len()];
    for (number, node) in graph.node.iter().enumerate().rev() {
        followed[number] = node.output.iter().any(|output| reaching.contains(output.as_str()));
        if followed[number] || is_wide(node) {
            reaching.extend(node.input.iter().map(String::as_str));
        }
    }
    followed
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::zoo::graph::{GraphBuilder, Window};
    use crate::zoo::weights::RandomWeights;

    /// Two convolutions with a pool between them, the first of which is activated.
    fn model() -> ModelProto {
        let mut weights = RandomWeights::new(1);
        let mut builder = GraphBuilder::new("g", &mut weights);
        let input = builder.input("x", &[3, 8]);
        let first = builder.conv("first", &input, 4, &Window::same(&[3], &[1]), None).unwrap();
        let first = builder.relu(&first);
        let pooled = builder.max_pool(&first, &Window::valid(&[2], &[2]));
        let second = builder.conv("second", &pooled, 2, &Window::same(&[3], &[1]), None).unwrap();
        builder.output(&second, "y");
        builder.finish().unwrap()
    }

    /// Each value reaches further than the one before.
    fn observations(quantizer: &Quantizer) -> Observations {
        let observed = |(number, name): (usize, String)| {
            let mut observation = Observation::default();
            observation.add(&[1, 1, 2], &[0.0, (number + 1) as f32]);
            (name, observation)
        };
        quantizer.observed().into_iter().enumerate().map(observed).collect()
    }

    fn tensor(graph: &GraphProto, name: &str) -> TensorProto {
        graph.initializer.iter().find(|tensor| tensor.name == name).cloned().unwrap()
    }

    #[test]
    fn values_that_are_only_moved_keep_their_scale_and_biases_have_it_too() {
        let quantizer = Quantizer::new(model(), false, WeightBits::Eight).unwrap();
        let observations = observations(&quantizer);
        let graph = quantizer.quantize(&[0, 1].into(), &observations).graph.unwrap();
        let node = |output: &str| graph.node.iter().find(|node| node.output[0] == output).unwrap();
        let text: Vec<String> = graph.node.iter().map(|node| format!("{} {}", node.op_type, node.output[0])).collect();
        let rounded: Vec<&String> = text.iter().filter(|text| text.starts_with("QuantizeLinear")).collect();
        assert_eq!(
            rounded,
            ["x", "Relu_1", "MaxPool_2", "y"].map(|value| format!("QuantizeLinear {value}.quantized")).each_ref()
        );
        assert_eq!(node("MaxPool_2.quantized").input[1..], ["Relu_1.scale", "Relu_1.zero"]);
        let scale = tensor(&graph, "Relu_1.scale").floats().unwrap()[0];
        let weights = tensor(&graph, &node("y").input[1].replace(".dequantized", ".scale")).floats().unwrap();
        let biases = tensor(&graph, &node("y").input[2].replace(".dequantized", ".scale")).floats().unwrap();
        for (bias, weight) in biases.iter().zip(weights) {
            assert!((bias - weight * scale).abs() <= 1e-6 * bias, "{bias} {weight} {scale}");
        }
    }

    #[test]
    fn weights_use_the_levels_of_their_bits() {
        for (bits, expected) in [(WeightBits::Seven, 63), (WeightBits::Eight, 127)] {
            let quantizer = Quantizer::new(model(), false, bits).unwrap();
            let graph = quantizer.quantize(&[0, 1].into(), &observations(&quantizer)).graph.unwrap();
            let weight = tensor(&graph, "y.int8_weight").raw_data.unwrap();
            let largest = weight.iter().map(|&byte| i8::from_le_bytes([byte]).unsigned_abs()).max();
            assert_eq!(largest, Some(expected), "{bits:?}");
        }
    }

    #[test]
    fn layers_in_float_keep_their_weights_and_the_last_of_a_detector_are_not_touched() {
        let model = model();
        let quantizer = Quantizer::new(model.clone(), true, WeightBits::Eight).unwrap();
        assert_eq!(quantizer.layers().iter().map(|layer| layer.name.as_str()).collect::<Vec<_>>(), ["first"]);
        let quantizer = Quantizer::new(model.clone(), false, WeightBits::Eight).unwrap();
        let graph = quantizer.quantize(&[1].into(), &observations(&quantizer)).graph.unwrap();
        assert_eq!(tensor(&graph, "first.weight"), tensor(model.graph.as_ref().unwrap(), "first.weight"));
        let nothing = quantizer.quantize(&HashSet::new(), &observations(&quantizer)).graph.unwrap();
        assert_eq!(nothing, model.graph.unwrap());
    }

    #[test]
    fn models_that_cannot_be_quantised_are_refused_with_a_reason() {
        let refusal = |change: &dyn Fn(&mut ModelProto)| {
            let mut model = model();
            change(&mut model);
            Quantizer::new(model, false, WeightBits::Eight).unwrap_err().to_string()
        };
        let old = refusal(&|model| model.opset_import[0].version = 12);
        assert!(old.contains("operator set 12"), "{old}");
        let external = refusal(&|model| {
            let graph = model.graph.as_mut().unwrap();
            graph.initializer.iter_mut().for_each(|tensor| tensor.data_location = 1);
        });
        assert!(external.contains("no convolution with 32-bit weights"), "{external}");
        let branch = refusal(&|model| {
            let branch = AttributeProto { r#type: number::ATTRIBUTE_GRAPH, ..AttributeProto::default() };
            model.graph.as_mut().unwrap().node[0].attribute.push(branch);
        });
        assert!(branch.contains("branches"), "{branch}");
    }
}
