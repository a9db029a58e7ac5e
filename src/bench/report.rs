//! What a measurement found, as a table for people and as JSON.

use std::fmt;

use bytesize::ByteSize;
use serde::Serialize;

use crate::device::Precision;

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct BenchReport {
    /// The device of the models.
    pub device: String,
    /// Number of processor cores.
    pub cores: usize,
    /// The sample.
    pub sample: Sample,
    /// Decoding alone, with all cores: every frame, and as the job needs.
    pub decoding: [DecodeRate; 2],
    /// Inference alone.
    pub inference: Vec<InferenceRate>,
    /// Decoding and inference together.
    pub pipeline: PipelineRate,
    /// The slower one of decoding and inference. On a CPU they share the cores.
    pub limit: Limit,
    /// Number of cores that decode as fast as the device infers. `None` if the device is the CPU.
    pub cores_to_feed: Option<usize>,
}

/// The videos that were decoded.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Sample {
    /// Number of videos.
    pub videos: usize,
    /// Number of videos of the input that they were taken from.
    pub of: usize,
    /// Their size, bytes.
    pub bytes: u64,
}

/// How fast decoding is.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct DecodeRate {
    /// `every_frame` or `as_needed`.
    pub frames: &'static str,
    /// Frames of the videos per second, including those that need not be decoded.
    pub frames_per_second: f64,
    /// Seconds of video per second.
    pub times_real_time: f64,
}

/// How fast a model is.
#[derive(Debug, Clone, Serialize)]
pub struct InferenceRate {
    /// The model's id.
    pub model: String,
    /// The number format in which it computes.
    pub precision: Precision,
    /// Inputs in a batch.
    pub batch: usize,
    /// Batches that are computed at the same time, each with its share of the cores.
    pub streams: usize,
    /// Median time of a batch, milliseconds.
    pub batch_ms: f64,
    /// Inputs per second, of all streams together.
    pub per_second: f64,
}

/// How fast the whole job is.
#[derive(Debug, Clone, Serialize)]
pub struct PipelineRate {
    /// The number format in which the models compute.
    pub precision: Precision,
    /// Duration of the measurement, seconds.
    pub seconds: f64,
    /// Seconds of video per second.
    pub times_real_time: f64,
    /// For each model, the share of the time in which it ran.
    pub busy: Vec<(&'static str, f64)>,
    /// Seconds of video per second that the slower stage allows.
    pub bound: f64,
}

/// What limits the speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// Reading and decoding videos.
    Decoding,
    /// The models.
    Inference,
}

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, cores, sample, pipeline, .. } = self;
        writeln!(f, "device     {device}, {cores} processor cores")?;
        let Sample { videos, of, bytes } = sample;
        writeln!(f, "sample     {videos} of {of} videos, {}", ByteSize(*bytes).display().iec())?;
        writeln!(f, "\n{:<28} {:>14} {:>16}", "decoding alone", "frames/s", "times real time")?;
        for rate in &self.decoding {
            let name = rate.frames.replace('_', " ");
            writeln!(f, "{name:<28} {:>14.0} {:>16.1}", rate.frames_per_second, rate.times_real_time)?;
        }
        writeln!(
            f,
            "\n{:<36} {:>9} {:>6} {:>8} {:>11} {:>11}",
            "inference alone", "precision", "batch", "streams", "ms a batch", "per second"
        )?;
        for InferenceRate { model, precision, batch, streams, batch_ms, per_second } in &self.inference {
            let precision = precision.as_str();
            writeln!(f, "{model:<36} {precision:>9} {batch:>6} {streams:>8} {batch_ms:>11.1} {per_second:>11.1}")?;
        }
        let PipelineRate { precision, seconds, times_real_time, busy, bound } = pipeline;
        let precision = precision.as_str();
        writeln!(f, "\nwhole job  {times_real_time:.1} times real time in {precision}, measured for {seconds:.0} s")?;
        for (model, share) in busy {
            writeln!(f, "           {model} busy {:.0} % of the time", 100.0 * share)?;
        }
        let share = 100.0 * times_real_time / bound;
        let limit = match self.limit {
            Limit::Decoding => "decoding",
            Limit::Inference => "inference",
        };
        write!(
            f,
            "limit      {limit}: the parts alone allow {bound:.1} times real time, of which this is {share:.0} %"
        )?;
        match self.cores_to_feed {
            Some(cores) => write!(f, "\ncores      {cores} decode as fast as {device} infers"),
            None => Ok(()),
        }
    }
}
