//! Runs a SlowFast (Feichtenhofer et al., arXiv 1812.03982): the input is clips, the output is a score per class.

use half::f16;
use half::slice::HalfFloatSliceExt as _;

use super::session::{Model, OutputTensor, Runtime, Timed};
use crate::decode::sample::linspace_index;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::zoo::descriptor::{self, Activation, SlowSampling, slowfast_tensors};
use crate::zoo::inspect::{Dim, ModelInfo, TensorInfo};
use crate::zoo::slowfast::EMBEDDING;

/// The output for a clip.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipScores {
    /// Scores in label order, after the activation.
    pub scores: Vec<f32>,
    /// The pooled features before the classifier, if they were requested.
    pub embedding: Option<Vec<f32>>,
}

/// Clips in a batch on a GPU.
const GPU_BATCH: usize = 8;

/// The input tensors of a batch of clips.
#[derive(Debug, Default)]
pub struct ClipBatch {
    clips: usize,
    pathways: Pathways,
}

/// The input tensors of the two pathways.
#[derive(Debug, Default)]
pub(super) struct Pathways {
    /// `[clips, 3, frames / alpha, height, width]`. Empty if the model has only one pathway.
    pub(super) slow: Vec<f32>,
    /// `[clips, 3, frames, height, width]`.
    pub(super) fast: Vec<f32>,
}

impl Pathways {
    pub(super) fn clear(&mut self) {
        self.slow.clear();
        self.fast.clear();
    }

    /// Adds a clip tensor, `[3, frames, height, width]`, whose frames have `pixels` each. The Slow pathway gets the frames
    /// `slow`.
    pub(super) fn push(&mut self, slow: &[usize], pixels: usize, clip: &[f16]) {
        let start = self.fast.len();
        self.fast.resize(start + clip.len(), 0.0);
        clip.convert_to_f32_slice(&mut self.fast[start..]);
        for channel in self.fast[start..].chunks_exact(clip.len() / 3) {
            for frame in slow {
                self.slow.extend_from_slice(&channel[frame * pixels..][..pixels]);
            }
        }
    }
}

/// The shape of a clip in a batch.
#[derive(Debug, Clone)]
pub struct ClipShape {
    frames: usize,
    crop: usize,
    /// The frames of the Fast pathway that the Slow pathway gets.
    slow: Vec<usize>,
}

impl ClipShape {
    /// The shape of a clip for the model with this descriptor.
    pub fn new(descriptor: &descriptor::SlowFastDescriptor) -> Self {
        Self { frames: descriptor.frames, crop: descriptor.crop, slow: slow_frames(descriptor) }
    }
}

/// The frames of the Fast pathway that the Slow pathway gets.
pub(super) fn slow_frames(descriptor: &descriptor::SlowFastDescriptor) -> Vec<usize> {
    let count = descriptor.slow_frames();
    let frame = |i| match descriptor.slow_sampling {
        SlowSampling::Linspace => linspace_index(descriptor.frames, count, i),
        SlowSampling::Stride => i * descriptor.alpha,
    };
    (0..count).map(frame).collect()
}

impl ClipBatch {
    /// Empties the batch, and keeps its memory.
    pub fn clear(&mut self) {
        self.clips = 0;
        self.pathways.clear();
    }

    /// Adds a clip tensor, `[3, frames, crop, crop]`.
    pub fn push(&mut self, shape: &ClipShape, clip: &[f16]) {
        self.pathways.push(&shape.slow, shape.crop * shape.crop, clip);
        self.clips += 1;
    }
}

/// An open SlowFast.
pub struct SlowFast {
    model: Model,
    shape: ClipShape,
    /// Name of the Slow input, if the model has two.
    slow: Option<String>,
    /// Names of the Fast (or only) input and of the output.
    tensors: [String; 2],
    /// Name of the output of pooled features, if they were requested.
    embedding: Option<String>,
    activation: Activation,
    classes: usize,
    /// The batch size of a graph that supports only one.
    fixed_batch: Option<usize>,
    batch_max: usize,
}

impl SlowFast {
    /// Opens the model that `info` and `descriptor` describe. `embedding` requests the pooled features.
    ///
    /// # Errors
    /// As for [`Runtime::open`], and if the model does not output the requested features.
    pub fn open(
        runtime: &Runtime,
        info: &ModelInfo,
        descriptor: &descriptor::SlowFastDescriptor,
        embedding: bool,
    ) -> Result<Self> {
        let batch_max = batch_max(runtime.device(), GPU_BATCH);
        let tensors = slowfast_tensors(info)?;
        let (fixed_batch, fixed) = batch_dimension(tensors.fast, batch_max);
        let model = runtime.open(&info.path, &fixed)?;
        let embedding = embedding.then(|| embedding_output(info)).transpose()?;
        let slow = tensors.slow.map(|slow| slow.name.clone());
        let tensors = [tensors.fast, tensors.scores].map(|tensor| tensor.name.clone());
        let batch_max = fixed_batch.unwrap_or(batch_max);
        let (shape, activation) = (ClipShape::new(descriptor), descriptor.activation);
        let classes = descriptor.labels.len();
        Ok(Self { model, shape, slow, tensors, embedding, activation, classes, fixed_batch, batch_max })
    }

    /// Number of clips in a full batch.
    pub fn batch_max(&self) -> usize {
        self.batch_max
    }

