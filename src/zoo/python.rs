//! Parses Python literals: exporters write a model's metadata as the `repr` of Python values.
//!
//! The grammar is <https://docs.python.org/3/reference/lexical_analysis.html#literals>, limited to what `repr` writes.

/// Maximum nesting depth of lists.
const DEPTH_MAX: usize = 16;

/// A Python value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum PyValue {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    /// A list or a tuple.
    List(Vec<PyValue>),
    /// The entries, in the order of the text.
    Dict(Vec<(PyValue, PyValue)>),
}

impl PyValue {
    /// Parses exactly one literal.
    ///
    /// # Errors
    /// The message says what is wrong, and at which character.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut reader = Reader { text, at: 0 };
        let value = reader.value(0)?;
        match reader.next() {
            None => Ok(value),
            Some(_) => Err(reader.unexpected()),
        }
    }

    /// The value of this key of a dict.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        let Self::Dict(entries) = self else { return None };
        entries.iter().find(|(name, _)| matches!(name, Self::Str(name) if name == key)).map(|(_, value)| value)
    }
}

struct Reader<'a> {
    text: &'a str,
    /// Position in bytes, always at a character boundary.
    at: usize,
}

impl Reader<'_> {
    /// Returns the next character that is not white space, without consuming it.
    fn next(&mut self) -> Option<char> {
        let rest = self.text[self.at..].trim_start();
        self.at = self.text.len() - rest.len();
        rest.chars().next()
    }

    /// Consumes the next character.
    fn take(&mut self) -> Result<char, String> {
        let taken = self.text[self.at..].chars().next().ok_or("it ends too early")?;
        self.at += taken.len_utf8();
        Ok(taken)
    }

    fn takes(&mut self, wanted: char) -> bool {
        let is_next = self.next() == Some(wanted);
        self.at += if is_next { wanted.len_utf8() } else { 0 };
        is_next
    }

    fn unexpected(&self) -> String {
        let character = self.text[..self.at].chars().count() + 1;
        match self.text[self.at..].chars().next() {
            Some(found) => format!("unexpected `{found}` at character {character}"),
            None => "it ends too early".to_owned(),
        }
    }

    fn value(&mut self, depth: usize) -> Result<PyValue, String> {
        if depth > DEPTH_MAX {
            return Err(format!("more than {DEPTH_MAX} levels"));
        }
        match self.next() {
            Some('{') => {
                let entry = |reader: &mut Self| {
                    let key = reader.value(depth + 1)?;
                    if !reader.takes(':') {
                        return Err(reader.unexpected());
                    }
                    Ok((key, reader.value(depth + 1)?))
                };
                self.items('}', entry).map(PyValue::Dict)
            }
            Some('[') => self.items(']', |reader| reader.value(depth + 1)).map(PyValue::List),
            Some('(') => self.items(')', |reader| reader.value(depth + 1)).map(PyValue::List),
            Some('\'' | '"') => self.strings().map(PyValue::Str),
            _ => self.word(),
        }
    }

    fn items<T>(
        &mut self,
        close: char,
        mut item: impl FnMut(&mut Self) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        self.take()?;
        let mut items = Vec::new();
        while !self.takes(close) {
            items.push(item(self)?);
            if !self.takes(',') && self.next() != Some(close) {
                return Err(self.unexpected());
            }
        }
        Ok(items)
    }

    /// Adjacent strings are concatenated, as in Python.
    fn strings(&mut self) -> Result<String, String> {
        let mut text = String::new();
        while let Some(quote @ ('\'' | '"')) = self.next() {
            self.take()?;
            loop {
                match self.take()? {
                    found if found == quote => break,
                    '\\' => text.push(self.escaped()?),
                    found => text.push(found),
                }
            }
        }
        Ok(text)
    }

    fn escaped(&mut self) -> Result<char, String> {
        let start = self.at;
        let digits = match self.take()? {
            plain @ ('\\' | '\'' | '"') => return Ok(plain),
            'n' => return Ok('\n'),
            'r' => return Ok('\r'),
            't' => return Ok('\t'),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => {
                self.at = start;
                return Err(self.unexpected());
            }
        };
        let code = self.text.get(self.at..self.at + digits).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        let found = code.and_then(|hex| char::from_u32(u32::from_str_radix(hex, 16).ok()?));
        self.at += found.map_or(0, |_| digits);
        found.ok_or_else(|| self.unexpected())
    }

    /// Parses a number or a name.
    fn word(&mut self) -> Result<PyValue, String> {
        let rest = &self.text[self.at..];
        let is_part = |c: char| c.is_ascii_alphanumeric() || "+-._".contains(c);
        let word = &rest[..rest.find(|c| !is_part(c)).unwrap_or(rest.len())];
        let value = match word {
            "None" => Some(PyValue::None),
            "True" => Some(PyValue::Bool(true)),
            "False" => Some(PyValue::Bool(false)),
            _ => word.parse().map(PyValue::Int).or_else(|_| word.parse().map(PyValue::Float)).ok(),
        };
        self.at += value.as_ref().map_or(0, |_| word.len());
        value.ok_or_else(|| self.unexpected())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> PyValue {
        PyValue::Str(text.to_owned())
    }

    #[test]
    fn values_that_python_writes_are_parsed() {
        // The left side is the `repr` of CPython 3.13 for the value on the right.
        for (written, value) in [
            (r#"'person'"#, text("person")),
            (r#""it's""#, text("it's")),
            (r#"'say "no"'"#, text("say \"no\"")),
            (r#"'it\'s "both"'"#, text("it's \"both\"")),
            (r"'a\\b\n\t\r\x00\x7f\x85'", text("a\\b\n\t\r\0\u{7f}\u{85}")),
            (r"'\u200b\U000e0001'", text("\u{200b}\u{e0001}")),
            ("'自転車 é 🚲'", text("自転車 é 🚲")),
            ("{}", PyValue::Dict(vec![])),
            ("[]", PyValue::List(vec![])),
            ("(640,)", PyValue::List(vec![PyValue::Int(640)])),
            ("-1.5e-07", PyValue::Float(-1.5e-7)),
            ("{0: 'a', 1: {'b': [None, True, False]}}", {
                let inner = PyValue::List(vec![PyValue::None, PyValue::Bool(true), PyValue::Bool(false)]);
                let inner = PyValue::Dict(vec![(text("b"), inner)]);
                PyValue::Dict(vec![(PyValue::Int(0), text("a")), (PyValue::Int(1), inner)])
            }),
            ("'it''s'", text("its")),
        ] {
            assert_eq!(PyValue::parse(written).unwrap(), value, "{written}");
        }
        let options = PyValue::parse("{'batch': 1, 'half': False, 'opset': None, 'nms': True}").unwrap();
        assert_eq!((options.get("nms"), options.get("imgsz")), (Some(&PyValue::Bool(true)), None));
    }

    #[test]
    fn errors_name_their_position() {
        for (written, error) in [
            ("", "it ends too early"),
            ("{0: 'a'", "it ends too early"),
            ("'a", "it ends too early"),
            ("{0 'a'}", "unexpected `'` at character 4"),
            ("{0: 'a'} x", "unexpected `x` at character 10"),
            ("[1 2]", "unexpected `2` at character 4"),
            (r"'é\q'", "unexpected `q` at character 4"),
            (r"'\ud800'", "unexpected `d` at character 4"),
            ("{0: person}", "unexpected `p` at character 5"),
            ("[1,,2]", "unexpected `,` at character 4"),
        ] {
            assert_eq!(PyValue::parse(written).unwrap_err(), error, "{written}");
        }
        assert_eq!(PyValue::parse(&"[".repeat(100_000)).unwrap_err(), "more than 16 levels");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[\\[\\](){}'\",: \\\\xuU0-9a-fTNé-]{0,40}") {
            // No panic, and no endless loop.
            let _ = PyValue::parse(&text);
        }

        #[test]
        fn every_string_survives_quoting(label in any::<String>()) {
            let quoted = format!("'{}'", label.replace('\\', "\\\\").replace('\'', "\\'"));
            prop_assert_eq!(PyValue::parse(&quoted).unwrap(), PyValue::Str(label));
        }
    }
}
