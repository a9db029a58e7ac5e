//! What quantising a model gave, for people and for programs.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::judge::Agreement;

/// What quantising a model gave.
#[derive(Debug, Clone, Serialize)]
pub struct QuantizeReport {
    /// The file that was written.
    pub model: PathBuf,
    /// Its id in the tables.
    pub id: String,
    /// The id of the model that it was made from.
    pub from: String,
    /// The device that both were compared on.
    pub device: String,
    /// Number of samples that the ranges are from.
    pub calibrated_with: usize,
    /// Number of samples that both were compared with.
    pub compared_with: usize,
    /// Number of videos that the samples are from.
    pub videos: usize,
    /// Number of convolutions that can be quantised.
    pub layers: usize,
    /// Names of those that stayed in floating point.
    pub in_float: Vec<String>,
    /// Largest accuracy that may be lost.
    pub max_drop: f64,
    /// Accuracy that is lost.
    pub drop: f64,
    /// The comparison.
    pub agreement: Agreement,
    /// Median time that the exact model takes for a sample.
    pub exact_milliseconds: f64,
    /// Median time that the quantised model takes for a sample.
    pub milliseconds: f64,
}

impl QuantizeReport {
    /// Comments for the descriptor.
    pub(super) fn comments(&self) -> String {
        let lines = self.to_string();
        let comments = lines.lines().filter(|line| !line.starts_with("model ")).map(|line| format!("# {line}\n"));
        format!("\n# Quantised by `vidindex models quantize`:\n{}", comments.collect::<String>())
    }
}

impl fmt::Display for QuantizeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { compared_with, calibrated_with, videos, device, .. } = self;
        writeln!(f, "model       {}", self.model.display())?;
        writeln!(f, "made from   {}", self.from)?;
        let samples = format!("{calibrated_with} to calibrate, {compared_with} to compare, from {videos} videos");
        writeln!(f, "samples     {samples}")?;
        let quantised = self.layers - self.in_float.len();
        writeln!(f, "layers      {quantised} of {} convolutions in 8-bit integers", self.layers)?;
        for name in &self.in_float {
            writeln!(f, "            in float: {name}")?;
        }
        match &self.agreement {
            Agreement::Actions(actions) => {
                let what = if actions.compared == *compared_with { "clips" } else { "boxes in clips" };
                let (same, compared) = (100.0 * actions.same_top_label, actions.compared);
                writeln!(f, "same label  {same:.1} % of {compared} {what}")?;
                let (mean, p99) = (actions.mean_difference, actions.p99_difference);
                writeln!(f, "scores      differ by {mean:.4} in the mean, 99 % by at most {p99:.4}")?;
            }
            Agreement::Persons(persons) => {
                let (matched, boxes) = (100.0 * persons.matched, persons.boxes);
                writeln!(f, "boxes       {matched:.1} % of {boxes} matched at an IoU of 0.5")?;
                writeln!(f, "confidence  {:+.4} in the mean", persons.confidence_shift)?;
            }
        }
        writeln!(f, "accuracy    {:.4} lost, {} allowed", self.drop, self.max_drop)?;
        let (before, after) = (self.exact_milliseconds, self.milliseconds);
        write!(
            f,
            "speed       {after:.1} ms instead of {before:.1} ms on {device}, {:.2} times as fast",
            before / after
        )
    }
}