    /// Computes the scores of each clip.
    ///
    /// # Errors
    /// As for [`Model::run`].
    pub fn run(&mut self, batch: &mut ClipBatch) -> Result<Timed<Vec<ClipScores>>> {
        let clips = batch.clips;
        let rows = self.fixed_batch.unwrap_or(clips);
        let (frames, crop) = (self.shape.frames, self.shape.crop);
        let slow_frames = self.shape.slow.len();
        let Pathways { slow, fast } = &mut batch.pathways;
        slow.resize(rows * 3 * slow_frames * crop * crop, 0.0);
        fast.resize(rows * 3 * frames * crop * crop, 0.0);
        let dims = |frames: usize| [rows, 3, frames, crop, crop].map(|d| d as i64).to_vec();
        let [fast_name, scores] = &self.tensors;
        let mut inputs = vec![(fast_name.as_str(), dims(frames), fast.as_slice())];
        inputs.extend(self.slow.as_ref().map(|name| (name.as_str(), dims(slow_frames), slow.as_slice())));
        let (activation, classes) = (self.activation, self.classes);
        let names: Vec<&str> = [scores].into_iter().chain(&self.embedding).map(String::as_str).collect();
        self.model.run_for(&inputs, &names, |outputs| {
            let mut outputs = outputs.iter().map(|output| rows_of(*output, rows));
            let logits = outputs.next().transpose()?.unwrap_or_default();
            if let Some(row) = logits.first().filter(|row| row.len() != classes) {
                return Err(other_classes(row.len(), classes));
            }
            let mut features = outputs.next().transpose()?.unwrap_or_default().into_iter();
            let scored = |logits| ClipScores {
                scores: activated(activation, logits),
                embedding: features.next().map(<[f32]>::to_vec),
            };
            Ok(logits.into_iter().take(clips).map(scored).collect())
        })
    }
}

/// The name of the output for pooled features.
///
/// # Errors
/// [`Error::Usage`] if the model does not have one.
pub fn embedding_output(info: &ModelInfo) -> Result<String> {
    let output = info.outputs.iter().find(|output| output.name == EMBEDDING && output.shape.len() == 2);
    output.map(|output| output.name.clone()).ok_or_else(|| {
        Error::usage(format!("{} has no output `{EMBEDDING}`, but the job asks for embeddings", info.path.display()))
            .with_hint("`vidindex models convert CHECKPOINT` writes a SlowFast that has one; those for detection (AVA) have none")
    })
}

/// The number of a graph's classes may be unknown until it runs.
pub(super) fn other_classes(scores: usize, labels: usize) -> Error {
    Error::failed(format!("the action model scores {scores} classes, but has {labels} labels"))
}

/// The rows of an output: one for each row of the batch.
fn rows_of<'a>((shape, data): OutputTensor<'a>, rows: usize) -> Result<Vec<&'a [f32]>> {
    match shape {
        [outputs, width] if *outputs as usize == rows => Ok(data.chunks_exact(*width as usize).collect()),
        _ => Err(Error::failed(format!("the action model gave {shape:?} where [{rows}, values] was expected"))),
    }
}

/// The batch size on a device. One input keeps a CPU busy.
pub(super) fn batch_max(device: Device, on_gpu: usize) -> usize {
    if device.is_cpu() { 1 } else { on_gpu }
}

/// The batch size of a graph that supports only one. Otherwise, if batches always have one input, the free dimension's
/// name and that length.
pub(super) fn batch_dimension(input: &TensorInfo, batch_max: usize) -> (Option<usize>, Vec<(String, i64)>) {
    match input.shape.first() {
        Some(Dim::Fixed(length)) => (Some(*length), vec![]),
        Some(Dim::Free(name)) if batch_max == 1 && name != "?" => (None, vec![(name.clone(), 1)]),
        _ => (None, vec![]),
    }
}

pub(super) fn activated(activation: Activation, logits: &[f32]) -> Vec<f32> {
    match activation {
        Activation::None => logits.to_vec(),
        Activation::Sigmoid => logits.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
        Activation::Softmax => {
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let exps: Vec<f32> = logits.iter().map(|x| (x - max).exp()).collect();
            let sum: f32 = exps.iter().sum();
            exps.iter().map(|e| e / sum).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_sums_to_one_even_for_large_logits() {
        let scores = activated(Activation::Softmax, &[1000.0, 999.0, -1000.0]);
        assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!(scores[0] > scores[1] && scores[2] == 0.0);
    }

    #[test]
    fn the_slow_pathway_gets_the_frames_of_the_reference() {
        let shape = ClipShape { frames: 32, crop: 1, slow: (0..8).map(|i| linspace_index(32, 8, i)).collect() };
        let clip: Vec<f16> = (0..96).map(|v| f16::from_f32(v as f32)).collect();
        let mut batch = ClipBatch::default();
        batch.push(&shape, &clip);
        assert_eq!(batch.pathways.slow[..8], [0.0, 4.0, 8.0, 13.0, 17.0, 22.0, 26.0, 31.0]);
        assert_eq!(batch.pathways.slow[8], 32.0);
    }

    #[test]
    fn with_mmaction2s_sampling_the_slow_pathway_gets_every_alpha_th_frame() {
        let described = descriptor::SlowFastDescriptor {
            slow_sampling: SlowSampling::Stride,
            ..descriptor::SlowFastDescriptor::default()
        };
        assert_eq!(slow_frames(&described), [0, 4, 8, 12, 16, 20, 24, 28]);
        assert_eq!(slow_frames(&descriptor::SlowFastDescriptor::default()), [0, 4, 8, 13, 17, 22, 26, 31]);
    }
}
