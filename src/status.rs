//! The progress of runs, derived from the store: committed shards, active and silent attempts, expected end. For a
//! submitted run, it also covers whether its engine still has waiting tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt, TryStreamExt};
use indicatif::HumanDuration;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::run::attempt::{AttemptRecord, HEARTBEAT, attempted_shard, is_record, parts_prefix};
use crate::run::commit::{ShardTotals, commits_prefix, committed_shard, read_commit};
use crate::run::{RunId, RunKind, record, summary};
use crate::store::{Store, StoreErrorKind};

/// Number of records that are read concurrently.
const READS_MAX: usize = 16;

/// Number of missed heartbeats after which an attempt counts as silent. A busy store can delay a few.
const BEATS_MISSED_MAX: u32 = 4;

/// The same if the engine reports that it has none of the run's tasks, so that any active attempt runs outside of it.
const BEATS_MISSED_ALONE: u32 = 2;

/// An attempt counts as long if it takes this many times the median duration of committed shards.
const LONG: f64 = 3.0;

/// Maximum number of lines about attempts of one kind. The rest is only counted.
const SHOWN_MAX: usize = 10;

/// The state of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// No attempt has started.
    Planned,
    /// No attempt is active, but an engine has the run: its tasks wait, or it cannot be queried.
    Submitted,
    /// At least one attempt is active.
    AtWork,
    /// No attempt is active, and shards are missing.
    Stopped,
    /// Every shard is committed, but some are not published.
    Committed,
    /// Every shard is published.
    Sealed,
}

/// The status of a run at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct RunStatus {
    /// The name of the run.
    pub run_id: RunId,
    /// The state in one word.
    pub state: State,
    /// Whether this is a run of `compact`, which merges files and indexes nothing.
    pub merges_files: bool,
    /// Time of planning.
    pub planned_at: DateTime<Utc>,
    /// The moment that this status describes.
    pub at: DateTime<Utc>,
    /// Number of shards in the plan.
    pub shards: u32,
    /// Number of committed shards.
    pub shards_committed: u32,
    /// Number of videos in the plan.
    pub videos: u64,
    /// Sums over the committed shards.
    pub totals: ShardTotals,
    /// Time of the latest commit.
    pub committed_at: Option<DateTime<Utc>>,
    /// Videos per second, from planning to the latest commit.
    pub videos_per_second: Option<f64>,
    /// Seconds to the end at that rate, if an attempt is active.
    pub eta_seconds: Option<f64>,
    /// The latest attempt at each shard that was started but is not committed.
    pub attempts: Vec<AttemptStatus>,
    /// The engine that the run was submitted to; null if it was not submitted or is sealed.
    pub engine: Option<InEngine>,
}

/// A run that was submitted to an engine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InEngine {
    /// `slurm`, `aws-batch` or `kubernetes`.
    pub engine: String,
    /// The engine's names of the job that runs the tasks and of the job that seals.
    pub jobs: Vec<String>,
    /// When the run was submitted.
    pub submitted_at: DateTime<Utc>,
    /// Number of waiting tasks, including the seal; null if the engine could not be queried.
    pub pending: Option<u32>,
    /// Number of running tasks; null if the engine could not be queried.
    pub running: Option<u32>,
    /// Why the engine could not be queried.
    pub problem: Option<String>,
}

impl InEngine {
    /// Whether the engine reports that it has no tasks of the run any more.
    pub fn is_done(&self) -> bool {
        (self.pending, self.running) == (Some(0), Some(0))
    }
}

/// An attempt that has not committed its shard.
#[derive(Debug, Clone, Serialize)]
pub struct AttemptStatus {
    /// Its state.
    pub kind: AttemptKind,
    /// Its latest heartbeat.
    #[serde(flatten)]
    pub record: AttemptRecord,
    /// Videos per second of this attempt.
    pub videos_per_second: Option<f64>,
    /// Seconds until its task has finished its shards at that rate, if it is active.
    pub task_eta_seconds: Option<f64>,
}

