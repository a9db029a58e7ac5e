//! The measures of the field, on ranks, scores and boxes.

use std::collections::BTreeMap;

/// The score of an item, and whether the item is a positive one.
pub(super) type Scored = (f64, bool);

/// An item's true class and the class that was predicted.
pub(super) type Answer<'a> = (&'a str, &'a str);

/// The mean over the true classes of the share of their items that were predicted correctly.
pub(super) fn mean_class_accuracy(answers: &[Answer<'_>]) -> f64 {
    let classes = by_class(answers);
    classes.values().map(|(correct, items)| *correct as f64 / *items as f64).sum::<f64>() / classes.len() as f64
}

/// Number of correct answers and of items of each true class.
pub(super) fn by_class<'a>(answers: &[Answer<'a>]) -> BTreeMap<&'a str, (usize, usize)> {
    let mut classes = BTreeMap::<&str, (usize, usize)>::new();
    for (truth, predicted) in answers {
        let class = classes.entry(truth).or_default();
        class.0 += usize::from(truth == predicted);
        class.1 += 1;
    }
    classes
}

/// The wrong answers that are given most often: true class, predicted class, number of items.
pub(super) fn most_confused<'a>(answers: &[Answer<'a>], count: usize) -> Vec<(&'a str, &'a str, usize)> {
    let mut pairs = BTreeMap::<Answer<'_>, usize>::new();
    answers
        .iter()
        .filter(|(truth, predicted)| truth != predicted)
        .for_each(|pair| *pairs.entry(*pair).or_default() += 1);
    let mut pairs: Vec<_> = pairs.into_iter().map(|((truth, predicted), items)| (truth, predicted, items)).collect();
    // Stable, so that equal numbers stay in the order of the names.
    pairs.sort_by_key(|(.., items)| std::cmp::Reverse(*items));
    pairs.truncate(count);
    pairs
}

/// The area below the curve of precision and recall, without interpolation, as scikit-learn's `average_precision_score`
/// computes it. Items with equal scores are ranked together. `None` without a positive item.
pub(super) fn average_precision(mut items: Vec<Scored>) -> Option<f64> {
    let positives = items.iter().filter(|(_, is_positive)| *is_positive).count();
    items.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut seen, mut found, mut area) = (0, 0, 0.0);
    for tied in items.chunk_by(|a, b| a.0 == b.0) {
        let new = tied.iter().filter(|(_, is_positive)| *is_positive).count();
        seen += tied.len();
        found += new;
        area += new as f64 * found as f64 / seen as f64;
    }
    (positives > 0).then(|| area / positives as f64)
}

/// A box `[x1, y1, x2, y2]`.
pub(super) type Xyxy = [f64; 4];

/// The boxes of an image.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub(super) struct BoxImage {
    /// Boxes that should be found.
    pub(super) truth: Vec<Xyxy>,
    /// Boxes that may be found.
    pub(super) ignored: Vec<Xyxy>,
    /// Boxes that were found, and their scores.
    pub(super) found: Vec<(Xyxy, f64)>,
}

/// Detections of an image that COCO's evaluation takes into account.
const DETECTIONS_MAX: usize = 100;

/// COCO's average precision at one overlap: detections are matched by score, and the precision is averaged over 101 values
/// of the recall. `None` without a box that should be found.
pub(super) fn box_average_precision(images: &[BoxImage], overlap: f64) -> Option<f64> {
    let positives: usize = images.iter().map(|image| image.truth.len()).sum();
    let mut items: Vec<Scored> = images.iter().flat_map(|image| image.matched(overlap)).collect();
    items.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut found = 0;
    let mut curve: Vec<(f64, f64)> = Vec::new();
    for (seen, (_, is_match)) in (1..).zip(&items) {
        found += usize::from(*is_match);
        curve.push((found as f64 / positives as f64, found as f64 / f64::from(seen)));
    }
    // The best precision at this recall or more.
    let mut best = 0.0_f64;
    for (_, precision) in curve.iter_mut().rev() {
        best = best.max(*precision);
        *precision = best;
    }
    let at = |recall: f64| curve[curve.partition_point(|(reached, _)| *reached < recall)..].first();
    // As the reference rounds: 0.7 is a little more than 70 / 100.
    let sum: f64 = (0..=100).filter_map(|step| at(f64::from(step) * 0.01)).map(|(_, precision)| precision).sum();
    (positives > 0).then_some(sum / 101.0)
}

