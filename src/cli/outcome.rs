//! The JSON document that `run --json` prints, regardless of how the run ends.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::console;
use crate::error::{Error, Result};
use crate::run::RunRecord;
use crate::run::commit::ShardTotals;
use crate::run::summary::{RunSummary, TableTotals};
use crate::seal;
use crate::store::Store;
use crate::tables::Table;

/// Version of the format of [`RunReport`].
pub const REPORT_SCHEMA_VERSION: u32 = 1;

/// Limit for reading the output after the run has failed or was stopped.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The committed shards are published. `exit_code` is 3 if videos failed or shards are missing.
    Finished,
    /// All videos were indexed before, so there is no new run.
    NothingToDo,
    /// The run failed; `error` says why.
    Failed,
    /// A signal stopped the run.
    Stopped,
}

/// The JSON document of `run --json`: the summary of a run, and how it ended.
#[derive(Debug, Clone, Serialize)]
pub struct RunReport {
    /// [`REPORT_SCHEMA_VERSION`].
    pub schema_version: u32,
    /// How the run ended.
    pub outcome: Outcome,
    /// Exit code of the process.
    pub exit_code: u8,
    /// The error, if it failed.
    pub error: Option<String>,
    /// How to fix the error.
    pub hint: Option<String>,
    /// Name of the run; null if none was planned.
    pub run_id: Option<String>,
    /// Version of vidindex.
    pub tool_version: String,
    /// Number of shards in the plan.
    pub shards_total: u32,
    /// Number of committed shards; null if the output could not be read.
    pub shards_committed: Option<u32>,
    /// Shards that are not committed, in ascending order; null if the output could not be read.
    pub missing: Option<Vec<u32>>,
    /// Lost files, as in [`RunSummary::lost_parts`].
    pub lost_parts: Vec<String>,
    /// What was added to each table. Empty before the run is sealed.
    pub tables: BTreeMap<Table, TableTotals>,
    /// Sums over the committed shards; null if the output could not be read.
    pub totals: Option<ShardTotals>,
    /// When the run was planned.
    pub started_at: Option<DateTime<Utc>>,
    /// When the latest shard was committed.
    pub finished_at: Option<DateTime<Utc>>,
    /// When the run was sealed.
    pub sealed_at: Option<DateTime<Utc>>,
}

impl RunReport {
    /// The report of a sealed run.
    pub fn finished(summary: RunSummary, exit_code: u8) -> Self {
        Self {
            run_id: Some(summary.run_id),
            tool_version: summary.tool_version,
            shards_total: summary.shards_total,
            shards_committed: Some(summary.shards_committed),
            missing: Some(summary.missing),
            lost_parts: summary.lost_parts,
            tables: summary.tables,
            totals: Some(summary.totals),
            started_at: Some(summary.started_at),
            finished_at: summary.finished_at,
            sealed_at: Some(summary.sealed_at),
            ..Self::empty(Outcome::Finished, exit_code)
        }
    }

    /// The report of a run without shards.
    fn empty(outcome: Outcome, exit_code: u8) -> Self {
        Self {
            schema_version: REPORT_SCHEMA_VERSION,
            outcome,
            exit_code,
            error: None,
            hint: None,
            run_id: None,
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            shards_total: 0,
            shards_committed: Some(0),
            missing: Some(Vec::new()),
            lost_parts: Vec::new(),
            tables: Table::ALL.map(|table| (table, TableTotals::default())).into(),
            totals: Some(ShardTotals::default()),
            started_at: None,
            finished_at: None,
            sealed_at: None,
        }
    }
}

/// What is known of the run while it is in progress.
#[derive(Debug, Default)]
pub(super) struct Known {
    planned: OnceLock<(Arc<dyn Store>, RunRecord)>,
    summary: OnceLock<RunSummary>,
}

impl Known {
    /// Records that the run was planned in this output.
    pub(super) fn planned(&self, output: &Arc<dyn Store>, run: &RunRecord) {
        let _ = self.planned.set((output.clone(), run.clone()));
    }

    /// Records that the run was sealed.
    pub(super) fn sealed(&self, summary: RunSummary) {
        let _ = self.summary.set(summary);
    }

    /// Prints the report of a run that ended with this exit code or error.
    pub(super) async fn print(&self, result: &Result<u8>) -> Result<()> {
        let report = match (result, self.summary.get()) {
            (Ok(code), Some(summary)) => RunReport::finished(summary.clone(), *code),
            (Ok(code), None) => RunReport::empty(Outcome::NothingToDo, *code),
            (Err(error), _) => RunReport {
                error: Some(error.to_string()),
                hint: error.hint().map(ToOwned::to_owned),
                ..self.unsealed(Outcome::Failed, error.exit_code()).await
            },
        };
        console::print_json(&report)
    }

    /// Prints the report of a run that was stopped by a signal.
    pub(super) async fn print_stopped(&self, code: u8) -> Result<()> {
        console::print_json(&self.unsealed(Outcome::Stopped, code).await)
    }

    /// Reads what is committed, if there is a run and its output can still be read.
    async fn unsealed(&self, outcome: Outcome, exit_code: u8) -> RunReport {
        let empty = RunReport::empty(outcome, exit_code);
        let Some((output, run)) = self.planned.get() else { return empty };
        let look = seal::committed(&**output, run.run_id.as_str(), run.shards);
        let look = tokio::time::timeout(LOOK_TIMEOUT, look).await;
        let found = look.unwrap_or_else(|_| Err(Error::failed("no answer")));
        if let Err(error) = &found {
            tracing::debug!(%error, "failed to read what the run has committed");
        }
        let found = found.ok();
        RunReport {
            run_id: Some(run.run_id.to_string()),
            shards_total: run.shards,
            shards_committed: found.as_ref().map(|found| found.shards),
            missing: found.as_ref().map(|found| found.missing.clone()),
            finished_at: found.as_ref().and_then(|found| found.finished_at),
            totals: found.map(|found| found.totals),
            started_at: Some(run.created_at),
            ..empty
        }
    }
}
