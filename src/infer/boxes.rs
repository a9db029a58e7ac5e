//! Turns a detector's output into boxes of the frame, as YOLOv5's `detect.py` and Ultralytics' `predict` do: best class per
//! box, and class-wise NMS unless the graph contains it.

use crate::decode::Letterbox;
use crate::error::{Error, Result};
use crate::zoo::descriptor::Head;

/// Maximum number of boxes per image after NMS, as in the references.
const BOXES_MAX: usize = 300;

/// Maximum number of candidates for NMS per image, as in the references.
const CANDIDATES_MAX: usize = 30_000;

/// Criteria for keeping boxes.
#[derive(Debug, Clone)]
pub struct Thresholds {
    /// The score must exceed this.
    pub confidence: f32,
    /// If the IoU of two boxes of a class exceeds this, the weaker one is dropped.
    pub iou: f32,
    /// Numbers of the classes to keep.
    pub classes: Vec<usize>,
}

/// A box in pixels of the frame as displayed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    /// Left, top, right, bottom.
    pub xyxy: [f32; 4],
    /// Score of the class, multiplied by the objectness if the head has one.
    pub confidence: f32,
    /// Number of the class.
    pub class: usize,
}

/// The boxes that a detector outputs for one image.
#[derive(Debug, Clone, Copy)]
pub enum ImageOutput<'a> {
    /// One box after the other, with this many values each.
    Rows(&'a [f32], usize),
    /// One value of all boxes after the other, for this many boxes.
    Columns(&'a [f32], usize),
}

/// The boxes of one image in pixels of the letterboxed image, strongest first.
///
/// # Errors
/// If an end-to-end head outputs a class that is not an integer below `classes`.
pub fn detections(
    head: Head,
    output: ImageOutput<'_>,
    classes: usize,
    thresholds: &Thresholds,
) -> Result<Vec<Detection>> {
    Ok(match (head, output) {
        (Head::Yolov5, ImageOutput::Rows(rows, values)) => {
            non_max_suppression(anchored(rows, values, thresholds), thresholds)
        }
        (Head::Yolov10, ImageOutput::Rows(rows, values)) => picked(rows, values, classes, thresholds)?,
        (_, output) => non_max_suppression(anchor_free(output, thresholds), thresholds),
    })
}

/// Each row is a box: centre, width, height, objectness, class scores.
fn anchored(output: &[f32], columns: usize, thresholds: &Thresholds) -> Vec<Detection> {
    let strong = output.chunks_exact(columns).filter(|row| row[4] > thresholds.confidence);
    let candidates = strong.map(|row| {
        let (class, confidence) = best_class(row[5..].iter().map(|score| score * row[4]));
        Detection { xyxy: corners([row[0], row[1], row[2], row[3]]), confidence, class }
    });
    candidates.filter(|candidate| thresholds.want(candidate)).collect()
}

/// A box is centre, width, height, class scores.
fn anchor_free(output: ImageOutput<'_>, thresholds: &Thresholds) -> Vec<Detection> {
    let (boxes, values) = match output {
        ImageOutput::Rows(rows, values) => (rows.len() / values.max(1), values),
        ImageOutput::Columns(columns, boxes) => (boxes, columns.len() / boxes.max(1)),
    };
    let at = |value: usize, number: usize| match output {
        ImageOutput::Rows(rows, values) => rows[number * values + value],
        ImageOutput::Columns(columns, boxes) => columns[value * boxes + number],
    };
    let mut best = vec![(0, f32::NEG_INFINITY); boxes];
    for value in 4..values {
        for (number, best) in best.iter_mut().enumerate() {
            let score = at(value, number);
            if score > best.1 {
                *best = (value - 4, score);
            }
        }
    }
    let candidates = best.into_iter().enumerate().map(|(number, (class, confidence))| Detection {
        xyxy: corners([0, 1, 2, 3].map(|value| at(value, number))),
        confidence,
        class,
    });
    candidates.filter(|candidate| thresholds.want(candidate)).collect()
}

/// Each row is a box: two corners, score, class.
fn picked(output: &[f32], columns: usize, classes: usize, thresholds: &Thresholds) -> Result<Vec<Detection>> {
    let mut kept = Vec::new();
    for row in output.chunks_exact(columns).filter(|row| row[4] > thresholds.confidence) {
        let (number, class) = (row[5], row[5] as usize);
        if number != class as f32 || class >= classes {
            return Err(Error::failed(format!("the detector output the class {number}, but has {classes} classes")));
        }
        kept.push(Detection { xyxy: [row[0], row[1], row[2], row[3]], confidence: row[4], class });
    }
    kept.retain(|found| thresholds.want(found));
    kept.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    Ok(kept)
}

impl Thresholds {
    fn want(&self, found: &Detection) -> bool {
        found.confidence > self.confidence && self.classes.contains(&found.class)
    }
}

/// The corners of a box with this centre x, centre y, width and height.
fn corners([x, y, width, height]: [f32; 4]) -> [f32; 4] {
    let (w, h) = (width / 2.0, height / 2.0);
    [x - w, y - h, x + w, y + h]
}

fn best_class(scores: impl Iterator<Item = f32>) -> (usize, f32) {
    scores.enumerate().fold((0, f32::NEG_INFINITY), |best, next| if next.1 > best.1 { next } else { best })
}

/// Keeps the strongest of overlapping boxes of a class. Sorts the boxes, strongest first.
fn non_max_suppression(mut candidates: Vec<Detection>, thresholds: &Thresholds) -> Vec<Detection> {
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

/// Intersection over union of two boxes.
pub fn iou(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let width = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let height = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    let area = |r: &[f32; 4]| (r[2] - r[0]) * (r[3] - r[1]);
    let shared = width * height;
    shared / (area(a) + area(b) - shared)
}

/// Converts a box from the letterboxed image to the frame, and clips it. Sizes are (width, height).
pub(super) fn to_frame(found: Detection, head: Head, frame: (u32, u32), image: (usize, usize)) -> Detection {
    let at = Letterbox::new((frame.0 as usize, frame.1 as usize), image);
    let (width, height) = (f64::from(frame.0), f64::from(frame.1));
    // YOLOv5's reference subtracts the exact padding, that of Ultralytics the rounded padding.
    let (left, top) = match head {
        Head::Yolov5 => ((image.0 as f64 - width * at.gain) / 2.0, (image.1 as f64 - height * at.gain) / 2.0),
        Head::Yolov8 | Head::Yolov10 => (at.left as f64, at.top as f64),
    };
    let x = |v: f32| ((f64::from(v) - left) / at.gain).clamp(0.0, width) as f32;
    let y = |v: f32| ((f64::from(v) - top) / at.gain).clamp(0.0, height) as f32;
    let [x1, y1, x2, y2] = found.xyxy;
    Detection { xyxy: [x(x1), y(y1), x(x2), y(y2)], ..found }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn thresholds() -> Thresholds {
        Thresholds { confidence: 0.25, iou: 0.45, classes: vec![0, 1] }
    }

    #[test]
    fn the_weaker_of_two_overlapping_boxes_of_a_class_is_dropped() {
        let predictions = [
            [50.0, 50.0, 20.0, 20.0, 0.9, 0.9, 0.0],
            [51.0, 50.0, 20.0, 20.0, 0.9, 0.8, 0.0],
            [51.0, 50.0, 20.0, 20.0, 0.9, 0.0, 0.8],
        ]
        .concat();
        let kept = non_max_suppression(anchored(&predictions, 7, &thresholds()), &thresholds());
        assert_eq!(kept.iter().map(|d| d.class).collect::<Vec<_>>(), vec![0, 1]);
    }

    #[test]
    fn a_head_without_objectness_has_its_boxes_in_columns() {
        #[rustfmt::skip]
        let output = [
            50.0, 51.0, 90.0,
            50.0, 50.0, 90.0,
            20.0, 20.0, 10.0,
            20.0, 20.0, 30.0,
            0.9, 0.8, 0.1,
            0.1, 0.1, 0.6,
        ];
        let found = detections(Head::Yolov8, ImageOutput::Columns(&output, 3), 2, &thresholds()).unwrap();
        let [first, second] = [([40.0, 40.0, 60.0, 60.0], 0.9, 0), ([85.0, 75.0, 95.0, 105.0], 0.6, 1)]
            .map(|(xyxy, confidence, class)| Detection { xyxy, confidence, class });
        assert_eq!(found, [first, second]);
        let rows: Vec<f32> = (0..3).flat_map(|column| (0..6).map(move |row| output[row * 3 + column])).collect();
        assert_eq!(detections(Head::Yolov8, ImageOutput::Rows(&rows, 6), 2, &thresholds()).unwrap(), found);
    }

    #[test]
    fn boxes_that_the_graph_selected_are_kept_as_they_are() {
        // The first two overlap. The last one is padding up to 300 rows.
        let rows =
            [[0.0, 0.0, 9.0, 9.0, 0.5, 1.0], [0.0, 0.0, 9.0, 8.0, 0.9, 1.0], [0.0, 0.0, 9.0, 9.0, 0.9, 2.0], [0.0; 6]];
        let found = detections(Head::Yolov10, ImageOutput::Rows(&rows.concat(), 6), 3, &thresholds()).unwrap();
        assert_eq!(found.iter().map(|found| found.xyxy[3]).collect::<Vec<_>>(), [8.0, 9.0], "class 2 is not wanted");
        for class in [3.0, 0.5, -1.0, f32::NAN] {
            let row = [0.0, 0.0, 9.0, 9.0, 0.5, class];
            let error =
                detections(Head::Yolov10, ImageOutput::Rows(&row, 6), 3, &thresholds()).unwrap_err().to_string();
            assert_eq!(error, format!("the detector output the class {class}, but has 3 classes"));
        }
    }

    #[test]
    fn a_box_is_converted_back_to_its_frame() {
        let found = Detection { xyxy: [0.0, 140.0, 640.0, 500.0], confidence: 1.0, class: 0 };
        for head in [Head::Yolov5, Head::Yolov8, Head::Yolov10] {
            assert_eq!(to_frame(found, head, (1280, 720), (640, 640)).xyxy, [0.0, 0.0, 1280.0, 720.0]);
        }
        // 640 x 482 in 640 x 640 leaves 158 rows, 79 of them above. In 640 x 384, 340 x 256 becomes 510 x 384, with 65
        // columns on each side.
        let frame = |head, image| to_frame(found, head, (340, 256), image).xyxy.map(|v| (v * 1000.0).round() / 1000.0);
        assert_eq!(frame(Head::Yolov5, (640, 640))[1], 32.375);
        assert_eq!(frame(Head::Yolov8, (640, 640))[1], 32.406);
        assert_eq!(frame(Head::Yolov8, (640, 384)), [0.0, 93.333, 340.0, 256.0]);
    }

    proptest! {
        #[test]
        fn kept_boxes_are_strong_sorted_and_do_not_overlap(rows in prop::collection::vec(
            (0f32..640.0, 0f32..640.0, 1f32..200.0, 1f32..200.0, 0f32..1.0, 0f32..1.0, 0f32..1.0), 0..200)) {
            let predictions: Vec<f32> = rows.iter().flat_map(|r| [r.0, r.1, r.2, r.3, r.4, r.5, r.6]).collect();
            let kept = non_max_suppression(anchored(&predictions, 7, &thresholds()), &thresholds());
            prop_assert!(kept.iter().all(|d| d.confidence > 0.25));
            prop_assert!(kept.is_sorted_by(|a, b| a.confidence >= b.confidence));
            for (i, a) in kept.iter().enumerate() {
                prop_assert!(kept[..i].iter().all(|b| a.class != b.class || iou(&a.xyxy, &b.xyxy) <= 0.45));
            }
            // No strong box is lost: each candidate is kept or overlaps a stronger one of its class.
            for r in &rows {
                let (class, confidence) = best_class([r.5 * r.4, r.6 * r.4].into_iter());
                if r.4 > 0.25 && confidence > 0.25 {
                    let own = [r.0 - r.2 / 2.0, r.1 - r.3 / 2.0, r.0 + r.2 / 2.0, r.1 + r.3 / 2.0];
                    prop_assert!(kept.iter().any(|d| d.class == class && d.confidence >= confidence
                        && (d.xyxy == own || iou(&d.xyxy, &own) > 0.45)));
                }
            }
        }
    }
}
