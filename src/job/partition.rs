//! Partition columns: parts of a video's key that become folders of the tables.

use std::fmt;

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::tables::{Table, escape_into};

/// The value of a partition column whose group did not match or matched nothing: Hive's name for null.
pub const NULL_PARTITION: &str = "__HIVE_DEFAULT_PARTITION__";

/// The length limit of a folder's name (`name=value`, with escapes) in file systems, in bytes.
const FOLDER_BYTES_MAX: usize = 255;

/// The limit for the folders of all columns together, in bytes: half of an S3 key's 1024. The rest of the path has the
/// other half.
const FOLDERS_BYTES_MAX: usize = 512;

/// A pattern with named groups that may match anywhere in a key. Each group becomes a partition column of the tables.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Partition(Regex);

impl Partition {
    /// Checks the pattern and the names of its groups.
    ///
    /// # Errors
    /// A message that continues a sentence about the pattern ("is not a regular expression").
    pub fn new(pattern: &str) -> Result<Self, String> {
        let regex = Regex::new(pattern).map_err(|error| format!("is not a regular expression: {error}"))?;
        let mut seen: Vec<String> = Vec::new();
        for name in regex.capture_names().flatten() {
            let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            let lower = name.to_ascii_lowercase();
            if !plain {
                return Err(format!(
                    "has a group `{name}`: the name of a column may only have letters, digits and `_`"
                ));
            }
            if is_column_of_a_table(name) {
                return Err(format!("has a group `{name}`, which is a column of the tables: choose another name"));
            }
            if seen.contains(&lower) {
                return Err(format!(
                    "has two groups `{name}`, which are the same column: column names ignore letter case"
                ));
            }
            seen.push(lower);
        }
        if seen.is_empty() {
            return Err("has no named group such as (?<camera>[^/]+), so there would be no column".to_owned());
        }
        let partition = Self(regex);
        match too_long(&partition.nulls()) {
            Some(_) => Err(format!("has groups whose names are too long for folders: {}", seen.join(", "))),
            None => Ok(partition),
        }
    }

    /// The names of the columns, in the order of the pattern.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.capture_names().flatten()
    }

    /// The columns of this key as (name, value). The value is [`NULL_PARTITION`] if the group did not match, and in all
    /// columns if there is a [`Self::problem`].
    pub fn columns(&self, key: &str) -> Vec<(String, String)> {
        let values = self.values(key);
        if too_long(&values).is_some() { self.nulls() } else { values }
    }

    /// A message that says why the values in this key cannot be folder names.
    pub fn problem(&self, key: &str) -> Option<String> {
        too_long(&self.values(key))
    }

    fn values(&self, key: &str) -> Vec<(String, String)> {
        let captures = self.0.captures(key);
        let value = |name| captures.as_ref()?.name(name).map(|group| group.as_str()).filter(|text| !text.is_empty());
        self.names().map(|name| (name.to_owned(), value(name).unwrap_or(NULL_PARTITION).to_owned())).collect()
    }

    fn nulls(&self) -> Vec<(String, String)> {
        self.names().map(|name| (name.to_owned(), NULL_PARTITION.to_owned())).collect()
    }
}

/// Ignores letter case, as query engines do.
fn is_column_of_a_table(name: &str) -> bool {
    let columns = Table::ALL.into_iter().flat_map(|table| table.columns().iter().chain(table.partition_columns()));
    columns.into_iter().any(|column| column.name.eq_ignore_ascii_case(name))
}

fn too_long(columns: &[(String, String)]) -> Option<String> {
    let mut all = 0;
    for (name, value) in columns {
        let mut folder = format!("{name}=");
        escape_into(&mut folder, value);
        if folder.len() > FOLDER_BYTES_MAX {
            return Some(format!(
                "the value of its partition column `{name}` is too long: {name}=... has {} bytes, and the name of a folder \
                 may have {FOLDER_BYTES_MAX}",
                folder.len()
            ));
        }
        all += folder.len() + 1;
    }
    (all > FOLDERS_BYTES_MAX).then(|| {
        format!(
            "the values of its partition columns are too long together: {all} bytes, and the limit is {FOLDERS_BYTES_MAX}"
        )
    })
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_partition_column_cannot_have_the_name_of_a_column_in_any_letter_case() {
        for table in Table::ALL {
            for column in table.columns().iter().chain(table.partition_columns()) {
                for name in [column.name.to_owned(), column.name.to_uppercase()] {
                    let refused = Partition::new(&format!("(?<{name}>x)")).unwrap_err();
                    assert!(refused.contains("which is a column of the tables"), "{table}.{name}: {refused}");
                }
            }
        }
        // Names that an earlier version allowed.
        for name in ["label", "jpeg", "model", "dt"] {
            assert!(Partition::new(&format!("(?<{name}>x)")).is_err(), "{name}");
        }
        assert!(Partition::new("(?<camera>x)").is_ok());
    }

    #[test]
    fn a_value_may_be_as_long_as_the_name_of_a_folder() {
        let partition = Partition::new("^(?<camera>[^/]+)/").unwrap();
        let fitting = "c".repeat(255 - "camera=".len());
        assert_eq!(partition.columns(&format!("{fitting}/a.mp4")), [("camera".to_owned(), fitting.clone())]);
        let problem = partition.problem(&format!("{fitting}c/a.mp4")).unwrap();
        assert!(problem.contains("`camera`") && problem.contains("256 bytes"), "{problem}");
        assert_eq!(partition.columns(&format!("{fitting}c/a.mp4"))[0].1, NULL_PARTITION);
        // The length is that of the folder's name: three bytes for an escaped colon, two for an umlaut.
        for letter in [":", "ü"] {
            assert_eq!(partition.problem(&format!("{}/a.mp4", letter.repeat(82))), None);
            assert!(partition.problem(&format!("{}/a.mp4", letter.repeat(125))).is_some(), "{letter}");
        }
    }

    #[test]
    fn names_that_leave_no_room_for_a_null_value_are_rejected() {
        let name = "n".repeat(255 - NULL_PARTITION.len());
        assert!(Partition::new(&format!("(?<{name}>x)")).unwrap_err().contains("too long"));
        assert!(Partition::new(&format!("(?<{}>x)", &name[1..])).is_ok());
    }

    proptest! {
        #[test]
        fn folders_always_fit(a in "[a-z:ü]{0,300}", b in "[a-z:ü]{0,300}", c in "[a-z:ü]{0,300}") {
            let partition = Partition::new("(?<a>[^/]*)/(?<b>[^/]*)/(?<c>[^/]*)/").unwrap();
            let key = format!("{a}/{b}/{c}/x.mp4");
            let columns = partition.columns(&key);
            prop_assert_eq!(too_long(&columns), None);
            let shown = |value: &str| if value.is_empty() { NULL_PARTITION.to_owned() } else { value.to_owned() };
            let whole = columns.iter().map(|(_, value)| value.clone()).eq([a, b, c].map(|value| shown(&value)));
            prop_assert!(whole != partition.problem(&key).is_some() || columns == partition.nulls());
        }
    }
}
