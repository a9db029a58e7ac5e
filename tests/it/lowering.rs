//! Lowered networks give the same results in ONNX Runtime as the plain ones.

use proptest::prelude::*;
use prost::Message;
use vidindex::zoo::deploy::Deployment;
use vidindex::zoo::lower::{Lowering, lower};
use vidindex::zoo::onnx::{AttributeProto, DimensionValue, ModelProto, ValueInfoProto, number};
use vidindex::zoo::weights::{RandomWeights, Weights};
use vidindex::zoo::{graph, slowfast};

use crate::support;

/// Deterministic values in the range of the pixels that a network gets.
fn noise(length: usize) -> Vec<f32> {
    (0..length).map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// Runs a model on inputs of these shapes and returns the shape and values of each output.
fn outputs(model: &ModelProto, inputs: &[(&str, Vec<i64>)]) -> Vec<(Vec<i64>, Vec<f32>)> {
    let file = tempfile::Builder::new().suffix(".onnx").tempfile().unwrap();
    std::fs::write(file.path(), model.encode_to_vec()).unwrap();
    let mut session = support::runtime().open(&Deployment::read(file.path()).unwrap(), &[]).unwrap();
    let names: Vec<&str> = model.graph.as_ref().unwrap().output.iter().map(|output| output.name.as_str()).collect();
    let data: Vec<Vec<f32>> = inputs.iter().map(|(_, shape)| noise(shape.iter().product::<i64>() as usize)).collect();
    let inputs: Vec<_> =
        inputs.iter().zip(&data).map(|((name, shape), data)| (*name, shape.clone(), &data[..])).collect();
    let owned = |(shape, data): &(&[i64], &[f32])| (shape.to_vec(), data.to_vec());
    session
        .run_for(&support::floats(&session, &inputs), &names, |outputs| Ok(outputs.iter().map(owned).collect()))
        .unwrap()
        .output
}

/// Compares both lowerings with the plain model.
fn compare(what: &str, plain: &ModelProto, inputs: &[(&str, Vec<i64>)]) {
    let expected = outputs(plain, inputs);
    for lowering in [Lowering::Packed, Lowering::Folded] {
        let found = outputs(&lower(plain.clone(), lowering), inputs);
        assert_eq!(found.len(), expected.len());
        for ((shape, expected), (found_shape, found)) in expected.iter().zip(found) {
            let largest = expected.iter().fold(1e-3f32, |largest, value| largest.max(value.abs()));
            assert_eq!(found_shape, *shape, "{what}, {lowering}");
            let worst = expected.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= 1e-5 * largest, "{what}, {lowering}: off by {worst} of {largest}");
        }
    }
}

