//! The rewriting pass. It visits the nodes in the graph's order, computes each value in the form that suits its node
//! best, and converts it where a later node needs another form.

mod conv;

use std::collections::{HashMap, HashSet};

use super::Lowering;
use super::window::{Window3d, spatial};
use crate::zoo::graph::{attribute, float_tensor, int, int_tensor, ints, node};
use crate::zoo::onnx::{
    AttributeProto, DimensionValue, GraphProto, NodeProto, TensorProto, TensorShapeProto, ValueInfoProto,
};

/// Returns the lowered graph, and whether it differs from the original.
pub(super) fn run(mut graph: GraphProto, lowering: Lowering) -> (GraphProto, bool) {
    let mut pass = Pass::new(&mut graph, lowering);
    for node in std::mem::take(&mut graph.node) {
        pass.infer(&node);
        if pass.lower(&node).is_none() {
            pass.keep(node);
        }
    }
    for output in &graph.output {
        pass.plain(&output.name);
    }
    let read: HashSet<&String> = pass.nodes.iter().flat_map(|node| &node.input).collect();
    let is_read = |name: &String| read.contains(name);
    graph.input.retain(|info| !pass.weight_index.contains_key(&info.name) || is_read(&info.name));
    graph.initializer = pass.weights.into_iter().chain(pass.made_weights).filter(|made| is_read(&made.name)).collect();
    graph.value_info.retain(|info| pass.made.contains(&info.name));
    graph.node = pass.nodes;
    (graph, pass.changed)
}

/// Number of frames that a stem computes at once, chosen by measurement: eight channels become one vector of sixteen in
/// 3-D, and two vectors in 2-D.
fn pack(lowering: Lowering) -> usize {
    if lowering == Lowering::Folded { 4 } else { 2 }
}

/// The layout of a value `[batch, channels, frames, height, width]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// The layout of the original graph.
    Plain,
    /// `[batch, frames, channels, height, width]`, which has the same memory order as folded.
    Frames,
    /// `[batch · frames, channels, height, width]`.
    Folded,
    /// Groups of `pack` frames are stored as one frame with `pack` times the channels. The rest is folded if the
    /// lowering folds, otherwise plain.
    Packed,
}

impl Form {
    fn name(self, value: &str) -> String {
        match self {
            Self::Plain => value.into(),
            Self::Frames => format!("{value}.frames"),
            Self::Folded => format!("{value}.folded"),
            Self::Packed => format!("{value}.packed"),
        }
    }
}

/// Shape of a value with five dimensions. `None` for a free length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    batch: Option<usize>,
    channels: usize,
    frames: usize,
    /// Height and width.
    area: [Option<usize>; 2],
}

impl Shape {
    fn of(shape: &TensorShapeProto) -> Option<Self> {
        let length = |value: &Option<DimensionValue>| match value {
            Some(DimensionValue::DimValue(length)) => usize::try_from(*length).ok(),
            _ => None,
        };
        let lengths: Vec<Option<usize>> = shape.dim.iter().map(|dimension| length(&dimension.value)).collect();
        let [batch, channels, frames, height, width] = lengths.try_into().ok()?;
        Some(Self { batch, channels: channels?, frames: frames?, area: [height, width] })
    }

    /// The output shape of a window. `None` if the window does not fit, in which case the graph is invalid.
    fn behind(&self, window: &Window3d, channels: usize) -> Option<Self> {
        let slide = |axis: usize| match self.area[axis - 1] {
            Some(length) => window.slide(axis, length).map(Some),
            None => Some(None),
        };
        Some(Self { channels, frames: window.slide(0, self.frames)?, area: [slide(1)?, slide(2)?], ..*self })
    }
}

struct Pass {
    lowering: Lowering,
    /// Number of frames that a stem computes at once.
    pack: usize,
    shapes: HashMap<String, Shape>,
    weights: Vec<TensorProto>,
    weight_index: HashMap<String, usize>,
    made_weights: Vec<TensorProto>,
    /// Names of all values and weights that exist already.
    made: HashSet<String>,
    nodes: Vec<NodeProto>,
    changed: bool,
}

