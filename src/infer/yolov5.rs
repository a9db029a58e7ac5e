//! YOLOv5: letterboxed images in, boxes out, after `detect.py` of the reference (best class per box, class-wise NMS).

use super::session::{Model, Runtime};
use super::slowfast::{batch_dimension, batch_max};
use crate::decode::Letterbox;
use crate::error::{Error, Result};
use crate::zoo::descriptor::yolov5_tensors;
use crate::zoo::inspect::ModelInfo;

/// Images that a GPU takes at once.
const GPU_BATCH: usize = 16;

/// Boxes kept per image after NMS, as the reference.
const BOXES_MAX: usize = 300;

/// Candidates per image that NMS looks at, as the reference.
const CANDIDATES_MAX: usize = 30_000;

/// Which boxes to keep.
#[derive(Debug, Clone)]
pub struct Thresholds {
    /// Boxes must score more than this.
    pub confidence: f32,
    /// Of two boxes of a class that overlap by more than this, the weaker goes.
    pub iou: f32,
    /// Classes to keep, by number.
    pub classes: Vec<usize>,
}

/// A box in pixels of the frame as displayed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    /// Left, top, right, bottom.
    pub xyxy: [f32; 4],
    /// Objectness times class score.
    pub confidence: f32,
    /// Class number.
    pub class: usize,
}

/// The tensors of some images.
#[derive(Debug, Default)]
pub struct ImageBatch {
    /// `[images, 3, side, side]`, RGB in 0..=1.
    pixels: Vec<f32>,
    /// Size of each frame as displayed.
    frames: Vec<(u32, u32)>,
}

impl ImageBatch {
    /// Empties the batch; its memory is kept.
    pub fn clear(&mut self) {
        self.pixels.clear();
        self.frames.clear();
    }

    /// Adds a letterboxed image, `[side, side, 3]` bytes, of a frame of this size.
    pub fn push(&mut self, image: &[u8], width: u32, height: u32) {
        for channel in 0..3 {
            self.pixels.extend(image[channel..].iter().step_by(3).map(|&byte| f32::from(byte) / 255.0));
        }
        self.frames.push((width, height));
    }
}

/// An open YOLOv5.
pub struct YoloV5 {
    model: Model,
    /// Names of the input and the output.
    tensors: [String; 2],
    side: usize,
    thresholds: Thresholds,
    fixed_batch: Option<usize>,
    batch_max: usize,
}

impl YoloV5 {
    /// Opens the model that `info` describes, for images of `side` pixels.
    ///
    /// # Errors
    /// As [`Runtime::open`].
    pub fn open(runtime: &Runtime, info: &ModelInfo, side: usize, thresholds: Thresholds) -> Result<Self> {
        let batch_max = batch_max(runtime.device(), GPU_BATCH);
        let tensors = yolov5_tensors(info)?;
        let (fixed_batch, fixed) = batch_dimension(tensors.images, batch_max);
        let model = runtime.open(&info.path, &fixed)?;
        let tensors = [tensors.images, tensors.boxes].map(|tensor| tensor.name.clone());
        Ok(Self { model, tensors, side, thresholds, fixed_batch, batch_max: fixed_batch.unwrap_or(batch_max) })
    }

    /// Images worth putting into one batch.
    pub fn batch_max(&self) -> usize {
        self.batch_max
    }

    /// The boxes of each image, strongest first.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn run(&mut self, batch: &mut ImageBatch, seconds: &mut f64) -> Result<Vec<Vec<Detection>>> {
        let rows = self.fixed_batch.unwrap_or(batch.frames.len());
        batch.pixels.resize(rows * 3 * self.side * self.side, 0.0);
        let shape = [rows, 3, self.side, self.side].map(|d| d as i64).to_vec();
        let (frames, side, thresholds) = (&batch.frames, self.side, &self.thresholds);
        let [input, output] = &self.tensors;
        self.model.run(&[(input.as_str(), shape, &batch.pixels)], output, seconds, |shape, data| match shape {
            [outputs, boxes, fields] if *outputs as usize == rows && *fields > 5 => {
                let images = data.chunks_exact((*boxes * *fields) as usize);
                Ok(images
                    .zip(frames)
                    .map(|(predictions, &(width, height))| {
                        let kept = non_max_suppression(predictions, *fields as usize, thresholds);
                        kept.into_iter().map(|found| to_frame(found, width, height, side)).collect()
                    })
                    .collect())
            }
            _ => Err(Error::failed(format!(
                "the person model gave {shape:?} where [{rows}, boxes, 5 + classes] was expected"
            ))),
        })
    }
}

