//! Builds an ONNX graph layer by layer and tracks every shape. [`slowfast`](super::slowfast) and
//! [`yolov5`](super::yolov5) are written with it.
//!
//! The first dimension of every value is the batch or, after [`GraphBuilder::roi_align`], the boxes. It is symbolic in
//! the file and omitted from the shapes here. Batch norms are folded into the convolution before them.

mod arrange;
mod attention;

pub use attention::Affinity;
use bytes::Bytes;

use crate::error::Result;
use crate::zoo::onnx::{
    AttributeProto, DimensionProto, DimensionValue, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto, number,
};
use crate::zoo::weights::Weights;

/// The operator set that graphs are written in.
pub const OPSET: i64 = 17;
/// Version of the ONNX format that corresponds to [`OPSET`].
pub const IR_VERSION: i64 = 8;
/// The producer name in the files.
pub const PRODUCER: &str = "vidindex";
/// Name of the symbolic first dimension of every input and output.
pub const BATCH: &str = "batch";
/// Name of the symbolic first dimension of values that exist once per box.
pub const BOXES: &str = "boxes";
/// Stands for a height or width that is known only when the network runs.
pub const FREE: usize = 0;

/// A value in the graph: its name, and its shape without the batch (channels first).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Unique in the graph.
    pub name: String,
    /// Channels, then time (if there is one), height and width.
    pub shape: Vec<usize>,
}

/// The sliding window of a convolution or a pool, over every dimension after the channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Size per dimension.
    pub kernel: Vec<usize>,
    /// Distance between two positions of the window, per dimension.
    pub stride: Vec<usize>,
    /// Padding on both sides.
    pub padding: Vec<usize>,
    /// Distance between neighbouring elements inside the window, per dimension.
    pub dilation: Vec<usize>,
}

impl Window {
    /// A window padded by half its size, which keeps the shape at stride 1.
    pub fn same(kernel: &[usize], stride: &[usize]) -> Self {
        Self { padding: kernel.iter().map(|k| k / 2).collect(), ..Self::valid(kernel, stride) }
    }

    /// A window without padding.
    pub fn valid(kernel: &[usize], stride: &[usize]) -> Self {
        let (padding, dilation) = (vec![0; kernel.len()], vec![1; kernel.len()]);
        Self { kernel: kernel.into(), stride: stride.into(), padding, dilation }
    }

    /// The same window with this dilation, and padding that is wider by the same factor.
    pub fn dilated(mut self, dilation: &[usize]) -> Self {
        self.padding.iter_mut().zip(dilation).for_each(|(padding, steps)| *padding *= steps);
        Self { dilation: dilation.into(), ..self }
    }

    /// The output shape for this many channels: as many positions as fit into the input.
    fn slide(&self, channels: usize, input: &[usize]) -> Vec<usize> {
        let steps = input.iter().enumerate().map(|(axis, &length)| {
            let span = (self.kernel[axis] - 1) * self.dilation[axis] + 1;
            match length {
                FREE => FREE,
                _ => (length + 2 * self.padding[axis]).saturating_sub(span) / self.stride[axis] + 1,
            }
        });
        std::iter::once(channels).chain(steps).collect()
    }

    fn attributes(&self) -> Vec<AttributeProto> {
        let pads = [self.padding.as_slice(), &self.padding].concat();
        let mut attributes =
            vec![ints("kernel_shape", &self.kernel), ints("strides", &self.stride), ints("pads", &pads)];
        if self.dilation.iter().any(|&steps| steps != 1) {
            attributes.push(ints("dilations", &self.dilation));
        }
        attributes
    }
}

/// A batch norm: its official name, which prefixes its parameters (`NAME.weight`, `.bias`, `.running_mean`,
/// `.running_var`), and its settings.
#[derive(Debug, Clone, Copy)]
pub struct BatchNorm<'a> {
    /// The layer's official name.
    pub name: &'a str,
    /// Added to the variance.
    pub epsilon: f32,
    /// Whether the convolution before it has a bias as well.
    pub biased: bool,
}

/// A graph under construction.
pub struct GraphBuilder<'w> {
    graph: GraphProto,
    weights: &'w mut dyn Weights,
    /// Name of the first dimension of the values that are added next.
    rows: &'static str,
}

impl<'w> GraphBuilder<'w> {
    /// An empty graph of this name that takes its parameters from `weights`.
    pub fn new(name: &str, weights: &'w mut dyn Weights) -> Self {
        Self { graph: GraphProto { name: name.into(), ..GraphProto::default() }, weights, rows: BATCH }
    }

