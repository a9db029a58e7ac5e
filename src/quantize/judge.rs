//! How much the answers of a quantised model differ from those of the exact one.

use serde::Serialize;

use crate::error::{Error, Result};
use crate::infer::boxes::{Detection, iou};

/// Boxes match if they overlap by at least this (IoU).
const MATCH_MIN: f32 = 0.5;

/// How a quantised model compares with the exact one.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Agreement {
    /// Of a model of actions.
    Actions(ActionAgreement),
    /// Of a detector.
    Persons(PersonAgreement),
}

/// How the scores of clips, or of boxes in clips, compare.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ActionAgreement {
    /// Number of clips, or of boxes in clips, that were scored.
    pub compared: usize,
    /// Share of them with the same top label.
    pub same_top_label: f64,
    /// The mean of what the exact model scores its own top label above the one that the quantised model chooses. If its scores
    /// are probabilities, this is the expected loss of accuracy.
    pub drop: f64,
    /// Mean difference of a score.
    pub mean_difference: f64,
    /// 99 of 100 scores differ by at most this.
    pub p99_difference: f64,
}

/// How the boxes of images compare.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PersonAgreement {
    /// Number of boxes of the exact model.
    pub boxes: usize,
    /// Share of them that the quantised model has, too (IoU of at least 0.5).
    pub matched: f64,
    /// Mean difference of the confidence of matched boxes: the quantised model's minus the exact model's.
    pub confidence_shift: f64,
    /// 1 minus the average precision of the quantised model's boxes (IoU of at least 0.5), if those of the exact model are the
    /// truth.
    pub drop: f64,
}

impl Agreement {
    /// The accuracy that is lost, 0 to 1.
    pub fn drop(&self) -> f64 {
        match self {
            Self::Actions(actions) => actions.drop,
            Self::Persons(persons) => persons.drop,
        }
    }
}