impl Pass {
    fn new(graph: &mut GraphProto, lowering: Lowering) -> Self {
        let weights = std::mem::take(&mut graph.initializer);
        let weight_index: HashMap<_, _> =
            weights.iter().enumerate().map(|(i, tensor)| (tensor.name.clone(), i)).collect();
        // Old exporters list weights among the inputs.
        let values = graph.input.iter().chain(&graph.value_info).filter(|info| !weight_index.contains_key(&info.name));
        let shapes = values.filter_map(|info| Some((info.name.clone(), known_shape(info)?))).collect();
        let made = graph.input.iter().map(|info| &info.name).chain(weight_index.keys()).cloned().collect();
        Self {
            lowering,
            pack: pack(lowering),
            shapes,
            weights,
            weight_index,
            made_weights: vec![],
            made,
            nodes: vec![],
            changed: false,
        }
    }

    /// Infers the shape of a node's result if the file does not state it.
    fn infer(&mut self, node: &NodeProto) {
        let Some(output) = node.output.first() else { return };
        if self.shapes.contains_key(output) {
            return;
        }
        let shape = match node.op_type.as_str() {
            "Conv" => self.conv_shape(node).map(|(_, shape)| shape),
            "MaxPool" | "AveragePool" => self.first_shape(node).and_then(|from| {
                let window = Window3d::of_pool(node)?;
                from.behind(&window, from.channels)
            }),
            "Concat" => self.concat_shape(node),
            "Relu" | "Sigmoid" | "Identity" | "Add" | "Mul" | "Sum" => self.common_shape(node),
            _ => None,
        };
        self.shapes.extend(shape.map(|shape| (output.clone(), shape)));
    }

    fn first_shape(&self, node: &NodeProto) -> Option<Shape> {
        self.shapes.get(node.input.first()?).copied()
    }

    /// The common shape of all of a node's inputs, if they are equal.
    fn common_shape(&self, node: &NodeProto) -> Option<Shape> {
        let first = self.first_shape(node)?;
        node.input.iter().all(|input| self.shapes.get(input) == Some(&first)).then_some(first)
    }

    fn concat_shape(&self, node: &NodeProto) -> Option<Shape> {
        let is_of_channels = attribute(node, "axis")?.i == Some(1);
        let channels = node.input.iter().map(|input| Some(self.shapes.get(input)?.channels)).sum::<Option<usize>>()?;
        is_of_channels.then_some(Shape { channels, ..self.first_shape(node)? })
    }

    fn conv_shape(&self, node: &NodeProto) -> Option<(Window3d, Shape)> {
        let dims = &self.weight(node.input.get(1)?)?.dims;
        let dims: Option<Vec<usize>> = dims.iter().map(|&length| usize::try_from(length).ok()).collect();
        let [outputs, _, frames, height, width]: [usize; 5] = dims?.try_into().ok()?;
        let window = Window3d::of(node, [frames, height, width])?;
        Some((window, self.first_shape(node)?.behind(&window, outputs)?))
    }

    fn weight(&self, name: &str) -> Option<&TensorProto> {
        self.weights.get(*self.weight_index.get(name)?)
    }

    /// Copies a node unchanged. Its inputs are made available in plain form.
    fn keep(&mut self, node: NodeProto) {
        node.input.iter().for_each(|input| self.plain(input));
        self.made.extend(node.output.iter().cloned());
        self.nodes.push(node);
    }

    /// Lowers a node. Nothing is written before it is certain that all of it can be.
    fn lower(&mut self, node: &NodeProto) -> Option<()> {
        match (node.domain.as_str(), node.op_type.as_str()) {
            ("", "Conv") => self.conv(node),
            ("", "MaxPool" | "AveragePool") => {
                Window3d::of_pool(node).filter(Window3d::is_spatial)?;
                let attributes = if self.lowering == Lowering::Folded { spatial(node) } else { node.attribute.clone() };
                self.follow(node, attributes)
            }
            ("", "Relu" | "Sigmoid" | "Identity" | "Add" | "Mul" | "Sum") => {
                self.common_shape(node)?;
                self.follow(node, node.attribute.clone())
            }
            ("", "Concat") => {
                self.concat_shape(node)?;
                self.follow(node, node.attribute.clone())
            }
            _ => None,
        }
    }

    /// Repeats an operation in the form that its inputs have.
    fn follow(&mut self, node: &NodeProto, attributes: Vec<AttributeProto>) -> Option<()> {
        let [output] = node.output.as_slice() else { return None };
        // Packed channels have another order, which a Concat would mix up.
        let form = if node.op_type != "Concat" && node.input.iter().all(|input| self.is_packed(input)) {
            Form::Packed
        } else if node.input.iter().any(|input| self.is_made(input, Form::Folded)) {
            Form::Folded
        } else {
            return None;
        };
        let inputs: Vec<String> = node.input.iter().map(|input| self.form(input, form)).collect();
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        self.emit(&node.op_type, &inputs, form.name(output), attributes);
        Some(())
    }

