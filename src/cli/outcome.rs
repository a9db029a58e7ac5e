//! What `run --json` prints, however the run ends.

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

/// Version of [`RunReport`].
pub const REPORT_SCHEMA_VERSION: u32 = 1;

/// For a look at the output after the run has failed or was stopped.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Its shards are published; `exit_code` 3 where videos failed or shards are missing.
    Finished,
    /// Everything was indexed before: there is no new run.
    NothingToDo,
    /// It could not go on: `error` says why.
    Failed,
    /// By a signal.
    Stopped,
}

/// The one JSON document of `run --json`: a run's summary, and how the run ended.
#[derive(Debug, Clone, Serialize)]
pub struct RunReport {
    /// [`REPORT_SCHEMA_VERSION`].
    pub schema_version: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// Of the process.
    pub exit_code: u8,
    /// What failed.
    pub error: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// The run; null where none was planned.
    pub run_id: Option<String>,
    /// Of vidindex.
    pub tool_version: String,
    /// Shards of the plan.
    pub shards_total: u32,
    /// Shards committed; null where the output could not be read.
    pub shards_committed: Option<u32>,
    /// Shards that are not committed, ascending; null likewise.
    pub missing: Option<Vec<u32>>,
    /// As in the summary.
    pub lost_parts: Vec<String>,
    /// What each table gained: nothing before the run is sealed.
    pub tables: BTreeMap<Table, TableTotals>,
    /// Sums over the committed shards; null likewise.
    pub totals: Option<ShardTotals>,
    /// When the run was planned.
    pub started_at: Option<DateTime<Utc>>,
    /// When its last shard so far was committed.
    pub finished_at: Option<DateTime<Utc>>,
    /// When it was published.
    pub sealed_at: Option<DateTime<Utc>>,
}

impl RunReport {
    /// Of a run that published this.
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

    /// Of a run without shards.
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

/// What is known of the run while it goes on.
#[derive(Debug, Default)]
pub(super) struct Known {
    planned: OnceLock<(Arc<dyn Store>, RunRecord)>,
    summary: OnceLock<RunSummary>,
}

impl Known {
    /// The run is planned, and lies in this output.
    pub(super) fn planned(&self, output: &Arc<dyn Store>, run: &RunRecord) {
        let _ = self.planned.set((output.clone(), run.clone()));
    }

    /// The run is sealed.
    pub(super) fn sealed(&self, summary: RunSummary) {
        let _ = self.summary.set(summary);
    }

    /// Prints the report of a run that ended with this exit code, or error.
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

    /// Prints the report of a run that a signal stopped.
    pub(super) async fn print_stopped(&self, code: u8) -> Result<()> {
        console::print_json(&self.unsealed(Outcome::Stopped, code).await)
    }

    /// What is committed, where there is a run, and its output can still be read.
    async fn unsealed(&self, outcome: Outcome, exit_code: u8) -> RunReport {
        let empty = RunReport::empty(outcome, exit_code);
        let Some((output, run)) = self.planned.get() else { return empty };
        let look = seal::committed(&**output, run.run_id.as_str(), run.shards);
        let look = tokio::time::timeout(LOOK_TIMEOUT, look).await;
        let found = look.unwrap_or_else(|_| Err(Error::failed("no answer")));
        if let Err(error) = &found {
            tracing::debug!(%error, "cannot see what the run has committed");
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