impl AttemptStatus {
    /// `usual_seconds` is what other shards took. `task_videos` is the number of videos in the uncommitted shards of the task.
    fn new(record: AttemptRecord, at: DateTime<Utc>, usual_seconds: Option<f64>, task_videos: f64) -> Self {
        let kind = kind(&record, at, usual_seconds);
        let seconds = seconds_between(record.started_at, record.seen_at);
        let rate = Some(record.videos_done as f64 / seconds).filter(|rate| rate.is_finite() && *rate > 0.0);
        let left = (task_videos - record.videos_done as f64).max(0.0);
        let eta = rate.filter(|_| kind >= AttemptKind::Long).map(|rate| left / rate);
        Self { kind, record, videos_per_second: rate, task_eta_seconds: eta }
    }
}

/// The state of an uncommitted attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptKind {
    /// It reported why it failed.
    Failed,
    /// It has sent no heartbeat for minutes.
    Silent,
    /// It is active, but takes much longer than other shards did.
    Long,
    /// It is active.
    AtWork,
}

/// The current status of a run.
///
/// # Errors
/// If there is no such run, or the output cannot be accessed.
pub async fn of_run(output: &dyn Store, run: &RunId) -> Result<RunStatus> {
    let record = record::read_record(output, run).await?;
    let run_id = run.as_str();
    let summary = summary::read_summary(output, run_id).await?;
    let mut committed = BTreeMap::new();
    let mut commits = output.list(&commits_prefix(run_id));
    while let Some(commit) = commits.try_next().await? {
        if let Some(shard) = committed_shard(run_id, &commit.key).filter(|shard| *shard < record.shards) {
            committed.insert(shard, commit.last_modified);
        }
    }
    let sealed = summary.as_ref().is_some_and(|summary| summary.is_complete());
    let attempts = if sealed { vec![] } else { attempts(output, run_id, &committed.keys().copied().collect()).await? };
    let (totals, mut seconds) = match summary {
        Some(summary) if summary.shards_committed as usize == committed.len() => (summary.totals, vec![]),
        _ => totals(output, run_id, committed.keys().copied()).await?,
    };
    let at = Utc::now();
    let committed_at = committed.values().max().copied();
    let working = committed_at.map(|last| seconds_between(record.created_at, last)).filter(|seconds| *seconds > 0.0);
    let videos_per_second = working.map(|seconds| totals.videos() as f64 / seconds).filter(|rate| *rate > 0.0);
    seconds.sort_by(f64::total_cmp);
    let usual = seconds.get(seconds.len() / 2).copied();
    let videos_per_shard = record.videos as f64 / f64::from(record.shards.max(1));
    let attempts: Vec<_> = attempts
        .into_iter()
        .map(|attempt| {
            let left =
                attempt.task.map(|task| task.shards(record.shards).filter(|at| !committed.contains_key(at)).count());
            AttemptStatus::new(attempt, at, usual, left.unwrap_or(1) as f64 * videos_per_shard)
        })
        .collect();
    let alive = attempts.iter().any(|attempt| attempt.kind >= AttemptKind::Long);
    let shards_committed = u32::try_from(committed.len()).unwrap_or(u32::MAX);
    let state = match (sealed, shards_committed == record.shards, alive) {
        (true, ..) => State::Sealed,
        (_, true, _) => State::Committed,
        (.., true) => State::AtWork,
        _ if attempts.is_empty() && committed.is_empty() => State::Planned,
        _ => State::Stopped,
    };
    let left = record.videos.saturating_sub(totals.videos()) as f64;
    Ok(RunStatus {
        merges_files: record.kind() == RunKind::Merge,
        run_id: record.run_id,
        state,
        planned_at: record.created_at,
        at,
        shards: record.shards,
        shards_committed,
        videos: record.videos,
        totals,
        committed_at,
        videos_per_second,
        eta_seconds: videos_per_second.filter(|_| alive).map(|rate| left / rate),
        attempts,
        engine: None,
    })
}

/// The current status of every run in the output, oldest first.
///
/// # Errors
/// If the output cannot be accessed.
pub async fn of_all(output: &dyn Store) -> Result<Vec<RunStatus>> {
    let mut all = Vec::new();
    for run in record::runs(output).await? {
        if record::find_record(output, &run).await?.is_some() {
            all.push(of_run(output, &run).await?);
        }
    }
    Ok(all)
}

