//! The opcodes of pickles, and the names that a checkpoint may import.

use std::collections::HashMap;

use super::{Id, Node};

/// Maximum number of nodes in a pickle. The largest official checkpoint has a few hundred thousand.
const NODES_MAX: usize = 20_000_000;

/// Names (`module name`) that checkpoints use. What one of them would build is recorded as its class and its arguments.
const ALLOWED: [&str; 29] = [
    "collections OrderedDict",
    "collections defaultdict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch Size",
    "torch device",
    "torch FloatStorage",
    "torch HalfStorage",
    "torch BFloat16Storage",
    "torch DoubleStorage",
    "torch LongStorage",
    "torch IntStorage",
    "torch ShortStorage",
    "torch CharStorage",
    "torch ByteStorage",
    "torch BoolStorage",
    "numpy ndarray",
    "numpy dtype",
    "numpy.core.multiarray _reconstruct",
    "numpy.core.multiarray scalar",
    "numpy._core.multiarray _reconstruct",
    "numpy._core.multiarray scalar",
    "_codecs encode",
    "builtins set",
    "__builtin__ set",
    // A fused YOLOv5 replaces the forward method of its layers. The result of `getattr` is only a record and cannot be
    // called.
    "builtins getattr",
    "__builtin__ getattr",
    "mmengine.logging.history_buffer HistoryBuffer",
    "argparse Namespace",
];

/// Modules whose classes are the layers of a pickled network, and paths among its training options.
const ALLOWED_MODULES: [&str; 6] =
    ["torch.nn.modules.", "models.yolo", "models.common", "models.experimental", "pathlib", "torch.nn.parameter"];

/// Follows the opcodes of a pickle. It executes nothing.
pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    pub(super) at: usize,
    pub(super) nodes: Vec<Node>,
    stack: Vec<Id>,
    /// Heights of the stack at the marks.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
    /// The module whose import was rejected.
    pub(super) refused: Option<String>,
}

pub(super) type Step<T> = Result<T, String>;

