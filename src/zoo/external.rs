//! Reads ONNX files whose weights are in other files beside them, as recent exporters write them: the weights become part of the
//! model. So the model's SHA-256 is about the weights too, and ONNX Runtime opens no file that a model names.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Component, Path};

use bytes::Bytes;
use prost::Message;

use super::onnx::{GraphProto, ModelProto, TensorProto};

/// `TensorProto.DataLocation.EXTERNAL`.
const EXTERNAL: i32 = 1;
/// Protocol buffers can be no larger.
const MODEL_BYTES_MAX: u64 = i32::MAX as u64;

/// The content of an ONNX file, with all of its weights. What is no ONNX model is returned as it is.
///
/// # Errors
/// A description, if a file cannot be read, is too large, or is not in the folder of the model.
pub(super) fn read(path: &Path) -> Result<Bytes, String> {
    let content = Bytes::from(whole(path)?);
    let Ok(mut model) = ModelProto::decode(content.clone()) else { return Ok(content) };
    let Some(graph) = &mut model.graph else { return Ok(content) };
    let attributes = graph.node.iter_mut().flat_map(|node| &mut node.attribute);
    let tensors = graph.initializer.iter_mut().chain(attributes.filter_map(|attribute| attribute.t.as_mut()));
    let mut folder = Folder { path: path.parent().unwrap_or(Path::new("")), files: HashMap::new(), bytes: 0 };
    let mut changed = false;
    for tensor in tensors.filter(|tensor| tensor.data_location == EXTERNAL) {
        let data = folder.data(tensor).map_err(|why| format!("the weights {}: {why}", tensor.name))?;
        tensor.raw_data = Some(data);
        tensor.external_data.clear();
        tensor.data_location = 0;
        changed = true;
    }
    if has_external(graph) {
        return Err("a graph inside of the graph has weights in other files".to_owned());
    }
    Ok(if changed { model.encode_to_vec().into() } else { content })
}

fn whole(path: &Path) -> Result<Vec<u8>, String> {
    let mut file = File::open(path).map_err(|error| error.to_string())?;
    let mut content = Vec::new();
    // The length of a pipe or a device is not known before.
    file.by_ref().take(MODEL_BYTES_MAX + 1).read_to_end(&mut content).map_err(|error| error.to_string())?;
    if content.len() as u64 > MODEL_BYTES_MAX { Err("it is larger than 2 GiB".to_owned()) } else { Ok(content) }
}

/// Whether a tensor in the graph, or in a graph inside of it, is in another file.
fn has_external(graph: &GraphProto) -> bool {
    graph.initializer.iter().any(|tensor| tensor.data_location == EXTERNAL)
        || graph.node.iter().flat_map(|node| &node.attribute).any(|attribute| {
            let tensors = attribute.tensors.iter().filter_map(|tensor| TensorProto::decode(tensor.clone()).ok());
            let graphs = attribute.g.iter().chain(&attribute.graphs);
            attribute.t.iter().cloned().chain(tensors).any(|tensor| tensor.data_location == EXTERNAL)
                || graphs.filter_map(|graph| GraphProto::decode(graph.clone()).ok()).any(|graph| has_external(&graph))
        })
}

/// The folder of a model, and the files of it that are read.
struct Folder<'a> {
    path: &'a Path,
    files: HashMap<String, Bytes>,
    bytes: u64,
}

