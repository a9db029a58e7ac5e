//! Changes a model's graph when it is opened, so that less is copied to the device and back, and so that it computes in
//! 16-bit floats if the job asks for them. Inputs and outputs change; the values that a job gets do not, but for rounding.

mod candidates;
mod half;
mod inputs;
mod integers;

use std::path::{Path, PathBuf};

use prost::Message;

use crate::error::{Error, Result};
use crate::zoo::detector::Head;
use crate::zoo::onnx::{GraphProto, ModelProto, number};
use crate::zoo::{external, inspect};

pub use candidates::{CANDIDATES, PLACES, SHAPE};
pub use inputs::{BOXES, CLIPS, IMAGES};

/// A model on its way to a device.
#[derive(Debug, Clone)]
pub struct Deployment {
    path: PathBuf,
    model: ModelProto,
}

impl Deployment {
    /// Reads a model's file.
    ///
    /// # Errors
    /// If the file cannot be read or is not an ONNX model.
    pub fn read(path: &Path) -> Result<Self> {
        let failed = |why: String| Error::usage(format!("{}: failed to read: {why}", path.display()));
        let data = external::read(path).map_err(failed)?;
        let model = ModelProto::decode(data).map_err(|error| failed(error.to_string()))?;
        Ok(Self { path: path.to_owned(), model })
    }

    /// A version of the model in the file `path`.
    pub fn of(path: &Path, model: ModelProto) -> Self {
        Self { path: path.to_owned(), model }
    }

    /// The model as it is now.
    pub fn into_model(self) -> ModelProto {
        self.model
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The content of a file for the changed model.
    pub fn encode(&self) -> Vec<u8> {
        self.model.encode_to_vec()
    }

    /// Replaces the input `images`, `[n, 3, height, width]` floats in 0..=1, by [`IMAGES`], `[n, height, width, 3]` bytes.
    pub fn take_bytes(&mut self, images: &str) {
        self.graph(|graph| inputs::take_bytes(graph, images));
    }

    /// Replaces the input of the Fast pathway and that of the Slow pathway, if there is one, by [`CLIPS`], 16-bit floats of
    /// the shape of the Fast pathway's input. The Slow pathway gets the frames of these numbers.
    pub fn take_clips(&mut self, fast: &str, slow: Option<(&str, &[usize])>) {
        self.graph(|graph| inputs::take_clips(graph, fast, slow));
    }

    /// Lets the height and width of the clips have any length, and forgets the shapes that follow from them.
    pub fn free_sides(&mut self, input: &str) {
        self.graph(|graph| inputs::free_sides(graph, input));
    }

    /// Replaces the input for boxes by [`BOXES`], which are 32-bit floats.
    pub fn take_boxes(&mut self, boxes: &str) {
        self.graph(|graph| inputs::take_boxes(graph, boxes));
    }

    /// Computes in 16-bit floats up to the last convolution, where it is possible. Returns the number of convolutions that
    /// do.
    pub fn compute_in_half(&mut self) -> usize {
        let mut changed = 0;
        self.graph(|graph| changed = half::compute_in_half(graph));
        changed
    }

    /// Removes the rounding of values that no convolution takes, from a quantised model. Returns whether the model is one.
    pub fn round_only_before_convolutions(&mut self) -> bool {
        let is_quantised = |graph: &GraphProto| graph.node.iter().any(|node| node.op_type == "QuantizeLinear");
        let is_quantised = self.model.graph.as_ref().is_some_and(is_quantised);
        self.graph(integers::round_only_before_convolutions);
        is_quantised
    }

    /// Whether a quantised model has weights of more than seven bits. On a processor that adds products of 8-bit integers in 16
    /// bits, sums of such weights overflow.
    pub fn has_full_weights(&self) -> bool {
        let weights = self.model.graph.iter().flat_map(|graph| &graph.initializer);
        let weights = weights.filter(|tensor| tensor.data_type == number::INT8 && tensor.dims.len() > 1);
        let bytes = weights.flat_map(|tensor| tensor.raw_data.iter().flatten());
        bytes.copied().any(|byte| i8::from_le_bytes([byte]).unsigned_abs() > 64)
    }

    /// Makes the integers of a quantised model signed with the zero 0, as TensorRT takes them.
    pub fn make_symmetric(&mut self) {
        self.graph(integers::make_symmetric);
    }

    /// The number of convolutions.
    pub fn convolutions(&self) -> usize {
        let nodes = self.model.graph.iter().flat_map(|graph| &graph.node);
        nodes.filter(|node| half::is_convolution(node)).count()
    }

    /// Outputs only the boxes of a detector that exceed this confidence: [`CANDIDATES`], [`PLACES`] and [`SHAPE`] instead of
    /// `output`. Returns whether it did. A head that selects boxes itself and an operator set below 12 stay as they are.
    pub fn keep_candidates(&mut self, head: Head, output: &str, confidence: f32) -> bool {
        let opset = inspect::opset(&self.model);
        let mut changed = false;
        self.graph(|graph| changed = candidates::keep(graph, opset, head, output, confidence));
        changed
    }

    fn graph(&mut self, change: impl FnOnce(&mut GraphProto)) {
        if let Some(graph) = &mut self.model.graph {
            change(graph);
        }
    }
}
