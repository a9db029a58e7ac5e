//! Tests of the structure of lowered graphs. `tests/it/lowering.rs` runs them to show that they compute the same.

use std::collections::BTreeMap;
use std::path::Path;

use prost::Message;

use super::*;
use crate::zoo::inspect::ModelInfo;
use crate::zoo::weights::RandomWeights;
use crate::zoo::{slowfast, yolov5};

fn tiny() -> ModelProto {
    let config = slowfast::SlowFastConfig { width: 8, crop: 64, head_pool: 2, ..slowfast::SlowFastConfig::default() };
    slowfast::build(&config, &mut RandomWeights::new(1)).unwrap()
}

fn info(model: &ModelProto) -> ModelInfo {
    ModelInfo::parse(Path::new("x.onnx"), model.encode_to_vec().into()).unwrap()
}

fn operators(model: &ModelProto) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for node in &model.graph.as_ref().unwrap().node {
        *counts.entry(node.op_type.as_str()).or_default() += 1;
    }
    counts
}

#[test]
fn inputs_outputs_and_counts_stay() {
    let plain = info(&tiny());
    for lowering in Lowering::ALL {
        let lowered = info(&lower(tiny(), lowering));
        assert_eq!((&lowered.inputs, &lowered.outputs), (&plain.inputs, &plain.outputs));
        assert_eq!((lowered.parameters, lowered.multiply_adds), (plain.parameters, plain.multiply_adds));
    }
}

#[test]
fn a_folded_slowfast_has_only_2_d_convolutions_and_converts_at_its_ends() {
    let folded = lower(tiny(), Lowering::Folded);
    let weights = &folded.graph.as_ref().unwrap().initializer;
    let is_3d = |tensor: &&crate::zoo::onnx::TensorProto| tensor.dims.len() == 5;
    assert_eq!(weights.iter().filter(is_3d).count(), 0);
    // Two inputs, and the two values that the head pools over time.
    assert_eq!(operators(&folded)["Transpose"], 4);
    // A residual unit is added in the form that it is computed in: one Add for each of the 32 units, and two for each
    // shift by three frames.
    assert_eq!(operators(&folded)["Add"], 32 + 2 * (16 + 9));
}

#[test]
fn a_packed_slowfast_differs_only_in_the_fast_stem() {
    let (plain, packed) = (tiny(), lower(tiny(), Lowering::Packed));
    let (plain, packed) = (operators(&plain), operators(&packed));
    assert_eq!(packed["Conv"], plain["Conv"]);
    assert_eq!((packed["Reshape"], packed["Transpose"]), (2, 1));
}

#[test]
fn models_without_anything_to_lower_stay_unchanged() {
    let yolov5 = || yolov5::YoloConfig::of_size('n').unwrap();
    let built = || yolov5::build(&yolov5(), &mut RandomWeights::new(1)).unwrap();
    assert!(lower(built(), Lowering::Folded) == built());
    let folded = lower(tiny(), Lowering::Folded);
    assert!(lower(folded.clone(), Lowering::Folded) == folded);
    let old = ModelProto { opset_import: vec![], ..tiny() };
    assert!(lower(old.clone(), Lowering::Folded) == old);
}

#[test]
fn lowerings_parse_from_their_displayed_names() {
    for lowering in Lowering::ALL {
        assert_eq!(lowering.to_string().parse::<Lowering>().unwrap(), lowering);
    }
    assert_eq!("fold".parse::<Lowering>().unwrap_err().to_string(), "unknown lowering `fold`");
}
