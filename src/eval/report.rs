//! The result of a comparison, as it is printed.

use std::fmt::{self, Display};

use serde::Serialize;

/// How well an index agrees with the truth.
#[derive(Debug, Serialize)]
pub(crate) struct EvalReport {
    /// Number of videos that the truth names.
    pub(super) videos: usize,
    /// Number of them that are in the index.
    pub(super) indexed: usize,
    pub(super) actions: Option<ActionsReport>,
    pub(super) persons: Option<PersonsReport>,
}

/// Measures of actions.
#[derive(Debug, Serialize)]
pub(super) struct ActionsReport {
    pub(super) model: String,
    /// `videos` or `segments`.
    pub(super) items_are: &'static str,
    pub(super) items: usize,
    #[serde(flatten)]
    pub(super) measures: Measures,
    pub(super) classes: Vec<ClassReport>,
    pub(super) most_confused: Vec<Confused>,
    /// Labels of the truth that no row of these videos has among its best.
    pub(super) unknown_labels: Vec<String>,
    /// How much scores differ from those of the other run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) differences: Option<Differences>,
}

/// Differences of scores.
#[derive(Debug, Serialize)]
pub(super) struct Differences {
    pub(super) mean: f64,
    /// 99 of 100 scores differ by at most this.
    pub(super) p99: f64,
    pub(super) largest: f64,
}

impl Differences {
    /// Of these differences, the smallest first.
    pub(super) fn of(sorted: &[f64]) -> Option<Self> {
        let largest = *sorted.last()?;
        let p99 = sorted[(sorted.len() - 1) * 99 / 100];
        Some(Self { mean: sorted.iter().sum::<f64>() / sorted.len() as f64, p99, largest })
    }
}

/// Measures of items with one label, or with several.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Measures {
    One { top1: f64, top5: f64, mean_class_accuracy: f64 },
    Several { mean_average_precision: f64 },
}

#[derive(Debug, Serialize)]
pub(super) struct ClassReport {
    pub(super) label: String,
    pub(super) items: usize,
    /// The share of its items whose top label it is, or its average precision.
    pub(super) value: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct Confused {
    pub(super) truth: String,
    pub(super) predicted: String,
    pub(super) items: usize,
}

/// Measures of persons.
#[derive(Debug, Serialize)]
pub(super) struct PersonsReport {
    pub(super) frames: usize,
    pub(super) boxes: usize,
    /// Average precision at an overlap of 0.5.
    pub(super) ap50: Option<f64>,
    /// Mean of the average precisions at overlaps of 0.5 to 0.95, as for COCO.
    pub(super) ap: Option<f64>,
}

impl Display for EvalReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "videos                {} of {} are in the index", self.indexed, self.videos)?;
        if let Some(actions) = &self.actions {
            writeln!(f, "model                 {}", actions.model)?;
            if !actions.unknown_labels.is_empty() {
                writeln!(f, "labels without rows   {}", actions.unknown_labels.join(", "))?;
            }
            let (name, value) = match actions.measures {
                Measures::One { top1, top5, mean_class_accuracy } => {
                    writeln!(f, "{:<21} {}", actions.items_are, actions.items)?;
                    writeln!(f, "top-1                 {top1:.4}")?;
                    writeln!(f, "top-5                 {top5:.4}")?;
                    ("mean class accuracy", mean_class_accuracy)
                }
                Measures::Several { mean_average_precision } => ("mAP", mean_average_precision),
            };
            writeln!(f, "{name:<21} {value:.4}")?;
            if let Some(Differences { mean, p99, largest }) = &actions.differences {
                writeln!(
                    f,
                    "scores differ by      {mean:.4} in the mean, 99 % by at most {p99:.4}, {largest:.4} at most"
                )?;
            }
            writeln!(f, "\n{:<40} {:>8} {:>8}", "class", actions.items_are, "value")?;
            for ClassReport { label, items, value } in &actions.classes {
                writeln!(f, "{label:<40} {items:>8} {value:>8.4}")?;
            }
            if !actions.most_confused.is_empty() {
                writeln!(f, "\n{:<40} {:>8}", "most confused", actions.items_are)?;
            }
            for Confused { truth, predicted, items } in &actions.most_confused {
                writeln!(f, "{:<40} {items:>8}", format!("{truth} as {predicted}"))?;
            }
        }
        if let Some(PersonsReport { frames, boxes, ap50, ap }) = &self.persons {
            let ap50 = ap50.map_or("no box in the truth".to_owned(), |ap50| format!("{ap50:.4}"));
            writeln!(f, "\npersons               {boxes} boxes in {frames} frames\nAP at IoU 0.5         {ap50}")?;
            if let Some(ap) = ap {
                writeln!(f, "AP at IoU 0.5:0.95    {ap:.4}")?;
            }
        }
        Ok(())
    }
}
