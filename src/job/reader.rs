//! The job file as sections of entries that know where they were written, so that every error can quote the line or the
//! `--set` that it is about.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::keys::{known_key, known_section, misplaced};
use super::paths::{self, Resolved};
use crate::error::{Error, Result};
use crate::toml_text::TomlText;

/// The table whose own tables are sections, such as `[engine.slurm]`.
const ENGINE: &str = "engine";

/// A job file with its overrides applied. Contains only known sections and keys.
#[derive(Debug)]
pub(super) struct Document {
    name: String,
    folder: Option<PathBuf>,
    sections: BTreeMap<&'static str, Section>,
}

/// One section's entries.
#[derive(Debug)]
pub(super) struct Section {
    name: &'static str,
    keys: &'static [&'static str],
    place: Place,
    /// The directory of the job file, to which its paths are relative. None for a text that is no file.
    folder: Option<PathBuf>,
    entries: BTreeMap<String, Entry>,
}

/// A value and where it was written.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    place: Place,
    value: Value,
    /// The text after the `=` of a `--set`. It is the value of a key that takes a string, even if it looks like a number.
    typed: Option<String>,
}

/// Where a section or a value was written.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// A line of the job file; its number counts from 1.
    Line { file: String, number: usize, text: String },
    /// A `--set` on the command line, as typed.
    Flag(String),
}

#[derive(Debug, Clone)]
enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    List(Vec<Entry>),
    /// A kind of value that no key accepts, as messages call it.
    Other(&'static str),
}

impl Document {
    /// Parses `text` and applies `overrides` (`section.key=value`). Errors call the file `name`. `folder` is the directory of the
    /// file, if it is one.
    pub(super) fn read(name: &str, folder: Option<&Path>, text: &str, overrides: &[String]) -> Result<Self> {
        let source = TomlText { name, text };
        let table = DeTable::parse(text).map_err(|error| source.error(&error))?;
        let folder = folder.map(Path::to_owned);
        let mut document = Self { name: name.to_owned(), folder, sections: BTreeMap::new() };
        for (key, value) in table.get_ref() {
            match (key.get_ref().as_ref(), value.get_ref()) {
                (ENGINE, DeValue::Table(engines)) => {
                    for (key, value) in engines {
                        let name = format!("{ENGINE}.{}", key.get_ref());
                        let place = Place::line(&source, key.span().start);
                        document.add_section(&source, &name, place, value.get_ref())?;
                    }
                }
                (name, value) => document.add_section(&source, name, Place::line(&source, key.span().start), value)?,
            }
        }
        for typed in overrides {
            document.apply(typed)?;
        }
        Ok(document)
    }

    /// A section, if the file or a `--set` has it.
    pub(super) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.get(name)
    }

    /// A section that every job needs; the error shows `example`, its shortest form.
    pub(super) fn required(&self, name: &str, example: &str) -> Result<&Section> {
        self.section(name).ok_or_else(|| {
            Error::usage(format!("{}: the section [{name}] is missing", self.name))
                .with_hint(format!("add it, for example:\n    [{name}]\n    {example}"))
        })
    }

    fn add_section(&mut self, source: &TomlText<'_>, name: &str, place: Place, value: &DeValue<'_>) -> Result<()> {
        let DeValue::Table(table) = value else {
            return Err(misplaced(name, &place));
        };
        let mut section = Section { folder: self.folder.clone(), ..Section::new(name, place)? };
        for (key, value) in table {
            if let Some(nested) = nested_section(name, key.get_ref()) {
                let place = Place::line(source, key.span().start);
                self.add_section(source, nested, place, value.get_ref())?;
                continue;
            }
            let place = Place::line(source, key.span().start);
            known_key(section.name, section.keys, key.get_ref(), &place)?;
            let value = Value::from_toml(value.get_ref(), &|offset| Place::line(source, offset));
            section.entries.insert(key.get_ref().to_string(), Entry { place, value, typed: None });
        }
        self.sections.insert(section.name, section);
        Ok(())
    }

    fn apply(&mut self, typed: &str) -> Result<()> {
        let place = Place::Flag(typed.to_owned());
        let parts = typed.split_once('=').and_then(|(path, raw)| Some((path.trim().rsplit_once('.')?, raw.trim())));
        let Some(((section, key), raw)) = parts else {
            return Err(Error::usage(format!("--set {typed}: not of the form section.key=value"))
                .with_hint("for example: --set persons.confidence=0.4"));
        };
        let new = Section::new(section, place.clone())?;
        known_key(new.name, new.keys, key, &place)?;
        let value = match DeValue::parse(raw) {
            Ok(value) => Value::from_toml(value.get_ref(), &|_| place.clone()),
            Err(_) => Value::Text(raw.to_owned()),
        };
        self.sections
            .entry(new.name)
            .or_insert(new)
            .entries
            .insert(key.to_owned(), Entry { place, value, typed: Some(raw.to_owned()) });
        Ok(())
    }
}

/// The section that a section contains under this key.
fn nested_section(section: &str, key: &str) -> Option<&'static str> {
    match (section, key) {
        ("input", "store") => Some("input.store"),
        ("output", "store") => Some("output.store"),
        _ => None,
    }
}

impl Section {
    fn new(name: &str, place: Place) -> Result<Self> {
        let (name, keys) = known_section(name, &place)?;
        Ok(Self { name, keys, place, folder: None, entries: BTreeMap::new() })
    }

