//! Counts of objects, with examples.

use serde::{Deserialize, Serialize};

use super::decide::Skip;
use super::{Extensions, counted, human};

/// Objects and folders that were taken or skipped for the same reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Number of objects.
    pub count: u64,
    /// Number of folders, whose objects were not listed.
    pub folders: u64,
    /// Total size of the objects, bytes.
    pub bytes: u64,
    /// The first keys in alphabetical order, at most [`Group::EXAMPLES`].
    pub examples: Vec<String>,
}

impl Group {
    /// Maximum number of example keys.
    pub const EXAMPLES: usize = 3;

    /// Counts an object, or a folder if the key ends in `/`.
    pub(super) fn add(&mut self, key: &str, size_bytes: u64) {
        *(if key.ends_with('/') { &mut self.folders } else { &mut self.count }) += 1;
        self.bytes += size_bytes;
        // Keep them sorted, so that the examples do not depend on the order in which a store lists.
        let at = self.examples.partition_point(|example| example.as_str() < key);
        if at < Self::EXAMPLES {
            self.examples.insert(at, key.to_owned());
            self.examples.truncate(Self::EXAMPLES);
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.count + self.folders
    }

    /// The amount as text, such as `2 folders and 1 object, 3.0 KiB`.
    pub(super) fn amount(&self) -> String {
        let objects = counted(self.count, "object");
        match (self.folders, self.count, self.bytes) {
            (0, _, bytes) => format!("{objects}, {}", human(bytes)),
            (folders, 0, _) => counted(folders, "folder"),
            (folders, _, 0) => format!("{} and {objects}", counted(folders, "folder")),
            (folders, _, bytes) => format!("{} and {objects}, {}", counted(folders, "folder"), human(bytes)),
        }
    }

    pub(super) fn examples(&self) -> String {
        let more = if self.total() > self.examples.len() as u64 { ", ..." } else { "" };
        format!("{}{more}", self.examples.join(", "))
    }
}

/// What the plan skips, by reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Already indexed with the same content, models and settings.
    pub already_indexed: Group,
    /// Failed with the same content, models and settings because of the content.
    pub failed_before: Group,
    /// Failed with the same content, models and settings [`super::FAILURES_MAX`] times in a row, for a cause that may be
    /// temporary.
    pub given_up: Group,
    /// In an archive storage class, as in the previous plan.
    pub archived: Group,
    /// No `include` glob matches.
    pub not_included: Group,
    /// The files in `not_included`, by extension.
    pub extensions: Extensions,
    /// A name in the path begins with a dot or is a system's.
    pub hidden: Group,
    /// Could not be listed. Videos that were indexed there are not marked as deleted.
    pub unlisted: Group,
    /// An `exclude` glob matches.
    pub excluded: Group,
    /// Files that vidindex itself wrote.
    pub own_output: Group,
}

impl Skipped {
    /// The group of videos that are skipped for this reason.
    pub(super) fn by(&mut self, skip: Skip) -> &mut Group {
        match skip {
            Skip::Done => &mut self.already_indexed,
            Skip::FailedBefore => &mut self.failed_before,
            Skip::GivenUp => &mut self.given_up,
            Skip::StillArchived => &mut self.archived,
        }
    }
}
