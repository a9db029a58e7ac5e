//! Numbers and texts as they lie in the page: columns of one kind each, compressed together, in base64.

use std::collections::HashMap;
use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use serde_json::{Value, json};

use crate::error::{Error, Result};

/// Columns of whole numbers, one after the other; wider ones first, so that each begins at a multiple of its width.
#[derive(Debug, Default)]
pub(super) struct Columns {
    bytes: Vec<u8>,
    /// Name, type and length of each.
    index: Vec<Value>,
}

impl Columns {
    pub(super) fn push_u32(&mut self, name: &str, values: impl Iterator<Item = u32>) {
        self.push(name, "u32", 4, values.map(u32::to_le_bytes));
    }

    pub(super) fn push_u16(&mut self, name: &str, values: impl Iterator<Item = u16>) {
        self.push(name, "u16", 2, values.map(u16::to_le_bytes));
    }

    pub(super) fn push_u8(&mut self, name: &str, values: impl Iterator<Item = u8>) {
        self.push(name, "u8", 1, values.map(u8::to_le_bytes));
    }

    fn push<const N: usize>(&mut self, name: &str, kind: &str, width: usize, values: impl Iterator<Item = [u8; N]>) {
        debug_assert!(self.bytes.len().is_multiple_of(width), "{name} is wider than what lies before it");
        let before = self.bytes.len();
        values.for_each(|value| self.bytes.extend(value));
        self.index.push(json!([name, kind, (self.bytes.len() - before) / width]));
    }

    /// Which columns there are, and their bytes.
    pub(super) fn finish(self) -> Result<(Value, String)> {
        Ok((Value::Array(self.index), packed(&self.bytes)?))
    }
}

/// Texts that come often, each by its number.
#[derive(Debug, Default)]
pub(super) struct Names {
    numbers: HashMap<String, u16>,
    names: Vec<String>,
}

impl Names {
    /// No name.
    pub(super) const NONE: u16 = u16::MAX;

    /// The number of this name; [`Self::NONE`] where there are too many.
    pub(super) fn number(&mut self, name: &str) -> u16 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.names.len() as u16;
        if self.names.len() >= usize::from(Self::NONE) {
            return Self::NONE;
        }
        self.numbers.insert(name.to_owned(), number);
        self.names.push(name.to_owned());
        number
    }

    /// All, by number.
    pub(super) fn all(&self) -> &[String] {
        &self.names
    }
}

/// Compressed as zlib does, which browsers undo, and as letters that mean nothing to HTML.
pub(super) fn packed(bytes: &[u8]) -> Result<String> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    let compressed = encoder.write_all(bytes).and_then(|()| encoder.finish());
    Ok(base64(&compressed.map_err(|error| Error::failed(format!("cannot compress the report: {error}")))?))
}

pub(super) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn columns_lie_behind_each_other_as_the_index_says() {
        let mut columns = Columns::default();
        columns.push_u32("a", [1, 1 << 31].into_iter());
        columns.push_u16("b", [7].into_iter());
        columns.push_u8("c", [1, 2, 3].into_iter());
        assert_eq!(columns.bytes, [1, 0, 0, 0, 0, 0, 0, 128, 7, 0, 1, 2, 3]);
        let (index, text) = columns.finish().unwrap();
        assert_eq!(index, json!([["a", "u32", 2], ["b", "u16", 1], ["c", "u8", 3]]));
        assert!(text.bytes().all(|letter| letter.is_ascii_alphanumeric() || b"+/=".contains(&letter)));
    }

    #[test]
    fn names_keep_their_numbers_and_never_run_over() {
        let mut names = Names::default();
        assert_eq!(["a", "b", "a"].map(|name| names.number(name)), [0, 1, 0]);
        (0..70_000).for_each(|n| {
            names.number(&n.to_string());
        });
        assert_eq!(names.number("one more"), Names::NONE);
        assert_eq!(names.all().len(), usize::from(Names::NONE));
    }
}
