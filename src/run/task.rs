//! Tasks: how the shards of a run are divided among the processes that work on them.

use serde::{Deserialize, Serialize};

/// A task of a run. Its shards are `index`, `index + count`, `index + 2 count` and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Number of the task, from 0.
    pub index: u32,
    /// Number of tasks.
    pub count: u32,
}

impl Task {
    /// The only task of a run on one machine.
    pub const ALL: Self = Self { index: 0, count: 1 };

    /// The task's shards, of a run with this number of them.
    pub fn shards(self, of: u32) -> impl Iterator<Item = u32> {
        (self.index..of).step_by(self.count.max(1) as usize)
    }
}
