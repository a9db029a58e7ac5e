//! PyTorch's files: a zip archive with one pickle and the raw numbers of each storage.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use zip::ZipArchive;

use super::pickle::{Id, Node, Pickle};
use super::settings::Settings;
use crate::error::{Error, Result};
use crate::zoo::weights::half_to_f32;

/// Maximum nesting depth of a network's modules.
const DEPTH_MAX: usize = 32;

const TORCHSCRIPT_HINT: &str = "export the original network as ONNX, which a job can use directly: YOLOv5's \
    `python export.py --weights FILE.pt --include onnx`, Ultralytics' `yolo export model=FILE.pt format=onnx`, or \
    `torch.onnx.export`";
const ULTRALYTICS_HINT: &str = "export it with the tool that trained it, `yolo export model=FILE.pt format=onnx`: a job can use the ONNX file directly";

/// A checkpoint's tensors, which are read on request.
#[derive(Debug)]
pub(super) struct Torch {
    archive: ZipArchive<BufReader<File>>,
    /// The folder in the archive that contains everything, with a trailing `/`.
    root: String,
    pub(super) tensors: BTreeMap<String, Tensor>,
    /// Class names, if this is a pickled YOLOv5 that has them.
    pub(super) labels: Option<Vec<String>>,
    /// Training settings, if this is a checkpoint of PySlowFast.
    pub(super) settings: Settings,
}

/// Position of a tensor's numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tensor {
    storage: String,
    kind: Kind,
    /// Count of numbers in the storage.
    count: usize,
    offset: usize,
    pub(super) shape: Vec<usize>,
    stride: Vec<usize>,
}

/// Number format of a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Float,
    Half,
    BFloat16,
    Double,
    /// Integers, such as counters. No network here requests them.
    Whole,
}

impl Torch {
    /// Reads the archive's directory and its pickle.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mistake = |what: String| Error::usage(format!("{}: {what}", path.display()));
        let broken = |error: zip::result::ZipError| mistake(format!("not a PyTorch checkpoint: {error}"));
        let file = File::open(path).map_err(|error| mistake(format!("failed to read: {error}")))?;
        let mut archive = ZipArchive::new(BufReader::new(file)).map_err(broken)?;
        let mut names = archive.file_names().filter_map(|name| Some(name.ok()?.into_owned()));
        let pickle = names.find(|name| name == "data.pkl" || name.ends_with("/data.pkl"));
        drop(names);
        let pickle = pickle.ok_or_else(|| mistake("not a PyTorch checkpoint: it has no data.pkl".to_owned()))?;
        let root = pickle.trim_end_matches("data.pkl").to_owned();
        let order = read_entry(&mut archive, &format!("{root}byteorder"));
        if order.is_ok_and(|order| order.starts_with(b"big")) {
            return Err(mistake("its numbers are big-endian, which is not supported".to_owned()));
        }
        if archive.by_name(&format!("{root}constants.pkl")).is_ok() {
            return Err(mistake("a TorchScript file, which is a program and not a checkpoint".to_owned())
                .with_hint(TORCHSCRIPT_HINT));
        }
        let bytes = read_entry(&mut archive, &pickle).map_err(mistake)?;
        let pickle = Pickle::parse(&bytes).map_err(|refusal| match refusal.module.as_deref() {
            Some(module) if module.starts_with("ultralytics.") => {
                mistake("this is a network of the Ultralytics package (YOLOv8, YOLO11...), not a YOLOv5".to_owned())
                    .with_hint(ULTRALYTICS_HINT)
            }
            _ => mistake(refusal.to_string()),
        })?;
        let mut state = State::default();
        state.find(&pickle).map_err(mistake)?;
        let State { tensors, labels, .. } = state;
        if tensors.is_empty() {
            return Err(mistake("it holds no parameters".to_owned()).with_hint(
                "expected a state dict, alone or as `model_state`, `model_state_dict`, `state_dict` or `model`, or a \
                 pickled YOLOv5",
            ));
        }
        let settings = pickle.get(pickle.root, "cfg").and_then(|cfg| pickle.text(cfg)).map(Settings::parse);
        Ok(Self { archive, root, tensors, labels, settings: settings.unwrap_or_default() })
    }

    /// A tensor's numbers, row-major. An error describes what is wrong with the tensor.
    pub(super) fn read(&mut self, tensor: &Tensor) -> Result<Vec<f32>, String> {
        let size = match tensor.kind {
            Kind::Float => 4,
            Kind::Half | Kind::BFloat16 => 2,
            Kind::Double => 8,
            Kind::Whole => return Err("contains integers".to_owned()),
        };
        let bytes = read_entry(&mut self.archive, &format!("{}data/{}", self.root, tensor.storage))?;
        let past = || format!("points past its storage of {} bytes", bytes.len());
        let last = tensor.last().filter(|last| *last < tensor.count && *last < bytes.len() / size).ok_or_else(past)?;
        // A stride of 0 repeats numbers without end.
        let count = tensor.shape.iter().try_fold(1_usize, |count, &length| count.checked_mul(length));
        let count = count.filter(|count| *count <= bytes.len() / size);
        let count = count.ok_or_else(|| format!("has the shape {:?} in {} bytes", tensor.shape, bytes.len()))?;
        let number = |index: usize| {
            let raw = &bytes[index * size..][..size];
            match (tensor.kind, raw) {
                (Kind::Float, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
                (Kind::BFloat16, &[a, b]) => f32::from_le_bytes([0, 0, a, b]),
                (Kind::Half, &[a, b]) => half_to_f32(u16::from_le_bytes([a, b])),
                (_, raw) => raw.try_into().map_or(f32::NAN, |raw| f64::from_le_bytes(raw) as f32),
            }
        };
        let mut values = Vec::with_capacity(count);
        let mut position = vec![0; tensor.shape.len()];
        let mut index = tensor.offset;
        loop {
            values.push(number(index.min(last)));
            // Advance the position by one, with carry from the last axis.
            let Some(axis) = (0..position.len()).rev().find(|&axis| position[axis] + 1 < tensor.shape[axis]) else {
                return Ok(values);
            };
            for (steps, stride) in position.iter_mut().zip(&tensor.stride).skip(axis + 1) {
                index -= std::mem::take(steps) * stride;
            }
            position[axis] += 1;
            index += tensor.stride[axis];
        }
    }
}

