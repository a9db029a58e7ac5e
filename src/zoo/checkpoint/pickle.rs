//! Reads pickles as data. The parser follows the opcodes and records what they would call or import by name, but
//! executes nothing. It rejects names that do not belong in a checkpoint.
//!
//! Reference: Python's `pickletools`, which documents every opcode.

mod machine;

use machine::Machine;

/// Index of a value in [`Pickle`].
pub(super) type Id = usize;

/// A value of a pickle. Values refer to each other by [`Id`], possibly in cycles.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
    /// A list, a tuple or a set.
    List(Vec<Id>),
    /// A dictionary, in insertion order.
    Dict(Vec<(Id, Id)>),
    /// An imported name: `module name`.
    Global(String),
    /// The call of a class or function: its arguments, and the state that was set afterwards.
    Object {
        of: String,
        arguments: Id,
        state: Option<Id>,
    },
    /// A reference to data outside of the pickle, which is a storage in PyTorch's files.
    Persistent(Id),
}

/// Why a pickle was rejected.
#[derive(Debug, thiserror::Error)]
#[error("{problem} (at byte {at} of the pickle)")]
pub(super) struct Refusal {
    problem: String,
    at: usize,
    /// The module that the pickle tried to import from, if that was the reason.
    pub(super) module: Option<String>,
}

/// The values of a pickle.
#[derive(Debug)]
pub(super) struct Pickle {
    nodes: Vec<Node>,
    pub(super) root: Id,
}

impl Pickle {
    /// Follows the opcodes to the end. An error gives the problem and its position.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let mut machine = Machine::new(bytes);
        match machine.run() {
            Ok(root) => Ok(Self { nodes: machine.nodes, root }),
            Err(problem) => Err(Refusal { problem, at: machine.at, module: machine.refused }),
        }
    }

    pub(super) fn node(&self, id: Id) -> &Node {
        &self.nodes[id]
    }

    /// The value of a key of a dictionary or of an object's state.
    pub(super) fn get(&self, id: Id, key: &str) -> Option<Id> {
        self.entries(id).find_map(|(name, value)| (name == key).then_some(value))
    }

    /// The entries of a dictionary, or an object's attributes, whose key is a text.
    pub(super) fn entries(&self, id: Id) -> impl Iterator<Item = (&str, Id)> {
        let entries = match self.node(id) {
            Node::Dict(entries) => entries.as_slice(),
            Node::Object { state: Some(state), .. } => match self.node(*state) {
                Node::Dict(entries) => entries.as_slice(),
                _ => &[],
            },
            _ => &[],
        };
        entries.iter().filter_map(|(key, value)| Some((self.text(*key)?, *value)))
    }

    /// A text. Python 2 writes texts as bytes.
    pub(super) fn text(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Text(text) => Some(text),
            Node::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    pub(super) fn int(&self, id: Id) -> Option<i64> {
        match self.node(id) {
            Node::Int(number) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn list(&self, id: Id) -> Option<&[Id]> {
        match self.node(id) {
            Node::List(items) => Some(items),
            _ => None,
        }
    }

    /// An object's class or function (`module name`) and its arguments.
    pub(super) fn object(&self, id: Id) -> Option<(&str, &[Id])> {
        match self.node(id) {
            Node::Object { of, arguments, .. } => Some((of, self.list(*arguments)?)),
            _ => None,
        }
    }

    /// The state that was set on an object.
    pub(super) fn state(&self, id: Id) -> Option<Id> {
        match self.node(id) {
            Node::Object { state, .. } => *state,
            _ => None,
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refusal(bytes: &[u8]) -> String {
        Pickle::parse(bytes).unwrap_err().to_string()
    }

    #[test]
    fn plain_values_are_read() {
        // {'a': [1, -2, 2.5, True, None], 'b': ('x',)} in protocol 2, as Python writes it.
        let bytes = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffG@\x04\x00\x00\x00\x00\x00\x00\x88NeX\x01\x00\x00\x00bq\x03X\x01\x00\x00\x00xq\x04\x85q\x05u.";
        let pickle = Pickle::parse(bytes).unwrap();
        let list = pickle.list(pickle.get(pickle.root, "a").unwrap()).unwrap();
        let nodes: Vec<_> = list.iter().map(|id| pickle.node(*id).clone()).collect();
        assert_eq!(nodes, [Node::Int(1), Node::Int(-2), Node::Float(2.5), Node::Bool(true), Node::None]);
        let tuple = pickle.list(pickle.get(pickle.root, "b").unwrap()).unwrap();
        assert_eq!(pickle.text(tuple[0]), Some("x"));
    }

    #[test]
    fn what_would_be_called_is_refused_by_name() {
        // os.system('echo') with GLOBAL, with STACK_GLOBAL, and through an allowed module.
        assert!(refusal(b"cposix\nsystem\n(X\x04\x00\x00\x00echotR.").contains("`posix.system`"));
        assert!(refusal(b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04echo\x85R.").contains("nothing was executed"));
        assert!(refusal(b"cbuiltins\neval\n.").contains("`builtins.eval`"));
        assert!(refusal(b"ctorch\nload\n.").contains("`torch.load`"));
        assert!(refusal(b"cmodels.common\nos.system\n.").contains("nothing was executed"));
        assert!(refusal(b"X\x04\x00\x00\x00echo)R.").contains("not an imported name"));
        // getattr(numpy.dtype, 'type')(), of which only the first half is allowed.
        let method = b"c__builtin__\ngetattr\n(cnumpy\ndtype\nX\x04\x00\x00\x00typetR";
        assert!(Pickle::parse(&[method.as_slice(), b"."].concat()).is_ok());
        assert!(refusal(&[method.as_slice(), b")R."].concat()).contains("not an imported name"));
    }

    #[test]
    fn an_object_is_a_record_of_its_class() {
        // A torch.nn.modules.conv.Conv2d whose state is {'a': 1}.
        let pickle = Pickle::parse(b"ctorch.nn.modules.conv\nConv2d\n)\x81}X\x01\x00\x00\x00aK\x01sb.").unwrap();
        assert_eq!(pickle.object(pickle.root), Some(("torch.nn.modules.conv Conv2d", &[][..])));
        assert_eq!(pickle.int(pickle.get(pickle.root, "a").unwrap()), Some(1));
    }

    #[test]
    fn damage_is_reported_with_its_position() {
        for bytes in [
            &b""[..],
            b"\x80",
            b"K",
            b"(",
            b"e.",
            b"h\x07.",
            b"\x80\x09.",
            b"\xff.",
            b"X\xff\xff\xff\xffa",
            b"(K\x01d.",
        ] {
            assert!(refusal(bytes).contains("of the pickle"), "{bytes:?}");
        }
    }

    #[test]
    fn a_memo_that_refers_to_itself_does_not_loop_forever() {
        // A list that contains itself, and a billion laughs: each value is stored once.
        Pickle::parse(b"]q\x00h\x00a.").unwrap();
        let mut bytes = b"]q\x00".to_vec();
        for _ in 0..200 {
            bytes.extend(b"h\x00h\x00\x86q\x00");
        }
        bytes.push(b'.');
        assert!(Pickle::parse(&bytes).unwrap().nodes.len() < 300);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Pickle::parse(&bytes);
        }
    }
}
