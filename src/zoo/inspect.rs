//! What an ONNX file says about itself: inputs, outputs, size, and the SHA-256 that identifies it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::hash::hex;
use crate::zoo::onnx::{
    DimensionValue, GraphProto, ModelProto, NodeProto, StringStringEntryProto, ValueInfoProto, number,
};
use crate::zoo::{external, registry};

/// Metadata keys under which a lowered model stores the counts of the original network.
pub(super) const NOTED_PARAMETERS: &str = "vidindex.parameters";
const NOTED_MULTIPLY_ADDS: &str = "vidindex.multiply_adds";

/// What can be known of a model without running it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ModelInfo {
    /// The file.
    pub path: PathBuf,
    /// Size of the model, bytes.
    pub size_bytes: u64,
    /// SHA-256 of the file in hex; of a model that has weights in other files, of the model with these weights in it.
    pub sha256: String,
    /// The tool that wrote the file, with its version if stated.
    pub producer: String,
    /// Version of ONNX's own operator set.
    pub opset: i64,
    /// Metadata that the exporter added, by key.
    pub metadata: BTreeMap<String, String>,
    /// Required inputs, in the model's order.
    pub inputs: Vec<TensorInfo>,
    /// Outputs, in the model's order.
    pub outputs: Vec<TensorInfo>,
    /// Number of elements in all float weights, without the running statistics of batch norms.
    pub parameters: u64,
    /// Multiply-adds of convolutions and matrix products for one sample. Known if the file contains the shapes of their
    /// results, as the files of `models build` do.
    pub multiply_adds: Option<u64>,
}

/// Name, type and shape of an input or output.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Type of its elements.
    pub element: Element,
    /// Its dimensions, starting with the batch. Empty for a scalar and if the model does not state them.
    pub shape: Vec<Dim>,
    /// The operator that produced its values (such as `Softmax`), ignoring operators that only rearrange or average
    /// them. `None` for an input.
    pub operator: Option<String>,
}

/// One dimension.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(untagged)]
pub enum Dim {
    /// Always this long.
    Fixed(usize),
    /// Chosen by the caller. `?` if the dimension has no name.
    Free(String),
}

/// Type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Element {
    /// 32-bit float.
    Float32,
    /// 16-bit float.
    Float16,
    /// The 16-bit float with 8 bits of exponent.
    BFloat16,
    /// 64-bit float.
    Float64,
    /// Any type that is not a float.
    Other,
}

impl ModelInfo {
    /// Reads and parses a model's file.
    ///
    /// # Errors
    /// If the file cannot be read or is not an ONNX model.
    pub fn read(path: &Path) -> Result<Self> {
        let data = external::read(path).map_err(|error| {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            let name = registry::official(&stem).map_or("NAME", |(name, _)| name);
            Error::usage(format!("{}: failed to read: {error}", path.display())).with_hint(format!(
                "`vidindex models pull {name}` downloads an official model, `vidindex models convert FILE` takes your own \
                 checkpoint"
            ))
        })?;
        Self::parse(path, data)
    }

    /// Parses the content of a model's file. `path` is used in messages and for the model's name.
    ///
    /// # Errors
    /// If it is not an ONNX model.
    pub fn parse(path: &Path, data: Bytes) -> Result<Self> {
        let foreign = |why: String| {
            Error::usage(format!("{}: not an ONNX model: {why}", path.display()))
                .with_hint("convert a PyTorch checkpoint with `vidindex models convert`")
        };
        let size_bytes = data.len() as u64;
        let sha256 = hex(&Sha256::digest(&data));
        let model = ModelProto::decode(data).map_err(|error| foreign(error.to_string()))?;
        let graph = model.graph.as_ref().ok_or_else(|| foreign("it has no graph".into()))?;
        if graph.node.is_empty() || graph.output.is_empty() {
            return Err(foreign("its graph is empty".into()));
        }
        let weights: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
        Ok(Self {
            path: path.to_owned(),
            size_bytes,
            sha256,
            producer: format!("{} {}", model.producer_name, model.producer_version).trim().to_owned(),
            opset: opset(&model),
            metadata: model.metadata_props.iter().map(|entry| (entry.key.clone(), entry.value.clone())).collect(),
            inputs: graph.input.iter().filter(|info| !weights.contains(info.name.as_str())).map(tensor_info).collect(),
            outputs: graph.output.iter().map(|info| made_by(graph, tensor_info(info))).collect(),
            parameters: noted(&model, NOTED_PARAMETERS).unwrap_or_else(|| parameters(graph)),
            multiply_adds: noted(&model, NOTED_MULTIPLY_ADDS).or_else(|| multiply_adds(graph)),
        })
    }

