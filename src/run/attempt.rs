//! Attempts at a shard: their names, where they write, and their heartbeat in `attempt.json`.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{RUNS_PREFIX, Task};
use crate::tables::shard_id;

/// Interval between two heartbeats.
pub const HEARTBEAT: Duration = Duration::from_secs(30);

const FILE: &str = "attempt.json";

/// A globally unique name of one attempt at a shard.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AttemptId(String);

impl AttemptId {
    /// A new unique name: the time in microseconds, and 64 random bits.
    pub fn unique() -> Self {
        // Each RandomState is seeded by the system, which avoids a random number generator for a single number.
        let random = RandomState::new().hash_one(std::process::id());
        Self(format!("{}Z-{random:016x}", Utc::now().format("%Y%m%dT%H%M%S%6f")))
    }

    /// The name as it is used in keys.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `parts/<shard>/<attempt>/attempt.json`, the heartbeat of an attempt. Written when the attempt starts, every
/// [`HEARTBEAT`], and when it fails. `seal` deletes it together with the attempt's files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// The shard, from 0.
    pub shard: u32,
    /// The name of the attempt.
    pub attempt: AttemptId,
    /// The task that works on it. `None` if the attempt merges files, or an older vidindex wrote the record.
    #[serde(default)]
    pub task: Option<Task>,
    /// Host name of the machine, if known.
    pub host: Option<String>,
    /// Start of the attempt, by that machine's clock.
    pub started_at: DateTime<Utc>,
    /// Time of this heartbeat. If it is old and `failure` is not set, the machine or the process is gone.
    pub seen_at: DateTime<Utc>,
    /// Number of videos in the shard.
    pub videos: u64,
    /// Number of videos that are finished.
    pub videos_done: u64,
    /// Why the attempt failed, if it did.
    pub failure: Option<String>,
}

/// Whether this key is an attempt's record.
pub(crate) fn is_record(key: &str) -> bool {
    key.ends_with(&format!("/{FILE}"))
}

/// `_vidindex/runs/<run>/parts/`: the files of all attempts.
pub(crate) fn parts_prefix(run_id: &str) -> String {
    format!("{RUNS_PREFIX}{run_id}/parts/")
}

/// `parts/<shard>/<attempt>/`: the files of one attempt.
pub(crate) fn attempt_prefix(run_id: &str, shard: u32, attempt: &AttemptId) -> String {
    format!("{}{}/{attempt}/", parts_prefix(run_id), shard_id(shard))
}

/// `parts/<shard>/<attempt>/attempt.json`.
pub(crate) fn record_key(run_id: &str, shard: u32, attempt: &AttemptId) -> String {
    format!("{}{FILE}", attempt_prefix(run_id, shard, attempt))
}

/// The shard of the attempt that wrote this key.
pub(crate) fn attempted_shard(run_id: &str, key: &str) -> Option<u32> {
    key.strip_prefix(&parts_prefix(run_id))?.split_once('/')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_never_share_a_name() {
        let names: std::collections::BTreeSet<String> = (0..1000).map(|_| AttemptId::unique().to_string()).collect();
        assert_eq!(names.len(), 1000);
    }
}
