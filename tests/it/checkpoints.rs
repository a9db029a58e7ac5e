//! `models convert`: converted checkpoints give the same results as the reference implementations, and malicious,
//! damaged or unsupported ones are rejected.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use prost::Message;
use vidindex::infer::session::Runtime;
use vidindex::zoo::checkpoint::Checkpoint;
use vidindex::zoo::deploy::Deployment;
use vidindex::zoo::lower::{Lowering, lower};
use vidindex::zoo::onnx::ModelProto;
use vidindex::zoo::weights::Weights;
use vidindex::zoo::{Network, slowfast, yolov5};

use crate::support::{self, Scratch, reference, said, stderr, vidindex};

/// The arrays of a golden file: name, shape and values. Images and clips are in the format of the network's input.
type Arrays = HashMap<String, (Vec<i64>, Vec<f32>)>;

/// Normalizes clips (golden files contain bytes), selects the Slow frames, and writes the values of each array to a
/// file.
const UNPACK: &str = "
import json, numpy, sys
golden, folder = sys.argv[1:]
arrays = dict(numpy.load(golden))
for name in [name for name in arrays if '_u8_' in name]:
    kind, size = name.split('_u8_')
    picture = arrays.pop(name).astype(numpy.float64) / 255
    if kind == 'fast':
        picture = (picture - 0.45) / 0.225
        arrays['slow_' + size] = picture[:, :, arrays['slow_indices']]
    arrays[kind + '_' + size] = picture
for name, array in arrays.items():
    array.astype('<f4').tofile(folder + '/' + name)
print(json.dumps({name: array.shape for name, array in arrays.items()}))
";

fn unpack(python: &Path, golden: &Path) -> Arrays {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(python).args(["-c", UNPACK]).arg(golden).arg(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let shapes: HashMap<String, Vec<i64>> = serde_json::from_slice(&output.stdout).unwrap();
    let read = |(name, shape): (String, Vec<i64>)| {
        let bytes = std::fs::read(folder.path().join(&name)).unwrap();
        (name, (shape, bytes.as_chunks::<4>().0.iter().map(|&word| f32::from_le_bytes(word)).collect()))
    };
    shapes.into_iter().map(read).collect()
}

/// Runs a model on these inputs and compares an output with an array. Returns the largest difference: of scores in
/// absolute terms, of other values relative to the largest one.
fn compare(
    runtime: &Runtime,
    model: &ModelProto,
    inputs: &[(&str, &str)],
    arrays: &Arrays,
    output: (&str, &str),
) -> f32 {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, model.encode_to_vec()).unwrap();
    let mut session = runtime.open(&Deployment::read(&path).unwrap(), &[]).unwrap();
    let inputs: Vec<_> = inputs
        .iter()
        .map(|(input, array)| {
            let (shape, values) = &arrays[*array];
            (*input, shape.clone(), values.as_slice())
        })
        .collect();
    let (name, expected) = output;
    let expected = &arrays[expected].1;
    session
        .run(&support::floats(&session, &inputs), name, |_, found| {
            assert_eq!(found.len(), expected.len(), "{name}");
            let is_score = name == slowfast::LOGITS && inputs.len() == 3;
            let score = |value: &f32| if is_score { 1.0 / (1.0 + (-value).exp()) } else { *value };
            let largest =
                if is_score { 1.0 } else { expected.iter().fold(0.0, |largest: f32, value| largest.max(value.abs())) };
            Ok(found.iter().zip(expected).map(|(a, b)| (score(a) - b).abs()).fold(0.0, f32::max) / largest)
        })
        .unwrap()
        .output
}

fn network(file: &Path, arch: Option<&str>) -> Network {
    let base = arch.map(|name| {
        let (config, sampling_rate) = slowfast::named(name).unwrap();
        Network::SlowFast(config, sampling_rate)
    });
    let checkpoint = Checkpoint::open(file).unwrap();
    let network = checkpoint.network(base).unwrap();
    checkpoint.check(&network).unwrap();
    network
}

