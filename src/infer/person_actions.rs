//! Runs SlowFast's AVA variant (PyTorchVideo's `create_slowfast_with_roi_head`): the input is a clip of whole frames with
//! boxes of persons, the output is the scores of each person.

use half::f16;

use super::memory::{InputTensor, Memory};
use super::session::{Model, Runtime, See, Timed};
use super::slowfast::{activated, batch_dimension, other_classes, slow_frames};
use crate::error::{Error, Result};
use crate::zoo::deploy::{BOXES, CLIPS, Deployment};
use crate::zoo::descriptor::{self, Activation, slowfast_tensors};
use crate::zoo::inspect::ModelInfo;

/// The input tensors of one clip. Clips cannot be batched, because the shape of frames differs between videos.
#[derive(Debug)]
pub struct PersonClip {
    /// The clip, and `[boxes, 5]`: number of the clip in the batch (always 0), left, top, right, bottom.
    inputs: [InputTensor; 2],
    boxes: usize,
}

/// Makes the input tensors of a SlowFast that scores persons.
#[derive(Debug)]
pub struct PersonTensors {
    memory: Memory,
    frames: usize,
}

impl PersonTensors {
    /// A clip, `[3, frames, height, width]`, whose frames have this size (width, height), and the boxes of persons in its
    /// pixels, at least one.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn clip(&self, clip: &[f16], size: (usize, usize), boxes: &[[f32; 4]]) -> Result<PersonClip> {
        let shape = [1, 3, self.frames, size.1, size.0];
        let clip = self.memory.input(CLIPS, &shape, |values: &mut [f16]| values.copy_from_slice(clip))?;
        let rois = self.memory.input(BOXES, &[boxes.len(), 5], |values: &mut [f32]| {
            for (row, [x1, y1, x2, y2]) in values.as_chunks_mut::<5>().0.iter_mut().zip(boxes) {
                *row = [0.0, *x1, *y1, *x2, *y2];
            }
        })?;
        Ok(PersonClip { inputs: [clip, rois], boxes: boxes.len() })
    }
}

/// An open SlowFast that scores persons.
pub struct PersonActions {
    model: Model,
    frames: usize,
    /// Name of the output.
    scores: String,
    activation: Activation,
    classes: usize,
}

impl PersonActions {
    /// Opens the model that `info` and `descriptor` describe.
    ///
    /// # Errors
    /// As for [`Runtime::open`].
    pub fn open(runtime: &Runtime, info: &ModelInfo, descriptor: &descriptor::SlowFastDescriptor) -> Result<Self> {
        Self::open_version(runtime, Deployment::read(&info.path)?, info, descriptor)
    }

    /// As [`PersonActions::open`], for a version of the model with the same inputs and outputs.
    ///
    /// # Errors
    /// As for [`Runtime::open`].
    pub fn open_version(
        runtime: &Runtime,
        mut deployment: Deployment,
        info: &ModelInfo,
        descriptor: &descriptor::SlowFastDescriptor,
    ) -> Result<Self> {
        let tensors = slowfast_tensors(info)?;
        let Some(boxes) = tensors.boxes else {
            return Err(Error::usage(format!("{} takes no boxes of persons", info.path.display())));
        };
        let (_, fixed) = batch_dimension(tensors.fast, 1);
        let slow_frames = slow_frames(descriptor);
        deployment.take_clips(&tensors.fast.name, tensors.slow.map(|slow| (slow.name.as_str(), &slow_frames[..])));
        deployment.take_boxes(&boxes.name);
        let model = runtime.open(&deployment, &fixed)?;
        let (frames, activation) = (descriptor.frames, descriptor.activation);
        let (scores, classes) = (tensors.scores.name.clone(), descriptor.labels.len());
        Ok(Self { model, frames, scores, activation, classes })
    }

    /// Makes the model's input tensors.
    pub fn tensors(&self) -> PersonTensors {
        PersonTensors { memory: self.model.memory(), frames: self.frames }
    }

    /// Passes further outputs of the graph to `see`: the index of the name, the shape and the elements.
    ///
    /// # Errors
    /// As for [`Model::run`].
    pub fn observe(&mut self, clip: &PersonClip, names: &[&str], see: &mut See<'_>) -> Result<()> {
        self.model.observe(&clip.inputs, names, see)
    }

    /// Computes the scores of each box, in label order, after the activation.
    ///
    /// # Errors
    /// As for [`Model::run`], and if a score is not a number.
    pub fn run(&mut self, clip: &PersonClip) -> Result<Timed<Vec<Vec<f32>>>> {
        let (activation, labels, boxes) = (self.activation, self.classes, clip.boxes);
        self.model.run(&clip.inputs, &self.scores, |shape, logits| match shape {
            [outputs, classes] if *outputs as usize == boxes && *classes as usize != labels => {
                Err(other_classes(*classes as usize, labels))
            }
            [outputs, classes] if *outputs as usize == boxes => {
                logits.chunks_exact(*classes as usize).map(|row| activated(activation, row)).collect()
            }
            _ => Err(Error::failed(format!("the action model gave {shape:?} where [{boxes}, classes] was expected"))),
        })
    }
}

/// Converts a box from a frame of size `frame` to a clip of size `clip` (width, height), as PyTorchVideo's
/// `short_side_scale_with_boxes` and `clip_boxes_to_image` do: both axes are scaled by the ratio of the long sides, and
/// clipped to 0..=length - 1 before and after.
pub fn scaled_box(xyxy: [f32; 4], frame: (u32, u32), clip: (usize, usize)) -> [f32; 4] {
    let (width, height) = (frame.0 as f32, frame.1 as f32);
    let (clip_width, clip_height) = (clip.0 as f32, clip.1 as f32);
    let ratio = if frame.0 < frame.1 { clip_height / height } else { clip_width / width };
    let scaled = |v: f32, from: f32, to: f32| (v.clamp(0.0, from - 1.0) * ratio).clamp(0.0, to - 1.0);
    let (x, y) = (|v| scaled(v, width, clip_width), |v| scaled(v, height, clip_height));
    [x(xyxy[0]), y(xyxy[1]), x(xyxy[2]), y(xyxy[3])]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_scale_by_the_long_side_and_stay_inside_the_frame() {
        // 1920 x 1080 becomes 455 x 256: the reference scales both axes by 455 / 1920.
        let scaled = scaled_box([100.0, 200.0, 1920.0, 1080.0], (1920, 1080), (455, 256));
        let ratio = 455.0 / 1920.0;
        assert_eq!(
            scaled,
            [100.0 * ratio, 200.0 * ratio, 454.0_f32.min(1919.0 * ratio), 255.0_f32.min(1079.0 * ratio)]
        );
        let upright = scaled_box([-5.0, 10.0, 240.0, 400.0], (240, 320), (256, 341));
        let ratio = 341.0 / 320.0;
        assert_eq!(upright, [0.0, 10.0 * ratio, 239.0 * ratio, 319.0 * ratio]);
    }
}