    /// The model's name in the tables' paths and columns: the file's stem and the first eight digits of its hash.
    pub fn model_id(&self) -> String {
        model_id(&self.path, &self.sha256)
    }
}

impl fmt::Display for ModelInfo {
    /// A description for humans, one property per line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "file        {} ({} bytes)", self.path.display(), self.size_bytes)?;
        writeln!(f, "id          {}", self.model_id())?;
        writeln!(f, "sha256      {}", self.sha256)?;
        writeln!(f, "producer    {}, opset {}", self.producer, self.opset)?;
        writeln!(f, "parameters  {:.2} M", self.parameters as f64 / 1e6)?;
        if let Some(multiply_adds) = self.multiply_adds {
            writeln!(f, "compute     {:.2} G multiply-adds per sample", multiply_adds as f64 / 1e9)?;
        }
        for (role, tensors) in [("input", &self.inputs), ("output", &self.outputs)] {
            for tensor in tensors {
                writeln!(f, "{role:<11} {tensor}")?;
            }
        }
        Ok(())
    }
}

/// Version of the model's ONNX operator set. 0 if it is not stated.
pub(super) fn opset(model: &ModelProto) -> i64 {
    let is_own = |domain: &str| domain.is_empty() || domain == "ai.onnx";
    model.opset_import.iter().find(|set| is_own(&set.domain)).map_or(0, |set| set.version)
}

/// Returns `<file stem>-<first 8 hex digits>`. Characters of the stem that would need escaping in a path become `-`.
pub fn model_id(path: &Path, sha256: &str) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let stem: String = stem.chars().map(plain).collect();
    format!("{stem}-{}", sha256.get(..8).unwrap_or(sha256))
}

impl TensorInfo {
    /// The length of this dimension, if it is fixed.
    pub fn fixed(&self, dimension: usize) -> Option<usize> {
        match self.shape.get(dimension)? {
            Dim::Fixed(length) => Some(*length),
            Dim::Free(_) => None,
        }
    }
}

impl fmt::Display for TensorInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape: Vec<String> = self.shape.iter().map(Dim::to_string).collect();
        write!(f, "{} {}[{}]", self.name, self.element, shape.join(", "))
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(length) => length.fmt(f),
            Self::Free(name) => f.write_str(name),
        }
    }
}

impl Element {
    /// Whether pictures can be passed in this type.
    pub fn is_float(self) -> bool {
        self != Self::Other
    }

    fn of(number: i32) -> Self {
        match number {
            number::FLOAT => Self::Float32,
            number::FLOAT16 => Self::Float16,
            number::BFLOAT16 => Self::BFloat16,
            number::DOUBLE => Self::Float64,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Float32 => "float32",
            Self::Float16 => "float16",
            Self::BFloat16 => "bfloat16",
            Self::Float64 => "float64",
            Self::Other => "other",
        })
    }
}

fn tensor_info(info: &ValueInfoProto) -> TensorInfo {
    let tensor = info.r#type.as_ref().and_then(|r#type| r#type.tensor_type.as_ref());
    let dims = tensor.and_then(|tensor| tensor.shape.as_ref()).map_or(&[][..], |shape| &shape.dim);
    let dim = |value: &Option<DimensionValue>| match value {
        Some(DimensionValue::DimValue(length)) => {
            usize::try_from(*length).map_or_else(|_| Dim::Free("?".into()), Dim::Fixed)
        }
        Some(DimensionValue::DimParam(name)) if !name.is_empty() => Dim::Free(name.clone()),
        _ => Dim::Free("?".into()),
    };
    TensorInfo {
        name: info.name.clone(),
        element: tensor.map_or(Element::Other, |tensor| Element::of(tensor.elem_type)),
        shape: dims.iter().map(|dimension| dim(&dimension.value)).collect(),
        operator: None,
    }
}

