//! Missing videos: if so many disappeared from the input that the storage may be unavailable, none is marked as
//! deleted.

use std::collections::BTreeMap;
use std::fmt;

use super::indexed::Latest;
use super::{Group, counted, human};

/// Up to this many videos are always marked, whatever their share: of three files, one may disappear.
const ALWAYS_MARKED: u64 = 2;

/// Maximum number of folders that a message lists.
const FOLDERS_SHOWN: usize = 10;

/// Indexed videos that are missing from the input and are not marked as deleted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Missing {
    /// The missing videos.
    pub gone: Group,
    /// Number of videos indexed below the input, including the missing ones.
    pub indexed: u64,
    /// The share that may be missing.
    pub deleted_max: f64,
    /// Number of missing and of all videos by the first part of their key, which is empty for files directly below the
    /// input.
    pub folders: BTreeMap<String, (u64, u64)>,
}

impl Missing {
    pub(super) fn new(deleted_max: f64) -> Self {
        Self { deleted_max, ..Self::default() }
    }

    /// Whether so many videos are missing that a user should confirm the deletion.
    pub(super) fn is_suspicious(&self) -> bool {
        self.gone.count > ALWAYS_MARKED && self.gone.count as f64 > self.deleted_max * self.indexed as f64
    }

    /// Counts an indexed video.
    pub(super) fn add(&mut self, video: &Latest<'_>) {
        let folder = video.key.split_once('/').map_or("", |(folder, _)| folder);
        if !self.folders.contains_key(folder) {
            self.folders.insert(folder.to_owned(), (0, 0));
        }
        if let Some((gone, indexed)) = self.folders.get_mut(folder) {
            *indexed += 1;
            *gone += u64::from(video.is_gone);
        }
        self.indexed += 1;
        if video.is_gone {
            self.gone.add(video.key, video.size_bytes);
        }
    }
}

/// Formats a message for the user. Ends without a newline.
impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (gone, percent) = (&self.gone, self.deleted_max * 100.0);
        write!(
            f,
            "missing {}, {}, of {} indexed: more than input.deleted_max ({percent} %), so none is marked as deleted \
             (--confirm-deleted marks them)",
            counted(gone.count, "object"),
            human(gone.bytes),
            self.indexed
        )?;
        let mut folders: Vec<_> = self.folders.iter().filter(|(_, (gone, _))| *gone > 0).collect();
        folders.sort_by_key(|(name, (gone, _))| (std::cmp::Reverse(*gone), *name));
        for (name, (gone, indexed)) in folders.iter().take(FOLDERS_SHOWN) {
            let all = if gone == indexed { "all ".to_owned() } else { format!("{gone} of ") };
            let name = if name.is_empty() { "files in no folder".to_owned() } else { format!("{name}/") };
            write!(f, "\n    {name}: {all}{indexed}")?;
        }
        if folders.len() > FOLDERS_SHOWN {
            write!(f, "\n    and {}", counted((folders.len() - FOLDERS_SHOWN) as u64, "more folder"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suspicious(gone: u64, indexed: u64, deleted_max: f64) -> bool {
        let gone = Group { count: gone, ..Group::default() };
        Missing { gone, indexed, ..Missing::new(deleted_max) }.is_suspicious()
    }

    #[test]
    fn more_than_the_share_is_suspicious_but_one_or_two_never_are() {
        assert!(!suspicious(20, 100, 0.2) && suspicious(21, 100, 0.2));
        assert!(!suspicious(1, 3, 0.2) && !suspicious(2, 2, 0.0) && suspicious(3, 3, 0.2) && suspicious(3, 10, 0.2));
        assert!(!suspicious(100, 100, 1.0) && !suspicious(0, 0, 0.0) && suspicious(3, 1_000_000, 0.0));
    }

    #[test]
    fn the_folders_that_lost_most_are_named_first() {
        let mut missing = Missing::new(0.2);
        let lost = |n: usize| (0..n).map(move |i| (format!("lost-{n:02}/{i}.mp4"), true));
        let keys =
            (1..=12).flat_map(lost).chain([("lost-12/here.mp4".to_owned(), false), ("top.mp4".to_owned(), true)]);
        for (key, is_gone) in keys {
            let last_modified = Default::default();
            missing.add(&Latest { key: &key, etag: "", size_bytes: 1 << 20, last_modified, is_gone });
        }
        let text = missing.to_string();
        let lines: Vec<_> = text.lines().collect();
        let first = "missing 79 objects, 79.0 MiB, of 80 indexed: more than input.deleted_max (20 %), so none is marked as \
                     deleted (--confirm-deleted marks them)";
        assert_eq!(lines[..3], [first, "    lost-12/: 12 of 13", "    lost-11/: all 11"]);
        assert_eq!(lines[11..], ["    and 3 more folders"]);
    }
}