impl Tensor {
    /// Index of its last number in the storage. `None` if the tensor is empty or the index overflows.
    fn last(&self) -> Option<usize> {
        self.shape.iter().zip(&self.stride).try_fold(self.offset, |last, (&length, &stride)| {
            last.checked_add(length.checked_sub(1)?.checked_mul(stride)?)
        })
    }
}

/// Reads an entry as stored. Compressed entries are rejected: PyTorch never compresses, and they could be a zip bomb.
fn read_entry(archive: &mut ZipArchive<BufReader<File>>, name: &str) -> Result<Vec<u8>, String> {
    let entry = archive.by_name(name).map_err(|error| format!("failed to read `{name}`: {error}"))?;
    let size = entry.size();
    if entry.compressed_size() != size {
        return Err(format!("`{name}` is compressed, which PyTorch never does"));
    }
    let mut bytes = Vec::new();
    entry.take(size).read_to_end(&mut bytes).map_err(|error| format!("failed to read `{name}`: {error}"))?;
    match bytes.len() as u64 == size {
        true => Ok(bytes),
        false => Err(format!("`{name}` is cut off")),
    }
}

/// What was found in a pickle.
#[derive(Default)]
struct State {
    tensors: BTreeMap<String, Tensor>,
    labels: Option<Vec<String>>,
    /// Modules on the path to the current one, to detect cycles.
    seen: BTreeSet<Id>,
}

impl State {
    /// Finds the parameters. Averaged weights take precedence over the trained ones, as in the official loaders.
    fn find(&mut self, pickle: &Pickle) -> Result<(), String> {
        let keys = ["ema", "model_state", "model_state_dict", "state_dict", "model"];
        let part = keys.iter().filter_map(|key| pickle.get(pickle.root, key));
        let part = part.into_iter().find(|part| *pickle.node(*part) != Node::None).unwrap_or(pickle.root);
        match pickle.node(part) {
            Node::Object { .. } => self.module(pickle, part, "", 0)?,
            _ => {
                for (name, value) in pickle.entries(part) {
                    self.add(pickle, name.to_owned(), value)?;
                }
            }
        }
        self.labels = pickle.get(part, "names").and_then(|names| labels(pickle, names));
        Ok(())
    }

    /// Adds a pickled module: its parameters, its buffers and its submodules.
    fn module(&mut self, pickle: &Pickle, module: Id, prefix: &str, depth: usize) -> Result<(), String> {
        if depth > DEPTH_MAX || !self.seen.insert(module) {
            return Err(format!("the modules of `{prefix}` contain each other"));
        }
        for part in ["_parameters", "_buffers"] {
            for (name, value) in pickle.get(module, part).into_iter().flat_map(|part| pickle.entries(part)) {
                self.add(pickle, format!("{prefix}{name}"), value)?;
            }
        }
        for (name, inner) in pickle.get(module, "_modules").into_iter().flat_map(|part| pickle.entries(part)) {
            self.module(pickle, inner, &format!("{prefix}{name}."), depth + 1)?;
        }
        // The same layer may occur in two places, but not inside itself.
        self.seen.remove(&module);
        Ok(())
    }