/// Compares the scores of the same clips, or of the same boxes in them.
pub(super) fn actions(exact: &[Vec<f32>], quantised: &[Vec<f32>]) -> ActionAgreement {
    let top = |scores: &[f32]| (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap_or(0);
    let (mut same, mut drop) = (0, 0.0);
    let mut differences = Vec::new();
    for (exact, quantised) in exact.iter().zip(quantised) {
        let (right, chosen) = (top(exact), top(quantised));
        same += usize::from(right == chosen);
        drop += f64::from(exact[right] - exact[chosen]);
        differences.extend(exact.iter().zip(quantised).map(|(a, b)| f64::from((a - b).abs())));
    }
    differences.sort_by(f64::total_cmp);
    let compared = exact.len();
    let count = compared.max(1) as f64;
    ActionAgreement {
        compared,
        same_top_label: same as f64 / count,
        drop: drop / count,
        mean_difference: differences.iter().sum::<f64>() / differences.len().max(1) as f64,
        p99_difference: differences.get(differences.len().saturating_sub(1) * 99 / 100).copied().unwrap_or(0.0),
    }
}

/// Compares the boxes of the same images. Both have boxes below `confidence`, of which those of the exact model do not count.
///
/// # Errors
/// If the exact model has no box, so that there is nothing to compare.
pub(super) fn persons(
    exact: &[Vec<Detection>],
    quantised: &[Vec<Detection>],
    confidence: f32,
) -> Result<PersonAgreement> {
    let mut truth: Vec<Vec<(Detection, bool)>> = exact
        .iter()
        .map(|boxes| boxes.iter().filter(|found| found.confidence > confidence).map(|&found| (found, false)).collect())
        .collect();
    let boxes: usize = truth.iter().map(Vec::len).sum();
    if boxes == 0 {
        return Err(Error::usage(
            "the model finds nothing in the images that were held out, so nothing can be compared",
        )
        .with_hint("calibrate with videos in which it finds something"));
    }
    let numbered = quantised.iter().enumerate();
    let mut all: Vec<(usize, Detection)> =
        numbered.flat_map(|(image, boxes)| boxes.iter().map(move |&found| (image, found))).collect();
    all.sort_by(|a, b| b.1.confidence.total_cmp(&a.1.confidence));
    let (mut strong, mut shift, mut right) = (0, 0.0, 0);
    let mut precisions = Vec::new();
    for (rank, (image, found)) in all.iter().enumerate() {
        let candidates = truth[*image].iter_mut().filter(|(exact, is_taken)| !is_taken && exact.class == found.class);
        let best = candidates.max_by(|a, b| iou(&a.0.xyxy, &found.xyxy).total_cmp(&iou(&b.0.xyxy, &found.xyxy)));
        let Some((exact, is_taken)) = best.filter(|(exact, _)| iou(&exact.xyxy, &found.xyxy) >= MATCH_MIN) else {
            continue;
        };
        *is_taken = true;
        right += 1;
        precisions.push(f64::from(right) / (rank + 1) as f64);
        if found.confidence > confidence {
            strong += 1;
            shift += f64::from(found.confidence - exact.confidence);
        }
    }
    // The precision at a recall is the best one at this or a higher recall.
    let mut best = 0.0_f64;
    let sum: f64 = precisions
        .iter()
        .rev()
        .map(|&precision| {
            best = best.max(precision);
            best
        })
        .sum();
    Ok(PersonAgreement {
        boxes,
        matched: f64::from(strong) / boxes as f64,
        confidence_shift: shift / f64::from(strong.max(1)),
        drop: 1.0 - sum / boxes as f64,
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_label_costs_as_much_as_the_exact_model_prefers_its_own() {
        let exact = [vec![0.5, 0.3, 0.2], vec![0.1, 0.8, 0.1]];
        let found = actions(&exact, &[vec![0.4, 0.5, 0.1], vec![0.1, 0.8, 0.1]]);
        assert_eq!(found.same_top_label, 0.5);
        assert!((found.drop - 0.1).abs() < 1e-6 && (found.p99_difference - 0.1).abs() < 1e-6, "{found:?}");
        assert!((found.mean_difference - 0.4 / 6.0).abs() < 1e-6, "{found:?}");
        assert_eq!(actions(&exact, &exact).drop, 0.0);
    }

    fn found(x: f32, confidence: f32) -> Detection {
        Detection { xyxy: [x, 0.0, x + 10.0, 10.0], confidence, class: 0 }
    }

    #[test]
    fn missing_and_superfluous_boxes_cost_average_precision() {
        let exact = [vec![found(0.0, 0.9), found(50.0, 0.5)], vec![found(0.0, 0.6), found(90.0, 0.1)]];
        let same = persons(&exact, &exact, 0.25).unwrap();
        assert_eq!((same.boxes, same.matched, same.drop), (3, 1.0, 0.0));
        let missing = [exact[0].clone(), vec![]];
        let compared = persons(&exact, &missing, 0.25).unwrap();
        assert!((compared.drop - 1.0 / 3.0).abs() < 1e-9, "{compared:?}");
        // A box that is not there ranks second of four.
        let superfluous = [vec![found(0.0, 0.9), found(50.0, 0.5), found(200.0, 0.8)], vec![found(0.0, 0.6)]];
        let compared = persons(&exact, &superfluous, 0.25).unwrap();
        assert!((compared.drop - (1.0 - (1.0 + 0.75 + 0.75) / 3.0)).abs() < 1e-9, "{compared:?}");
        assert_eq!(compared.matched, 1.0);
    }

    #[test]
    fn a_box_that_falls_below_the_confidence_is_lost_but_not_forgotten() {
        let compared = persons(&[vec![found(0.0, 0.27)]], &[vec![found(1.0, 0.24)]], 0.25).unwrap();
        assert_eq!((compared.matched, compared.drop), (0.0, 0.0));
    }

    #[test]
    fn without_boxes_there_is_nothing_to_compare() {
        assert!(persons(&[vec![]], &[vec![]], 0.25).is_err());
    }
}
