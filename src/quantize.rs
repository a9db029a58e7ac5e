//! Quantises a model: finds the ranges of its values with samples of the user's own videos, and compares the result with the
//! exact model on samples that were held out. Layers that cost too much stay in floating point.

mod judge;
mod report;
mod samples;
mod subject;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
pub use judge::{ActionAgreement, Agreement, PersonAgreement};
use prost::Message;
pub use report::QuantizeReport;
use samples::{Sample, Samples};
use subject::Subject;

use crate::decode::Decoders;
use crate::error::{Error, Result};
use crate::infer::session::Runtime;
use crate::job::Job;
use crate::store::Store;
use crate::zoo;
use crate::zoo::deploy::Deployment;
use crate::zoo::descriptor::Descriptor;
use crate::zoo::inspect::ModelInfo;
use crate::zoo::onnx::ModelProto;
use crate::zoo::quantize::{Observations, Quantizer};

/// Fewer samples say too little about ranges.
const SAMPLES_MIN: usize = 16;

/// One of so many samples is held out.
const HELD_OUT: usize = 4;

/// Bytes of values that are observed in one run.
const OBSERVED_BYTES: usize = 2 << 30;

/// Values that are observed at once before their sizes are known.
const OBSERVED_FIRST: usize = 32;

/// What to quantise.
pub struct Quantize {
    /// A job with one model, which is the one to quantise.
    pub job: Job,
    /// The device that the result is compared on.
    pub runtime: Arc<Runtime>,
    /// The store of the videos.
    pub input: Arc<dyn Store>,
    /// The store of the index. It is only read.
    pub output: Arc<dyn Store>,
    /// Starts decoder processes.
    pub decoders: Arc<Decoders>,
    /// Number of samples.
    pub samples: usize,
    /// Largest accuracy that may be lost: see [`Agreement::drop`].
    pub max_drop: f64,
    /// The file to write.
    pub out: PathBuf,
}

/// The section of a job that the model to quantise belongs to.
pub fn section(descriptor: &Descriptor) -> &'static str {
    match descriptor {
        Descriptor::SlowFast(_) => "actions",
        Descriptor::Detector(_) => "persons",
    }
}

impl Quantize {
    /// Quantises the model and writes it with its descriptor beside it.
    ///
    /// # Errors
    /// If the model cannot be quantised, there are too few samples, or no version of it is accurate enough. Then nothing is
    /// written.
    pub async fn run(self) -> Result<QuantizeReport> {
        let subject = Subject::read(&self.job)?;
        let original = Deployment::read(subject.path())?;
        let quantizer = Quantizer::new(original.into_model(), subject.is_detector(), self.runtime.weight_bits())?;
        if self.samples < SAMPLES_MIN {
            return Err(Error::usage(format!(
                "{} samples are too few: at least {SAMPLES_MIN} are needed",
                self.samples
            )));
        }
        let samples = Samples::collect(&self, &subject).await?;
        if samples.len() < SAMPLES_MIN {
            return Err(Error::usage(format!(
                "the videos gave only {} samples, but at least {SAMPLES_MIN} are needed",
                samples.len()
            ))
            .with_hint("calibrate with more or longer videos"));
        }
        tokio::task::block_in_place(|| self.quantize(&subject, &quantizer, &samples))
    }