/// COCO's average precision: the mean of those at overlaps of 0.5, 0.55 and so on to 0.95.
pub(super) fn mean_box_average_precision(images: &[BoxImage]) -> Option<f64> {
    let overlaps = (0..10).map(|step| 0.5 + 0.05 * f64::from(step));
    let sum: Option<f64> = overlaps.map(|overlap| box_average_precision(images, overlap)).sum();
    sum.map(|sum| sum / 10.0)
}

/// The average precision of AVA's evaluation (that of Pascal VOC since 2010): the area below the curve of recall and the best
/// precision at that recall or more. A detection belongs to the box that it overlaps most, even if another one has found that.
pub(super) fn area_precision(images: &[BoxImage], overlap: f64) -> Option<f64> {
    let positives: usize = images.iter().map(|image| image.truth.len()).sum();
    let mut items: Vec<Scored> = images.iter().flat_map(|image| image.matched_with_most(overlap)).collect();
    items.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut found = 0;
    let precisions: Vec<(f64, bool)> = (1..)
        .zip(&items)
        .map(|(seen, (_, is_match))| {
            found += usize::from(*is_match);
            (found as f64 / f64::from(seen), *is_match)
        })
        .collect();
    let (mut best, mut area) = (0.0_f64, 0.0);
    for (precision, is_match) in precisions.into_iter().rev() {
        best = best.max(precision);
        area += if is_match { best } else { 0.0 };
    }
    (positives > 0).then(|| area / positives as f64)
}

impl BoxImage {
    /// The detections' scores and whether each is the first one for the box that it overlaps most.
    fn matched_with_most(&self, overlap: f64) -> Vec<Scored> {
        let mut found = self.found.clone();
        found.sort_by(|a, b| b.1.total_cmp(&a.1));
        let mut is_free = vec![true; self.truth.len()];
        let matched = |(xyxy, score): (Xyxy, f64)| {
            let overlaps = self.truth.iter().map(|truth| iou(&xyxy, truth)).enumerate();
            let most = overlaps.rev().max_by(|a, b| a.1.total_cmp(&b.1)).filter(|(_, iou)| *iou >= overlap);
            (score, most.is_some_and(|(at, _)| std::mem::take(&mut is_free[at])))
        };
        found.into_iter().map(matched).collect()
    }

    /// The detections' scores and whether they match a box, without those that match an ignored one.
    fn matched(&self, overlap: f64) -> Vec<Scored> {
        let mut found = self.found.clone();
        found.sort_by(|a, b| b.1.total_cmp(&a.1));
        let mut is_free = vec![true; self.truth.len()];
        let mut scored = Vec::new();
        for (xyxy, score) in found.into_iter().take(DETECTIONS_MAX) {
            let free = (0..self.truth.len()).filter(|&i| is_free[i]);
            let overlaps = free.map(|i| (i, iou(&xyxy, &self.truth[i]))).filter(|(_, iou)| *iou >= overlap);
            // Of equal overlaps, COCO's evaluation takes the last one.
            match overlaps.max_by(|a, b| a.1.total_cmp(&b.1)) {
                Some((i, _)) => {
                    is_free[i] = false;
                    scored.push((score, true));
                }
                // An ignored box is a region: any number of detections may lie in it.
                None if self.ignored.iter().any(|region| share_inside(&xyxy, region) >= overlap) => (),
                None => scored.push((score, false)),
            }
        }
        scored
    }
}

fn area([x1, y1, x2, y2]: &Xyxy) -> f64 {
    (x2 - x1).max(0.0) * (y2 - y1).max(0.0)
}

fn intersection(a: &Xyxy, b: &Xyxy) -> f64 {
    area(&[a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])])
}

fn iou(a: &Xyxy, b: &Xyxy) -> f64 {
    let shared = intersection(a, b);
    // A box without an area overlaps nothing.
    if shared > 0.0 { shared / (area(a) + area(b) - shared) } else { 0.0 }
}

