//! A video of a run's plan, and what its run does with it.

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};

use crate::hash::hex;
use crate::tables::escape_into;

/// What a worker does with a video.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Todo {
    /// Reads it and writes its rows.
    Index {
        /// How many times in a row it failed before, with this content and these settings.
        failures: u32,
    },
    /// Writes a row that says that the video is gone from the input. The rest is as it was.
    MarkDeleted,
    /// Writes a failed row without reading the video.
    MarkArchived {
        /// S3's name of it.
        storage_class: String,
    },
    /// Copies the rows that an earlier run wrote, without reading the video; where they are not there any more, indexes it.
    Restore {
        /// The path of the earlier run's file below `videos/`, which its files of other tables share.
        from: String,
    },
}

impl Default for Todo {
    fn default() -> Self {
        Self::Index { failures: 0 }
    }
}

/// One video of the plan, as it was listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VideoObject {
    /// Relative to the job's `input.uri`.
    pub key: String,
    /// The full address, as written to the tables.
    pub uri: String,
    /// Length in bytes; may be 0.
    pub size_bytes: u64,
    /// Of the version listed; a worker that finds another fails the video with `changed_during_read`.
    pub etag: String,
    /// To the microsecond.
    pub last_modified: DateTime<Utc>,
    /// (name, value) of each partition column, in the job's order; the values as they stand in the key.
    pub partition: Vec<(String, String)>,
    /// What is done with it.
    pub todo: Todo,
}

impl VideoObject {
    /// Names the video in every table: 128 bits of the SHA-256 of its uri, as 32 hex digits. Another content under
    /// the same uri is the same video.
    pub fn video_id(&self) -> String {
        hex(&Sha256::digest(&self.uri)[..16])
    }

    /// What a worker will read of it.
    pub fn bytes_to_read(&self) -> u64 {
        if matches!(self.todo, Todo::Index { .. }) { self.size_bytes } else { 0 }
    }

    /// The directory of its rows within a table, e.g. `camera=cam-1/dt=2026-11-01`: the partition columns, their values
    /// escaped as Hive does it, then the day of `last_modified` in UTC.
    pub fn partition_path(&self) -> String {
        let mut path = String::new();
        for (name, value) in &self.partition {
            path.push_str(name);
            path.push('=');
            escape_into(&mut path, value);
            path.push('/');
        }
        path.push_str(&format!("dt={}", self.last_modified.date_naive()));
        path
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::testing::video;

    #[test]
    fn a_video_keeps_its_id_and_a_change_of_content_does_not_alter_it() {
        assert_eq!(video("a.mp4", 1).video_id(), video("a.mp4", 2).video_id());
        assert_eq!(video("a.mp4", 1).video_id(), "9b26e03df35ab4c2eb10d9aac585361a");
    }

    proptest! {
        #[test]
        fn different_partition_values_never_share_a_path(
            a in prop::collection::vec("\\PC{0,8}|[/=%:.A-F0-9]{0,8}", 2),
            b in prop::collection::vec("\\PC{0,8}|[/=%:.A-F0-9]{0,8}", 2),
        ) {
            let path = |values: &[String]| {
                let partition = ["camera", "site"].map(str::to_owned).into_iter().zip(values.iter().cloned()).collect();
                VideoObject { partition, ..video("a.mp4", 1) }.partition_path()
            };
            prop_assert_eq!(path(&a) == path(&b), a == b);
            prop_assert_eq!(path(&a).matches('/').count(), 2);
            prop_assert!(path(&a).split('/').all(|part| part.matches('=').count() == 1));
        }
    }
}