/// The latest record of each shard that is not committed.
async fn attempts(output: &dyn Store, run_id: &str, committed: &BTreeSet<u32>) -> Result<Vec<AttemptRecord>> {
    let keys: Vec<String> = output
        .list(&parts_prefix(run_id))
        .try_filter_map(async |object| {
            let open = attempted_shard(run_id, &object.key).is_some_and(|shard| !committed.contains(&shard));
            Ok(Some(object.key).filter(|key| open && is_record(key)))
        })
        .try_collect()
        .await?;
    let mut reads = futures::stream::iter(keys)
        .map(async |key| match output.get(&key).await {
            Ok(body) => Ok(serde_json::from_slice::<AttemptRecord>(&body).ok()),
            // The shard was committed and cleaned up after the listing.
            Err(error) if error.kind == StoreErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::from(error)),
        })
        .buffer_unordered(READS_MAX);
    let mut latest: BTreeMap<u32, AttemptRecord> = BTreeMap::new();
    while let Some(record) = reads.try_next().await? {
        let Some(record) = record else { continue };
        let newer = latest.get(&record.shard).is_none_or(|known| known.started_at < record.started_at);
        if newer {
            latest.insert(record.shard, record);
        }
    }
    Ok(latest.into_values().collect())
}

/// Sums over these shards, and the seconds that each of them took.
async fn totals(
    output: &dyn Store,
    run_id: &str,
    shards: impl Iterator<Item = u32>,
) -> Result<(ShardTotals, Vec<f64>)> {
    let mut reads = futures::stream::iter(shards).map(|shard| read_commit(output, run_id, shard)).buffered(READS_MAX);
    let (mut totals, mut seconds) = (ShardTotals::default(), Vec::new());
    while let Some(record) = reads.try_next().await? {
        let Some(record) = record else { continue };
        totals.merge(&record.totals);
        seconds.push(record.totals.wall_seconds);
    }
    Ok((totals, seconds))
}

fn kind(record: &AttemptRecord, at: DateTime<Utc>, usual_seconds: Option<f64>) -> AttemptKind {
    let silent = is_silent(record, at, BEATS_MISSED_MAX);
    let seconds = seconds_between(record.started_at, at);
    match record.failure {
        Some(_) => AttemptKind::Failed,
        None if silent => AttemptKind::Silent,
        None if usual_seconds.is_some_and(|usual| seconds > LONG * usual.max(1.0)) => AttemptKind::Long,
        None => AttemptKind::AtWork,
    }
}

fn is_silent(record: &AttemptRecord, at: DateTime<Utc>, beats: u32) -> bool {
    at - record.seen_at > TimeDelta::from_std(HEARTBEAT * beats).unwrap_or(TimeDelta::MAX)
}

fn seconds_between(from: DateTime<Utc>, to: DateTime<Utc>) -> f64 {
    (to - from).as_seconds_f64()
}