impl<'a> Machine<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, nodes: vec![], stack: vec![], marks: vec![], memo: HashMap::new(), refused: None }
    }

    /// Returns the value on the stack at the end. An error describes the problem at byte `at`.
    pub(super) fn run(&mut self) -> Step<Id> {
        loop {
            let opcode = self.take(1)?[0];
            match opcode {
                b'.' => return self.pop(),
                0x80 => {
                    let version = self.number(1)?;
                    if version > 5 {
                        return Err(format!("protocol {version} is not supported"));
                    }
                }
                // A frame's length, which is not needed because everything is in memory.
                0x95 => drop(self.number(8)?),
                b'(' => self.marks.push(self.stack.len()),
                b'0' => drop(self.pop()?),
                b'1' => drop(self.pop_mark()?),
                b'2' => {
                    let top = *self.stack.last().ok_or("the stack is empty")?;
                    self.stack.push(top);
                }
                b'N' => self.push(Node::None)?,
                0x88 => self.push(Node::Bool(true))?,
                0x89 => self.push(Node::Bool(false))?,
                b'J' => {
                    let number = self.number(4)? as u32 as i32;
                    self.push(Node::Int(number.into()))?;
                }
                b'K' => self.whole(1)?,
                b'M' => self.whole(2)?,
                0x8a => {
                    let length = self.number(1)?;
                    self.long(length)?;
                }
                0x8b => {
                    let length = self.number(4)?;
                    self.long(length)?;
                }
                b'I' => {
                    let node = match self.line()? {
                        "00" => Node::Bool(false),
                        "01" => Node::Bool(true),
                        digits => Node::Int(digits.parse().map_err(|_| format!("`{digits}` is not a number"))?),
                    };
                    self.push(node)?;
                }
                b'L' => {
                    let digits = self.line()?.trim_end_matches('L');
                    let number = digits.parse().map_err(|_| format!("`{digits}` is not a number"))?;
                    self.push(Node::Int(number))?;
                }
                b'F' => {
                    let digits = self.line()?;
                    let number = digits.parse().map_err(|_| format!("`{digits}` is not a number"))?;
                    self.push(Node::Float(number))?;
                }
                b'G' => {
                    let bytes = self.take(8)?.try_into().map_err(|_| "a number is cut off")?;
                    self.push(Node::Float(f64::from_be_bytes(bytes)))?;
                }
                b'X' => self.unicode(4)?,
                0x8c => self.unicode(1)?,
                0x8d => self.unicode(8)?,
                b'V' => {
                    let text = self.line()?.to_owned();
                    self.push(Node::Text(text))?;
                }
                b'U' | b'C' => self.blob(1)?,
                b'T' | b'B' => self.blob(4)?,
                0x8e | 0x96 => self.blob(8)?,
                b']' | b')' | 0x8f => self.push(Node::List(vec![]))?,
                b'}' => self.push(Node::Dict(vec![]))?,
                b'l' | b't' | 0x91 => {
                    let items = self.pop_mark()?;
                    self.push(Node::List(items))?;
                }
                0x85..=0x87 => {
                    let items = self.stack.len().checked_sub(usize::from(opcode - 0x84)).ok_or("the stack is empty")?;
                    let items = self.stack.split_off(items);
                    self.push(Node::List(items))?;
                }
                b'd' => {
                    let items = self.pop_mark()?;
                    let entries = pairs(&items)?;
                    self.push(Node::Dict(entries))?;
                }
                b'a' => {
                    let item = self.pop()?;
                    self.extend(vec![item])?;
                }
                b'e' | 0x90 => {
                    let items = self.pop_mark()?;
                    self.extend(items)?;
                }
                b's' => {
                    let value = self.pop()?;
                    let key = self.pop()?;
                    self.set(&[key, value])?;
                }
                b'u' => {
                    let items = self.pop_mark()?;
                    self.set(&items)?;
                }
                b'q' => self.put(1)?,
                b'r' => self.put(4)?,
                0x94 => {
                    let top = *self.stack.last().ok_or("the stack is empty")?;
                    self.memo.insert(self.memo.len() as u64, top);
                }
                b'p' => {
                    let key = self.memo_line()?;
                    let top = *self.stack.last().ok_or("the stack is empty")?;
                    self.memo.insert(key, top);
                }
                b'h' => {
                    let key = self.number(1)?;
                    self.recall(key)?;
                }
                b'j' => {
                    let key = self.number(4)?;
                    self.recall(key)?;
                }
                b'g' => {
                    let key = self.memo_line()?;
                    self.recall(key)?;
                }
                b'c' => {
                    let module = self.line()?.to_owned();
                    let name = self.line()?.to_owned();
                    self.global(&module, &name)?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    match (&self.nodes[module], &self.nodes[name]) {
                        (Node::Text(module), Node::Text(name)) => {
                            let (module, name) = (module.clone(), name.clone());
                            self.global(&module, &name)?;
                        }
                        _ => return Err("an imported name is not a text".to_owned()),
                    }
                }
                // A call or a new object of a class. They are treated alike, because neither is executed.
                b'R' | 0x81 => {
                    let (arguments, callable) = (self.pop()?, self.pop()?);
                    self.object(callable, arguments)?;
                }
                0x92 => {
                    let (_, arguments, class) = (self.pop()?, self.pop()?, self.pop()?);
                    self.object(class, arguments)?;
                }
                b'b' => {
                    let (given, of) = (self.pop()?, *self.stack.last().ok_or("the stack is empty")?);
                    if let Node::Object { state, .. } = &mut self.nodes[of] {
                        *state = Some(given);
                    }
                }
                b'Q' => {
                    let of = self.pop()?;
                    self.push(Node::Persistent(of))?;
                }
                _ => return Err(format!("opcode {opcode:#04x} does not occur in checkpoints")),
            }
        }
    }

    fn take(&mut self, length: usize) -> Step<&[u8]> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len()).ok_or("it is cut off")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    /// Reads a little-endian number of `length` bytes.
    fn number(&mut self, length: usize) -> Step<u64> {
        Ok(self.take(length)?.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn length(&mut self, of_length: usize) -> Step<usize> {
        usize::try_from(self.number(of_length)?).map_err(|_| "it is cut off".to_owned())
    }

    fn line(&mut self) -> Step<&str> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&byte| byte == b'\n').ok_or("it is cut off")?;
        self.at += length + 1;
        std::str::from_utf8(&rest[..length]).map_err(|_| "a line is not UTF-8".to_owned())
    }

    fn memo_line(&mut self) -> Step<u64> {
        let digits = self.line()?;
        digits.parse().map_err(|_| format!("`{digits}` is not a number"))
    }

    fn push(&mut self, node: Node) -> Step<()> {
        if self.nodes.len() >= NODES_MAX {
            return Err(format!("it has more than {NODES_MAX} values"));
        }
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
        Ok(())
    }

    fn pop(&mut self) -> Step<Id> {
        // Values below a mark do not belong to this operation.
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("a value is taken from an empty stack".to_owned());
        }
        self.stack.pop().ok_or_else(|| "the stack is empty".to_owned())
    }

    fn pop_mark(&mut self) -> Step<Vec<Id>> {
        let mark = self.marks.pop().filter(|mark| *mark <= self.stack.len()).ok_or("a mark is missing")?;
        Ok(self.stack.split_off(mark))
    }

    fn whole(&mut self, length: usize) -> Step<()> {
        let number = self.number(length)?;
        self.push(Node::Int(number.cast_signed()))
    }

    /// Reads a two's complement number of any length. Numbers beyond 64 bits (a random seed) are kept as bytes.
    fn long(&mut self, length: u64) -> Step<()> {
        let length = usize::try_from(length).map_err(|_| "it is cut off")?;
        let bytes = self.take(length)?;
        let node = match bytes.len() {
            9.. => Node::Bytes(bytes.to_vec()),
            length => {
                let fill = if bytes.last().is_some_and(|last| last & 0x80 != 0) { 0xff } else { 0 };
                let mut word = [fill; 8];
                word[..length].copy_from_slice(bytes);
                Node::Int(i64::from_le_bytes(word))
            }
        };
        self.push(node)
    }

    fn unicode(&mut self, of_length: usize) -> Step<()> {
        let length = self.length(of_length)?;
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| "a text is not UTF-8")?.to_owned();
        self.push(Node::Text(text))
    }

    fn blob(&mut self, of_length: usize) -> Step<()> {
        let length = self.length(of_length)?;
        let bytes = self.take(length)?.to_vec();
        self.push(Node::Bytes(bytes))
    }

    fn put(&mut self, length: usize) -> Step<()> {
        let key = self.number(length)?;
        let top = *self.stack.last().ok_or("the stack is empty")?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Step<()> {
        let id = *self.memo.get(&key).ok_or_else(|| format!("value {key} is used before it is stored"))?;
        self.stack.push(id);
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Step<()> {
        let full = format!("{module} {name}");
        let is_allowed =
            ALLOWED.contains(&full.as_str()) || ALLOWED_MODULES.iter().any(|start| module.starts_with(start));
        // A dotted name would reach through a module into what it has imported.
        if !is_allowed || name.contains('.') {
            self.refused = Some(module.to_owned());
            return Err(format!(
                "it asks for `{module}.{name}`, which does not belong in a checkpoint; nothing was executed"
            ));
        }
        self.push(Node::Global(full))
    }

    fn object(&mut self, callable: Id, arguments: Id) -> Step<()> {
        let Node::Global(of) = &self.nodes[callable] else {
            return Err("it calls something that is not an imported name; nothing was executed".to_owned());
        };
        let of = of.clone();
        let node = match (of.as_str(), &self.nodes[arguments]) {
            // The entries are the only argument, or are set later one by one.
            ("collections OrderedDict" | "collections defaultdict", Node::List(arguments)) => {
                Node::Dict(match arguments.first().map(|first| &self.nodes[*first]) {
                    Some(Node::List(entries)) => entries
                        .iter()
                        .map(|entry| match &self.nodes[*entry] {
                            Node::List(pair) => pairs(pair).map(|pairs| pairs.first().copied()),
                            _ => Ok(None),
                        })
                        .collect::<Step<Option<Vec<_>>>>()?
                        .unwrap_or_default(),
                    _ => vec![],
                })
            }
            (_, Node::List(_)) => Node::Object { of, arguments, state: None },
            _ => return Err(format!("`{of}` is called with something other than a tuple")),
        };
        self.push(node)
    }

    fn extend(&mut self, items: Vec<Id>) -> Step<()> {
        let of = *self.stack.last().ok_or("the stack is empty")?;
        match &mut self.nodes[of] {
            Node::List(list) => list.extend(items),
            // A class of its own handles the items itself.
            Node::Object { .. } => {}
            _ => return Err("it appends to something other than a list".to_owned()),
        }
        Ok(())
    }

    fn set(&mut self, items: &[Id]) -> Step<()> {
        let entries = pairs(items)?;
        let of = *self.stack.last().ok_or("the stack is empty")?;
        match &mut self.nodes[of] {
            Node::Dict(dict) => dict.extend(entries),
            Node::Object { .. } => {}
            _ => return Err("it sets an item of something other than a dictionary".to_owned()),
        }
        Ok(())
    }
}

fn pairs(items: &[Id]) -> Step<Vec<(Id, Id)>> {
    match items.as_chunks::<2>() {
        (pairs, []) => Ok(pairs.iter().map(|&[key, value]| (key, value)).collect()),
        _ => Err("a key has no value".to_owned()),
    }
}
