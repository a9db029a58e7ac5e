//! Runs SlowFast's AVA variant (PyTorchVideo's `create_slowfast_with_roi_head`): the input is a clip of whole frames with
//! boxes of persons, the output is the scores of each person.

use half::f16;

use super::session::{Model, Runtime, Timed};
use super::slowfast::{Pathways, activated, batch_dimension, other_classes, slow_frames};
use crate::error::{Error, Result};
use crate::zoo::descriptor::{self, Activation, slowfast_tensors};
use crate::zoo::inspect::ModelInfo;

/// The input tensors of one clip. Clips cannot be batched, because the shape of frames differs between videos.
#[derive(Debug, Default)]
pub struct PersonClip {
    width: usize,
    height: usize,
    pathways: Pathways,
    /// `[boxes, 5]`: number of the clip in the batch (always 0), left, top, right, bottom.
    boxes: Vec<f32>,
}

impl PersonClip {
    /// Replaces the content with a clip tensor, `[3, frames, height, width]`, whose frames have this size (width, height),
    /// and the boxes of persons in its pixels, at least one. `slow` are the numbers of the frames that the Slow pathway
    /// gets.
    pub fn fill(&mut self, slow: &[usize], clip: &[f16], size: (usize, usize), boxes: &[[f32; 4]]) {
        (self.width, self.height) = size;
        self.pathways.clear();
        self.pathways.push(slow, size.0 * size.1, clip);
        self.boxes.clear();
        self.boxes.extend(boxes.iter().flat_map(|&[x1, y1, x2, y2]| [0.0, x1, y1, x2, y2]));
    }
}

/// An open SlowFast that scores persons.
pub struct PersonActions {
    model: Model,
    frames: usize,
    /// The frames of the Fast pathway that the Slow pathway gets.
    slow: Vec<usize>,
    /// Name of the Slow input, if the model has two.
    slow_input: Option<String>,
    /// Names of the Fast (or only) input, of the input for boxes, and of the output.
    tensors: [String; 3],
    activation: Activation,
    classes: usize,
}

impl PersonActions {
    /// Opens the model that `info` and `descriptor` describe.
    ///
    /// # Errors
    /// As for [`Runtime::open`].
    pub fn open(runtime: &Runtime, info: &ModelInfo, descriptor: &descriptor::SlowFastDescriptor) -> Result<Self> {
        let tensors = slowfast_tensors(info)?;
        let Some(boxes) = tensors.boxes else {
            return Err(Error::usage(format!("{} takes no boxes of persons", info.path.display())));
        };
        let (_, fixed) = batch_dimension(tensors.fast, 1);
        let model = runtime.open(&info.path, &fixed)?;
        let slow_input = tensors.slow.map(|slow| slow.name.clone());
        let tensors = [tensors.fast, boxes, tensors.scores].map(|tensor| tensor.name.clone());
        let (slow, activation) = (slow_frames(descriptor), descriptor.activation);
        let classes = descriptor.labels.len();
        Ok(Self { model, frames: descriptor.frames, slow, slow_input, tensors, activation, classes })
    }

    /// The frames of the Fast pathway that the Slow pathway gets.
    pub fn slow_frames(&self) -> &[usize] {
        &self.slow
    }

    /// Computes the scores of each box, in label order, after the activation.
    ///
    /// # Errors
    /// As for [`Model::run`].
    pub fn run(&mut self, clip: &PersonClip) -> Result<Timed<Vec<Vec<f32>>>> {
        let boxes = clip.boxes.len() / 5;
        let dims = |frames: usize| [1, 3, frames, clip.height, clip.width].map(|d| d as i64).to_vec();
        let [fast, rois, scores] = &self.tensors;
        let mut inputs = vec![
            (fast.as_str(), dims(self.frames), clip.pathways.fast.as_slice()),
            (rois.as_str(), vec![boxes as i64, 5], clip.boxes.as_slice()),
        ];
        let slow = self.slow_input.as_ref();
        inputs.extend(slow.map(|slow| (slow.as_str(), dims(self.slow.len()), clip.pathways.slow.as_slice())));
        let (activation, labels) = (self.activation, self.classes);
        self.model.run(&inputs, scores, |shape, logits| match shape {
            [outputs, classes] if *outputs as usize == boxes && *classes as usize != labels => {
                Err(other_classes(*classes as usize, labels))
            }
            [outputs, classes] if *outputs as usize == boxes => {
                Ok(logits.chunks_exact(*classes as usize).map(|row| activated(activation, row)).collect())
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

    #[test]
    fn a_clip_fills_both_pathways_and_numbers_its_boxes() {
        let clip: Vec<f16> = (0..3 * 4 * 2).map(|v| f16::from_f32(v as f32)).collect();
        let mut filled = PersonClip::default();
        for _ in 0..2 {
            filled.fill(&[0, 3], &clip, (2, 1), &[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]);
        }
        assert_eq!(filled.pathways.fast, (0..3 * 4 * 2).map(|v| v as f32).collect::<Vec<_>>());
        assert_eq!(filled.pathways.slow, [0.0, 1.0, 6.0, 7.0, 8.0, 9.0, 14.0, 15.0, 16.0, 17.0, 22.0, 23.0]);
        assert_eq!(filled.boxes, [0.0, 1.0, 2.0, 3.0, 4.0, 0.0, 5.0, 6.0, 7.0, 8.0]);
    }
}