    fn is_made(&self, value: &str, form: Form) -> bool {
        self.shapes.contains_key(value) && self.made.contains(&form.name(value))
    }

    /// Whether a value exists only in packed form.
    fn is_packed(&self, value: &str) -> bool {
        self.is_made(value, Form::Packed) && !self.is_made(value, Form::Folded) && !self.is_made(value, Form::Plain)
    }

    fn plain(&mut self, value: &str) {
        if self.shapes.contains_key(value) {
            self.form(value, Form::Plain);
        }
    }

    /// The name of a value in this form. Converts the value if necessary.
    fn form(&mut self, value: &str, form: Form) -> String {
        let name = form.name(value);
        let Some(&Shape { channels, frames, area, .. }) = self.shapes.get(value) else { return name };
        if self.made.contains(&name) {
            return name;
        }
        let (c, t) = (channels as i64, frames as i64);
        let swapped = || vec![ints("perm", &[0, 2, 1, 3, 4])];
        match form {
            Form::Plain if self.lowering == Lowering::Packed => {
                let pack = self.pack as i64;
                let (groups, frames) = (format!("{value}.groups"), format!("{value}.group_frames"));
                self.reshape(&Form::Packed.name(value), groups.clone(), &[-1, pack, c, t / pack], area);
                self.emit("Transpose", &[&groups], frames.clone(), vec![ints("perm", &[0, 2, 3, 1, 4, 5])]);
                self.reshape(&frames, name.clone(), &[-1, c, t], area);
            }
            Form::Plain => {
                let frames = self.form(value, Form::Frames);
                self.emit("Transpose", &[&frames], name.clone(), swapped());
            }
            Form::Frames => {
                let same = [Form::Folded, Form::Packed].into_iter().find(|&form| self.is_made(value, form));
                match same {
                    Some(form) => self.reshape(&form.name(value), name.clone(), &[-1, t, c], area),
                    None => self.emit("Transpose", &[value], name.clone(), swapped()),
                }
            }
            Form::Folded => {
                let frames = self.form(value, Form::Frames);
                self.reshape(&frames, name.clone(), &[-1, c], area);
            }
            // Only convolutions produce packed values, and they are never requested before they exist.
            Form::Packed => {}
        }
        name
    }

    /// Adds a reshape that keeps height and width.
    fn reshape(&mut self, input: &str, output: String, lead: &[i64], area: [Option<usize>; 2]) {
        let sizes = if let [Some(height), Some(width)] = area {
            let sizes = [lead, &[height as i64, width as i64]].concat();
            self.integers(&[sizes.len()], &sizes)
        } else {
            let (area, sizes) = (format!("{output}.area"), format!("{output}.sizes"));
            self.emit("Shape", &[input], area.clone(), vec![int("start", -2)]);
            let lead = self.integers(&[lead.len()], lead);
            self.emit("Concat", &[&lead, &area], sizes.clone(), vec![int("axis", 0)]);
            sizes
        };
        self.emit("Reshape", &[input, &sizes], output, vec![]);
    }

    fn emit(&mut self, operator: &str, inputs: &[&str], output: String, attributes: Vec<AttributeProto>) {
        self.nodes.push(node(operator, &output, inputs, &output, attributes));
        self.made.insert(output);
        self.changed = true;
    }

    /// Adds a weight with this name. Weights of the same name are identical and added once.
    fn floats(&mut self, name: String, shape: &[usize], values: &[f32]) -> String {
        if self.made.insert(name.clone()) {
            self.made_weights.push(float_tensor(&name, shape, values));
        }
        name
    }

    /// Adds a constant, which is named by its content.
    fn integers(&mut self, shape: &[usize], values: &[i64]) -> String {
        let text: Vec<String> = values.iter().map(i64::to_string).collect();
        let name = format!("int64.{}", text.join("_"));
        let name = if shape.len() > 1 { format!("{name}.{}", shape[1]) } else { name };
        if self.made.insert(name.clone()) {
            self.made_weights.push(int_tensor(&name, shape, values));
        }
        name
    }
}

fn known_shape(info: &ValueInfoProto) -> Option<Shape> {
    Shape::of(info.r#type.as_ref()?.tensor_type.as_ref()?.shape.as_ref()?)
}