fn human(seconds: f64) -> HumanDuration {
    HumanDuration(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

impl RunStatus {
    /// Adds what the engine reports about the run.
    pub fn learn(&mut self, engine: InEngine) {
        if engine.is_done() {
            for attempt in self.attempts.iter_mut().filter(|attempt| attempt.kind >= AttemptKind::Long) {
                if is_silent(&attempt.record, self.at, BEATS_MISSED_ALONE) {
                    attempt.kind = AttemptKind::Silent;
                }
            }
        }
        let alive = self.attempts.iter().any(|attempt| attempt.kind >= AttemptKind::Long);
        self.state = match self.state {
            State::Committed | State::Sealed => self.state,
            _ if alive => State::AtWork,
            _ if engine.is_done() => State::Stopped,
            _ => State::Submitted,
        };
        self.eta_seconds = self.eta_seconds.filter(|_| alive);
        self.engine = Some(engine);
    }

    /// Whether the status stays the same until someone takes action.
    pub fn is_still(&self) -> bool {
        let has_tasks = self.engine.as_ref().is_some_and(|engine| !engine.is_done());
        match self.state {
            State::Planned | State::Submitted | State::AtWork => false,
            // The seal is a task as well.
            State::Stopped | State::Committed => !has_tasks,
            State::Sealed => true,
        }
    }

    /// One line for a list of runs.
    pub fn line(&self) -> String {
        let (run, done, shards) = (&self.run_id, self.shards_committed, self.shards);
        let counts = self.totals.by_status();
        let merged = if self.merges_files { ", merged" } else { "" };
        format!("{run}  {:<9}  {done:>5} of {shards:<5} shards  {counts} of {} videos{merged}", self.state, self.videos)
    }
}

impl fmt::Display for InEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has it as {}: ", self.engine, self.jobs.join(" and "))?;
        match (self.pending, self.running, &self.problem) {
            (Some(0), Some(0), _) => write!(f, "no tasks are left"),
            (Some(pending), Some(running), _) => write!(f, "{pending} pending, {running} running"),
            (.., problem) => {
                let problem = problem.as_deref().unwrap_or("no answer");
                write!(f, "failed to query its tasks ({problem})")
            }
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Planned => "planned",
            Self::Submitted => "submitted",
            Self::AtWork => "at work",
            Self::Stopped => "stopped",
            Self::Committed => "committed",
            Self::Sealed => "sealed",
        })
    }
}

