//! Runs a SlowFast (Feichtenhofer et al., arXiv 1812.03982): the input is clips, the output is a score per class.

use half::f16;

use super::memory::{InputTensor, Memory};
use super::session::{Model, OutputTensor, Runtime, See, Timed};
use crate::decode::sample::linspace_index;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::zoo::deploy::{CLIPS, Deployment};
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

/// The input tensor of a batch of clips.
#[derive(Debug)]
pub struct ClipBatch {
    input: InputTensor,
    clips: usize,
}

/// What the model sees of a clip, `[3, frames, height, width]`.
#[derive(Debug, Clone, Copy)]
pub struct ClipView<'a> {
    /// The clip's values.
    pub values: &'a [f16],
    /// Width and height of the clip's frames.
    pub size: (usize, usize),
    /// Left and top edge of the part that the model sees.
    pub start: (usize, usize),
}

impl<'a> ClipView<'a> {
    /// A clip of square frames, or of frames that the model sees whole.
    pub fn all(values: &'a [f16], size: (usize, usize)) -> Self {
        Self { values, size, start: (0, 0) }
    }

    /// Three squares of a clip: at both ends of the long side and in its centre, as in the paper's tests (`uniform_crop` of
    /// the reference implementation).
    pub fn three_crops(values: &'a [f16], size: (usize, usize), side: usize) -> [Self; 3] {
        let start = |length: usize, half: usize| (length.saturating_sub(side) * half).div_ceil(2);
        [0, 1, 2].map(|half| {
            let start = match size.0 < size.1 {
                true => (start(size.0, 1), start(size.1, half)),
                false => (start(size.0, half), start(size.1, 1)),
            };
            Self { values, size, start }
        })
    }

    /// Copies what is seen into frames of this size, of which the rest stays as it is.
    fn copy_to(&self, values: &mut [f16], size: (usize, usize)) {
        if self.size == size {
            return values.copy_from_slice(self.values);
        }
        let width = size.0.min(self.size.0 - self.start.0);
        let frames = self.values.chunks_exact(self.size.0 * self.size.1);
        for (to, from) in values.chunks_exact_mut(size.0 * size.1).zip(frames) {
            let rows = from.chunks_exact(self.size.0).skip(self.start.1);
            for (to, from) in to.chunks_exact_mut(size.0).zip(rows) {
                to[..width].copy_from_slice(&from[self.start.0..][..width]);
            }
        }
    }
}

/// Makes the input tensors of a SlowFast.
#[derive(Debug)]
pub struct ClipTensors {
    memory: Memory,
    frames: usize,
    /// Side of the squares that the model takes. `None` if it takes whole frames.
    crop: Option<usize>,
    rows: usize,
}

/// The sides of whole frames are padded to multiples of this: by so much, the network scales frames down.
const WHOLE_STEP: usize = 32;

impl ClipTensors {
    /// A batch of clips, padded to the model's batch size. All clips of whole frames have the same size; they are padded
    /// with zeros, as the network pads.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn batch(&self, clips: &[ClipView<'_>]) -> Result<ClipBatch> {
        let whole =
            |clip: &ClipView<'_>| (clip.size.0.next_multiple_of(WHOLE_STEP), clip.size.1.next_multiple_of(WHOLE_STEP));
        let square = self.crop.map(|side| (side, side));
        let size = square.or(clips.first().map(whole)).unwrap_or((WHOLE_STEP, WHOLE_STEP));
        let shape = [self.rows, 3, self.frames, size.1, size.0];
        let input = self.memory.input(CLIPS, &shape, |values: &mut [f16]| {
            let mut slots = values.chunks_exact_mut(3 * self.frames * size.0 * size.1);
            for (clip, slot) in clips.iter().zip(&mut slots) {
                if self.crop.is_none() {
                    slot.fill(f16::ZERO);
                }
                clip.copy_to(slot, size);
            }
            slots.for_each(|slot| slot.fill(f16::ZERO));
        })?;
        Ok(ClipBatch { input, clips: clips.len() })
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

/// How a SlowFast is opened.
#[derive(Debug, Clone, Copy, Default)]
pub struct ClipOptions {
    /// Whether the pooled features are output, too.
    pub embedding: bool,
    /// Whether the model takes whole frames instead of squares. Then a batch is one clip, unless the graph has a fixed
    /// number, because the shape of frames differs between videos.
    pub whole: bool,
    /// Number of clips in a batch, unless the graph has a fixed one. `None` for the one that suits the device.
    pub batch: Option<usize>,
}

/// An open SlowFast.
pub struct SlowFast {
    model: Model,
    frames: usize,
    /// `None` if the model takes whole frames.
    crop: Option<usize>,
    /// Names of the outputs: the scores and, if they were requested, the pooled features.
    outputs: Vec<String>,
    activation: Activation,
    classes: usize,
    /// Number of clips in each batch, padding included.
    rows: usize,
}

impl SlowFast {
    /// Opens the model that `info` and `descriptor` describe.
    ///
    /// # Errors
    /// As for [`Runtime::open`], and if the model does not output the requested features.
    pub fn open(
        runtime: &Runtime,
        info: &ModelInfo,
        descriptor: &descriptor::SlowFastDescriptor,
        options: ClipOptions,
    ) -> Result<Self> {
        Self::open_version(runtime, Deployment::read(&info.path)?, info, descriptor, options)
    }

