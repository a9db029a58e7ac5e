//! The head: pools what the pathways have found, over the clip or below each box, and classifies it.

use super::{BOXES_INPUT, Config, EMBEDDING, LOGITS, Pathways};
use crate::error::Result;
use crate::zoo::graph::{GraphBuilder, Value, Window};
use crate::zoo::weights::Weights;

/// The network for detection halves height and width four times.
const BOX_SCALE: f32 = 1.0 / 16.0;
/// What is below a box is brought to this height and width.
const BOX_SIDE: usize = 7;

/// Makes the outputs from the pathways' last values.
pub(super) fn build(graph: &mut GraphBuilder<'_>, config: &Config, values: &[Value]) -> Result<()> {
    let features = if config.boxes { pool_boxes(graph, values) } else { pool(graph, config, values) };
    let name = match (config.boxes, config.pathways) {
        (true, _) => "detection_head.proj",
        (false, Pathways::Both) => "blocks.6.proj",
        (false, _) => "blocks.5.proj",
    };
    let logits = graph.linear(name, &features, config.classes)?;
    graph.output(&logits, LOGITS);
    if !config.boxes {
        graph.output(&features, EMBEDDING);
    }
    Ok(())
}

/// Fully convolutional: the average of each pathway, over all its frames and a training crop's worth of positions (all,
/// where there are fewer), at stride one. The mean over the positions comes before the classifier, not behind it as in PyTorchVideo: the classifier
/// is linear, so the logits are the same, and the mean features are an output for free.
fn pool(graph: &mut GraphBuilder<'_>, config: &Config, values: &[Value]) -> Value {
    let mut pool = |value: &Value| {
        let side = config.head_pool.min(value.shape[2]);
        let window = Window::valid(&[value.shape[1], side, side], &[1, 1, 1]);
        graph.average_pool(value, &window)
    };
    let pooled: Vec<Value> = values.iter().map(&mut pool).collect();
    let pooled = join(graph, &pooled);
    graph.global_average(&pooled)
}

/// The mean of each pathway over all its frames, and of that the largest value below each box.
fn pool_boxes(graph: &mut GraphBuilder<'_>, values: &[Value]) -> Value {
    let means: Vec<Value> = values.iter().map(|value| graph.mean(value, 1)).collect();
    let means = join(graph, &means);
    let below = graph.roi_align(&means, BOXES_INPUT, BOX_SIDE, BOX_SCALE);
    graph.global_max(&below)
}

/// The pathways' channels behind each other.
fn join(graph: &mut GraphBuilder<'_>, values: &[Value]) -> Value {
    match values {
        [value] => value.clone(),
        values => graph.concat(&values.iter().collect::<Vec<_>>(), 0),
    }
}

/// In PyTorchVideo's networks for detection the backbone is below `model`.
pub(super) struct DetectionWeights<'w>(pub(super) &'w mut dyn Weights);

impl Weights for DetectionWeights<'_> {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        match name.starts_with("blocks.") {
            true => self.0.tensor(&format!("model.{name}"), shape),
            false => self.0.tensor(name, shape),
        }
    }

    fn finish(&mut self) -> Result<()> {
        self.0.finish()
    }
}
