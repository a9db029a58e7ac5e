//! A video in a run's plan, and what the run does with it.

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};

use crate::hash::hex;
use crate::tables::escape_into;

/// What a worker does with a video.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Todo {
    /// Read the video and write its rows.
    Index {
        /// Number of consecutive earlier failures with this content and these settings.
        failures: u32,
    },
    /// Write a row that marks the video as deleted from the input. Its other rows stay.
    MarkDeleted,
    /// Write a failed row without reading the video.
    MarkArchived {
        /// S3's name of the storage class.
        storage_class: String,
    },
    /// Copy the rows of an earlier run without reading the video. If those rows no longer exist, index the video.
    Restore {
        /// A file of `videos`: its path below `videos/` if it was published, its key if an interrupted run saved it. The files
        /// of the other tables have the same path below their own directories.
        from: String,
    },
}

impl Default for Todo {
    fn default() -> Self {
        Self::Index { failures: 0 }
    }
}

/// One video of the plan, as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VideoObject {
    /// Key relative to the job's `input.uri`.
    pub key: String,
    /// The full URI, as written to the tables.
    pub uri: String,
    /// Size, bytes. May be 0.
    pub size_bytes: u64,
    /// ETag of the listed version. If a worker reads another version, the video fails with `changed_during_read`.
    pub etag: String,
    /// Id of the listed version, which a worker reads. Without it, a worker reads the newest version.
    pub version_id: Option<String>,
    /// Time of the last change, in microseconds.
    pub last_modified: DateTime<Utc>,
    /// (name, value) of each partition column, in the job's order. Values are spelled as in the key.
    pub partition: Vec<(String, String)>,
    /// What the run does with the video.
    pub todo: Todo,
}

impl VideoObject {
    /// The id of the video in every table: 128 bits of the SHA-256 of its URI, as 32 hex digits. It does not depend on
    /// the content.
    pub fn video_id(&self) -> String {
        hex(&Sha256::digest(&self.uri)[..16])
    }

    /// Number of bytes that a worker will read.
    pub fn bytes_to_read(&self) -> u64 {
        if matches!(self.todo, Todo::Index { .. }) { self.size_bytes } else { 0 }
    }

    /// The directory of the video's rows within a table, such as `camera=cam-1/dt=2026-11-01`: the partition columns
    /// with values escaped as in Hive, then the day of `last_modified` in UTC.
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
