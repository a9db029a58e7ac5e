//! How fast a job is processed, by the records of an earlier run or the report of `vidindex bench`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::run::commit::read_commit;
use crate::run::summary::read_summary;
use crate::run::{ModelRef, PlanModels, RunKind, RunRecord, record};
use crate::store::Store;

/// Runs that are searched, from the newest on.
const RUNS_MAX: usize = 64;

/// What a second of video takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Speed {
    /// Where it was measured.
    pub source: String,
    /// Seconds of a task.
    pub task_seconds: f64,
    /// Seconds of decoding, summed over concurrent decoders.
    pub decode_seconds: f64,
    /// Seconds of inference, summed over models.
    pub inference_seconds: f64,
}

impl Speed {
    /// The speed of the newest run with the same models and settings, otherwise of the newest one with the same models.
    ///
    /// # Errors
    /// If the output cannot be accessed.
    pub async fn of_runs(output: &dyn Store, fingerprint: &str, models: &PlanModels) -> Result<Option<Self>> {
        let mut with_models = None;
        for run in record::runs(output).await?.into_iter().rev().take(RUNS_MAX) {
            let Some(record) = record::find_record(output, &run).await? else { continue };
            let is_same = record.kind() == RunKind::Index { fingerprint };
            if !is_same && (with_models.is_some() || !has_models(&record, models)) {
                continue;
            }
            let Some(speed) = Self::of_run(output, &record, is_same).await? else { continue };
            if is_same {
                return Ok(Some(speed));
            }
            with_models = Some(speed);
        }
        Ok(with_models)
    }

    async fn of_run(output: &dyn Store, record: &RunRecord, same_settings: bool) -> Result<Option<Self>> {
        let run_id = record.run_id.as_str();
        let Some(summary) = read_summary(output, run_id).await? else { return Ok(None) };
        let totals = &summary.totals;
        // Rows that were copied took no time.
        if totals.video_seconds <= 0.0 || totals.decode_seconds <= 0.0 {
            return Ok(None);
        }
        let first = (0..summary.shards_total).find(|shard| !summary.missing.contains(shard));
        let commit = match first {
            Some(shard) => read_commit(output, run_id, shard).await?,
            None => None,
        };
        let device = commit.and_then(|commit| commit.computed).map_or("an unknown device".to_owned(), |of| of.device);
        let settings = if same_settings { "" } else { ", with other settings" };
        let per_second = |seconds: f64| seconds / totals.video_seconds;
        Ok(Some(Self {
            source: format!("run {run_id} on {device}{settings}"),
            task_seconds: per_second(totals.wall_seconds),
            decode_seconds: per_second(totals.decode_seconds),
            inference_seconds: per_second(totals.inference_seconds),
        }))
    }

    /// The speed that `vidindex bench --json` reported.
    ///
    /// # Errors
    /// If the file cannot be read or is no such report.
    pub fn of_bench(file: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Report {
            device: String,
            cores: u32,
            decoding: [Decoding; 2],
            pipeline: Pipeline,
        }
        #[derive(Deserialize)]
        struct Decoding {
            times_real_time: f64,
        }
        #[derive(Deserialize)]
        struct Pipeline {
            times_real_time: f64,
            busy: Vec<(String, f64)>,
        }
        let name = file.display();
        let text = std::fs::read_to_string(file)
            .map_err(|error| Error::usage(format!("cannot read the report {name}: {error}")))?;
        let hint = "write it with `vidindex bench JOB.toml --json >FILE`";
        let report: Report = serde_json::from_str(&text).map_err(|error| {
            Error::usage(format!("{name} is not a report of `vidindex bench`: {error}")).with_hint(hint)
        })?;
        let [_, decoding] = report.decoding;
        if !(report.pipeline.times_real_time > 0.0 && decoding.times_real_time > 0.0) {
            return Err(Error::usage(format!("{name} has no speed: the measurement was too short")).with_hint(hint));
        }
        let task_seconds = 1.0 / report.pipeline.times_real_time;
        Ok(Self {
            source: format!("{name} on {} with {} cores", report.device, report.cores),
            task_seconds,
            // It was measured with a decoder on each core.
            decode_seconds: f64::from(report.cores) / decoding.times_real_time,
            inference_seconds: report.pipeline.busy.iter().map(|(_, share)| share * task_seconds).sum(),
        })
    }
}

fn has_models(record: &RunRecord, models: &PlanModels) -> bool {
    let hash = |model: &Option<ModelRef>| model.as_ref().map(|model| model.sha256.clone());
    hash(&record.actions_model) == hash(&models.actions) && hash(&record.persons_model) == hash(&models.persons)
}