    fn quantize(&self, subject: &Subject, quantizer: &Quantizer, samples: &Samples) -> Result<QuantizeReport> {
        let (held_out, calibration) = samples.split(HELD_OUT);
        tracing::info!(samples = calibration.len(), layers = quantizer.layers().len(), "observing the values");
        let observations = self.observe(subject, quantizer, &calibration)?;

        tracing::info!(samples = held_out.len(), "comparing with the exact model");
        let exact =
            subject.answers(&self.runtime, Deployment::of(subject.path(), quantizer.original().clone()), &held_out)?;
        let mut order: Vec<usize> = (0..quantizer.layers().len()).collect();
        let noise: Vec<f64> = quantizer.layers().iter().map(|layer| quantizer.noise(layer, &observations)).collect();
        order.sort_by(|&a, &b| noise[b].total_cmp(&noise[a]));
        let attempt = |floats: usize| -> Result<Attempt> {
            let chosen: HashSet<usize> = order[floats..].iter().copied().collect();
            let model = quantizer.quantize(&chosen, &observations);
            let answers = subject.answers(&self.runtime, Deployment::of(subject.path(), model.clone()), &held_out)?;
            let agreement = subject.compare(&exact.output, &answers.output)?;
            tracing::info!(layers = chosen.len(), drop = agreement.drop(), "quantised");
            Ok(Attempt { floats, model, agreement, milliseconds: 1e3 * answers.seconds })
        };
        let best = fewest(order.len(), |floats| {
            let attempt = attempt(floats)?;
            Ok((attempt.agreement.drop() <= self.max_drop, attempt))
        })?;
        let Some(best) = best else {
            return Err(Error::failed(format!(
                "no version of the model loses at most {} of its accuracy",
                self.max_drop
            ))
            .with_hint("allow more with --max-drop, or calibrate with more --samples"));
        };
        let mut in_float: Vec<String> =
            order[..best.floats].iter().map(|&layer| quantizer.layers()[layer].name.clone()).collect();
        in_float.sort();
        let content = Bytes::from(best.model.encode_to_vec());
        let info = ModelInfo::parse(&self.out, content.clone())?;
        let report = QuantizeReport {
            model: self.out.clone(),
            id: info.model_id(),
            from: subject.id(),
            device: self.runtime.device().to_string(),
            calibrated_with: calibration.len(),
            compared_with: held_out.len(),
            videos: samples.videos,
            layers: order.len(),
            in_float,
            max_drop: self.max_drop,
            drop: best.agreement.drop(),
            agreement: best.agreement,
            exact_milliseconds: 1e3 * exact.seconds,
            milliseconds: best.milliseconds,
        };
        if report.milliseconds > report.exact_milliseconds {
            tracing::warn!(device = %report.device, "not faster on this device; OpenVINO and TensorRT are best at integers");
        }
        zoo::write_files(&self.out, &format!("{}{}", subject.descriptor().to_toml(), report.comments()), &content)?;
        Ok(report)
    }

    /// Runs the calibration samples, in as many rounds as the memory for all values asks for.
    fn observe(&self, subject: &Subject, quantizer: &Quantizer, samples: &[&Sample]) -> Result<Observations> {
        let names = quantizer.observed();
        let mut observations = Observations::new();
        let mut sizes = vec![0; names.len()];
        let Some((first, others)) = samples.split_first() else { return Ok(observations) };
        let mut round = |names: &[String], samples: &[&Sample], sizes: &mut [usize]| {
            let deployment = Deployment::of(subject.path(), quantizer.observing(names));
            subject.observe(&self.runtime, deployment, names, samples, &mut |value, shape, values| {
                sizes[value] = size_of_val(values);
                observations.entry(names[value].clone()).or_default().add(shape, values);
            })
        };
        for (names, sizes) in names.chunks(OBSERVED_FIRST).zip(sizes.chunks_mut(OBSERVED_FIRST)) {
            round(names, &[first], sizes)?;
        }
        let (mut from, mut bytes) = (0, 0);
        for to in 1..=names.len() {
            bytes += sizes[to - 1];
            let next = sizes.get(to).copied();
            if next.is_none_or(|next| bytes + next > OBSERVED_BYTES) {
                round(&names[from..to], others, &mut vec![0; to - from])?;
                (from, bytes) = (to, 0);
            }
        }
        Ok(observations)
    }
}

/// A quantised model, and how it compares.
struct Attempt {
    floats: usize,
    model: ModelProto,
    agreement: Agreement,
    milliseconds: f64,
}

/// The result for the smallest number below `count` with which `attempt` succeeds, given that all larger ones succeed, too.
/// Tries few numbers.
fn fewest<T>(count: usize, mut attempt: impl FnMut(usize) -> Result<(bool, T)>) -> Result<Option<T>> {
    let (mut failed, mut best) = (None, None);
    let mut next = 0;
    while next < count {
        let (is_good, result) = attempt(next)?;
        if is_good {
            best = Some((next, result));
            break;
        }
        failed = Some(next);
        next = (2 * next).max(next + 1);
    }
    while let (Some(low), Some((high, _))) = (failed, &best)
        && high - low > 1
    {
        let middle = low.midpoint(*high);
        match attempt(middle)? {
            (true, result) => best = Some((middle, result)),
            (false, _) => failed = Some(middle),
        }
    }
    Ok(best.map(|(_, result)| result))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_fewest_layers_that_suffice_are_found() {
        for count in 1..40 {
            for needed in 0..50 {
                let mut tried = 0;
                let found = fewest(count, |number| {
                    tried += 1;
                    Ok((number >= needed, number))
                });
                // The numbers that are tried without success double, so the last ones may be skipped.
                let found = found.unwrap();
                assert!(found.is_none_or(|found| found == needed), "{count} {needed} {found:?}");
                assert!(found.is_some() || needed * 2 > count, "{count} {needed}");
                assert!(tried <= 14, "{tried}");
            }
        }
    }
}