    /// Adds an input: float32, `shape` without the batch. If the last two dimensions are [`FREE`], they are called
    /// `height` and `width`.
    pub fn input(&mut self, name: &str, shape: &[usize]) -> Value {
        let value = Value { name: name.into(), shape: shape.into() };
        let mut info = self.info(&value);
        if let Some(TypeProto { tensor_type: Some(TensorTypeProto { shape: Some(shape), .. }), .. }) = &mut info.r#type
        {
            for (dim, side) in shape.dim.iter_mut().rev().zip(["width", "height"]) {
                dim.value.get_or_insert(DimensionValue::DimParam(side.into()));
            }
        }
        self.graph.input.push(info);
        value
    }

    /// Makes a value an output of the network under this name.
    pub fn output(&mut self, value: &Value, name: &str) {
        let output = Value { name: name.into(), shape: value.shape.clone() };
        let read = self.graph.node.iter().any(|node| node.input.contains(&value.name));
        match self.graph.node.iter_mut().find(|node| node.output.contains(&value.name)) {
            Some(node) if !read => {
                node.output.iter_mut().filter(|made| **made == value.name).for_each(|made| *made = name.into());
                self.graph.value_info.retain(|info| info.name != value.name);
            }
            _ => self.graph.node.push(node("Identity", name, &[&value.name], name, vec![])),
        }
        self.graph.output.push(self.info(&output));
    }

    /// Adds a convolution named `name` (1 to 3 dimensions, depending on the window) without groups. A batch norm is
    /// folded into it and determines whether the convolution has its own bias; without a batch norm it has one.
    pub fn conv(
        &mut self,
        name: &str,
        input: &Value,
        channels: usize,
        window: &Window,
        norm: Option<BatchNorm<'_>>,
    ) -> Result<Value> {
        let shape = [&[channels, input.shape[0]], window.kernel.as_slice()].concat();
        let mut weight = self.weights.tensor(&format!("{name}.weight"), &shape)?;
        let mut bias = match norm {
            Some(BatchNorm { biased: false, .. }) => vec![0.0; channels],
            _ => self.weights.tensor(&format!("{name}.bias"), &[channels])?,
        };
        if let Some(norm) = norm {
            self.fold(&mut weight, &mut bias, norm)?;
        }
        Ok(self.convolve(name, input, window, &shape, &weight, &bias))
    }

    /// Adds a convolution with neither bias nor batch norm.
    pub fn unbiased_conv(&mut self, name: &str, input: &Value, channels: usize, window: &Window) -> Result<Value> {
        let shape = [&[channels, input.shape[0]], window.kernel.as_slice()].concat();
        let weight = self.weights.tensor(&format!("{name}.weight"), &shape)?;
        Ok(self.convolve(name, input, window, &shape, &weight, &vec![0.0; channels]))
    }

    /// Adds a fully connected layer on a flat value (`[features]`).
    pub fn linear(&mut self, name: &str, input: &Value, features: usize) -> Result<Value> {
        let shape = [features, input.shape[0]];
        let weight = self.weights.tensor(&format!("{name}.weight"), &shape)?;
        let bias = self.weights.tensor(&format!("{name}.bias"), &[features])?;
        let weight = self.initializer(format!("{name}.weight"), &shape, &weight);
        let bias = self.initializer(format!("{name}.bias"), &[features], &bias);
        let output = Value { name: name.into(), shape: vec![features] };
        Ok(self.add_node("Gemm", &[&input.name, &weight, &bias], output, vec![int("transB", 1)]))
    }

    /// max(x, 0).
    pub fn relu(&mut self, input: &Value) -> Value {
        self.unary("Relu", input)
    }

    /// 1 / (1 + exp(-x)).
    pub fn sigmoid(&mut self, input: &Value) -> Value {
        self.unary("Sigmoid", input)
    }

    /// x · sigmoid(x), as a Sigmoid and a Mul, which runtimes fuse.
    pub fn silu(&mut self, input: &Value) -> Value {
        let gate = self.sigmoid(input);
        self.mul(input, &gate)
    }

    /// a + b, of equal shapes or with broadcasting.
    pub fn add(&mut self, a: &Value, b: &Value) -> Value {
        self.binary("Add", a, b)
    }

    /// a - b, of equal shapes or with broadcasting.
    pub fn sub(&mut self, a: &Value, b: &Value) -> Value {
        self.binary("Sub", a, b)
    }

    /// a · b, of equal shapes or with broadcasting.
    pub fn mul(&mut self, a: &Value, b: &Value) -> Value {
        self.binary("Mul", a, b)
    }

