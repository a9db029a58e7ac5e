//! Counts files by extension, for a one-line message about files that the job's `include` does not match.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Maximum number of extensions that are counted by name. Others are counted together, which bounds the memory.
const NAMED_MAX: usize = 1000;

/// Number of extensions that are shown by name.
const SHOWN: usize = 3;

/// Maximum length of an extension, bytes. Anything longer is part of a name that contains a dot.
const LENGTH_MAX: usize = 10;

/// Number of files per extension, ignoring case.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extensions {
    named: BTreeMap<String, u64>,
    others: u64,
}

impl Extensions {
    pub(super) fn add(&mut self, key: &str) {
        let name = key.rsplit('/').next().unwrap_or_default();
        let extension = name.rsplit_once('.').filter(|(stem, _)| !stem.is_empty()).map(|(_, extension)| extension);
        let usual = |text: &&str| text.len() <= LENGTH_MAX && text.chars().all(|c| c.is_ascii_alphanumeric());
        match extension.filter(|text| !text.is_empty()).filter(usual).map(str::to_ascii_lowercase) {
            Some(text) if self.named.len() < NAMED_MAX || self.named.contains_key(&text) => {
                *self.named.entry(text).or_default() += 1;
            }
            _ => self.others += 1,
        }
    }
}

/// Formats the most frequent extensions by name, as in `7 .txt, 3 .jpg, 2 others`.
impl fmt::Display for Extensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut named: Vec<_> = self.named.iter().collect();
        named.sort_by_key(|(_, count)| Reverse(**count));
        let (shown, rest) = named.split_at(SHOWN.min(named.len()));
        let others = self.others + rest.iter().map(|(_, count)| **count).sum::<u64>();
        let mut parts: Vec<_> = shown.iter().map(|(extension, count)| format!("{count} .{extension}")).collect();
        if others > 0 {
            parts.push(format!("{others} other{}", if others == 1 { "" } else { "s" }));
        }
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(keys: &[&str]) -> String {
        let mut extensions = Extensions::default();
        keys.iter().for_each(|key| extensions.add(key));
        extensions.to_string()
    }

    #[test]
    fn the_most_frequent_are_named_and_the_rest_are_others() {
        assert_eq!(
            shown(&["a.txt", "b/c.TXT", "d.jpg", "e.JPG", "f.jpg", "g.xml", "h.json", "README", ".profile"]),
            "3 .jpg, 2 .txt, 1 .json, 3 others"
        );
        assert_eq!(shown(&["v1.2/README", "a.tar.gz"]), "1 .gz, 1 other");
        assert_eq!(shown(&["talk. And then.some long words", "b.", "c.m p"]), "3 others");
    }

    #[test]
    fn numbered_extensions_are_not_all_kept() {
        let mut extensions = Extensions::default();
        (0..5000).for_each(|n| extensions.add(&format!("a.{n:04}")));
        assert_eq!(extensions.named.len(), NAMED_MAX);
        assert_eq!(extensions.to_string(), "1 .0000, 1 .0001, 1 .0002, 4997 others");
    }
}