/// Finds the operator that made an output. PyTorchVideo's heads average over positions after the activation.
fn made_by(graph: &GraphProto, output: TensorInfo) -> TensorInfo {
    const PASSED: [&str; 8] =
        ["AveragePool", "Cast", "Flatten", "GlobalAveragePool", "Identity", "ReduceMean", "Reshape", "Squeeze"];
    let maker = |name: &String| graph.node.iter().find(|node| node.output.contains(name));
    let mut found = maker(&output.name);
    // At most one step per node, because a foreign graph may contain a cycle.
    for _ in &graph.node {
        let Some(node) = found.filter(|node| PASSED.contains(&node.op_type.as_str())) else { break };
        found = node.input.first().and_then(maker).or(found);
    }
    TensorInfo { operator: found.map(|node| node.op_type.clone()), ..output }
}

/// Metadata with a network's parameters and multiply-adds, for the model that it is lowered to.
pub(super) fn counts(graph: &GraphProto) -> Vec<StringStringEntryProto> {
    let (parameters, multiply_adds) = count(graph);
    let counts = [(NOTED_PARAMETERS, Some(parameters)), (NOTED_MULTIPLY_ADDS, multiply_adds)];
    let entry =
        |(key, count): (&str, Option<u64>)| Some(StringStringEntryProto { key: key.into(), value: count?.to_string() });
    counts.into_iter().filter_map(entry).collect()
}

/// A network's parameters, and its multiply-adds if they are known.
pub(super) fn count(graph: &GraphProto) -> (u64, Option<u64>) {
    (parameters(graph), multiply_adds(graph))
}

fn noted(model: &ModelProto, key: &str) -> Option<u64> {
    model.metadata_props.iter().find(|entry| entry.key == key)?.value.parse().ok()
}

fn parameters(graph: &GraphProto) -> u64 {
    let norms = graph.node.iter().filter(|node| node.op_type == "BatchNormalization");
    let statistics: HashSet<&String> = norms.flat_map(|node| node.input.iter().skip(3)).collect();
    let counted = graph.initializer.iter();
    let counted =
        counted.filter(|tensor| Element::of(tensor.data_type).is_float() && !statistics.contains(&tensor.name));
    counted.map(|tensor| elements(&tensor.dims)).sum()
}

/// Returns `None` if the shape of any result is unknown.
fn multiply_adds(graph: &GraphProto) -> Option<u64> {
    let weights = graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor.dims.as_slice()));
    let mut weights: HashMap<&str, &[i64]> = weights.collect();
    // Weights that are stored as 16-bit floats.
    for cast in graph.node.iter().filter(|node| node.op_type == "Cast") {
        let dims = cast.input.first().and_then(|stored| weights.get(stored.as_str()).copied());
        weights.extend(cast.output.first().map(String::as_str).zip(dims));
    }
    let values = graph.value_info.iter().chain(&graph.output);
    let values: HashMap<&str, TensorInfo> = values.map(|info| (info.name.as_str(), tensor_info(info))).collect();
    let of_node = |node: &NodeProto| {
        let result = values.get(node.output.first()?.as_str())?;
        // Dimensions after the batch.
        let length = (1..result.shape.len()).map(|dimension| result.fixed(dimension)).product::<Option<usize>>()?;
        // Number of products that are summed for each element of the result.
        let summed = match (node.op_type.as_str(), weights.get(node.input.get(1)?.as_str())) {
            ("Conv", weight) => elements(weight?.get(1..)?),
            (_, Some(weight)) => {
                elements(weight).checked_div(result.fixed(result.shape.len().checked_sub(1)?)? as u64)?
            }
            // A product of two values: the number of columns of the first.
            (_, None) => {
                let first = values.get(node.input[0].as_str())?;
                first.fixed(first.shape.len().checked_sub(1)?)? as u64
            }
        };
        Some((length as u64).saturating_mul(summed))
    };
    let counted = graph.node.iter().filter(|node| matches!(node.op_type.as_str(), "Conv" | "Gemm" | "MatMul"));
    counted.map(of_node).sum()
}