    /// The maximum in the window.
    pub fn max_pool(&mut self, input: &Value, window: &Window) -> Value {
        let output = self.fresh("MaxPool", window.slide(input.shape[0], &input.shape[1..]));
        self.add_node("MaxPool", &[&input.name], output, window.attributes())
    }

    /// The mean in the window.
    pub fn average_pool(&mut self, input: &Value, window: &Window) -> Value {
        let output = self.fresh("AveragePool", window.slide(input.shape[0], &input.shape[1..]));
        self.add_node("AveragePool", &[&input.name], output, window.attributes())
    }

    /// The mean over all positions, flat: `[channels]`.
    pub fn global_average(&mut self, input: &Value) -> Value {
        self.pool_all("GlobalAveragePool", input)
    }

    /// The maximum over all positions, flat: `[channels]`.
    pub fn global_max(&mut self, input: &Value) -> Value {
        self.pool_all("GlobalMaxPool", input)
    }

    /// The mean over one dimension (0 is the channels), which is removed.
    pub fn mean(&mut self, input: &Value, axis: usize) -> Value {
        let mut shape = input.shape.clone();
        shape.remove(axis);
        let output = self.fresh("ReduceMean", shape);
        self.add_node("ReduceMean", &[&input.name], output, vec![ints("axes", &[axis + 1]), int("keepdims", 0)])
    }

    /// The sum over the channels: `[1, ...]`.
    pub fn channel_sum(&mut self, input: &Value) -> Value {
        let axes = self.integers(&[1]);
        let output = self.fresh("ReduceSum", [&[1], &input.shape[1..]].concat());
        self.add_node("ReduceSum", &[&input.name, &axes], output, vec![int("keepdims", 1)])
    }

    /// Doubles height and width by repeating every pixel four times (`[channels, height, width]`).
    pub fn upsample_twice(&mut self, input: &Value) -> Value {
        let scales = self.floats(&[4], &[1.0, 1.0, 2.0, 2.0]);
        let output = self.fresh("Resize", vec![input.shape[0], input.shape[1] * 2, input.shape[2] * 2]);
        let attributes = vec![
            string("mode", "nearest"),
            string("coordinate_transformation_mode", "asymmetric"),
            string("nearest_mode", "floor"),
        ];
        self.add_node("Resize", &[&input.name, "", &scales], output, attributes)
    }

    /// Adds a constant with this shape (without a batch) for additions or multiplications. It is not a parameter.
    pub fn constant(&mut self, shape: &[usize], values: &[f32]) -> Value {
        let dims = [&[1], shape].concat();
        Value { name: self.floats(&dims, values), shape: shape.into() }
    }

    /// Reads a parameter that will become a constant (YOLOv5's anchors).
    pub fn parameter(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.weights.tensor(name, shape)
    }

    /// Returns the graph as a model.
    ///
    /// # Errors
    /// If the weights contain parameters that the graph did not request.
    pub fn finish(self) -> Result<ModelProto> {
        self.weights.finish()?;
        Ok(ModelProto {
            ir_version: IR_VERSION,
            // No version is written: equal weights give equal bytes, and so equal fingerprints, in every release.
            producer_name: PRODUCER.into(),
            graph: Some(self.graph),
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
            ..ModelProto::default()
        })
    }

    /// Scales every filter by its channel's gain divided by the deviation, and moves the rest of the norm into the
    /// bias.
    fn fold(&mut self, weight: &mut [f32], bias: &mut [f32], norm: BatchNorm<'_>) -> Result<()> {
        let mut read = |leaf: &str| self.weights.tensor(&format!("{}.{leaf}", norm.name), &[bias.len()]);
        let (gain, shift, mean, variance) =
            (read("weight")?, read("bias")?, read("running_mean")?, read("running_var")?);
        let filter_length = weight.len() / bias.len();
        for (channel, filter) in weight.chunks_mut(filter_length).enumerate() {
            let scale = gain[channel] / (variance[channel] + norm.epsilon).sqrt();
            filter.iter_mut().for_each(|w| *w *= scale);
            bias[channel] = shift[channel] + (bias[channel] - mean[channel]) * scale;
        }
        Ok(())
    }

    fn convolve(
        &mut self,
        name: &str,
        input: &Value,
        window: &Window,
        shape: &[usize],
        weight: &[f32],
        bias: &[f32],
    ) -> Value {
        let weight = self.initializer(format!("{name}.weight"), shape, weight);
        let bias = self.initializer(format!("{name}.bias"), &shape[..1], bias);
        let output = Value { name: name.into(), shape: window.slide(shape[0], &input.shape[1..]) };
        self.add_node("Conv", &[&input.name, &weight, &bias], output, window.attributes())
    }

