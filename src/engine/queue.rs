//! The record of a run's submission, and the engine's current information about it.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Engine, aws_batch, kubernetes, slurm};
use crate::error::{Error, Result};
use crate::job::Job;
use crate::run::{RUNS_PREFIX, RunId};
use crate::status::InEngine;
use crate::store::{Store, get_record};

/// Limit for the engine's response.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// `submission.json`: the engine that has the run's tasks. The next submission of the run replaces it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct SubmissionRecord {
    engine: Engine,
    /// The engine's names of the job that runs the tasks and of the job that seals, as users query them.
    jobs: Vec<String>,
    submitted_at: DateTime<Utc>,
}

/// Number of waiting and running tasks of a run, including the seal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) pending: u32,
    pub(super) running: u32,
}

/// Records that the run was submitted as these jobs.
///
/// # Errors
/// If the output cannot be accessed.
pub(crate) async fn note(output: &dyn Store, run: &RunId, engine: Engine, jobs: Vec<String>) -> Result<()> {
    let record = SubmissionRecord { engine, jobs, submitted_at: Utc::now() };
    let body = serde_json::to_vec_pretty(&record).map_err(|error| Error::failed(error.to_string()))?;
    Ok(output.put(&key(run), Bytes::from(body)).await?)
}

/// Queries the engine that the run was submitted to. `None` if it was not submitted.
///
/// # Errors
/// If the output cannot be accessed. An engine that does not respond is not an error; the result says so.
pub(crate) async fn look(output: &dyn Store, job: &Job, run: &RunId) -> Result<Option<InEngine>> {
    let Some(body) = get_record(output, &key(run)).await? else { return Ok(None) };
    // Ignore a record of an incompatible version.
    let Ok(SubmissionRecord { engine, jobs, submitted_at }) = serde_json::from_slice(&body) else { return Ok(None) };
    let counts = async {
        match engine {
            Engine::Slurm => slurm::counts(run).await,
            Engine::AwsBatch => aws_batch::counts(&job.output_store(), &jobs).await,
            Engine::Kubernetes => kubernetes::counts(job, run).await,
        }
    };
    let counts = tokio::time::timeout(ANSWER_TIMEOUT, counts).await;
    let counts =
        counts.unwrap_or_else(|_| Err(Error::failed(format!("no response within {} s", ANSWER_TIMEOUT.as_secs()))));
    let problem = counts.as_ref().err().map(ToString::to_string);
    let counts = counts.ok();
    Ok(Some(InEngine {
        engine: engine.to_string(),
        jobs,
        submitted_at,
        pending: counts.map(|counts| counts.pending),
        running: counts.map(|counts| counts.running),
        problem,
    }))
}

fn key(run: &RunId) -> String {
    format!("{RUNS_PREFIX}{run}/submission.json")
}