fn clips(config: &slowfast::SlowFastConfig, batch: usize) -> [(&'static str, Vec<i64>); 2] {
    let shape = |frames| [batch, 3, frames, config.crop, config.crop].map(|length| length as i64).to_vec();
    [(slowfast::SLOW_INPUT, shape(config.frames / config.alpha)), (slowfast::FAST_INPUT, shape(config.frames))]
}

#[test]
fn a_lowered_slowfast_gives_the_same_logits_for_one_clip_and_for_three() {
    let tiny = slowfast::SlowFastConfig {
        width: 8,
        crop: 64,
        head_pool: 2,
        classes: 10,
        ..slowfast::SlowFastConfig::default()
    };
    let wider =
        slowfast::SlowFastConfig { width: 32, frames: 16, alpha: 8, fusion_kernel: 5, crop: 96, ..tiny.clone() };
    for config in [tiny, wider] {
        let plain = slowfast::build(&config, &mut RandomWeights::new(1)).unwrap();
        for batch in [1, 3] {
            compare(&format!("{} channels, batch {batch}", config.width), &plain, &clips(&config, batch));
        }
    }
}

#[test]
fn the_lowered_official_export_gives_the_same_logits() {
    let Some(reference) = support::reference() else { return };
    let exported = std::fs::read(reference.join("models/slowfast_tiny_r50_8x8.onnx")).unwrap();
    let exported = ModelProto::decode(exported.as_slice()).unwrap();
    let config = slowfast::SlowFastConfig { crop: 64, ..slowfast::SlowFastConfig::default() };
    compare("official export", &exported, &clips(&config, 2));
    assert!(is_folded(exported));
}

/// Whether the folded model has no 3-D convolution.
fn is_folded(model: ModelProto) -> bool {
    lower(model, Lowering::Folded).graph.unwrap().initializer.iter().all(|tensor| tensor.dims.len() < 5)
}

#[test]
fn a_lowered_slowfast_of_dynamic_height_and_width_gives_the_same_logits() {
    let config = slowfast::SlowFastConfig {
        width: 8,
        crop: 64,
        head_pool: 2,
        classes: 10,
        ..slowfast::SlowFastConfig::default()
    };
    let mut plain = slowfast::build(&config, &mut RandomWeights::new(1)).unwrap();
    let graph = plain.graph.as_mut().unwrap();
    graph.value_info.clear();
    graph.input.iter_mut().for_each(make_size_dynamic);
    let clips = [(slowfast::SLOW_INPUT, vec![2, 3, 8, 64, 96]), (slowfast::FAST_INPUT, vec![2, 3, 32, 64, 96])];
    compare("dynamic size", &plain, &clips);
}

/// Makes the height and width of a value dynamic.
fn make_size_dynamic(info: &mut ValueInfoProto) {
    let shape = info.r#type.as_mut().unwrap().tensor_type.as_mut().unwrap().shape.as_mut().unwrap();
    for (dimension, name) in shape.dim[3..].iter_mut().zip(["height", "width"]) {
        dimension.value = Some(DimensionValue::DimParam(name.into()));
    }
}

/// A convolution, with the layers that follow it in a stem.
#[derive(Debug, Clone)]
struct Case {
    channels: [usize; 2],
    frames: usize,
    kernel: [usize; 3],
    stride: [usize; 3],
    padding: [usize; 3],
    dilation: [usize; 3],
    groups: usize,
    is_dynamic: bool,
}

fn cases() -> impl Strategy<Value = Case> {
    let time = (1..=5usize, 1..=3usize, 0..=3usize, 1..=2usize);
    let space = (prop_oneof![Just(1usize), Just(3)], 1..=2usize, 0..=1usize, 1..=2usize);
    let channels = (1..=5usize, 1..=6usize, 1..=2usize);
    (time, space, channels, 3..=9usize, any::<bool>()).prop_filter_map(
        "the kernel fits",
        |(time, space, channels, frames, is_dynamic)| {
            let pair = |a: usize, b: usize| [a, b, b];
            let fits = frames + 2 * time.2 > time.3 * (time.0 - 1);
            fits.then_some(Case {
                channels: [channels.0 * channels.2, channels.1 * channels.2],
                frames: frames.next_multiple_of(if frames > 6 { 4 } else { 1 }),
                kernel: pair(time.0, space.0),
                stride: pair(time.1, space.1),
                padding: pair(time.2, space.2),
                dilation: pair(time.3, space.3),
                groups: channels.2,
                is_dynamic,
            })
        },
    )
}

impl Case {
    fn model(&self) -> ModelProto {
        let mut weights = RandomWeights::new(7);
        let mut builder = graph::GraphBuilder::new("case", &mut weights as &mut dyn Weights);
        let input = builder.input("x", &[self.channels[0], self.frames, 12, 10]);
        let window = graph::Window {
            kernel: self.kernel.into(),
            stride: self.stride.into(),
            padding: self.padding.into(),
            dilation: self.dilation.into(),
        };
        // Each group of a grouped convolution sees only a part of the channels.
        let part = graph::Value { shape: vec![self.channels[0] / self.groups, self.frames, 12, 10], ..input };
        let value = builder.conv("conv", &part, self.channels[1], &window, None).unwrap();
        let value = builder.relu(&value);
        let value = builder.max_pool(&value, &graph::Window::same(&[1, 3, 3], &[1, 2, 2]));
        builder.output(&value, "y");
        let mut model = builder.finish().unwrap();
        let graph = model.graph.as_mut().unwrap();
        let group = AttributeProto {
            name: "group".into(),
            i: Some(self.groups as i64),
            r#type: number::ATTRIBUTE_INT,
            ..AttributeProto::default()
        };
        graph.node[0].attribute.push(group);
        // The pass must infer the shapes itself.
        graph.value_info.clear();
        graph.output[0].r#type.as_mut().unwrap().tensor_type.as_mut().unwrap().shape = None;
        if self.is_dynamic {
            make_size_dynamic(&mut graph.input[0]);
        }
        model
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_lowered_convolution_gives_the_same_values(case in cases()) {
        let shape = vec![2, case.channels[0] as i64, case.frames as i64, 12, 10];
        compare(&format!("{case:?}"), &case.model(), &[("x", shape)]);
        prop_assert!(case.groups > 1 || is_folded(case.model()));
    }
}