impl Folder<'_> {
    /// The elements of a tensor.
    fn data(&mut self, tensor: &TensorProto) -> Result<Bytes, String> {
        let value =
            |key: &str| tensor.external_data.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str());
        let location = value("location").ok_or("no location")?;
        let number = |key: &str| {
            value(key).map(|text| text.parse::<usize>().map_err(|_| format!("{key} is {text}"))).transpose()
        };
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
        let file = self.file(location)?;
        let end = length.map_or(Some(file.len()), |length| offset.checked_add(length));
        let end = end.filter(|end| (offset..=file.len()).contains(end));
        let end = end.ok_or_else(|| format!("{location} has no {} bytes at {offset}", length.unwrap_or(0)))?;
        self.bytes += (end - offset) as u64;
        if self.bytes > MODEL_BYTES_MAX {
            return Err("with them, the model is larger than 2 GiB".to_owned());
        }
        Ok(file.slice(offset..end))
    }

    fn file(&mut self, location: &str) -> Result<Bytes, String> {
        if let Some(file) = self.files.get(location) {
            return Ok(file.clone());
        }
        let outside = || format!("{location} is not in the folder of the model");
        if !Path::new(location).components().all(|component| matches!(component, Component::Normal(_))) {
            return Err(outside());
        }
        let file = self.path.join(location);
        let failed = |error: std::io::Error| format!("{}: {error}", file.display());
        // A symbolic link may lead elsewhere.
        let folder = if self.path.as_os_str().is_empty() { Path::new(".") } else { self.path };
        let real = file.canonicalize().map_err(failed)?;
        if !real.starts_with(folder.canonicalize().map_err(failed)?) || !real.is_file() {
            return Err(outside());
        }
        let content = Bytes::from(whole(&real).map_err(|why| format!("{}: {why}", file.display()))?);
        self.files.insert(location.to_owned(), content.clone());
        Ok(content)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::zoo::onnx::{AttributeProto, NodeProto, StringStringEntryProto};

    fn tensor(entries: &[(&str, &str)]) -> TensorProto {
        let entry =
            |(key, value): &(&str, &str)| StringStringEntryProto { key: (*key).to_owned(), value: (*value).to_owned() };
        TensorProto {
            name: "w".to_owned(),
            data_location: EXTERNAL,
            external_data: entries.iter().map(entry).collect(),
            ..TensorProto::default()
        }
    }

    fn model(tensor: TensorProto) -> ModelProto {
        let graph = GraphProto { initializer: vec![tensor], ..GraphProto::default() };
        ModelProto { graph: Some(graph), ..ModelProto::default() }
    }

    fn read_model(folder: &Path, model: &ModelProto) -> Result<ModelProto, String> {
        let path = folder.join("m.onnx");
        std::fs::write(&path, model.encode_to_vec()).unwrap();
        read(&path).map(|content| ModelProto::decode(content).unwrap())
    }

    #[test]
    fn weights_beside_the_model_become_part_of_it() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("m.data"), b"0123456789").unwrap();
        for (entries, expected) in [
            (&[("location", "m.data")][..], &b"0123456789"[..]),
            (&[("location", "m.data"), ("offset", "2"), ("length", "4")], b"2345"),
            (&[("location", "m.data"), ("offset", "8")], b"89"),
            (&[("location", "m.data"), ("offset", "10"), ("length", "0")], b""),
        ] {
            let read = read_model(scratch.path(), &model(tensor(entries))).unwrap();
            let tensor = &read.graph.unwrap().initializer[0];
            assert_eq!(tensor.raw_data.as_deref(), Some(expected), "{entries:?}");
            assert!(tensor.data_location == 0 && tensor.external_data.is_empty());
        }
        let own = TensorProto { data_location: 0, ..tensor(&[]) };
        assert_eq!(read_model(scratch.path(), &model(own.clone())).unwrap(), model(own));
    }

    #[test]
    fn files_elsewhere_and_absurd_places_are_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("models");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(scratch.path().join("secret"), b"secret").unwrap();
        std::fs::write(folder.join("m.data"), b"0123456789").unwrap();
        std::os::unix::fs::symlink("../secret", folder.join("link")).unwrap();
        for location in ["../secret", "/etc/passwd", "link", "", ".", "missing", "a/../../secret"] {
            let error = read_model(&folder, &model(tensor(&[("location", location)]))).unwrap_err();
            assert!(error.starts_with("the weights w: "), "{location}: {error}");
        }
        for entries in [
            &[][..],
            &[("location", "m.data"), ("offset", "11")],
            &[("location", "m.data"), ("offset", "4"), ("length", "7")],
            &[("location", "m.data"), ("offset", "18446744073709551615"), ("length", "2")],
            &[("location", "m.data"), ("offset", "-1")],
            &[("location", "m.data"), ("length", "x")],
        ] {
            assert!(read_model(&folder, &model(tensor(entries))).is_err(), "{entries:?}");
        }
        let inner = model(tensor(&[("location", "m.data")])).graph.unwrap();
        let attribute = AttributeProto { g: Some(inner.encode_to_vec().into()), ..AttributeProto::default() };
        let node = NodeProto { attribute: vec![attribute], ..NodeProto::default() };
        let nested = ModelProto {
            graph: Some(GraphProto { node: vec![node], ..GraphProto::default() }),
            ..ModelProto::default()
        };
        assert!(read_model(&folder, &nested).unwrap_err().contains("a graph inside"));
    }
}