    /// As [`SlowFast::open`], for a version of the model with the same inputs and outputs.
    ///
    /// # Errors
    /// As for [`SlowFast::open`].
    pub fn open_version(
        runtime: &Runtime,
        mut deployment: Deployment,
        info: &ModelInfo,
        descriptor: &descriptor::SlowFastDescriptor,
        options: ClipOptions,
    ) -> Result<Self> {
        let tensors = slowfast_tensors(info)?;
        let usual = if options.whole { 1 } else { usual_batch(runtime.device(), GPU_BATCH) };
        let (rows, fixed) = batch_dimension(tensors.fast, options.batch.unwrap_or(usual));
        let embedding = options.embedding.then(|| embedding_output(info)).transpose()?;
        let slow_frames = slow_frames(descriptor);
        deployment.take_clips(&tensors.fast.name, tensors.slow.map(|slow| (slow.name.as_str(), &slow_frames[..])));
        if options.whole {
            deployment.free_sides(CLIPS);
        }
        let model = runtime.open(&deployment, &fixed)?;
        let outputs = [tensors.scores.name.clone()].into_iter().chain(embedding).collect();
        let descriptor::SlowFastDescriptor { frames, crop, activation, .. } = *descriptor;
        let classes = descriptor.labels.len();
        let crop = (!options.whole).then_some(crop);
        let mut opened = Self { model, frames, crop, outputs, activation, classes, rows };
        if !runtime.device().is_cpu() && !options.whole {
            // The first run measures which algorithms are fastest, which takes seconds.
            opened.run(&opened.tensors().batch(&[])?)?;
        }
        Ok(opened)
    }

    /// Number of clips in each batch, padding included.
    pub fn batch(&self) -> usize {
        self.rows
    }

    /// Makes the model's input tensors.
    pub fn tensors(&self) -> ClipTensors {
        ClipTensors { memory: self.model.memory(), frames: self.frames, crop: self.crop, rows: self.rows }
    }

    /// Passes further outputs of the graph to `see`: the index of the name, the shape and the elements.
    ///
    /// # Errors
    /// As for [`Model::run`].
    pub fn observe(&mut self, batch: &ClipBatch, names: &[&str], see: &mut See<'_>) -> Result<()> {
        self.model.observe(std::slice::from_ref(&batch.input), names, see)
    }

