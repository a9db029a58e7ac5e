//! Runs a detector: the input is letterboxed images, the output is boxes in the frames.

use super::boxes::{Detection, Thresholds, detections, to_frame};
use super::session::{Model, Runtime, Timed};
use super::slowfast::{batch_dimension, batch_max};
use crate::error::{Error, Result};
use crate::zoo::descriptor;
use crate::zoo::detector::detector_tensors;
use crate::zoo::inspect::{ModelInfo, TensorInfo};

/// Images in a batch on a GPU.
const GPU_BATCH: usize = 16;

/// The input tensor of a batch of images.
#[derive(Debug, Default)]
pub struct ImageBatch {
    /// `[images, 3, height, width]`, RGB in 0..=1.
    pixels: Vec<f32>,
    /// Width and height of each frame as displayed, pixels.
    frames: Vec<(u32, u32)>,
}

impl ImageBatch {
    /// Empties the batch, and keeps its memory.
    pub fn clear(&mut self) {
        self.pixels.clear();
        self.frames.clear();
    }

    /// Adds a letterboxed image, `[height, width, 3]` bytes, of a frame with this width and height.
    pub fn push(&mut self, image: &[u8], width: u32, height: u32) {
        for channel in 0..3 {
            self.pixels.extend(image[channel..].iter().step_by(3).map(|&byte| f32::from(byte) / 255.0));
        }
        self.frames.push((width, height));
    }
}

/// An open detector.
pub struct Detector {
    model: Model,
    /// Names of the input and the output.
    tensors: [String; 2],
    descriptor: descriptor::DetectorDescriptor,
    thresholds: Thresholds,
    fixed_batch: Option<usize>,
    batch_max: usize,
}

impl Detector {
    /// Opens the model that `info` and `descriptor` describe. A model whose output has dynamic dimensions is run once, so
    /// that a wrong descriptor is an error before any video is opened.
    ///
    /// # Errors
    /// As for [`Runtime::open`], and a usage error if the output does not match the descriptor.
    pub fn open(
        runtime: &Runtime,
        info: &ModelInfo,
        descriptor: &descriptor::DetectorDescriptor,
        thresholds: Thresholds,
    ) -> Result<Self> {
        let batch_max = batch_max(runtime.device(), GPU_BATCH);
        let tensors = detector_tensors(info)?;
        let (fixed_batch, fixed) = batch_dimension(tensors.images, batch_max);
        let model = runtime.open(&info.path, &fixed)?;
        let is_open = |output: &TensorInfo| output.fixed(1).and(output.fixed(2)).is_none();
        let must_try = is_open(tensors.boxes);
        let tensors = [tensors.images, tensors.boxes].map(|tensor| tensor.name.clone());
        let (descriptor, batch_max) = (descriptor.clone(), fixed_batch.unwrap_or(batch_max));
        let mut opened = Self { model, tensors, descriptor, thresholds, fixed_batch, batch_max };
        if must_try {
            let mut blank = ImageBatch { pixels: vec![], frames: vec![(1, 1)] };
            opened.run(&mut blank)?;
        }
        Ok(opened)
    }

    /// Number of images in a full batch.
    pub fn batch_max(&self) -> usize {
        self.batch_max
    }

    /// Computes the boxes of each image, strongest first.
    ///
    /// # Errors
    /// As for [`Model::run`], and if the output does not match the descriptor.
    pub fn run(&mut self, batch: &mut ImageBatch) -> Result<Timed<Vec<Vec<Detection>>>> {
        let pictures = self.fixed_batch.unwrap_or(batch.frames.len());
        let (descriptor, thresholds, frames) = (&self.descriptor, &self.thresholds, &batch.frames);
        let size = (descriptor.size.width, descriptor.size.height);
        batch.pixels.resize(pictures * 3 * size.0 * size.1, 0.0);
        let shape = [pictures, 3, size.1, size.0].map(|d| d as i64).to_vec();
        let [input, output] = &self.tensors;
        self.model.run(&[(input.as_str(), shape, &batch.pixels)], output, |shape, data| {
            let [_, rows, columns] = *shape else { return Err(other_output(descriptor, shape)) };
            if !descriptor.accepts(pictures, shape) {
                return Err(other_output(descriptor, shape));
            }
            let classes = descriptor.labels.len();
            let of_frame = |(predictions, &frame): (&[f32], &(u32, u32))| {
                let found = detections(descriptor.head, predictions, columns as usize, classes, thresholds)?;
                Ok(found.into_iter().map(|found| to_frame(found, descriptor.head, frame, size)).collect())
            };
            data.chunks_exact((rows * columns) as usize).zip(frames).map(of_frame).collect()
        })
    }
}

fn other_output(descriptor: &descriptor::DetectorDescriptor, shape: &[i64]) -> Error {
    let descriptor::DetectorDescriptor { head, labels, size, .. } = descriptor;
    Error::usage(format!(
        "the detector's output has the shape {shape:?}, which does not match `{}` with {} classes at {size} pixels",
        head.kind(),
        labels.len()
    ))
    .with_hint("`kind`, `labels` and `side` are set in the TOML file beside the model")
}