impl fmt::Display for RunStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ago = human(seconds_between(self.planned_at, self.at));
        let what = if self.merges_files { "merges files, " } else { "" };
        writeln!(f, "run      {}: {what}{}, planned {ago} ago", self.run_id, self.state)?;
        let count = |kind| self.attempts.iter().filter(|attempt| attempt.kind == kind).count();
        let at_work = count(AttemptKind::AtWork) + count(AttemptKind::Long);
        write!(f, "shards   {} of {} committed, {at_work} at work", self.shards_committed, self.shards)?;
        writeln!(f, ", {} silent, {} failed", count(AttemptKind::Silent), count(AttemptKind::Failed))?;
        if let Some(engine) = &self.engine {
            writeln!(f, "engine   {engine}")?;
        }
        let totals = &self.totals;
        write!(f, "videos   {} of {} done: {}", totals.videos(), self.videos, totals.by_status())?;
        if let Some(rate) = self.videos_per_second {
            write!(f, "\nspeed    {:.1} videos a minute", rate * 60.0)?;
        }
        if let Some(eta) = self.eta_seconds {
            write!(f, ", done in about {}", human(eta))?;
        }
        for (kind, name) in [
            (AttemptKind::Failed, "failed"),
            (AttemptKind::Silent, "silent"),
            (AttemptKind::Long, "long"),
            (AttemptKind::AtWork, "at work"),
        ] {
            let all = self.attempts.iter().filter(|attempt| attempt.kind == kind);
            for AttemptStatus { record, task_eta_seconds, .. } in all.clone().take(SHOWN_MAX) {
                let host = record.host.as_deref().unwrap_or("?");
                let since = human(seconds_between(record.started_at, self.at));
                let done = format!("{} of {} videos", record.videos_done, record.videos);
                let task = record.task.filter(|task| task.count > 1);
                let task = task.map(|task| format!("task {}, ", task.index)).unwrap_or_default();
                write!(f, "\n{name:<8} {task}shard {} on {host}, {done}, started {since} ago", record.shard)?;
                if let Some(seconds) = task_eta_seconds {
                    write!(f, ", done in about {}", human(*seconds))?;
                }
                match &record.failure {
                    Some(failure) => write!(f, ": {failure}")?,
                    None if kind == AttemptKind::Silent => {
                        write!(f, ", last heartbeat {} ago", human(seconds_between(record.seen_at, self.at)))?;
                    }
                    None => {}
                }
            }
            let more = all.count().saturating_sub(SHOWN_MAX);
            if more > 0 {
                write!(f, "\n{name:<8} and {more} more")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Task;
    use crate::run::attempt::AttemptId;

    fn record(started: i64, seen: i64, failure: Option<&str>) -> AttemptRecord {
        let at = |seconds| DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds);
        AttemptRecord {
            shard: 0,
            attempt: AttemptId::unique(),
            task: Some(Task { index: 1, count: 2 }),
            host: None,
            started_at: at(started),
            seen_at: at(seen),
            videos: 1,
            videos_done: 0,
            failure: failure.map(ToOwned::to_owned),
        }
    }

    #[test]
    fn attempts_are_classified_by_their_records_and_times() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::seconds(1000);
        assert_eq!(kind(&record(900, 990, None), now, Some(60.0)), AttemptKind::AtWork);
        assert_eq!(kind(&record(900, 990, None), now, None), AttemptKind::AtWork);
        assert_eq!(kind(&record(800, 990, None), now, Some(60.0)), AttemptKind::Long);
        assert_eq!(kind(&record(800, 870, None), now, Some(60.0)), AttemptKind::Silent);
        assert_eq!(kind(&record(800, 870, Some("no answer")), now, Some(60.0)), AttemptKind::Failed);
    }

    #[test]
    fn an_attempt_has_its_rate_and_the_time_that_its_task_needs() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::seconds(1000);
        let done = |videos_done, failure| AttemptRecord { videos: 80, videos_done, ..record(900, 980, failure) };
        let status = AttemptStatus::new(done(40, None), now, None, 240.0);
        assert_eq!((status.videos_per_second, status.task_eta_seconds), (Some(0.5), Some(400.0)));
        let status = AttemptStatus::new(done(40, Some("no answer")), now, None, 240.0);
        assert_eq!((status.videos_per_second, status.task_eta_seconds), (Some(0.5), None));
        assert_eq!(AttemptStatus::new(done(0, None), now, None, 240.0).videos_per_second, None);
    }

    fn run(state: State, attempts: Vec<AttemptRecord>) -> RunStatus {
        let at = DateTime::UNIX_EPOCH + TimeDelta::seconds(1000);
        RunStatus {
            run_id: RunId::new(at),
            state,
            merges_files: false,
            planned_at: DateTime::UNIX_EPOCH,
            at,
            shards: 2,
            shards_committed: 0,
            videos: 2,
            totals: ShardTotals::default(),
            committed_at: None,
            videos_per_second: None,
            eta_seconds: None,
            attempts: attempts.into_iter().map(|record| AttemptStatus::new(record, at, None, 1.0)).collect(),
            engine: None,
        }
    }

    #[test]
    fn the_engine_determines_whether_a_run_still_progresses() {
        let says = |pending, running| InEngine {
            engine: "slurm".to_owned(),
            jobs: vec!["7".to_owned(), "8".to_owned()],
            submitted_at: DateTime::UNIX_EPOCH,
            pending,
            running,
            problem: None,
        };
        let learned = |state, attempts, engine: InEngine| {
            let mut run = run(state, attempts);
            run.learn(engine);
            (run.state, run.is_still())
        };
        let now = || vec![record(900, 990, None)];
        let earlier = || vec![record(800, 920, None)];
        // Between two tasks no attempt is active.
        assert_eq!(learned(State::Stopped, vec![], says(Some(3), Some(0))), (State::Submitted, false));
        assert_eq!(learned(State::Planned, vec![], says(Some(3), Some(0))), (State::Submitted, false));
        assert_eq!(learned(State::Planned, vec![], says(None, None)), (State::Submitted, false));
        assert_eq!(learned(State::AtWork, now(), says(Some(3), Some(1))), (State::AtWork, false));
        // Cancelled before the start, during work, and with a worker that continues without the engine.
        assert_eq!(learned(State::Planned, vec![], says(Some(0), Some(0))), (State::Stopped, true));
        assert_eq!(learned(State::AtWork, earlier(), says(Some(0), Some(0))), (State::Stopped, true));
        assert_eq!(learned(State::AtWork, earlier(), says(Some(0), Some(1))), (State::AtWork, false));
        assert_eq!(learned(State::AtWork, now(), says(Some(0), Some(0))), (State::AtWork, false));
        // The seal is still waiting.
        assert_eq!(learned(State::Committed, vec![], says(Some(1), Some(0))), (State::Committed, false));
        assert_eq!(learned(State::Committed, vec![], says(Some(0), Some(0))), (State::Committed, true));
    }
}