    /// Computes the scores of each clip.
    ///
    /// # Errors
    /// As for [`Model::run`], and if a score is not a number.
    pub fn run(&mut self, batch: &ClipBatch) -> Result<Timed<Vec<ClipScores>>> {
        let (activation, classes, rows) = (self.activation, self.classes, self.rows);
        let names: Vec<&str> = self.outputs.iter().map(String::as_str).collect();
        self.model.run_for(std::slice::from_ref(&batch.input), &names, |outputs| {
            let mut outputs = outputs.iter().map(|output| rows_of(*output, rows));
            let logits = outputs.next().transpose()?.unwrap_or_default();
            if let Some(row) = logits.first().filter(|row| row.len() != classes) {
                return Err(other_classes(row.len(), classes));
            }
            let mut features = outputs.next().transpose()?.unwrap_or_default().into_iter();
            let scored = |logits| {
                let embedding = features.next().map(<[f32]>::to_vec);
                Ok(ClipScores { scores: activated(activation, logits)?, embedding })
            };
            logits.into_iter().take(batch.clips).map(scored).collect()
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
pub(super) fn usual_batch(device: Device, on_gpu: usize) -> usize {
    if device.is_cpu() { 1 } else { on_gpu }
}

/// The batch size of a graph: the one that it supports, or `batch`. If the dimension has a name, also returns the name and
/// its length. All batches have the same size, because a GPU's libraries measure their algorithms for each new one.
pub(super) fn batch_dimension(input: &TensorInfo, batch: usize) -> (usize, Vec<(String, i64)>) {
    match input.shape.first() {
        Some(Dim::Fixed(length)) => (*length, vec![]),
        Some(Dim::Free(name)) if name != "?" => (batch, vec![(name.clone(), batch as i64)]),
        _ => (batch, vec![]),
    }
}

/// The scores of one clip or person.
pub(super) fn activated(activation: Activation, logits: &[f32]) -> Result<Vec<f32>> {
    if logits.iter().any(|logit| logit.is_nan()) {
        return Err(not_a_number("the action model"));
    }
    Ok(match activation {
        Activation::None => logits.to_vec(),
        Activation::Sigmoid => logits.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
        Activation::Softmax => {
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let exps: Vec<f32> = logits.iter().map(|x| (x - max).exp()).collect();
            let sum: f32 = exps.iter().sum();
            exps.iter().map(|e| e / sum).collect()
        }
    })
}

/// The error if a model's output has values that are not numbers.
pub(super) fn not_a_number(model: &str) -> Error {
    Error::failed(format!("{model} output a value that is not a number"))
        .with_hint("if 16-bit floats are too small for it, set `precision = \"fp32\"` in [run]")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// A clip of one frame, whose pixels are their columns plus ten times their rows.
    fn numbered(width: usize, height: usize) -> Vec<f16> {
        let pixel = |i: usize| f16::from_f32((i % width + 10 * (i / width)) as f32);
        let plane = (0..width * height).map(pixel);
        [plane.clone(), plane.clone(), plane].into_iter().flatten().collect()
    }

    fn seen(view: ClipView<'_>, size: (usize, usize)) -> Vec<f32> {
        let mut values = vec![f16::ZERO; 3 * size.0 * size.1];
        view.copy_to(&mut values, size);
        assert_eq!(values[..size.0 * size.1], values[2 * size.0 * size.1..]);
        values[..size.0 * size.1].iter().map(|value| value.to_f32()).collect()
    }

    #[test]
    fn three_crops_are_at_both_ends_of_the_long_side_and_in_the_centre() {
        let wide = numbered(5, 2);
        let crops = ClipView::three_crops(&wide, (5, 2), 2).map(|view| seen(view, (2, 2)));
        assert_eq!(crops, [[0.0, 1.0, 10.0, 11.0], [2.0, 3.0, 12.0, 13.0], [3.0, 4.0, 13.0, 14.0]]);
        let tall = numbered(3, 4);
        let crops = ClipView::three_crops(&tall, (3, 4), 2).map(|view| seen(view, (2, 2)));
        assert_eq!(crops, [[1.0, 2.0, 11.0, 12.0], [11.0, 12.0, 21.0, 22.0], [21.0, 22.0, 31.0, 32.0]]);
        let square = numbered(2, 2);
        let crops = ClipView::three_crops(&square, (2, 2), 2).map(|view| seen(view, (2, 2)));
        assert!(crops.iter().all(|crop| *crop == [0.0, 1.0, 10.0, 11.0]), "{crops:?}");
    }

    #[test]
    fn a_whole_frame_is_padded_at_the_right_and_the_bottom() {
        let clip = numbered(3, 2);
        assert_eq!(
            seen(ClipView::all(&clip, (3, 2)), (4, 3)),
            [0.0, 1.0, 2.0, 0.0, 10.0, 11.0, 12.0, 0.0, 0.0, 0.0, 0.0, 0.0]
        );
    }

    #[test]
    fn softmax_sums_to_one_even_for_large_logits() {
        let scores = activated(Activation::Softmax, &[1000.0, 999.0, -1000.0]).unwrap();
        assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!(scores[0] > scores[1] && scores[2] == 0.0);
    }

    #[test]
    fn a_score_that_is_not_a_number_is_an_error() {
        assert!(activated(Activation::None, &[1.0, f32::NAN]).is_err());
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