    /// Adds a tensor. Other values, such as an absent bias or a training statistic, are ignored.
    fn add(&mut self, pickle: &Pickle, name: String, value: Id) -> Result<(), String> {
        let tensor = tensor(pickle, value).map_err(|problem| format!("the parameter `{name}` {problem}"))?;
        self.tensors.extend(tensor.map(|tensor| (name, tensor)));
        Ok(())
    }
}

fn tensor(pickle: &Pickle, value: Id) -> Result<Option<Tensor>, String> {
    match pickle.object(value) {
        Some(("torch._utils _rebuild_parameter", [data, ..])) if *data != value => tensor_data(pickle, *data).map(Some),
        Some(("torch._utils _rebuild_tensor_v2", _)) => tensor_data(pickle, value).map(Some),
        _ => Ok(None),
    }
}

fn tensor_data(pickle: &Pickle, value: Id) -> Result<Tensor, String> {
    let strange = || "has an unknown structure".to_owned();
    let Some(("torch._utils _rebuild_tensor_v2", [storage, offset, shape, stride, ..])) = pickle.object(value) else {
        return Err(strange());
    };
    let Node::Persistent(storage) = pickle.node(*storage) else { return Err(strange()) };
    // ('storage', class, key, location, numbers)
    let Some([_, class, key, _, count]) = pickle.list(*storage) else { return Err(strange()) };
    let Node::Global(class) = pickle.node(*class) else { return Err(strange()) };
    let kind = match class.as_str() {
        "torch FloatStorage" => Kind::Float,
        "torch HalfStorage" => Kind::Half,
        "torch BFloat16Storage" => Kind::BFloat16,
        "torch DoubleStorage" => Kind::Double,
        _ => Kind::Whole,
    };
    let length = |id: Id| pickle.int(id).and_then(|number| usize::try_from(number).ok());
    let lengths = |id: Id| pickle.list(id)?.iter().map(|&id| length(id)).collect::<Option<Vec<_>>>();
    let tensor = Tensor {
        storage: pickle.text(*key).ok_or_else(strange)?.to_owned(),
        kind,
        count: length(*count).ok_or_else(strange)?,
        offset: length(*offset).ok_or_else(strange)?,
        shape: lengths(*shape).ok_or_else(strange)?,
        stride: lengths(*stride).ok_or_else(strange)?,
    };
    let is_within = tensor.last().is_some_and(|last| last < tensor.count) || tensor.shape.contains(&0);
    match is_within && tensor.shape.len() == tensor.stride.len() {
        true => Ok(tensor),
        false => Err(format!("points past its storage of {} numbers", tensor.count)),
    }
}

/// Reads a list of names, or a dictionary from numbers to names.
fn labels(pickle: &Pickle, names: Id) -> Option<Vec<String>> {
    let ids: Vec<Id> = match pickle.node(names) {
        Node::List(names) => names.clone(),
        Node::Dict(entries) => {
            let numbered = entries.iter().map(|(key, name)| Some((pickle.int(*key)?, *name)));
            let numbered: BTreeMap<i64, Id> = numbered.collect::<Option<_>>()?;
            let in_order = numbered.keys().copied().eq(0..numbered.len() as i64);
            in_order.then(|| numbered.into_values().collect())?
        }
        _ => return None,
    };
    ids.into_iter().map(|id| pickle.text(id).map(ToOwned::to_owned)).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::io::Write as _;

    use zip::write::{SimpleFileOptions, ZipWriter};

    use super::*;

    #[test]
    fn a_tensor_beyond_the_end_of_its_storage_is_rejected() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.pt");
        let mut zip = ZipWriter::new(File::create(&path).unwrap());
        zip.start_file("a/data/0", SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored))
            .unwrap();
        for number in [1.0_f32, 2.0, 3.0] {
            zip.write_all(&number.to_le_bytes()).unwrap();
        }
        zip.finish().unwrap();
        let mut torch = Torch {
            archive: ZipArchive::new(BufReader::new(File::open(&path).unwrap())).unwrap(),
            root: "a/".to_owned(),
            tensors: BTreeMap::new(),
            labels: None,
            settings: Settings::default(),
        };
        // The pickle claims four numbers.
        let tensor = |shape: &[usize]| Tensor {
            storage: "0".to_owned(),
            kind: Kind::Float,
            count: 4,
            offset: 0,
            shape: shape.to_vec(),
            stride: vec![1],
        };
        assert_eq!(torch.read(&tensor(&[3])).unwrap(), [1.0, 2.0, 3.0]);
        assert_eq!(torch.read(&tensor(&[4])).unwrap_err(), "points past its storage of 12 bytes");
        // Strides of 0 lead to no number past the end, whatever the shape.
        for length in [2, 1 << 40, usize::MAX] {
            let endless = Tensor { stride: vec![0, 0], ..tensor(&[2, length]) };
            assert!(torch.read(&endless).unwrap_err().starts_with("has the shape"), "{length}");
        }
    }
}