    fn pool_all(&mut self, operator: &str, input: &Value) -> Value {
        let ones = [vec![input.shape[0]], vec![1; input.shape.len() - 1]].concat();
        let pooled = self.fresh(operator, ones);
        let pooled = self.add_node(operator, &[&input.name], pooled, vec![]);
        let flat = self.fresh("Flatten", vec![input.shape[0]]);
        self.add_node("Flatten", &[&pooled.name], flat, vec![int("axis", 1)])
    }

    fn unary(&mut self, operator: &str, input: &Value) -> Value {
        let output = self.fresh(operator, input.shape.clone());
        self.add_node(operator, &[&input.name], output, vec![])
    }

    fn binary(&mut self, operator: &str, a: &Value, b: &Value) -> Value {
        let broadcast = |(&a, &b): (&usize, &usize)| if a.min(b) == FREE && a.max(b) == 1 { FREE } else { a.max(b) };
        let shape = a.shape.iter().zip(&b.shape).map(broadcast).collect();
        let output = self.fresh(operator, shape);
        self.add_node(operator, &[&a.name, &b.name], output, vec![])
    }

    fn info(&self, value: &Value) -> ValueInfoProto {
        let dim = |&length: &usize| (length != FREE).then_some(DimensionValue::DimValue(length as i64));
        let dim = std::iter::once(Some(DimensionValue::DimParam(self.rows.into())))
            .chain(value.shape.iter().map(dim))
            .map(|value| DimensionProto { value })
            .collect();
        let tensor = TensorTypeProto { elem_type: number::FLOAT, shape: Some(TensorShapeProto { dim }) };
        let tensor_type = TypeProto { tensor_type: Some(tensor), ..TypeProto::default() };
        ValueInfoProto { name: value.name.clone(), r#type: Some(tensor_type) }
    }

    fn fresh(&self, operator: &str, shape: Vec<usize>) -> Value {
        Value { name: format!("{operator}_{}", self.graph.node.len()), shape }
    }

    fn add_node(&mut self, operator: &str, inputs: &[&str], output: Value, attributes: Vec<AttributeProto>) -> Value {
        self.graph.node.push(node(operator, &output.name, inputs, &output.name, attributes));
        self.graph.value_info.push(self.info(&output));
        output
    }

    fn initializer(&mut self, name: String, shape: &[usize], values: &[f32]) -> String {
        self.graph.initializer.push(float_tensor(&name, shape, values));
        name
    }

    fn floats(&mut self, dims: &[usize], values: &[f32]) -> String {
        self.constant_node(float_tensor("", dims, values))
    }

    fn integers(&mut self, values: &[i64]) -> String {
        self.constant_node(int_tensor("", &[values.len()], values))
    }

    fn constant_node(&mut self, tensor: TensorProto) -> String {
        let name = format!("Constant_{}", self.graph.node.len());
        let value = AttributeProto {
            name: "value".into(),
            t: Some(tensor),
            r#type: number::ATTRIBUTE_TENSOR,
            ..AttributeProto::default()
        };
        self.graph.node.push(node("Constant", &name, &[], &name, vec![value]));
        name
    }
}

pub(super) fn node(
    operator: &str,
    name: &str,
    inputs: &[&str],
    output: &str,
    attribute: Vec<AttributeProto>,
) -> NodeProto {
    NodeProto {
        input: inputs.iter().map(|&input| input.into()).collect(),
        output: vec![output.into()],
        name: name.into(),
        op_type: operator.into(),
        attribute,
        ..NodeProto::default()
    }
}

/// A node that converts a value to this element type.
pub(super) fn cast(from: &str, to: &str, element: i32) -> NodeProto {
    node("Cast", &format!("{to}.cast"), &[from], to, vec![int("to", element.into())])
}

/// An output of 32-bit floats, whose shape follows from its node.
pub(super) fn output_info(name: &str) -> ValueInfoProto {
    let tensor = TensorTypeProto { elem_type: number::FLOAT, shape: None };
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { tensor_type: Some(tensor), ..TypeProto::default() }) }
}

/// The attribute of a node with this name.
pub(super) fn attribute<'n>(node: &'n NodeProto, name: &str) -> Option<&'n AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name == name)
}

pub(super) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.into(), i: Some(value), r#type: number::ATTRIBUTE_INT, ..AttributeProto::default() }
}

