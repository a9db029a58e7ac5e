//! Class names: built-in sets, or a list from a model's descriptor.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};

use crate::error::{Error, Result};

/// The last part of warnings that the user can act on.
const SAY: &str = "name them with `labels` in the TOML file beside it";

/// Class names: the name of a built-in set, or a list.
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
    /// The 600 actions of Kinetics-600, in alphabetical order.
    Kinetics600,
    /// The 700 actions of Kinetics-700 and Kinetics-700-2020, in alphabetical order.
    Kinetics700,
    /// The 80 actions of AVA v2.2, in the order of their numbers; 0 is AVA's 1.
    Ava80,
    /// The 60 of AVA's actions that its benchmark evaluates.
    Ava60,
    /// The 80 object classes of COCO; 0 is `person`.
    Coco80,
    /// The 101 actions of UCF101, in the order of its list of classes.
    Ucf101,
    /// The 51 actions of HMDB51, in alphabetical order.
    Hmdb51,
    /// The 157 actions of Charades, in the order of their numbers (`c000`).
    Charades157,
    /// The 13 anomalies of UCF-Crime and `Normal`, in alphabetical order.
    UcfCrime,
}

impl Labels {
    /// Returns the built-in set of this name, or reads the file of this name with one label per line.
    ///
    /// # Errors
    /// If there is neither, or if a line is empty or occurs twice.
    pub fn read(name: &str) -> Result<Self> {
        if let Some(set) = LabelSet::named(name) {
            return Ok(Self::Set(set));
        }
        let text = std::fs::read_to_string(name).map_err(|error| {
            let sets = LabelSet::ALL.map(LabelSet::name).join(", ");
            Error::usage(format!("labels `{name}`: failed to read: {error}"))
                .with_hint(format!("give a file with one label per line, or one of {sets}"))
        })?;
        let list: Vec<String> =
            text.trim_start_matches('\u{feff}').lines().map(|line| line.trim().to_owned()).collect();
        let mut seen = HashSet::new();
        match list.iter().position(|label| label.is_empty() || !seen.insert(label)) {
            Some(line) => {
                let what = if list[line].is_empty() { "an empty line" } else { "a duplicate label" };
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

    /// The number of classes.
    pub fn len(&self) -> usize {
        self.names().len()
    }

    /// Whether there are no classes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The built-in set if it has this many classes, otherwise `class_0`, `class_1` and so on.
    pub fn of_count(set: LabelSet, count: usize) -> Self {
        let set = Self::Set(set);
        if set.len() == count { set } else { Self::List((0..count).map(|number| format!("class_{number}")).collect()) }
    }

    /// The built-in set that has exactly these names, otherwise a list of them.
    pub fn of_names(names: &[String]) -> Self {
        let set = LabelSet::ALL.into_iter().find(|set| set.text().lines().eq(names.iter().map(String::as_str)));
        set.map_or_else(|| Self::List(names.to_vec()), Self::Set)
    }

    /// Whether every name is only the class's number (`class_0`, `class0`, `0`). Exporters write these if classes have
    /// no names.
    pub fn are_numbers(&self) -> bool {
        let number = |name: &str| name.strip_prefix("class").unwrap_or(name).trim_start_matches('_').parse::<usize>();
        self.names().into_iter().enumerate().all(|(class, name)| number(name) == Ok(class))
    }

    /// Chooses a model's class names: those in its own file, otherwise its descriptor's, otherwise the built-in `usual`
    /// set if it has as many classes, otherwise `class_0` and so on. A list of mere numbers ([`Labels::are_numbers`])
    /// is only used if there are no names. `classes` is the number of classes in the graph, if known.
    ///
    /// Also returns the warning that every run logs if names are numbers, are assumed, or differ between file and
    /// descriptor.
    ///
    /// # Errors
    /// If the number of classes is unknown or differs from the number of names.
    pub(crate) fn settle(
        file: Option<Self>,
        descriptor: Option<Self>,
        classes: Option<usize>,
        usual: LabelSet,
    ) -> Result<(Self, Option<String>)> {
        let fits = |labels: &Self, whose: &str| match classes.filter(|classes| *classes != labels.len()) {
            Some(classes) => {
                Err(Error::usage(format!("{whose} names {} classes, but the model has {classes}", labels.len())))
            }
            None => Ok(()),
        };
        file.as_ref().map_or(Ok(()), |labels| fits(labels, "its metadata"))?;
        descriptor.as_ref().map_or(Ok(()), |labels| fits(labels, "`labels`"))?;
        let (labels, warning) = match (file, descriptor) {
            (Some(file), Some(written)) if !file.are_numbers() => {
                let warning = if written.are_numbers() { None } else { difference(&file, &written) };
                (file, warning)
            }
            (_, Some(labels)) | (Some(labels), None) => (labels, None),
            (None, None) => {
                let classes =
                    classes.ok_or_else(|| Error::usage("the names of its classes are unknown").with_hint(SAY))?;
                let labels = Self::of_count(usual, classes);
                let guessed = matches!(labels, Self::Set(_));
                let name = usual.name();
                let warning =
                    format!("it does not name its {classes} classes, so the labels of `{name}` are assumed; {SAY}");
                (labels, guessed.then_some(warning))
            }
        };
        let numbers =
            || format!("its {} classes have no names, so their labels are their numbers; {SAY}", labels.len());
        let warning = if labels.are_numbers() { Some(numbers()) } else { warning };
        Ok((labels, warning))
    }

    /// The notation of a descriptor.
    pub(crate) fn to_toml(&self) -> String {
        match self {
            Self::Set(set) => format!("\"{}\"", set.name()),
            Self::List(list) => toml::Value::from(list.clone()).to_string(),
        }
    }
}

/// The warning about a descriptor whose names differ from the model's own.
fn difference(file: &Labels, descriptor: &Labels) -> Option<String> {
    let (own, written) = (file.names(), descriptor.names());
    let class = (0..own.len().max(written.len())).find(|&class| own.get(class) != written.get(class))?;
    let shown = |name: Option<&&str>| name.map_or("missing".to_owned(), |name| format!("`{name}`"));
    let (own, written) = (shown(own.get(class)), shown(written.get(class)));
    Some(format!(
        "class {class} is {own} in its own metadata, which is used, but {written} in `labels` in the TOML file beside it"
    ))
}

impl LabelSet {
    const ALL: [Self; 10] = [
        Self::Kinetics400,
        Self::Kinetics600,
        Self::Kinetics700,
        Self::Ava80,
        Self::Ava60,
        Self::Coco80,
        Self::Ucf101,
        Self::Hmdb51,
        Self::Charades157,
        Self::UcfCrime,
    ];

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|set| set.name() == name)
    }

    /// The set's name in a descriptor.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kinetics400 => "kinetics-400",
            Self::Kinetics600 => "kinetics-600",
            Self::Kinetics700 => "kinetics-700",
            Self::Ava80 => "ava-80",
            Self::Ava60 => "ava-60",
            Self::Coco80 => "coco-80",
            Self::Ucf101 => "ucf-101",
            Self::Hmdb51 => "hmdb-51",
            Self::Charades157 => "charades-157",
            Self::UcfCrime => "ucf-crime",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Kinetics400 => include_str!("../../models/labels/kinetics400.txt"),
            Self::Kinetics600 => include_str!("../../models/labels/kinetics600.txt"),
            Self::Kinetics700 => include_str!("../../models/labels/kinetics700.txt"),
            Self::Ava80 => include_str!("../../models/labels/ava80.txt"),
            Self::Ava60 => include_str!("../../models/labels/ava60.txt"),
            Self::Coco80 => include_str!("../../models/labels/coco80.txt"),
            Self::Ucf101 => include_str!("../../models/labels/ucf101.txt"),
            Self::Hmdb51 => include_str!("../../models/labels/hmdb51.txt"),
            Self::Charades157 => include_str!("../../models/labels/charades157.txt"),
            Self::UcfCrime => include_str!("../../models/labels/ucfcrime.txt"),
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
    fn the_built_in_labels_are_complete() {
        for (set, count, last) in [
            (LabelSet::Kinetics600, 600, "zumba"),
            (LabelSet::Kinetics700, 700, "zumba"),
            (LabelSet::Ucf101, 101, "YoYo"),
            (LabelSet::Hmdb51, 51, "wave"),
            (LabelSet::Charades157, 157, "Someone is eating something"),
            (LabelSet::UcfCrime, 14, "Vandalism"),
        ] {
            let set = Labels::Set(set);
            assert_eq!((set.len(), set.names().last().copied()), (count, Some(last)));
        }
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

    fn list(names: &[&str]) -> Labels {
        Labels::List(names.iter().map(|&name| name.to_owned()).collect())
    }

    #[test]
    fn names_come_from_the_file_then_the_descriptor_then_the_number_of_classes() {
        let settle = |file: Option<Labels>, descriptor: Option<Labels>, classes| {
            Labels::settle(file, descriptor, classes, LabelSet::Coco80)
        };
        let (cat, dog) = (list(&["cat", "person"]), list(&["dog", "person"]));
        let numbers = list(&["class_0", "class_1"]);
        let unnamed = "its 2 classes have no names, so their labels are their numbers; name them with `labels` in the TOML file beside it";
        for (file, descriptor, classes, labels, warning) in [
            (Some(cat.clone()), None, Some(2), &cat, None),
            (Some(cat.clone()), Some(cat.clone()), None, &cat, None),
            (None, Some(dog.clone()), Some(2), &dog, None),
            (
                Some(cat.clone()),
                Some(dog.clone()),
                Some(2),
                &cat,
                Some(
                    "class 0 is `cat` in its own metadata, which is used, but `dog` in `labels` in the TOML file beside it",
                ),
            ),
            (
                Some(cat.clone()),
                Some(list(&["cat"])),
                None,
                &cat,
                Some(
                    "class 1 is `person` in its own metadata, which is used, but missing in `labels` in the TOML file beside it",
                ),
            ),
            // A name is preferred to a number.
            (Some(numbers.clone()), Some(dog.clone()), Some(2), &dog, None),
            (Some(cat.clone()), Some(numbers.clone()), Some(2), &cat, None),
            (Some(list(&["0", "1"])), None, Some(2), &list(&["0", "1"]), Some(unnamed)),
            (None, Some(numbers.clone()), Some(2), &numbers, Some(unnamed)),
            (None, None, Some(2), &numbers, Some(unnamed)),
            (
                None,
                None,
                Some(80),
                &Labels::Set(LabelSet::Coco80),
                Some(
                    "it does not name its 80 classes, so the labels of `coco-80` are assumed; name them with `labels` in the TOML file beside it",
                ),
            ),
        ] {
            let (found, said) = settle(file, descriptor, classes).unwrap();
            assert_eq!((&found, said.as_deref()), (labels, warning));
        }
        let refusal = |file, descriptor, classes| settle(file, descriptor, classes).unwrap_err().to_string();
        assert_eq!(refusal(None, None, None), "the names of its classes are unknown");
        assert_eq!(refusal(Some(cat.clone()), None, Some(3)), "its metadata names 2 classes, but the model has 3");
        assert_eq!(refusal(Some(cat), Some(list(&["a"])), Some(2)), "`labels` names 1 classes, but the model has 2");
    }

    #[test]
    fn numbers_are_not_names() {
        for numbers in [&["class_0", "class_1"][..], &["class0", "class1"], &["0", "1"]] {
            assert!(list(numbers).are_numbers(), "{numbers:?}");
        }
        for names in [&["class_1", "class_0"][..], &["0", "person"], &["class", "person"], &["item"]] {
            assert!(!list(names).are_numbers(), "{names:?}");
        }
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
        assert!(read("walk\nrun\nwalk").unwrap_err().to_string().ends_with(":3: a duplicate label"));
        assert!(read("").unwrap_err().to_string().ends_with(": no labels"));
        let error = Labels::read("imagenet").unwrap_err();
        let hint = error.hint().unwrap();
        assert!(LabelSet::ALL.iter().all(|set| hint.contains(set.name())), "{hint}");
    }
}
