//! Packs numbers and texts for the page: typed columns, compressed together, in base64.

use std::collections::HashMap;
use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use serde_json::{Value, json};

use crate::error::{Error, Result};

/// Columns of integers, one after another. Wider types come first, so that each column is aligned to its width.
#[derive(Debug, Default)]
pub(super) struct Columns {
    bytes: Vec<u8>,
    /// Name, type and length of each column.
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
        debug_assert!(self.bytes.len().is_multiple_of(width), "{name} is wider than the columns before it");
        let before = self.bytes.len();
        values.for_each(|value| self.bytes.extend(value));
        self.index.push(json!([name, kind, (self.bytes.len() - before) / width]));
    }

    /// Returns the index of the columns and their bytes.
    pub(super) fn finish(self) -> Result<(Value, String)> {
        Ok((Value::Array(self.index), packed(&self.bytes)?))
    }
}

/// Frequent texts, each represented by a number.
#[derive(Debug, Default)]
pub(super) struct Names {
    numbers: HashMap<String, u16>,
    names: Vec<String>,
}

impl Names {
    /// Represents the absence of a name.
    pub(super) const NONE: u16 = u16::MAX;

    /// The number of this name, or [`Self::NONE`] if there are too many names.
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

    /// All names, indexed by number.
    pub(super) fn all(&self) -> &[String] {
        &self.names
    }
}

/// Compresses with zlib, which browsers can decompress, and encodes as base64, which has no meaning in HTML.
pub(super) fn packed(bytes: &[u8]) -> Result<String> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    let compressed = encoder.write_all(bytes).and_then(|()| encoder.finish());
    Ok(base64(&compressed.map_err(|error| Error::failed(format!("failed to compress the report: {error}")))?))
}

pub(super) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn columns_follow_one_another_in_the_order_of_the_index() {
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
    fn names_keep_their_numbers_and_never_overflow() {
        let mut names = Names::default();
        assert_eq!(["a", "b", "a"].map(|name| names.number(name)), [0, 1, 0]);
        (0..70_000).for_each(|n| {
            names.number(&n.to_string());
        });
        assert_eq!(names.number("one more"), Names::NONE);
        assert_eq!(names.all().len(), usize::from(Names::NONE));
    }
}
