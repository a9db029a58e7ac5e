//! Compact inputs: pixels as bytes, clips as 16-bit floats that both pathways share. Nodes at the head of the graph convert
//! them.

use crate::zoo::graph::{cast, float_tensor, int, int_tensor, ints, node};
use crate::zoo::onnx::{DimensionValue, GraphProto, NodeProto, TensorProto, TensorTypeProto, ValueInfoProto, number};

/// The input for images.
pub const IMAGES: &str = "vidindex.images";
/// The input for clips.
pub const CLIPS: &str = "vidindex.clips";
/// The input for boxes.
pub const BOXES: &str = "vidindex.boxes";

pub(super) fn take_bytes(graph: &mut GraphProto, images: &str) {
    let Some(element) = replace(graph, images, IMAGES, number::UINT8) else { return };
    if let Some(shape) = type_of(graph, IMAGES).and_then(|tensor| tensor.shape.as_mut())
        && shape.dim.len() == 4
    {
        shape.dim[1..].rotate_left(1);
    }
    graph.initializer.push(float_tensor("vidindex.255", &[], &[255.0]));
    let nodes = [
        // Before the conversion, because there are only a quarter as many bytes to move.
        node("Transpose", "vidindex.planes", &[IMAGES], "vidindex.planes", vec![ints("perm", &[0, 3, 1, 2])]),
        cast("vidindex.planes", "vidindex.floats", number::FLOAT),
        node("Div", "vidindex.scaled", &["vidindex.floats", "vidindex.255"], "vidindex.scaled", vec![]),
        cast("vidindex.scaled", images, element),
    ];
    graph.node.splice(..0, nodes);
}

pub(super) fn take_clips(graph: &mut GraphProto, fast: &str, slow: Option<(&str, &[usize])>) {
    let Some(element) = replace(graph, fast, CLIPS, number::FLOAT16) else { return };
    let mut nodes = vec![cast(CLIPS, fast, element)];
    if let Some((slow, frames)) = slow
        && let Some(element) = type_of(graph, slow).map(|tensor| tensor.elem_type)
    {
        graph.input.retain(|input| input.name != slow);
        let frames: Vec<i64> = frames.iter().map(|&frame| frame as i64).collect();
        graph.initializer.push(int_tensor("vidindex.slow_frames", &[frames.len()], &frames));
        let inputs = [CLIPS, "vidindex.slow_frames"];
        nodes.push(node("Gather", "vidindex.slow", &inputs, "vidindex.slow", vec![int("axis", 2)]));
        nodes.push(cast("vidindex.slow", slow, element));
    }
    graph.node.splice(..0, nodes);
}

pub(super) fn free_sides(graph: &mut GraphProto, input: &str) {
    let dims = type_of(graph, input).and_then(|tensor| tensor.shape.as_mut()).map(|shape| &mut shape.dim);
    for (dim, name) in dims.into_iter().flat_map(|dims| dims.iter_mut().rev()).zip(["width", "height"]) {
        dim.value = Some(DimensionValue::DimParam(name.to_owned()));
    }
    graph.value_info.clear();
    let reshapes = std::mem::take(&mut graph.node).into_iter().flat_map(|node| keep_area(node, &mut graph.initializer));
    graph.node = reshapes.collect();
}

/// The lowering (`zoo/lower`) splits and joins the leading dimensions of frames with reshapes to constant shapes that end with
/// height and width. They are taken from the value instead.
fn keep_area(mut node: NodeProto, weights: &mut Vec<TensorProto>) -> Vec<NodeProto> {
    if node.op_type != "Reshape" {
        return vec![node];
    }
    let shape = node.input.get(1).and_then(|shape| weights.iter().find(|weight| weight.name == *shape));
    let sizes: Vec<i64> = match shape.and_then(|shape| shape.raw_data.as_ref()) {
        Some(bytes) => bytes.as_chunks::<8>().0.iter().map(|&bytes| i64::from_le_bytes(bytes)).collect(),
        None => Vec::new(),
    };
    if sizes.len() < 4 {
        return vec![node];
    }
    let [lead, area, all] = ["lead", "area", "sizes"].map(|what| format!("vidindex.{}.{what}", node.output[0]));
    weights.push(int_tensor(&lead, &[sizes.len() - 2], &sizes[..sizes.len() - 2]));
    let made = [
        self::node("Shape", &area, &[&node.input[0]], &area, vec![int("start", -2)]),
        self::node("Concat", &all, &[&lead, &area], &all, vec![int("axis", 0)]),
    ];
    node.input[1] = all;
    made.into_iter().chain([node]).collect()
}

pub(super) fn take_boxes(graph: &mut GraphProto, boxes: &str) {
    let Some(element) = replace(graph, boxes, BOXES, number::FLOAT) else { return };
    graph.node.insert(0, cast(BOXES, boxes, element));
}

/// Renames an input, and changes its element type. Returns the type that it had.
fn replace(graph: &mut GraphProto, name: &str, renamed: &str, element: i32) -> Option<i32> {
    let tensor = type_of(graph, name)?;
    let before = std::mem::replace(&mut tensor.elem_type, element);
    graph.input.iter_mut().filter(|input| input.name == name).for_each(|input| input.name = renamed.into());
    Some(before)
}

fn type_of<'g>(graph: &'g mut GraphProto, name: &str) -> Option<&'g mut TensorTypeProto> {
    let input: &mut ValueInfoProto = graph.input.iter_mut().find(|input| input.name == name)?;
    input.r#type.as_mut()?.tensor_type.as_mut()
}
