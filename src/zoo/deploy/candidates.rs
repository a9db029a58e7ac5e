//! Small outputs: only the boxes of a detector that the job can keep. Of the 25,200 boxes that a YOLOv5 outputs for an
//! image, it is usually a few dozen.

use crate::zoo::detector::Head;
use crate::zoo::graph::{cast, float_tensor, int, int_tensor, ints, node, output_info};
use crate::zoo::onnx::{GraphProto, number};

/// The output of boxes, `[boxes, values]`, of all images. Boxes whose score is not a number are among them.
pub const CANDIDATES: &str = "vidindex.candidates";
/// For each box the number of its image in the batch and its own number, `[boxes, 2]`, in ascending order. Floats, which
/// are exact up to 16 million.
pub const PLACES: &str = "vidindex.places";
/// The shape of the output that the boxes are from.
pub const SHAPE: &str = "vidindex.shape";

/// The oldest operator set that has all nodes used here.
const OPSET_MIN: i64 = 12;
/// The operator set that made the axes of reductions an input.
const OPSET_AXES: i64 = 18;

pub(super) fn keep(graph: &mut GraphProto, opset: i64, head: Head, output: &str, confidence: f32) -> bool {
    if opset < OPSET_MIN || head == Head::Yolov10 {
        return false;
    }
    graph.node.push(cast(output, "vidindex.output", number::FLOAT));
    let (whole, output) = (output, "vidindex.output");
    // `boxes` is `[n, boxes, values]`, and "vidindex.scores" `[n, boxes]`.
    let boxes = match head {
        Head::Yolov5 => {
            // A scalar, so that the result loses the dimension.
            graph.initializer.push(int_tensor("vidindex.objectness", &[], &[4]));
            let inputs = [output, "vidindex.objectness"];
            graph.node.push(node("Gather", "vidindex.scores", &inputs, "vidindex.scores", vec![int("axis", 2)]));
            output
        }
        Head::Yolov8 | Head::Yolov10 => {
            let bounds = [("vidindex.from", 4), ("vidindex.to", i64::MAX), ("vidindex.axis", 1)];
            graph.initializer.extend(bounds.map(|(name, bound)| int_tensor(name, &[1], &[bound])));
            let classes = [output, "vidindex.from", "vidindex.to", "vidindex.axis"];
            let (inputs, axes): (&[&str], _) = match opset {
                ..OPSET_AXES => (&["vidindex.classes"], Some(ints("axes", &[1]))),
                _ => (&["vidindex.classes", "vidindex.axis"], None),
            };
            let best = axes.into_iter().chain([int("keepdims", 0)]).collect();
            graph.node.extend([
                node("Slice", "vidindex.classes", &classes, "vidindex.classes", vec![]),
                node("ReduceMax", "vidindex.scores", inputs, "vidindex.scores", best),
                node("Transpose", "vidindex.boxes", &[output], "vidindex.boxes", vec![ints("perm", &[0, 2, 1])]),
            ]);
            "vidindex.boxes"
        }
    };
    graph.initializer.push(float_tensor("vidindex.confidence", &[], &[confidence]));
    graph.node.extend([
        // Not `Greater`, which would drop a score that is not a number.
        node("LessOrEqual", "vidindex.weak", &["vidindex.scores", "vidindex.confidence"], "vidindex.weak", vec![]),
        node("Not", "vidindex.strong", &["vidindex.weak"], "vidindex.strong", vec![]),
        node("NonZero", "vidindex.columns", &["vidindex.strong"], "vidindex.columns", vec![]),
        node("Transpose", "vidindex.rows", &["vidindex.columns"], "vidindex.rows", vec![ints("perm", &[1, 0])]),
        node("GatherND", CANDIDATES, &[boxes, "vidindex.rows"], CANDIDATES, vec![]),
        cast("vidindex.rows", PLACES, number::FLOAT),
        node("Shape", "vidindex.lengths", &[output], "vidindex.lengths", vec![]),
        cast("vidindex.lengths", SHAPE, number::FLOAT),
    ]);
    graph.output.retain(|other| other.name != whole);
    graph.output.extend([CANDIDATES, PLACES, SHAPE].map(output_info));
    true
}
