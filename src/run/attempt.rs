//! Attempts at a shard: their names, where they write, and `attempt.json`, by which each says that it is at work.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::RUNS_PREFIX;
use crate::tables::shard_id;

/// From one word to the next.
pub const HEARTBEAT: Duration = Duration::from_secs(30);

const FILE: &str = "attempt.json";

/// Names one attempt at a shard among all that ever were.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AttemptId(String);

impl AttemptId {
    /// A name that no other attempt has: the time in microseconds, and 64 random bits.
    pub fn unique() -> Self {
        // Each RandomState is keyed by the system's randomness, which saves a generator for this one number.
        let random = RandomState::new().hash_one(std::process::id());
        Self(format!("{}Z-{random:016x}", Utc::now().format("%Y%m%dT%H%M%S%6f")))
    }

    /// The name, as it stands in keys.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `parts/<shard>/<attempt>/attempt.json`: written when the attempt begins, every [`HEARTBEAT`], and when it fails. The
/// seal clears it with the attempt's files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// The shard, from 0.
    pub shard: u32,
    /// The attempt.
    pub attempt: AttemptId,
    /// The machine, where it knows its name.
    pub host: Option<String>,
    /// By that machine's clock.
    pub started_at: DateTime<Utc>,
    /// When this was written. Long ago, with no failure told: the machine or the process is gone.
    pub seen_at: DateTime<Utc>,
    /// Videos of the shard.
    pub videos: u64,
    /// Of those, how many are done.
    pub videos_done: u64,
    /// Why it was given up.
    pub failure: Option<String>,
}

/// Whether this key is an attempt's record.
pub(crate) fn is_record(key: &str) -> bool {
    key.ends_with(&format!("/{FILE}"))
}

/// `_vidindex/runs/<run>/parts/`: what attempts wrote.
pub(crate) fn parts_prefix(run_id: &str) -> String {
    format!("{RUNS_PREFIX}{run_id}/parts/")
}

/// `parts/<shard>/<attempt>/`: where one attempt writes.
pub(crate) fn attempt_prefix(run_id: &str, shard: u32, attempt: &AttemptId) -> String {
    format!("{}{}/{attempt}/", parts_prefix(run_id), shard_id(shard))
}

/// `parts/<shard>/<attempt>/attempt.json`.
pub(crate) fn record_key(run_id: &str, shard: u32, attempt: &AttemptId) -> String {
    format!("{}{FILE}", attempt_prefix(run_id, shard, attempt))
}

/// The shard whose attempt wrote this key.
pub(crate) fn attempted_shard(run_id: &str, key: &str) -> Option<u32> {
    key.strip_prefix(&parts_prefix(run_id))?.split_once('/')?.0.parse().ok()
}

/// As the kernel has it; a container's is its own.
pub(crate) fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
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
