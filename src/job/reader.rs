//! The job file as sections of entries that still know where they were written, so that every complaint can show the
//! line (or the `--set`) that it is about.

use std::collections::BTreeMap;
use std::fmt;

use toml::de::{DeTable, DeValue};

use crate::error::{Error, Result};
use crate::nearest::nearest;

/// Every section of the job file and its keys, in alphabetical order: what an unknown one is compared with.
pub const SECTIONS: [(&str, &[&str]); 10] = [
    ("actions", &["clip_seconds", "embedding", "model", "scores", "stride_seconds", "top_k"]),
    (
        "engine.aws-batch",
        &[
            "attempts",
            "gpus",
            "job_definition",
            "memory",
            "queue",
            "seal_job_definition",
            "seal_queue",
            "tasks",
            "timeout_seconds",
            "vcpus",
        ],
    ),
    (
        "engine.kubernetes",
        &[
            "at_once",
            "attempts",
            "cpus",
            "deadline_seconds",
            "gpus",
            "image",
            "memory",
            "namespace",
            "node_selector",
            "secret",
            "service_account",
            "tasks",
            "tolerations",
        ],
    ),
    (
        "engine.slurm",
        &["account", "at_once", "cpus", "gres", "logs", "memory", "options", "partition", "tasks", "time"],
    ),
    ("input", &["deleted_max", "exclude", "hidden", "include", "inventory", "partition", "uri"]),
    ("output", &["uri"]),
    ("persons", &["classes", "confidence", "frames_per_second", "iou", "model"]),
    ("report", &["thumbnails"]),
    ("run", &["device", "precision", "shard_bytes", "video_timeout_seconds"]),
    ("store", &["endpoint", "path_style", "region", "retry_seconds"]),
];

/// The section of sections: `[engine.slurm]` is one by that name.
const ENGINE: &str = "engine";

/// A whole job file with its overrides applied. Holds known sections and known keys only.
#[derive(Debug)]
pub(super) struct Document {
    name: String,
    sections: BTreeMap<&'static str, Section>,
}

/// One section's entries.
#[derive(Debug)]
pub(super) struct Section {
    name: &'static str,
    place: Place,
    entries: BTreeMap<String, Entry>,
}

/// One value and where it was written.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    place: Place,
    value: Value,
    /// The text after the `=` of a `--set`: what is meant where a string is wanted.
    typed: Option<String>,
}

/// Where something was written.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// A line of the job file, counted from 1.
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
    /// A kind of value that no key takes, named for a message.
    Other(&'static str),
}

impl Document {
    /// Parses `text` (`name` is how messages call the file) and lays `overrides` (`section.key=value`) over it.
    pub(super) fn read(name: &str, text: &str, overrides: &[String]) -> Result<Self> {
        let source = Source { name, text };
        let table = DeTable::parse(text).map_err(|error| source.syntax_error(&error))?;
        let mut document = Self { name: name.to_owned(), sections: BTreeMap::new() };
        for (key, value) in table.get_ref() {
            match (key.get_ref().as_ref(), value.get_ref()) {
                (ENGINE, DeValue::Table(engines)) => {
                    for (key, value) in engines {
                        let name = format!("{ENGINE}.{}", key.get_ref());
                        document.add_section(&source, &name, &source.place(key.span().start), value.get_ref())?;
                    }
                }
                (name, value) => document.add_section(&source, name, &source.place(key.span().start), value)?,
            }
        }
        for typed in overrides {
            document.apply(typed)?;
        }
        Ok(document)
    }

    /// A section, where the file (or a `--set`) has it.
    pub(super) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.get(name)
    }

    /// A section that no job can do without; `example` shows its smallest form.
    pub(super) fn required(&self, name: &str, example: &str) -> Result<&Section> {
        self.section(name).ok_or_else(|| {
            Error::usage(format!("{}: the section [{name}] is missing", self.name))
                .with_hint(format!("add it, for example:\n    [{name}]\n    {example}"))
        })
    }

    fn add_section(&mut self, source: &Source<'_>, name: &str, place: &Place, value: &DeValue<'_>) -> Result<()> {
        let DeValue::Table(table) = value else {
            return Err(misplaced(name, place));
        };
        let (name, keys) = known_section(name, place)?;
        let mut section = Section { name, place: place.clone(), entries: BTreeMap::new() };
        for (key, value) in table {
            let place = source.place(key.span().start);
            known_key(name, keys, key.get_ref(), &place)?;
            let value = Value::from_toml(value.get_ref(), &|offset| source.place(offset));
            section.entries.insert(key.get_ref().to_string(), Entry { place, value, typed: None });
        }
        self.sections.insert(name, section);
        Ok(())
    }

    fn apply(&mut self, typed: &str) -> Result<()> {
        let place = Place::Flag(typed.to_owned());
        let parts = typed.split_once('=').and_then(|(path, raw)| Some((path.trim().rsplit_once('.')?, raw.trim())));
        let Some(((section, key), raw)) = parts else {
            return Err(Error::usage(format!("--set {typed}: not of the form section.key=value"))
                .with_hint("for example: --set persons.confidence=0.4"));
        };
        let (name, keys) = known_section(section, &place)?;
        known_key(name, keys, key, &place)?;
        let value = match DeValue::parse(raw) {
            Ok(value) => Value::from_toml(value.get_ref(), &|_| place.clone()),
            Err(_) => Value::Text(raw.to_owned()),
        };
        self.sections
            .entry(name)
            .or_insert_with(|| Section { name, place: place.clone(), entries: BTreeMap::new() })
            .entries
            .insert(key.to_owned(), Entry { place, value, typed: Some(raw.to_owned()) });
        Ok(())
    }
}