fn elements(dims: &[i64]) -> u64 {
    dims.iter().fold(1, |product: u64, &length| product.saturating_mul(u64::try_from(length).unwrap_or(0)))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::zoo::registry::MODELS;
    use crate::zoo::slowfast;
    use crate::zoo::weights::Weights;

    /// Counting only needs the shapes.
    struct Zeros;

    impl Weights for Zeros {
        fn tensor(&mut self, _: &str, shape: &[usize]) -> Result<Vec<f32>> {
            Ok(vec![0.0; shape.iter().product()])
        }
    }

    fn count(model: ModelProto) -> (u64, Option<u64>) {
        super::count(&model.graph.unwrap())
    }

    /// A network's parameters and multiply-adds. Listed figures are compared with the networks by a test of the registry.
    fn counts_of(name: &str) -> (u64, Option<u64>) {
        match MODELS.iter().find(|model| model.name == name) {
            Some(model) => (model.parameters, model.multiply_adds),
            None => count(slowfast::build(&slowfast::named(name).unwrap().0, &mut Zeros).unwrap()),
        }
    }

    /// The same in millions and billions.
    fn size(name: &str) -> (f64, f64) {
        let (parameters, multiply_adds) = counts_of(name);
        (parameters as f64 / 1e6, multiply_adds.unwrap() as f64 / 1e9)
    }

    #[test]
    fn full_size_networks_have_the_published_size() {
        // PyTorchVideo: 34.57 M and 65.71 G. Folding removes one parameter per channel (30 400 in all).
        assert_eq!(counts_of("slowfast-r50-8x8"), (34_536_144, Some(65_708_888_064)));
        // Parameters as PyTorchVideo counts them, multiply-adds as in the paper.
        for (name, millions, billions) in [
            ("slowfast-r50-4x16", 34.48, 36.1),
            ("slowfast-r50-4x16-grey", 34.48, 34.1),
            ("slowfast-r101-8x8-temporal6", 53.77, 106.0),
            ("slowfast-r101-16x8", 53.77, 213.0),
            ("slow-r50-4x16", 32.45, 27.3),
        ] {
            let (parameters, multiply_adds) = size(name);
            assert!((parameters / millions - 1.0).abs() < 0.01, "{name}: {parameters} M");
            assert!((multiply_adds / billions - 1.0).abs() < 0.01, "{name}: {multiply_adds} G");
        }
        for (name, billions) in [("slowfast-r50-4x16-ttoc", 39.8), ("slowfast-r50-4x16-sample", 34.9)] {
            let multiply_adds = size(name).1;
            assert!((multiply_adds / billions - 1.0).abs() < 0.01, "{name}: {multiply_adds} G");
        }
    }

    #[test]
    fn yolov5s_have_the_published_size() {
        // From the official table: millions of parameters, and GFLOPs (twice the multiply-adds) at 640 pixels, also for
        // P6, which are listed for 1280 pixels.
        for (letter, p5, p6) in [
            ('n', [1.9, 4.5], [3.2, 4.6]),
            ('s', [7.2, 16.5], [12.6, 16.8]),
            ('m', [21.2, 49.0], [35.7, 50.0]),
            ('l', [46.5, 109.1], [76.8, 111.4]),
            ('x', [86.7, 205.7], [140.7, 209.8]),
        ] {
            for (name, pixels, published) in
                [(format!("yolov5{letter}"), 1.0, p5), (format!("yolov5{letter}6"), 4.0, p6)]
            {
                let (parameters, multiply_adds) = size(&name);
                let gflops = 2.0 * multiply_adds / pixels;
                // The table is rounded to a tenth, which is more than one percent for the smallest network.
                let near = |own: f64, published: f64| (own - published).abs() <= f64::max(0.05, published * 0.01);
                let found = format!("{name}: {parameters:.3} M, {gflops:.2} GFLOPs");
                assert!(near(parameters, published[0]) && near(gflops, published[1]), "{found}");
            }
        }
        // Exact, as the reference prints it after fusing the batch norms.
        assert_eq!(counts_of("yolov5n"), (1_867_405, Some(2_234_060_800)));
    }

    #[test]
    fn products_of_two_values_are_counted() {
        let all = slowfast::named("slow-tiny-4x16-nl").unwrap().0;
        let none = slowfast::SlowFastConfig { non_local: vec![], ..all.clone() };
        let [all, none] = [all, none].map(|config| count(slowfast::build(&config, &mut Zeros).unwrap()).1.unwrap());
        // 64 positions with 128 channels attend to 16 pooled positions with 64 channels: projections there and back,
        // the product of keys and values, and its product with the queries.
        let block = 2 * 64 * 128 * 64 + 2 * 16 * 128 * 64 + 16 * 64 * 64 + 64 * 64 * 64;
        assert_eq!(all - none, 3 * block);
    }

    #[test]
    fn an_activation_is_seen_through_what_averages_and_arranges() {
        let node = |op: &str, input: &str, output: &str| NodeProto {
            op_type: op.into(),
            input: vec![input.into()],
            output: vec![output.into()],
            ..NodeProto::default()
        };
        let operator = |node: Vec<NodeProto>| {
            let graph = GraphProto { node, ..GraphProto::default() };
            let output = TensorInfo { name: "out".into(), element: Element::Float32, shape: vec![], operator: None };
            made_by(&graph, output).operator
        };
        let chain = vec![node("Sigmoid", "x", "a"), node("GlobalAveragePool", "a", "b"), node("Reshape", "b", "out")];
        assert_eq!(operator(chain).as_deref(), Some("Sigmoid"));
        assert_eq!(operator(vec![node("Gemm", "x", "out")]).as_deref(), Some("Gemm"));
        assert_eq!(operator(vec![node("Flatten", "x", "out")]).as_deref(), Some("Flatten"));
        assert_eq!(operator(vec![node("Cast", "out", "out")]).as_deref(), Some("Cast"));
    }

    #[test]
    fn running_statistics_and_integers_are_no_parameters() {
        let tensor = |name: &str, data_type| crate::zoo::onnx::TensorProto {
            name: name.into(),
            dims: vec![2, 3],
            data_type,
            ..Default::default()
        };
        let names = ["x", "gain", "shift", "mean", "variance"];
        let norm = NodeProto {
            op_type: "BatchNormalization".into(),
            input: names.map(Into::into).to_vec(),
            ..NodeProto::default()
        };
        let initializer = names[1..].iter().map(|name| tensor(name, number::FLOAT)).collect();
        let mut graph = GraphProto { node: vec![norm], initializer, ..GraphProto::default() };
        graph.initializer.push(tensor("sizes", number::INT64));
        assert_eq!(parameters(&graph), 12);
    }

    #[test]
    fn a_file_of_something_else_is_refused() {
        for content in [&b""[..], b"hello, this is no model", b"{\"a\": 1}", &[0x80; 40]] {
            let error = ModelInfo::parse(Path::new("x.onnx"), Bytes::from_static(content)).unwrap_err();
            assert!(error.to_string().starts_with("x.onnx: not an ONNX model: "), "{error}");
        }
        let error = ModelInfo::read(Path::new("/nowhere/x.onnx")).unwrap_err();
        assert!(error.to_string().starts_with("/nowhere/x.onnx: failed to read"));
    }

    #[test]
    fn a_models_id_is_safe_in_a_path() {
        assert_eq!(model_id(Path::new("m/slowfast-r50.v1.onnx"), "0123456789ab"), "slowfast-r50.v1-01234567");
        assert_eq!(model_id(Path::new("my model=ü.onnx"), "0123456789ab"), "my-model---01234567");
    }
}
