//! A shard: the part of a run's videos that one attempt processes.

use super::VideoObject;
use crate::tables::shard_id;

/// A part of the plan that is processed and committed as a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Index in the plan's order, from 0 without gaps.
    pub index: u32,
    /// The videos, ordered by (partition path, key), which is also the order of the shard's rows. Never empty.
    pub videos: Vec<VideoObject>,
}

impl Shard {
    /// The index as it is used in keys: `000042`.
    pub fn id(&self) -> String {
        shard_id(self.index)
    }

    /// Total size of the videos that a worker will read, bytes.
    pub fn size_bytes(&self) -> u64 {
        self.videos.iter().map(VideoObject::bytes_to_read).sum()
    }
}
