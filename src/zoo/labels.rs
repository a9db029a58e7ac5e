//! The classes' names: built-in sets, or a list in a model's descriptor.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};

use crate::error::{Error, Result};

/// The classes' names: a built-in set's name, or a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Labels {
    /// `labels = "kinetics-400"`
    Set(LabelSet),
    /// `labels = ["walking", "running"]`
    List(Vec<String>),
}

/// A built-in set of labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelSet {
    /// The 400 actions of Kinetics-400, in alphabetical order.
    Kinetics400,
    /// The 80 actions of AVA v2.2, by their numbers; 0 is AVA's 1.
    Ava80,
    /// The 60 of those that AVA's benchmark evaluates.
    Ava60,
    /// The 80 objects of COCO; 0 is `person`.
    Coco80,
}

impl Labels {
    /// The built-in set of this name, or else what this file has on its lines.
    ///
    /// # Errors
    /// When there is neither, or a line is empty or there twice.
    pub fn read(name: &str) -> Result<Self> {
        if let Some(set) = LabelSet::named(name) {
            return Ok(Self::Set(set));
        }
        let text = std::fs::read_to_string(name).map_err(|error| {
            let sets = LabelSet::ALL.map(LabelSet::name).join(", ");
            Error::usage(format!("labels `{name}`: cannot be read: {error}"))
                .with_hint(format!("a file with one label on each line, or one of {sets}"))
        })?;
        let list: Vec<String> =
            text.trim_start_matches('\u{feff}').lines().map(|line| line.trim().to_owned()).collect();
        let mut seen = HashSet::new();
        match list.iter().position(|label| label.is_empty() || !seen.insert(label)) {
            Some(line) => {
                let what = if list[line].is_empty() { "an empty line" } else { "a label that was there before" };
                Err(Error::usage(format!("{name}:{}: {what}", line + 1)))
            }
            None if list.is_empty() => Err(Error::usage(format!("{name}: no labels"))),
            None => Ok(Self::List(list)),
        }
    }

    /// The names, in the order of the scores.
    pub fn names(&self) -> Vec<&str> {
        match self {
            Self::Set(set) => set.text().lines().collect(),
            Self::List(list) => list.iter().map(String::as_str).collect(),
        }
    }

    /// How many classes.
    pub fn len(&self) -> usize {
        self.names().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The built-in set, if it has this many classes; else `class_0`, `class_1` and so on.
    pub fn of_count(set: LabelSet, count: usize) -> Self {
        let set = Self::Set(set);
        if set.len() == count { set } else { Self::List((0..count).map(|number| format!("class_{number}")).collect()) }
    }

    /// These names, by the name of the built-in set that they are, if they are one.
    pub fn of_names(names: &[String]) -> Self {
        let set = LabelSet::ALL.into_iter().find(|set| set.text().lines().eq(names.iter().map(String::as_str)));
        set.map_or_else(|| Self::List(names.to_vec()), Self::Set)
    }

    /// As a descriptor says them.
    pub(crate) fn to_toml(&self) -> String {
        match self {
            Self::Set(set) => format!("\"{}\"", set.name()),
            Self::List(list) => toml::Value::from(list.clone()).to_string(),
        }
    }
}

impl LabelSet {
    const ALL: [Self; 4] = [Self::Kinetics400, Self::Ava80, Self::Ava60, Self::Coco80];

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|set| set.name() == name)
    }

    /// Its name in a descriptor.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kinetics400 => "kinetics-400",
            Self::Ava80 => "ava-80",
            Self::Ava60 => "ava-60",
            Self::Coco80 => "coco-80",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Kinetics400 => include_str!("../../models/labels/kinetics400.txt"),
            Self::Ava80 => include_str!("../../models/labels/ava80.txt"),
            Self::Ava60 => include_str!("../../models/labels/ava60.txt"),
            Self::Coco80 => include_str!("../../models/labels/coco80.txt"),
        }
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct NameOrList;

        impl<'de> Visitor<'de> for NameOrList {
            type Value = Labels;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                LabelSet::ALL.iter().try_for_each(|set| write!(f, "\"{}\", ", set.name()))?;
                f.write_str("or a list of labels")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> std::result::Result<Labels, E> {
                LabelSet::named(name)
                    .map(Labels::Set)
                    .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(name), &self))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<Labels, A::Error> {
                let mut list = Vec::new();
                while let Some(label) = items.next_element()? {
                    list.push(label);
                }
                Ok(Labels::List(list))
            }
        }

        deserializer.deserialize_any(NameOrList)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_labels_are_whole() {
        let kinetics = Labels::Set(LabelSet::Kinetics400).names();
        assert_eq!((kinetics.len(), kinetics[0], kinetics[399]), (400, "abseiling", "zumba"));
        let ava = Labels::Set(LabelSet::Ava80).names();
        assert_eq!((ava.len(), ava[0], ava[79]), (80, "bend/bow (at the waist)", "watch (a person)"));
        let evaluated = Labels::Set(LabelSet::Ava60).names();
        assert_eq!(evaluated.len(), 60);
        assert!(evaluated.is_sorted_by_key(|name| ava.iter().position(|other| other == name).unwrap()));
        let coco = Labels::Set(LabelSet::Coco80).names();
        assert_eq!((coco.len(), coco[0], coco[79]), (80, "person", "toothbrush"));
    }

    #[test]
    fn labels_are_a_sets_name_or_the_lines_of_a_file() {
        assert_eq!(Labels::read("ava-80").unwrap(), Labels::Set(LabelSet::Ava80));
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let read = |text: &str| {
            std::fs::write(path, text).unwrap();
            Labels::read(path)
        };
        assert_eq!(read("walk\r\nrun\n").unwrap(), Labels::List(vec!["walk".into(), "run".into()]));
        assert!(read("walk\n\nrun\n").unwrap_err().to_string().ends_with(":2: an empty line"));
        assert!(read("walk\nrun\nwalk").unwrap_err().to_string().ends_with(":3: a label that was there before"));
        assert!(read("").unwrap_err().to_string().ends_with(": no labels"));
        let error = Labels::read("imagenet").unwrap_err();
        assert!(error.hint().unwrap().contains("kinetics-400, ava-80"), "{error}");
    }
}