/// Picks boxes from one image's decoded predictions, rows of `[x, y, width, height, objectness, class scores...]` in
/// pixels of the letterboxed image.
pub fn non_max_suppression(predictions: &[f32], fields: usize, thresholds: &Thresholds) -> Vec<Detection> {
    let mut candidates: Vec<Detection> = predictions
        .chunks_exact(fields)
        .filter(|row| row[4] > thresholds.confidence)
        .filter_map(|row| {
            let (class, confidence) = best_class(&row[5..], row[4]);
            let wanted = confidence > thresholds.confidence && thresholds.classes.contains(&class);
            let [x, y, w, h] = [row[0], row[1], row[2] / 2.0, row[3] / 2.0];
            wanted.then_some(Detection { xyxy: [x - w, y - h, x + w, y + h], confidence, class })
        })
        .collect();
    candidates.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    candidates.truncate(CANDIDATES_MAX);
    let mut kept: Vec<Detection> = Vec::new();
    for candidate in candidates {
        let covered =
            |other: &Detection| other.class == candidate.class && iou(&other.xyxy, &candidate.xyxy) > thresholds.iou;
        if !kept.iter().any(covered) {
            kept.push(candidate);
            if kept.len() == BOXES_MAX {
                break;
            }
        }
    }
    kept
}

fn best_class(scores: &[f32], objectness: f32) -> (usize, f32) {
    let mut best = (0, f32::NEG_INFINITY);
    for (class, score) in scores.iter().enumerate() {
        if score * objectness > best.1 {
            best = (class, score * objectness);
        }
    }
    best
}

/// Intersection over union of two boxes.
pub fn iou(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let width = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let height = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    let area = |r: &[f32; 4]| (r[2] - r[0]) * (r[3] - r[1]);
    let shared = width * height;
    shared / (area(a) + area(b) - shared)
}

/// From the letterboxed image back to the frame, clipped to it.
fn to_frame(found: Detection, width: u32, height: u32, side: usize) -> Detection {
    let at = Letterbox::new(width as usize, height as usize, side);
    // The reference takes half the padding without rounding it.
    let bar = |scaled: f64| (side as f64 - scaled * at.gain) / 2.0;
    let (left, top) = (bar(f64::from(width)), bar(f64::from(height)));
    let x = |v: f32| ((f64::from(v) - left) / at.gain).clamp(0.0, f64::from(width)) as f32;
    let y = |v: f32| ((f64::from(v) - top) / at.gain).clamp(0.0, f64::from(height)) as f32;
    let [x1, y1, x2, y2] = found.xyxy;
    Detection { xyxy: [x(x1), y(y1), x(x2), y(y2)], ..found }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn thresholds() -> Thresholds {
        Thresholds { confidence: 0.25, iou: 0.45, classes: vec![0, 1] }
    }

    #[test]
    fn the_weaker_of_two_overlapping_boxes_of_a_class_goes() {
        let predictions = [
            [50.0, 50.0, 20.0, 20.0, 0.9, 0.9, 0.0],
            [51.0, 50.0, 20.0, 20.0, 0.9, 0.8, 0.0],
            [51.0, 50.0, 20.0, 20.0, 0.9, 0.0, 0.8],
        ]
        .concat();
        let kept = non_max_suppression(&predictions, 7, &thresholds());
        assert_eq!(kept.iter().map(|d| d.class).collect::<Vec<_>>(), vec![0, 1]);
    }

    #[test]
    fn a_box_goes_back_to_the_frame_it_came_from() {
        let found = Detection { xyxy: [0.0, 140.0, 640.0, 500.0], confidence: 1.0, class: 0 };
        assert_eq!(to_frame(found, 1280, 720, 640).xyxy, [0.0, 0.0, 1280.0, 720.0]);
    }

    proptest! {
        #[test]
        fn what_is_kept_is_strong_sorted_and_apart(rows in prop::collection::vec(
            (0f32..640.0, 0f32..640.0, 1f32..200.0, 1f32..200.0, 0f32..1.0, 0f32..1.0, 0f32..1.0), 0..200)) {
            let predictions: Vec<f32> = rows.iter().flat_map(|r| [r.0, r.1, r.2, r.3, r.4, r.5, r.6]).collect();
            let kept = non_max_suppression(&predictions, 7, &thresholds());
            prop_assert!(kept.iter().all(|d| d.confidence > 0.25));
            prop_assert!(kept.is_sorted_by(|a, b| a.confidence >= b.confidence));
            for (i, a) in kept.iter().enumerate() {
                prop_assert!(kept[..i].iter().all(|b| a.class != b.class || iou(&a.xyxy, &b.xyxy) <= 0.45));
            }
            // Nothing strong is lost: each candidate is kept or covered by a stronger one of its class.
            for r in &rows {
                let (class, confidence) = best_class(&[r.5, r.6], r.4);
                if r.4 > 0.25 && confidence > 0.25 {
                    let own = [r.0 - r.2 / 2.0, r.1 - r.3 / 2.0, r.0 + r.2 / 2.0, r.1 + r.3 / 2.0];
                    prop_assert!(kept.iter().any(|d| d.class == class && d.confidence >= confidence
                        && (d.xyxy == own || iou(&d.xyxy, &own) > 0.45)));
                }
            }
        }
    }
}