    /// The value of `key` as `convert` returns it, or `None` if the key is absent. If `convert` returns `None`, the error
    /// says that the value must be `wanted`, which describes its type and range.
    pub(super) fn get<T>(
        &self,
        key: &str,
        wanted: &str,
        convert: impl FnOnce(&Entry) -> Option<T>,
    ) -> Result<Option<T>> {
        assert!(self.keys.contains(&key), "[{}] has no field for `{key}`", self.name);
        let Some(entry) = self.entries.get(key) else { return Ok(None) };
        match convert(entry) {
            Some(value) => Ok(Some(value)),
            None => Err(self.refusal(key, entry, format!("must be {wanted}, not {}", entry.value))),
        }
    }

    /// A local path, relative to the working directory, or an address of a store. In a job file, paths are relative to the file;
    /// in a `--set`, to the working directory.
    pub(super) fn path(&self, entry: &Entry) -> Option<String> {
        let text = entry.filled_text()?;
        match (&entry.place, &self.folder) {
            (Place::Line { file, number, .. }, Some(folder)) => {
                let Resolved { path, warning } = paths::resolve(folder, &text);
                if let Some(warning) = warning {
                    tracing::warn!("{file}:{number}: {warning}");
                }
                Some(path)
            }
            _ => Some(text),
        }
    }

    /// Whether the key is present.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Like [`Section::get`], for a key that must be present; the error shows `example`.
    pub(super) fn required<T>(
        &self,
        key: &str,
        wanted: &str,
        example: &str,
        convert: impl FnOnce(&Entry) -> Option<T>,
    ) -> Result<T> {
        self.get(key, wanted, convert)?.ok_or_else(|| {
            self.place
                .complain(format!("the key `{key}` is missing in [{}]", self.name))
                .with_hint(format!("add it, for example:\n    {example}"))
        })
    }

    /// A list of strings, each checked by `check`, whose error says what is wrong with the string.
    pub(super) fn strings(&self, key: &str, check: impl Fn(&str) -> Result<(), String>) -> Result<Option<Vec<String>>> {
        let Some(list) = self.get(key, "a list of strings", Entry::list)? else { return Ok(None) };
        let mut strings = Vec::with_capacity(list.len());
        for entry in list {
            let Some(text) = entry.text() else {
                return Err(self.refusal(key, &entry, format!("must contain only strings, not {}", entry.value)));
            };
            check(&text).map_err(|problem| self.refusal(key, &entry, problem))?;
            strings.push(text);
        }
        Ok(Some(strings))
    }

    /// An error about the value of a key. `problem` continues the sentence that begins with the key's name.
    pub(super) fn complain(&self, key: &str, problem: impl fmt::Display) -> Error {
        match self.entries.get(key) {
            Some(entry) => self.refusal(key, entry, problem),
            None => self.place.complain(format!("`{key}` in [{}] {problem}", self.name)),
        }
    }

    fn refusal(&self, key: &str, entry: &Entry, problem: impl fmt::Display) -> Error {
        entry.place.complain(format!("`{key}` in [{}] {problem}", self.name))
    }
}

impl Entry {
    /// A string. Any value of a `--set` is also a string.
    pub(super) fn text(&self) -> Option<String> {
        match (&self.value, &self.typed) {
            (Value::Text(text), _) => Some(text.clone()),
            (_, Some(typed)) => Some(typed.clone()),
            _ => None,
        }
    }

    /// A string that is not blank.
    pub(super) fn filled_text(&self) -> Option<String> {
        self.text().filter(|text| !text.trim().is_empty())
    }

    /// A finite number, with or without a decimal point.
    pub(super) fn number(&self) -> Option<f64> {
        match self.value {
            Value::Integer(number) => Some(number as f64),
            Value::Float(number) => Some(number).filter(|number| number.is_finite()),
            _ => None,
        }
    }

    /// A whole number of at least 0.
    pub(super) fn count(&self) -> Option<u64> {
        match self.value {
            Value::Integer(number) => number.try_into().ok(),
            _ => None,
        }
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self) -> Option<bool> {
        match self.value {
            Value::Boolean(value) => Some(value),
            _ => None,
        }
    }

    /// The entries of a list. A string in a `--set` is a list with one entry.
    pub(super) fn list(&self) -> Option<Vec<Entry>> {
        match &self.value {
            Value::List(entries) => Some(entries.clone()),
            Value::Text(_) if self.typed.is_some() => Some(vec![self.clone()]),
            _ => None,
        }
    }
}

impl Value {
    fn from_toml(value: &DeValue<'_>, place: &dyn Fn(usize) -> Place) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.to_string()),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Self::Integer(number),
                Err(_) => Self::Other("a number beyond 64 bits"),
            },
            DeValue::Float(number) => match number.as_str().parse() {
                Ok(number) => Self::Float(number),
                Err(_) => Self::Other("a number that cannot be read"),
            },
            DeValue::Boolean(value) => Self::Boolean(*value),
            DeValue::Array(items) => Self::List(
                items
                    .iter()
                    .map(|item| Entry {
                        place: place(item.span().start),
                        value: Self::from_toml(item.get_ref(), place),
                        typed: None,
                    })
                    .collect(),
            ),
            DeValue::Datetime(_) => Self::Other("a date"),
            DeValue::Table(_) => Self::Other("a table"),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "the string {text:?}"),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Float(number) => write!(f, "{number:?}"),
            Self::Boolean(value) => write!(f, "{value}"),
            Self::List(_) => f.write_str("a list"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

impl Place {
    fn line(source: &TomlText<'_>, offset: usize) -> Self {
        let position = source.position(offset);
        Self::Line { file: source.name.to_owned(), number: position.line, text: position.shown.to_owned() }
    }

    /// A usage error about what is written here.
    pub(super) fn complain(&self, what: impl fmt::Display) -> Error {
        Error::usage(match self {
            Self::Line { file, number, text } => format!("{file}:{number}: {what}\n  {number} | {text}"),
            Self::Flag(typed) => format!("--set {typed}: {what}"),
        })
    }
}
