//! The text of a TOML file, for errors that quote the line they are about.

use crate::error::Error;

/// A TOML file's text and the name that errors give the file.
pub(crate) struct TomlText<'a> {
    /// The file's name.
    pub(crate) name: &'a str,
    /// All of it.
    pub(crate) text: &'a str,
}

/// A position in the file, as an editor counts it.
pub(crate) struct Position<'a> {
    /// The line's number, from 1.
    pub(crate) line: usize,
    /// In characters, from 1.
    pub(crate) column: usize,
    /// The whole line.
    pub(crate) shown: &'a str,
}

impl TomlText<'_> {
    /// Finds a byte offset. An offset beyond the end means the end.
    pub(crate) fn position(&self, offset: usize) -> Position<'_> {
        let before = &self.text[..self.text.floor_char_boundary(offset)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Position {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            shown: self.text[line_start..].lines().next().unwrap_or_default().trim_end(),
        }
    }

    /// A usage error that names the file, the line and the column, and quotes the line.
    pub(crate) fn error(&self, error: &toml::de::Error) -> Error {
        let problem = error.message().lines().collect::<Vec<_>>().join(", ");
        Error::usage(match error.span() {
            Some(span) => {
                let Position { line, column, shown } = self.position(span.start);
                format!("{}:{line}:{column}: {problem}\n  {line} | {shown}", self.name)
            }
            None => format!("{}: {problem}", self.name),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_and_columns_count_from_one_and_columns_in_characters() {
        let source = TomlText { name: "x", text: "a = 1\nü = \"é\" ß\r\n" };
        let at = |offset| {
            let Position { line, column, shown } = source.position(offset);
            (line, column, shown)
        };
        assert_eq!(at(0), (1, 1, "a = 1"));
        assert_eq!(at(5), (1, 6, "a = 1"));
        assert_eq!(at(6), (2, 1, "ü = \"é\" ß"));
        assert_eq!(at(8), (2, 2, "ü = \"é\" ß"));
        // In the middle of the `ü`, and far beyond the end.
        assert_eq!(at(7), (2, 1, "ü = \"é\" ß"));
        assert_eq!(at(1000), (3, 1, ""));
    }

    proptest! {
        #[test]
        fn every_offset_has_a_position(text in "[a\u{fc}\n\r]{0,40}", offset in 0_usize..100) {
            let source = TomlText { name: "x", text: &text };
            let Position { line, column, shown } = source.position(offset);
            prop_assert!(line <= text.matches('\n').count() + 1);
            prop_assert!(column >= 1 && text.contains(shown));
        }
    }
}