pub(super) fn ints(name: &str, values: &[usize]) -> AttributeProto {
    let ints = values.iter().map(|&value| value as i64).collect();
    AttributeProto { name: name.into(), ints, r#type: number::ATTRIBUTE_INTS, ..AttributeProto::default() }
}

fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { name: name.into(), f: Some(value), r#type: number::ATTRIBUTE_FLOAT, ..AttributeProto::default() }
}

fn string(name: &str, value: &'static str) -> AttributeProto {
    let s = Some(Bytes::from_static(value.as_bytes()));
    AttributeProto { name: name.into(), s, r#type: number::ATTRIBUTE_STRING, ..AttributeProto::default() }
}

pub(super) fn float_tensor(name: &str, shape: &[usize], values: &[f32]) -> TensorProto {
    let mut raw = Vec::with_capacity(values.len() * 4);
    values.iter().for_each(|value| raw.extend_from_slice(&value.to_le_bytes()));
    TensorProto {
        dims: shape.iter().map(|&length| length as i64).collect(),
        data_type: number::FLOAT,
        name: name.into(),
        raw_data: Some(raw.into()),
        ..TensorProto::default()
    }
}

pub(super) fn int_tensor(name: &str, shape: &[usize], values: &[i64]) -> TensorProto {
    TensorProto {
        dims: shape.iter().map(|&length| length as i64).collect(),
        data_type: number::INT64,
        name: name.into(),
        raw_data: Some(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()),
        ..TensorProto::default()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Gives all elements of a parameter the value that follows from its name.
    struct Named;

    impl Weights for Named {
        fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
            let value = match name {
                "conv.weight" => 3.0,
                "norm.weight" => 2.0,
                "norm.bias" => 5.0,
                "norm.running_mean" => 7.0,
                "norm.running_var" => 15.0,
                _ => 0.0,
            };
            Ok(vec![value; shape.iter().product()])
        }
    }

    #[test]
    fn a_batch_norm_is_folded_into_its_convolution() {
        let mut weights = Named;
        let mut graph = GraphBuilder::new("g", &mut weights);
        let input = graph.input("x", &[2, 9]);
        let norm = BatchNorm { name: "norm", epsilon: 1.0, biased: false };
        let value = graph.conv("conv", &input, 4, &Window::same(&[3], &[2]), Some(norm)).unwrap();
        assert_eq!(value.shape, [4, 5]);
        graph.output(&value, "y");
        let graph = graph.finish().unwrap().graph.unwrap();
        let first = |index: usize| {
            let raw = graph.initializer[index].raw_data.clone().unwrap();
            f32::from_le_bytes(raw[..4].try_into().unwrap())
        };
        // scale = 2 / sqrt(15 + 1); bias = 5 - 7 scale
        assert_eq!((first(0), first(1)), (1.5, 1.5));
        assert_eq!(graph.node.last().unwrap().output, ["y"]);
    }

    #[test]
    fn a_convolutions_own_bias_goes_through_its_norm() {
        let mut weights = Named;
        let mut graph = GraphBuilder::new("g", &mut weights);
        let (mut weight, mut bias) = (vec![3.0; 2], vec![9.0; 2]);
        graph.fold(&mut weight, &mut bias, BatchNorm { name: "norm", epsilon: 1.0, biased: true }).unwrap();
        // scale = 2 / sqrt(15 + 1); bias = 5 + (9 - 7) scale
        assert_eq!((weight, bias), (vec![1.5; 2], vec![6.0; 2]));
    }

    #[test]
    fn a_dilated_window_has_gaps_and_as_much_more_padding() {
        let window = Window::same(&[1, 3, 3], &[1, 1, 1]).dilated(&[1, 2, 2]);
        assert_eq!(window.padding, [0, 2, 2]);
        assert_eq!(window.slide(8, &[4, 6, FREE]), [8, 4, 6, FREE]);
    }

    #[test]
    fn a_value_that_is_read_elsewhere_becomes_an_output_beside_it() {
        let mut weights = Named;
        let mut graph = GraphBuilder::new("g", &mut weights);
        let input = graph.input("x", &[2]);
        let inner = graph.relu(&input);
        let outer = graph.sigmoid(&inner);
        graph.output(&outer, "outer");
        graph.output(&inner, "inner");
        let graph = graph.finish().unwrap().graph.unwrap();
        let operators: Vec<&str> = graph.node.iter().map(|node| node.op_type.as_str()).collect();
        assert_eq!(operators, ["Relu", "Sigmoid", "Identity"]);
    }
}
