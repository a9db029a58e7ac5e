//! Caffe2 checkpoints of PySlowFast's model zoo: a pickled dictionary whose `blobs` are NumPy arrays.

use std::collections::BTreeMap;

use super::pickle::{Id, Node, Pickle};
use super::settings::Settings;
use crate::zoo::weights::half_to_f32;

/// The content of a `.pkl` file.
#[derive(Debug)]
pub(super) struct Caffe2 {
    pickle: Pickle,
    pub(super) arrays: BTreeMap<String, Array>,
}

/// A NumPy array of floats, row-major and little-endian.
#[derive(Debug)]
pub(super) struct Array {
    pub(super) shape: Vec<usize>,
    /// Bytes per number: 2, 4 or 8.
    size: usize,
    data: Id,
}

impl Caffe2 {
    /// Finds the arrays. Returns `None` if the pickle contains something else.
    ///
    /// # Errors
    /// The message names the array that is damaged or stored in an unsupported way.
    pub(super) fn read(pickle: Pickle) -> Result<Option<Self>, String> {
        let Some(blobs) = pickle.get(pickle.root, "blobs") else { return Ok(None) };
        let mut arrays = BTreeMap::new();
        for (name, value) in pickle.entries(blobs).filter(|(name, _)| !name.ends_with("_momentum")) {
            let array = array(&pickle, value).map_err(|problem| format!("the parameter `{name}` {problem}"))?;
            // Values other than float arrays are statistics of the training.
            arrays.extend(array.filter(|array| !array.shape.is_empty()).map(|array| (name.to_owned(), array)));
        }
        arrays.remove("lr");
        arrays.remove("model_iter");
        Ok(Some(Self { pickle, arrays }))
    }

    /// The training settings that the checkpoint contains.
    pub(super) fn settings(&self) -> Settings {
        let cfg = self.pickle.get(self.pickle.root, "cfg").and_then(|cfg| self.pickle.text(cfg));
        cfg.map(Settings::parse).unwrap_or_default()
    }

    /// The numbers of an array. An error describes what is wrong with it.
    pub(super) fn numbers(&self, name: &str) -> Result<Vec<f32>, String> {
        let array = self.arrays.get(name).ok_or("is missing")?;
        let bytes = bytes(&self.pickle, array.data).ok_or("holds no bytes")?;
        let length = array.shape.iter().try_fold(array.size, |bytes, &length| bytes.checked_mul(length));
        if length != Some(bytes.len()) {
            return Err(format!("has {} bytes, which does not match its shape {:?}", bytes.len(), array.shape));
        }
        Ok(match array.size {
            2 => bytes.as_chunks::<2>().0.iter().map(|&word| half_to_f32(u16::from_le_bytes(word))).collect(),
            4 => bytes.as_chunks::<4>().0.iter().map(|&word| f32::from_le_bytes(word)).collect(),
            _ => bytes.as_chunks::<8>().0.iter().map(|&word| f64::from_le_bytes(word) as f32).collect(),
        })
    }
}

/// Parses `_reconstruct(ndarray, ...)` with the state (version, shape, dtype, is column-major, bytes).
fn array(pickle: &Pickle, value: Id) -> Result<Option<Array>, String> {
    let is_array = |of: &str| of.ends_with("multiarray _reconstruct");
    if !pickle.object(value).is_some_and(|(of, _)| is_array(of)) {
        return Ok(None);
    }
    let strange = || "has an unknown structure".to_owned();
    let state = pickle.state(value).and_then(|state| pickle.list(state)).ok_or_else(strange)?;
    let &[_, shape, dtype, is_column_major, data] = state else { return Err(strange()) };
    let length = |&id: &Id| pickle.int(id).and_then(|number| usize::try_from(number).ok());
    let shape = pickle.list(shape).and_then(|shape| shape.iter().map(length).collect::<Option<Vec<_>>>());
    let shape = shape.ok_or_else(strange)?;
    let Some(("numpy dtype", [name, ..])) = pickle.object(dtype) else { return Err(strange()) };
    let size = match pickle.text(*name) {
        Some("f2") => 2,
        Some("f4") => 4,
        Some("f8") => 8,
        _ => return Ok(None),
    };
    // (version, byte order, ...)
    let order = pickle.state(dtype).and_then(|state| pickle.text(*pickle.list(state)?.get(1)?));
    if order != Some("<") {
        return Err("is not little-endian".to_owned());
    }
    // Python 2 writes numbers for truth values.
    let is_column_major = !matches!(pickle.node(is_column_major), Node::Bool(false) | Node::Int(0));
    if is_column_major && shape.len() > 1 {
        return Err("is stored column by column".to_owned());
    }
    Ok(Some(Array { shape, size, data }))
}

/// Reads bytes. Python 3 writes them for Python 2 as a text that is encoded in Latin-1.
fn bytes(pickle: &Pickle, data: Id) -> Option<Vec<u8>> {
    if let Node::Bytes(bytes) = pickle.node(data) {
        return Some(bytes.clone());
    }
    let ("_codecs encode", [text, codec]) = pickle.object(data)? else { return None };
    let is_latin = pickle.text(*codec) == Some("latin1");
    pickle.text(*text).filter(|_| is_latin)?.chars().map(|letter| u8::try_from(letter).ok()).collect()
}