impl Section {
    /// The value of `key` as `convert` takes it, or nothing where the key is absent. `wanted` says what the value must
    /// be (type and range): it is the message where `convert` refuses.
    pub(super) fn get<T>(
        &self,
        key: &str,
        wanted: &str,
        convert: impl FnOnce(&Entry) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(entry) = self.entries.get(key) else { return Ok(None) };
        match convert(entry) {
            Some(value) => Ok(Some(value)),
            None => Err(self.refusal(key, entry, format!("must be {wanted}, not {}", entry.value))),
        }
    }

    /// Whether the key is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// As [`Section::get`], for a key that must be there; `example` shows it.
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

    /// The strings of a list, each checked by `check`, which says what is wrong with one.
    pub(super) fn strings(&self, key: &str, check: impl Fn(&str) -> Result<(), String>) -> Result<Option<Vec<String>>> {
        let Some(list) = self.get(key, "a list of strings", Entry::list)? else { return Ok(None) };
        let mut strings = Vec::with_capacity(list.len());
        for entry in list {
            let Some(text) = entry.text() else {
                return Err(self.refusal(key, &entry, format!("must hold strings only, not {}", entry.value)));
            };
            check(&text).map_err(|problem| self.refusal(key, &entry, problem))?;
            strings.push(text);
        }
        Ok(Some(strings))
    }

    /// A complaint about the value of a key that is there: `problem` goes on after the key's name.
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
    /// A string; anything typed after a `--set` can be one.
    pub(super) fn text(&self) -> Option<String> {
        match (&self.value, &self.typed) {
            (Value::Text(text), _) => Some(text.clone()),
            (_, Some(typed)) => Some(typed.clone()),
            _ => None,
        }
    }

    /// A string with something in it.
    pub(super) fn filled_text(&self) -> Option<String> {
        self.text().filter(|text| !text.trim().is_empty())
    }

    /// A finite number, written with or without a point.
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

    /// The entries of a list. A single string after a `--set` is a list of one.
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
    fn complain(&self, what: impl fmt::Display) -> Error {
        Error::usage(match self {
            Self::Line { file, number, text } => format!("{file}:{number}: {what}\n  {number} | {text}"),
            Self::Flag(typed) => format!("--set {typed}: {what}"),
        })
    }
}

/// The file's text, for finding lines by their byte offset.
struct Source<'a> {
    name: &'a str,
    text: &'a str,
}

impl Source<'_> {
    fn place(&self, offset: usize) -> Place {
        let (number, _) = self.line_and_column(offset);
        let text = self.text.lines().nth(number - 1).unwrap_or_default().trim_end().to_owned();
        Place::Line { file: self.name.to_owned(), number, text }
    }

    /// Both counted from 1, the column in characters. An offset beyond the end is the end.
    fn line_and_column(&self, offset: usize) -> (usize, usize) {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = &self.text[..offset];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    fn syntax_error(&self, error: &toml::de::Error) -> Error {
        let problem = error.message().lines().collect::<Vec<_>>().join(", ");
        let Some(span) = error.span() else {
            return Error::usage(format!("{}: {problem}", self.name));
        };
        let (number, column) = self.line_and_column(span.start);
        let line = self.text.lines().nth(number - 1).unwrap_or_default().trim_end();
        Error::usage(format!("{}:{number}:{column}: {problem}\n  {number} | {line}", self.name))
    }
}

fn known_section(name: &str, place: &Place) -> Result<(&'static str, &'static [&'static str])> {
    SECTIONS.into_iter().find(|(known, _)| *known == name).ok_or_else(|| {
        let names = SECTIONS.map(|(known, _)| known);
        place.complain(format!("unknown section [{name}]")).with_hint(suggestion(name, &names, "sections"))
    })
}

fn known_key(section: &str, keys: &[&str], key: &str, place: &Place) -> Result<()> {
    if keys.contains(&key) {
        return Ok(());
    }
    let home = SECTIONS.iter().find(|(_, keys)| keys.contains(&key));
    let hint = match home {
        Some((home, _)) => format!("`{key}` belongs in [{home}] (keys of [{section}]: {})", keys.join(", ")),
        None => suggestion(key, keys, "keys"),
    };
    Err(place.complain(format!("unknown key `{key}` in [{section}]")).with_hint(hint))
}

/// Something at the top of the file that is no section.
fn misplaced(name: &str, place: &Place) -> Error {
    let homes: Vec<_> =
        SECTIONS.iter().filter(|(_, keys)| keys.contains(&name)).map(|(home, _)| format!("[{home}]")).collect();
    if SECTIONS.iter().any(|(known, _)| *known == name) {
        return place.complain(format!("`{name}` must be a section")).with_hint(format!("write it once, as [{name}]"));
    }
    let error = place.complain(format!("the key `{name}` stands outside every section"));
    match homes.is_empty() {
        true => error.with_hint(suggestion(name, &SECTIONS.map(|(known, _)| known), "sections")),
        false => error.with_hint(format!("put it below {}", homes.join(" or "))),
    }
}

/// `did you mean …?` where a known name is near, and all the known names in any case.
fn suggestion(unknown: &str, known: &[&str], what: &str) -> String {
    let all = format!("{what}: {}", known.join(", "));
    match nearest(unknown, known) {
        Some(near) => format!("did you mean `{near}`? ({all})"),
        None => all,
    }
}
