//! The head: pools the pathways' features over the clip or below each box, and classifies them.

use super::{BOXES_INPUT, EMBEDDING, LOGITS, Pathways, SlowFastConfig};
use crate::error::Result;
use crate::zoo::graph::{GraphBuilder, Value, Window};
use crate::zoo::weights::Weights;

/// The network for detection halves height and width four times.
const BOX_SCALE: f32 = 1.0 / 16.0;
/// Height and width of the features that are extracted below a box.
const BOX_SIDE: usize = 7;

/// Builds the outputs from the pathways' last values.
pub(super) fn build(graph: &mut GraphBuilder<'_>, config: &SlowFastConfig, values: &[Value]) -> Result<()> {
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

/// Averages each pathway over all its frames and over all windows of the training crop's size (or the whole picture if
/// it is smaller), at stride one. PyTorchVideo averages over the windows after the classifier. Because the classifier
/// is linear, averaging before it gives the same logits, and the averaged features are available as an output.
fn pool(graph: &mut GraphBuilder<'_>, config: &SlowFastConfig, values: &[Value]) -> Value {
    let mut pool = |value: &Value| {
        let side = config.head_pool.min(value.shape[2]);
        let window = Window::valid(&[value.shape[1], side, side], &[1, 1, 1]);
        graph.average_pool(value, &window)
    };
    let pooled: Vec<Value> = values.iter().map(&mut pool).collect();
    let pooled = join(graph, &pooled);
    graph.global_average(&pooled)
}

/// Averages each pathway over all its frames, then takes the maximum below each box.
fn pool_boxes(graph: &mut GraphBuilder<'_>, values: &[Value]) -> Value {
    let means: Vec<Value> = values.iter().map(|value| graph.mean(value, 1)).collect();
    let means = join(graph, &means);
    let below = graph.roi_align(&means, BOXES_INPUT, BOX_SIDE, BOX_SCALE);
    graph.global_max(&below)
}

/// Concatenates the pathways' channels.
fn join(graph: &mut GraphBuilder<'_>, values: &[Value]) -> Value {
    match values {
        [value] => value.clone(),
        values => graph.concat(&values.iter().collect::<Vec<_>>(), 0),
    }
}

/// Adds the prefix `model`, below which PyTorchVideo's networks for detection have the backbone.
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