/// The share of the box that lies in the region.
fn share_inside(xyxy: &Xyxy, region: &Xyxy) -> f64 {
    intersection(xyxy, region) / area(xyxy)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[test]
    fn classes_count_equally_whatever_their_number_of_items() {
        let answers = [("a", "a"), ("a", "a"), ("a", "b"), ("b", "a"), ("b", "b"), ("c", "b")];
        assert!((mean_class_accuracy(&answers) - (2.0 / 3.0 + 0.5 + 0.0) / 3.0).abs() < 1e-12);
        let confused = most_confused(&[("a", "b"), ("b", "a"), ("b", "a"), ("c", "c")], 10);
        assert_eq!(confused, [("b", "a", 2), ("a", "b", 1)]);
    }

    #[test]
    fn average_precision_ranks_equal_scores_together() {
        let of =
            |items: &[(f64, u8)]| average_precision(items.iter().map(|(score, own)| (*score, *own == 1)).collect());
        let tied = of(&[(0.5, 1), (0.5, 0), (0.5, 1), (0.2, 1)]).unwrap();
        assert!((tied - (2.0 / 3.0 * 2.0 / 3.0 + 1.0 / 3.0 * 0.75)).abs() < 1e-12, "{tied}");
        assert_eq!(of(&[(0.9, 1)]), Some(1.0));
        assert_eq!(of(&[(0.9, 0)]), None);
    }

    /// Made by `tests/it/support/metrics_reference.py`.
    #[derive(Deserialize)]
    struct Reference {
        scores: Vec<ScoresCase>,
        answers: Vec<AnswersCase>,
        boxes: Vec<BoxesCase>,
    }

    #[derive(Deserialize)]
    struct ScoresCase {
        items: Vec<Scored>,
        average_precision: f64,
    }

    #[derive(Deserialize)]
    struct AnswersCase {
        answers: Vec<(String, String)>,
        mean_class_accuracy: f64,
    }

    #[derive(Deserialize)]
    struct BoxesCase {
        images: Vec<BoxImage>,
        ap50: f64,
        ap: f64,
        area50: f64,
    }

    #[test]
    fn the_measures_are_those_of_well_known_tools() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/metrics.json");
        let Reference { scores, answers, boxes } =
            serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        assert!(scores.len() >= 30 && answers.len() >= 10 && boxes.len() >= 30);
        let near = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-9, "{found}, not {expected}");
        for ScoresCase { items, average_precision: expected } in scores {
            near(average_precision(items).unwrap(), expected);
        }
        for AnswersCase { answers, mean_class_accuracy: expected } in answers {
            let answers: Vec<Answer<'_>> =
                answers.iter().map(|(truth, predicted)| (&truth[..], &predicted[..])).collect();
            near(mean_class_accuracy(&answers), expected);
        }
        for BoxesCase { images, ap50, ap, area50 } in boxes {
            near(box_average_precision(&images, 0.5).unwrap(), ap50);
            near(mean_box_average_precision(&images).unwrap(), ap);
            // The reference is a mean over a million recalls.
            let area = area_precision(&images, 0.5).unwrap();
            assert!((area - area50).abs() < 1e-5, "{area}, not {area50}");
        }
    }

    #[test]
    fn in_avas_evaluation_a_detection_belongs_to_the_box_that_it_overlaps_most() {
        let (left, right) = ([0.0, 0.0, 10.0, 10.0], [2.0, 0.0, 12.0, 10.0]);
        let of = |found: &[(Xyxy, f64)]| {
            let image = BoxImage { truth: vec![left, right], ignored: vec![], found: found.to_vec() };
            area_precision(&[image], 0.5)
        };
        assert_eq!(of(&[(left, 0.9), (right, 0.8)]), Some(1.0));
        // The second one overlaps the right box, too, but the left one more, which is found.
        assert_eq!(of(&[(left, 0.9), ([0.5, 0.0, 10.5, 10.0], 0.8)]), Some(0.5));
        assert_eq!(of(&[([50.0, 0.0, 60.0, 10.0], 0.9), (left, 0.8), (right, 0.7)]), Some(2.0 / 3.0));
        assert_eq!(area_precision(&[BoxImage::default()], 0.5), None);
    }

    #[test]
    fn a_box_is_matched_once_and_ignored_boxes_do_not_count() {
        let xyxy = [0.0, 0.0, 10.0, 10.0];
        let away = [50.0, 50.0, 60.0, 60.0];
        let of = |truth: &[Xyxy], ignored: &[Xyxy], found: &[(Xyxy, f64)]| {
            let image = BoxImage { truth: truth.to_vec(), ignored: ignored.to_vec(), found: found.to_vec() };
            box_average_precision(&[image], 0.5)
        };
        assert_eq!(of(&[xyxy], &[], &[(xyxy, 0.9)]), Some(1.0));
        assert_eq!(of(&[xyxy], &[], &[(xyxy, 0.9), (xyxy, 0.8)]), Some(1.0));
        assert_eq!(of(&[xyxy], &[], &[(away, 0.9), (xyxy, 0.8)]), Some(0.5));
        assert_eq!(of(&[xyxy], &[away], &[(away, 0.9), (xyxy, 0.8)]), Some(1.0));
        // Recall stops at a half: 51 of 101 values.
        assert_eq!(of(&[xyxy, away], &[], &[(xyxy, 0.9)]), Some(51.0 / 101.0));
        assert_eq!(of(&[], &[], &[(xyxy, 0.9)]), None);
    }
}
