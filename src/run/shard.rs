//! A shard: the share of a run's videos that one attempt works on.

use super::VideoObject;
use crate::tables::shard_id;

/// A share of the plan, worked on as one: all of it is committed, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// From 0, without gaps, in the plan's order.
    pub index: u32,
    /// In the order of (partition path, key), which is the order of the shard's rows. Never empty.
    pub videos: Vec<VideoObject>,
}

impl Shard {
    /// The index as it stands in keys: `000042`.
    pub fn id(&self) -> String {
        shard_id(self.index)
    }

    /// What a worker will read of the videos.
    pub fn size_bytes(&self) -> u64 {
        self.videos.iter().map(VideoObject::bytes_to_read).sum()
    }
}