#[test]
fn every_slowfast_checkpoint_matches_the_reference() {
    let Some(reference) = reference() else { return };
    let Some(python) = support::python() else { return };
    let runtime = support::runtime();
    for (name, arch, crops) in [
        ("r50_8x8", "slowfast-tiny", &["64", "96"][..]),
        ("r50_4x16", "slowfast-tiny-4x16", &["64", "96"]),
        ("r101_8x8", "slowfast-tiny", &["64", "96"]),
        ("r101_16x8_50_50", "slowfast-tiny-16x8", &["64", "96"]),
        ("r50_8x8_detection", "slowfast-tiny-ava", &["128"]),
    ] {
        let file = reference.join(format!("golden/slowfast/{name}.pyth"));
        let arrays = unpack(&python, &file.with_extension("npz"));
        let Network::SlowFast(config, _) = network(&file, Some(arch)) else { panic!("{name}: not a SlowFast") };
        for crop in crops {
            let config = slowfast::SlowFastConfig { crop: crop.parse().unwrap(), ..config.clone() };
            let plain = slowfast::build(&config, &mut Checkpoint::open(&file).unwrap()).unwrap();
            let (slow, fast) = (format!("slow_{crop}"), format!("fast_{crop}"));
            let mut inputs = vec![("slow", slow.as_str()), ("fast", &fast)];
            let logits = format!("logits_{crop}");
            let expected = if config.boxes { "scores" } else { &logits };
            inputs.extend(config.boxes.then_some(("boxes", "boxes")));
            for lowering in Lowering::ALL {
                let model = lower(plain.clone(), lowering);
                let error = compare(runtime, &model, &inputs, &arrays, (slowfast::LOGITS, expected));
                println!("{name} at {crop}, {lowering}: {error:.1e}");
                assert!(error <= 1e-3, "{name} at {crop}, {lowering}: {error}");
            }
        }
    }
}

#[test]
fn every_yolov5_checkpoint_matches_the_reference() {
    let Some(reference) = reference() else { return };
    let Some(python) = support::python() else { return };
    let runtime = support::runtime();
    for name in ["v6_sppf", "v5_focus_spp"] {
        let file = reference.join(format!("golden/yolov5/{name}.pt"));
        let arrays = unpack(&python, &file.with_extension("npz"));
        let Network::Yolov5(config) = network(&file, None) else { panic!("{name}: not a YOLOv5") };
        assert_eq!((config.classes, config.width_multiple, config.depth_multiple), (12, 0.125, 0.33));
        for (height, width) in [(320, 320), (192, 320)] {
            let size = format!("{height}x{width}");
            let image = format!("image_{size}");
            let build = |head| {
                let config = yolov5::YoloConfig { height, width, head, ..config.clone() };
                yolov5::build(&config, &mut Checkpoint::open(&file).unwrap()).unwrap()
            };
            let decoded = build(yolov5::HeadOutput::Decoded);
            let raw = build(yolov5::HeadOutput::Raw);
            let outputs =
                [(&decoded, "output0", "pred"), (&raw, "raw0", "raw0"), (&raw, "raw1", "raw1"), (&raw, "raw2", "raw2")];
            for (model, output, expected) in outputs {
                let expected = format!("{expected}_{size}");
                let error = compare(runtime, model, &[(yolov5::INPUT, &image)], &arrays, (output, &expected));
                println!("{name} at {size}, {output}: {error:.1e}");
                assert!(error <= 1e-3, "{name} at {size}, {output}: {error}");
            }
        }
    }
}

