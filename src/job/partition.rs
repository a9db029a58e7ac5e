//! Partition columns: parts of a video's key that its rows are filed under.

use std::fmt;

use regex::Regex;
use serde::{Deserialize, Serialize};

/// What a partition column holds where its group took no part in the match (or matched nothing): Hive's name for null.
pub const NULL_PARTITION: &str = "__HIVE_DEFAULT_PARTITION__";

/// Names that a partition column may not have: those of the tables' own columns and directories.
#[rustfmt::skip]
const RESERVED_COLUMNS: [&str; 47] = [
    "actions", "actions_model", "box", "boxes", "codec", "confidence", "container", "decode_seconds", "dt",
    "duration_seconds", "embedding", "end_seconds", "error_kind", "error_message", "etag", "fingerprint", "frame",
    "frames", "frames_decoded", "frames_per_second", "height", "indexed_at", "inference_seconds", "last_modified",
    "mirrored", "model", "persons_model", "rotation", "run_id", "scores", "segment", "segments", "shard", "size_bytes",
    "start_seconds", "status", "time_seconds", "top", "top_label", "top_score", "uri", "video_id", "width", "x1",
    "x2", "y1", "y2",
];

/// A pattern with named groups, searched for anywhere in a key: each group becomes a partition column of the tables.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Partition(Regex);

impl Partition {
    /// Checks the pattern and its groups' names. The error says what is wrong, for a person.
    pub fn new(pattern: &str) -> Result<Self, String> {
        let regex = Regex::new(pattern).map_err(|error| format!("is not a regular expression: {error}"))?;
        let mut seen: Vec<String> = Vec::new();
        for name in regex.capture_names().flatten() {
            let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            let lower = name.to_ascii_lowercase();
            if !plain {
                return Err(format!("names a group `{name}`: a column's name takes letters, digits and `_` only"));
            }
            if RESERVED_COLUMNS.contains(&lower.as_str()) {
                return Err(format!("names a group `{name}`, which is a column of the tables: call it something else"));
            }
            if seen.contains(&lower) {
                return Err(format!("names two groups `{name}`, which are one column: letter case does not count"));
            }
            seen.push(lower);
        }
        if seen.is_empty() {
            return Err("has no named group such as (?<camera>[^/]+), so it would make no column".to_owned());
        }
        Ok(Self(regex))
    }

    /// The columns' names, in the pattern's order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.capture_names().flatten()
    }

    /// (name, value) of every column for this key; [`NULL_PARTITION`] where a group has no part in it.
    pub fn columns(&self, key: &str) -> Vec<(String, String)> {
        let captures = self.0.captures(key);
        let value = |name| captures.as_ref()?.name(name).map(|group| group.as_str()).filter(|text| !text.is_empty());
        self.names().map(|name| (name.to_owned(), value(name).unwrap_or(NULL_PARTITION).to_owned())).collect()
    }
}

impl PartialEq for Partition {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl TryFrom<String> for Partition {
    type Error = String;

    fn try_from(pattern: String) -> Result<Self, String> {
        Self::new(&pattern)
    }
}

impl From<Partition> for String {
    fn from(partition: Partition) -> Self {
        partition.0.as_str().to_owned()
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}
