//! The classes' names: built-in sets, or a list in a model's descriptor.

use std::fmt;

use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};

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
    /// The 80 objects of COCO; 0 is `person`.
    Coco80,
}

impl Labels {
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

    /// As a descriptor says them.
    pub(crate) fn to_toml(&self) -> String {
        match self {
            Self::Set(set) => format!("\"{}\"", set.name()),
            Self::List(list) => toml::Value::from(list.clone()).to_string(),
        }
    }
}

impl LabelSet {
    const ALL: [Self; 2] = [Self::Kinetics400, Self::Coco80];

    /// Its name in a descriptor.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kinetics400 => "kinetics-400",
            Self::Coco80 => "coco-80",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Kinetics400 => include_str!("../../models/labels/kinetics400.txt"),
            Self::Coco80 => include_str!("../../models/labels/coco80.txt"),
        }
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrList;

        impl<'de> Visitor<'de> for NameOrList {
            type Value = Labels;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"kinetics-400\", \"coco-80\", or a list of labels")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Labels, E> {
                let set = LabelSet::ALL.into_iter().find(|set| set.name() == name);
                set.map(Labels::Set).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(name), &self))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Labels, A::Error> {
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
mod tests {
    use super::*;

    #[test]
    fn the_built_in_labels_are_whole() {
        let kinetics = Labels::Set(LabelSet::Kinetics400).names();
        assert_eq!((kinetics.len(), kinetics[0], kinetics[399]), (400, "abseiling", "zumba"));
        let coco = Labels::Set(LabelSet::Coco80).names();
        assert_eq!((coco.len(), coco[0], coco[79]), (80, "person", "toothbrush"));
    }
}