/// Writes a checkpoint in another form (`tests/it/support/checkpoint_forms.py`).
fn in_form(python: &Path, form: &str, checkpoint: &Path, out: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/checkpoint_forms.py");
    let output = Command::new(python).arg(script).arg(form).arg(checkpoint).arg(out).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

/// The difference between the logits of a converted SlowFast and those of the reference.
fn logits_error(model: &ModelProto, arrays: &Arrays, crop: &str) -> f32 {
    let (slow, fast, logits) = (format!("slow_{crop}"), format!("fast_{crop}"), format!("logits_{crop}"));
    compare(support::runtime(), model, &[("slow", &slow), ("fast", &fast)], arrays, (slowfast::LOGITS, &logits))
}

#[test]
fn a_slowfast_matches_the_reference_in_every_checkpoint_form() {
    let Some(reference) = reference() else { return };
    let Some(python) = support::python() else { return };
    let scratch = Scratch::new();
    for (name, arch, form, crops) in [
        ("r50_8x8", "slowfast-tiny", "wrapped", &["64", "96"][..]),
        ("r50_8x8", "slowfast-tiny", "caffe2", &["64", "96"]),
        ("r50_8x8", "slowfast-tiny", "caffe2-python3", &["64"]),
        ("r101_16x8_50_50", "slowfast-tiny-16x8", "caffe2", &["64"]),
        // mmaction2 averages over the whole frame. At 64 pixels, the reference does the same.
        ("r50_8x8", "slowfast-tiny", "mmaction2", &["64"]),
        ("r101_8x8", "slowfast-tiny", "mmaction2", &["64"]),
    ] {
        let original = reference.join(format!("golden/slowfast/{name}.pyth"));
        let arrays = unpack(&python, &original.with_extension("npz"));
        let file = scratch.path("checkpoint");
        in_form(&python, form, &original, &file);
        let Network::SlowFast(config, _) = network(&file, Some(arch)) else { panic!("{name}: not a SlowFast") };
        let is_mmaction2 = form == "mmaction2";
        assert_eq!(config.recipe == slowfast::Recipe::Mmaction2, is_mmaction2);
        assert_eq!(config.head_pool, if is_mmaction2 { usize::MAX } else { 2 });
        for crop in crops {
            let config = slowfast::SlowFastConfig { crop: crop.parse().unwrap(), ..config.clone() };
            let model = slowfast::build(&config, &mut Checkpoint::open(&file).unwrap()).unwrap();
            let error = logits_error(&model, &arrays, crop);
            println!("{name} as {form} at {crop}: {error:.1e}");
            assert!(error <= 1e-3, "{name} as {form} at {crop}: {error}");
        }
    }
}

#[test]
fn a_slowfast_pools_over_the_crop_that_it_was_trained_at() {
    let Some(reference) = reference() else { return };
    let Some(python) = support::python() else { return };
    let scratch = Scratch::new();
    let original = reference.join("golden/slowfast/r50_8x8.pyth");
    let arrays = unpack(&python, &original.with_extension("npz"));
    let with_settings = scratch.path("settings.pyth");
    in_form(&python, "settings", &original, &with_settings);
    for (file, args, crop) in [
        (&original, &["--side", "64"][..], "64"),
        (&original, &["--side", "96", "--trained-side", "64"], "96"),
        (&with_settings, &[], "96"),
    ] {
        let out = scratch.path("converted.onnx");
        let convert =
            ["models", "convert", file.to_str().unwrap(), "--out", out.to_str().unwrap(), "--lowering", "plain"];
        let output = vidindex(convert).args(args).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        let model = ModelProto::decode(std::fs::read(&out).unwrap().as_slice()).unwrap();
        let error = logits_error(&model, &arrays, crop);
        println!("{args:?}: {error:.1e}");
        assert!(error <= 1e-3, "{args:?}: {error}");
        let descriptor = std::fs::read_to_string(out.with_extension("toml")).unwrap();
        let rate = if args.is_empty() { "sampling_rate = 3" } else { "sampling_rate = 2" };
        assert!(descriptor.contains(rate) && descriptor.contains(&format!("crop = {crop}")), "{descriptor}");
    }
    let too_small = ["models", "convert", original.to_str().unwrap(), "--trained-side", "31", "--out"];
    let output = vidindex(too_small).arg(scratch.path("none")).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
}

#[test]
fn a_fused_yolov5_matches_the_reference() {
    let Some(reference) = reference() else { return };
    let Some(python) = support::python() else { return };
    let scratch = Scratch::new();
    for name in ["v6_sppf", "v5_focus_spp"] {
        let original = reference.join(format!("golden/yolov5/{name}.pt"));
        let arrays = unpack(&python, &original.with_extension("npz"));
        let file = scratch.path("fused.pt");
        in_form(&python, "fused", &original, &file);
        let Network::Yolov5(config) = network(&file, None) else { panic!("{name}: not a YOLOv5") };
        assert!(config.is_fused);
        let config = yolov5::YoloConfig { height: 320, width: 320, ..config };
        let model = yolov5::build(&config, &mut Checkpoint::open(&file).unwrap()).unwrap();
        let inputs = [(yolov5::INPUT, "image_320x320")];
        let error = compare(support::runtime(), &model, &inputs, &arrays, (yolov5::OUTPUT, "pred_320x320"));
        println!("{name}: {error:.1e}");
        assert!(error <= 1e-3, "{name}: {error}");
    }
}

#[test]
fn a_converted_yolov5n_matches_the_official_export() {
    let Some(reference) = reference() else { return };
    let file = reference.join("models/yolov5n.pt");
    let Network::Yolov5(config) = network(&file, None) else { panic!("not a YOLOv5") };
    let model = yolov5::build(&config, &mut Checkpoint::open(&file).unwrap()).unwrap();
    let runtime = support::runtime();
    let image: Vec<f32> =
        (0..3 * 640 * 640_u32).map(|i| f32::from((i.wrapping_mul(2_654_435_761) >> 24) as u8) / 255.0).collect();
    let mut session = runtime.open(&Deployment::read(&reference.join("models/yolov5n.onnx")).unwrap(), &[]).unwrap();
    let shape = vec![1, 3, 640, 640];
    let official = session
        .run(&support::floats(&session, &[("images", shape.clone(), &image)]), "output0", |shape, found| {
            Ok((shape.to_vec(), found.to_vec()))
        })
        .unwrap()
        .output;
    let arrays = Arrays::from([("image".to_owned(), (shape, image)), ("official".to_owned(), official)]);
    let error = compare(runtime, &model, &[("images", "image")], &arrays, ("output0", "official"));
    println!("{error:.1e} of the largest value");
    assert!(error <= 1e-3, "{error}");
}

#[test]
fn convert_detects_the_classes_and_rejects_options_that_do_not_match() {
    let Some(reference) = reference() else { return };
    let scratch = Scratch::new();
    let out = scratch.path("models");
    let convert = |file: &str, args: &[&str], code: i32| {
        let file = reference.join(file);
        let mut command = vidindex(["models", "convert", file.to_str().unwrap(), "--out", out.to_str().unwrap()]);
        let output = command.args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        stderr(&output)
    };
    convert("models/yolov5n.pt", &[], 0);
    assert!(std::fs::read_to_string(out.join("yolov5n.toml")).unwrap().contains("labels = \"coco-80\""));
    let pyth = "golden/slowfast/r50_8x8.pyth";
    convert(pyth, &["--arch", "slowfast-tiny"], 0);
    let error = convert(pyth, &["--arch", "slowfast-tiny-nl"], 2);
    assert!(error.contains("missing (`blocks.3.multipathway_blocks.0.nonlocal"), "{error}");
    let error = convert(pyth, &["--arch", "slow-tiny"], 2);
    assert!(error.contains("its pathways differ"), "{error}");
    let error = convert(pyth, &["--arch", "yolov5n"], 2);
    assert!(error.contains("it is a checkpoint of a SlowFast"), "{error}");
    let error = convert(pyth, &["--arch", "slowfast-tiny", "--labels", "ava-80"], 2);
    assert!(error.contains("10 classes") && error.contains("80 labels"), "{error}");
}

#[test]
fn a_pulled_checkpoint_is_converted_to_a_model() {
    let Some(reference) = reference() else { return };
    let scratch = Scratch::new();
    let mirror = reference.join("models");
    let out = scratch.path("models");
    let output = vidindex(["models", "pull", "yolov5n", "--mirror", mirror.to_str().unwrap(), "--half", "--out"])
        .arg(&out)
        .env("XDG_CACHE_HOME", scratch.path("cache"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(stderr(&output).contains("AGPL-3.0"), "{}", said(&output));
    let bytes = std::fs::metadata(out.join("yolov5n.onnx")).unwrap().len();
    assert!((3_500_000..4_500_000).contains(&bytes), "{bytes}");
    assert!(out.join("yolov5n.toml").exists() && scratch.path("cache/vidindex/yolov5n.pt").exists());
}

/// Writes an archive like PyTorch's: a pickle, and raw values.
fn archive(path: &Path, entries: &[(&str, &[u8])]) {
    let mut zip = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in entries {
        zip.start_file(*name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

/// A pickle of `{"model_state": {NAME: tensor}}`. The tensor has this offset, shape and stride in a storage of `count`
/// floats.
fn pickle_of_tensor(name: &str, count: i32, offset: i32, shape: i32, stride: i32) -> Vec<u8> {
    let text = |text: &str| [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let int = |number: i32| [b"J".as_slice(), &number.to_le_bytes()].concat();
    [
        b"\x80\x02}".to_vec(),
        text("model_state"),
        b"}".to_vec(),
        text(name),
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text("0"),
        text("cpu"),
        int(count),
        b"tQ".to_vec(),
        int(offset),
        [int(shape), b"\x85".to_vec(), int(stride), b"\x85".to_vec()].concat(),
        b"\x89ccollections\nOrderedDict\n)RtRss.".to_vec(),
    ]
    .concat()
}

/// The error message of `models convert` for a file. The command must write nothing.
fn convert_error(scratch: &Scratch, file: &Path) -> String {
    let out = scratch.path("models");
    let convert = ["models", "convert", file.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let output = vidindex(convert).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(!out.exists(), "files were written");
    stderr(&output)
}

#[test]
fn malicious_checkpoints_are_rejected_and_not_executed() {
    let scratch = Scratch::new();
    let file = scratch.path("malicious.pt");
    let marker = scratch.path("marker");
    let command = format!("touch {}", marker.display());
    let text = |text: &str| [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let touch = [b"cposix\nsystem\n".as_slice(), &text(&command), b"\x85R"].concat();
    let bare = [b"\x80\x02".as_slice(), &touch, b"."].concat();
    let nested =
        [b"\x80\x02}".as_slice(), &text("model"), b"cmodels.yolo\nModel\n)\x81}", &text("hook"), &touch, b"sbs."]
            .concat();
    for pickle in [&bare, &nested] {
        archive(&file, &[("a/data.pkl", pickle)]);
        let error = convert_error(&scratch, &file);
        assert!(error.contains("`posix.system`") && error.contains("nothing was executed"), "{error}");
    }
    assert!(!marker.exists(), "the pickle was executed");

    let numbers = [0; 16];
    for (count, offset, shape, stride) in [(4, 2, 3, 1), (4, 0, 2, 4), (4, -1, 2, 1), (4, 0, i32::MAX, i32::MAX)] {
        archive(&file, &[("a/data.pkl", &pickle_of_tensor("x", count, offset, shape, stride)), ("a/data/0", &numbers)]);
        let error = convert_error(&scratch, &file);
        assert!(error.contains("the parameter `x`"), "{error}");
    }
    // A valid checkpoint, but not of a supported network.
    archive(&file, &[("a/data/0", &numbers), ("a/data.pkl", &pickle_of_tensor("x", 4, 0, 4, 1))]);
    assert!(convert_error(&scratch, &file).contains("not a SlowFast or YOLOv5 checkpoint"));

    std::fs::write(&file, b"\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.").unwrap();
    assert!(convert_error(&scratch, &file).contains("before PyTorch 1.6"));
    std::fs::write(&file, b"hello").unwrap();
    assert!(convert_error(&scratch, &file).contains("not a checkpoint"));
    archive(&file, &[("a/version", b"3")]);
    assert!(convert_error(&scratch, &file).contains("no data.pkl"));
}

#[test]
fn unsupported_checkpoints_are_identified_with_what_to_do_instead() {
    let scratch = Scratch::new();
    let file = scratch.path("file.pt");
    let assert_contains = |text: &str, words: &[&str]| {
        assert!(words.iter().all(|word| text.contains(word)), "not all of {words:?} in:\n{text}");
    };
    archive(&file, &[("a/data.pkl", b"\x80\x02cultralytics.nn.tasks\nDetectionModel\n)\x81.")]);
    assert_contains(&convert_error(&scratch, &file), &["Ultralytics", "YOLOv8", "yolo export model=", "format=onnx"]);
    std::fs::write(&file, b"\x80\x02}.").unwrap();
    assert_contains(&convert_error(&scratch, &file), &["without the `blobs` of a Caffe2 checkpoint", ".pyth"]);
    archive(
        &file,
        &[("a/data.pkl", &pickle_of_tensor("roi_head.bbox_head.fc_cls.weight", 4, 0, 4, 1)), ("a/data/0", &[0; 16])],
    );
    assert_contains(&convert_error(&scratch, &file), &["actions of each person", "PyTorchVideo's parameter names"]);

    let Some(reference) = reference() else { return };
    let torchscript = convert_error(&scratch, &reference.join("models/yolov5n.torchscript"));
    assert_contains(&torchscript, &["a TorchScript", "export.py", "--include onnx", "format=onnx"]);
    // Three arrays of random values, too few for any network.
    let caffe2 = convert_error(&scratch, &reference.join("cases/caffe2_p2.pkl"));
    assert_contains(&caffe2, &["caffe2_p2.pkl (a Caffe2 checkpoint): res4 has 0 blocks instead of 6 or 23"]);
    let pyth = reference.join("golden/slowfast/r50_8x8.pyth");
    let ava = ["models", "convert", pyth.to_str().unwrap(), "--arch", "slowfast-tiny-ava", "--out"];
    let output = vidindex(ava).arg(scratch.path("none")).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert_contains(&stderr(&output), &["it lacks PyTorchVideo's head for the actions of each person"]);
}

/// A Caffe2 checkpoint that contains the array `conv1_w`, as Python 2 writes it.
fn caffe2(dtype: &str, order: &str, is_column_major: bool, shape: &[u8], numbers: &[u8]) -> Vec<u8> {
    let text = |text: &[u8]| [&[b'U', text.len() as u8], text].concat();
    let shape: Vec<u8> = shape.iter().flat_map(|&length| [b'K', length]).collect();
    [
        b"\x80\x02}".to_vec(),
        text(b"blobs"),
        b"}".to_vec(),
        text(b"conv1_w"),
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t".to_vec(),
        text(b"b"),
        [b"tR(K\x01(".as_slice(), &shape, b"tcnumpy\ndtype\n("].concat(),
        text(dtype.as_bytes()),
        b"K\x00K\x01tR(K\x03".to_vec(),
        text(order.as_bytes()),
        b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb".to_vec(),
        if is_column_major { b"\x88".to_vec() } else { b"\x89".to_vec() },
        text(numbers),
        b"tbss.".to_vec(),
    ]
    .concat()
}

#[test]
fn caffe2_arrays_of_every_float_type_are_read_and_damaged_ones_are_rejected() {
    let scratch = Scratch::new();
    let file = scratch.path("model.pkl");
    let read = |pickle: &[u8]| {
        std::fs::write(&file, pickle).unwrap();
        Checkpoint::open(&file)?.tensor("blocks.0.conv.weight", &[2])
    };
    let [single, double] =
        [[1.0_f32, -2.0].map(f32::to_le_bytes).concat(), [1.0_f64, -2.0].map(f64::to_le_bytes).concat()];
    for (dtype, numbers) in [("f2", &[0, 0x3c, 0, 0xc0][..]), ("f4", &single), ("f8", &double)] {
        let pickle = caffe2(dtype, "<", false, &[2], numbers);
        assert_eq!(read(&pickle).unwrap(), [1.0, -2.0], "{dtype}");
        for length in 0..pickle.len() {
            assert!(read(&pickle[..length]).is_err(), "truncated at {length}");
        }
    }
    for (pickle, why) in [
        (caffe2("f4", "<", false, &[2], &single[..4]), "has 4 bytes, which does not match its shape [2]"),
        (caffe2("f4", ">", false, &[2], &single), "`conv1_w` is not little-endian"),
        (caffe2("f4", "<", true, &[2, 1], &single), "`conv1_w` is stored column by column"),
        (
            b"\x80\x02cposix\nsystem\n(U\x04echotR.".to_vec(),
            "`posix.system`, which does not belong in a checkpoint; nothing was executed",
        ),
    ] {
        let error = read(&pickle).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn a_zip_bomb_is_rejected() {
    let Some(python) = support::python() else { return };
    let scratch = Scratch::new();
    let file = scratch.path("bomb.pt");
    let script = "import sys, zipfile; zipfile.ZipFile(sys.argv[1], 'w', zipfile.ZIP_DEFLATED).writestr('a/data.pkl', bytes(1 << 30))";
    assert!(Command::new(python).args(["-c", script]).arg(&file).status().unwrap().success());
    let error = convert_error(&scratch, &file);
    assert!(error.contains("data.pkl"), "{error}");
}

/// A valid checkpoint, small enough to be damaged a thousand times.
fn valid_checkpoint() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("valid.pt");
    archive(&file, &[("a/data.pkl", &pickle_of_tensor("x", 4, 0, 4, 1)), ("a/data/0", &[0; 16])]);
    std::fs::read(file).unwrap()
}

fn open(bytes: &[u8]) -> Result<Checkpoint, vidindex::error::Error> {
    let folder = tempfile::tempdir().unwrap();
    let file: PathBuf = folder.path().join("x.pt");
    std::fs::write(&file, bytes).unwrap();
    Checkpoint::open(&file)
}

#[test]
fn a_truncated_checkpoint_is_an_error() {
    let valid = valid_checkpoint();
    open(&valid).unwrap();
    for length in 0..valid.len() {
        assert!(open(&valid[..length]).is_err(), "truncated at {length} of {}", valid.len());
    }
}

proptest! {
    #[test]
    fn a_damaged_checkpoint_does_not_cause_a_panic(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = valid_checkpoint();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(checkpoint) = open(&bytes) {
            let _ = checkpoint.network(None);
        }
    }
}
