//! Action models that score persons: the detector's boxes at the middle of each segment have actions, for videos of any
//! shape.

use std::collections::BTreeMap;
use std::path::Path;

use prost::Message as _;
use serde_json::{Map, Value};
use vidindex::zoo::onnx::{
    AttributeProto, DimensionProto, DimensionValue, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};

use crate::support::{Scratch, ffmpeg, reference, run, stderr, tables, test_video};

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

/// The rows of a table, grouped by video (file name) and by `column`.
fn grouped(scratch: &Scratch, table: &str, column: &str) -> BTreeMap<(String, i64), Vec<Map<String, Value>>> {
    let mut groups = BTreeMap::<_, Vec<_>>::new();
    for row in tables::rows(&scratch.index(), table) {
        let name = row["uri"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        groups.entry((name, row[column].as_i64().unwrap())).or_default().push(row);
    }
    groups
}

/// Checks that a list has `k` labels, with scores that are probabilities in descending order.
fn check_scores(list: &Value, k: usize) {
    let scores: Vec<f64> = list.as_array().unwrap().iter().map(|entry| number(&entry["score"])).collect();
    assert_eq!(scores.len(), k);
    assert!(scores.iter().all(|score| (0.0..=1.0).contains(score)) && scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
}

#[test]
fn persons_at_the_middle_of_each_segment_have_actions() {
    let scratch = Scratch::new();
    let file = |name: &str| scratch.videos().join(name);
    let yuv420 = ["-pix_fmt", "yuv420p"];
    test_video(&file("wide.mp4"), "426x240", "25", 5.2, &yuv420);
    test_video(&file("upright.mkv"), "180x320", "30", 4.5, &yuv420);
    let (from, to) = (file("wide.mp4"), file("turned.mp4"));
    ffmpeg(&["-i", from.to_str().unwrap(), "-c", "copy", "-metadata:s:v", "rotate=90", to.to_str().unwrap()]);
    let job = scratch.job(&scratch.small_person_models());
    run(&job, &["--set", "persons.frames_per_second=2", "--set", "actions.scores='full'"], 0);
    tables::assert_counts(&scratch.index());

    let segments = grouped(&scratch, "actions", "segment");
    let frames = grouped(&scratch, "persons", "frame");
    // Segments take 64/30 s, and the detector gets two frames per second.
    let middles = |name: &str| if name == "upright.mkv" { vec![30, 90] } else { vec![25, 75, 113] };
    for name in ["wide.mp4", "upright.mkv", "turned.mp4"] {
        let scored: Vec<i64> = frames
            .iter()
            .filter(|((video, _), rows)| video == name && rows.iter().any(|row| !row["actions"].is_null()))
            .map(|((_, frame), _)| *frame)
            .collect();
        let expected: Vec<i64> =
            middles(name).into_iter().filter(|frame| frames.contains_key(&(name.to_owned(), *frame))).collect();
        assert_eq!(scored, expected, "{name}");
        assert!(scored.len() >= 2, "{name} has persons only at {scored:?}");
        for (segment, frame) in scored.iter().enumerate() {
            let persons = &frames[&(name.to_owned(), *frame)];
            let [segment] = segments[&(name.to_owned(), segment as i64)].as_slice() else {
                panic!("{name}: not one row for segment {segment}")
            };
            persons.iter().for_each(|person| check_scores(&person["actions"], 10));
            // The scores of a segment are the highest scores of its persons.
            check_scores(&segment["top"], 10);
            assert_eq!(segment["scores"].as_array().unwrap().len(), 80);
            assert_eq!(segment["top"][0]["label"], segment["top_label"]);
            let best = persons.iter().map(|person| number(&person["actions"][0]["score"])).fold(0.0, f64::max);
            assert_eq!(number(&segment["top_score"]), best);
        }
    }
}

/// The outputs of [`probe`] for each box: its corners as the model gets them, and then the means of red, green and blue
/// over the Slow clip and over the Fast clip.
const PROBED: [&str; 10] = ["x1", "y1", "x2", "y2", "slow_r", "slow_g", "slow_b", "fast_r", "fast_g", "fast_b"];

/// Writes a network with the inputs of an AVA SlowFast, which returns what it gets, and a descriptor with this `side`.
fn probe(file: &Path, side: usize) {
    const FLOAT: i32 = 1;
    const INT64: i32 = 7;
    let ints = |name: &str, ints: &[i64]| AttributeProto {
        name: name.into(),
        ints: ints.to_vec(),
        r#type: 7,
        ..Default::default()
    };
    let int = |name: &str, i| AttributeProto { name: name.into(), i: Some(i), r#type: 2, ..Default::default() };
    let node = |op: &str, input: &[&str], output: &str, attribute: Vec<AttributeProto>| NodeProto {
        op_type: op.into(),
        input: input.iter().map(|name| (*name).into()).collect(),
        output: vec![output.into()],
        attribute,
        ..Default::default()
    };
    let indices = |name: &str, indices: &[i64]| TensorProto {
        name: name.into(),
        dims: vec![indices.len() as i64],
        data_type: INT64,
        int64_data: indices.to_vec(),
        ..Default::default()
    };
    let value = |name: &str, shape: &[i64]| {
        let dimension = |(at, &length): (usize, &i64)| match length {
            0 => DimensionValue::DimParam(format!("{name}{at}")),
            _ => DimensionValue::DimValue(length),
        };
        let dim = shape.iter().enumerate().map(|d| DimensionProto { value: Some(dimension(d)) }).collect();
        let tensor_type = Some(TensorTypeProto { elem_type: FLOAT, shape: Some(TensorShapeProto { dim }) });
        ValueInfoProto { name: name.into(), r#type: Some(TypeProto { tensor_type, ..Default::default() }) }
    };
    let mean = || vec![ints("axes", &[0, 2, 3, 4]), int("keepdims", 0)];
    let columns = || vec![int("axis", 1)];
    let graph = GraphProto {
        name: "probe".into(),
        node: vec![
            node("ReduceMean", &["slow"], "slow_mean", mean()),
            node("ReduceMean", &["fast"], "fast_mean", mean()),
            node("Concat", &["slow_mean", "fast_mean"], "means", vec![int("axis", 0)]),
            node("Gather", &["boxes", "corner_columns"], "corners", columns()),
            // The index of the clip is 0, so adding it copies the means to each box.
            node("Gather", &["boxes", "number_columns"], "zeros", columns()),
            node("Add", &["zeros", "means"], "every", vec![]),
            node("Concat", &["corners", "every"], "logits", columns()),
        ],
        initializer: vec![indices("corner_columns", &[1, 2, 3, 4]), indices("number_columns", &[0; 6])],
        input: vec![value("slow", &[0, 3, 8, 0, 0]), value("fast", &[0, 3, 32, 0, 0]), value("boxes", &[0, 5])],
        output: vec![value("logits", &[0, 10])],
        ..Default::default()
    };
    let opset_import = vec![OperatorSetIdProto { version: 17, ..Default::default() }];
    let model = ModelProto { ir_version: 8, graph: Some(graph), opset_import, ..Default::default() };
    std::fs::write(file, model.encode_to_vec()).unwrap();
    let description =
        format!("kind = \"slowfast\"\nlabels = {PROBED:?}\nside = {side}\npersons = true\nactivation = \"none\"\n");
    std::fs::write(file.with_extension("toml"), description).unwrap();
}

/// The model's input for a person, in the order of [`PROBED`], or `None` if the person was not scored.
fn probed(person: &Map<String, Value>) -> Option<[f64; 10]> {
    let actions = person["actions"].as_array()?;
    let score = |name: &str| number(&actions.iter().find(|entry| entry["label"] == name).unwrap()["score"]);
    Some(PROBED.map(score))
}

/// Checks that the model got the box of each scored person as PyTorchVideo scales it: by the ratio of the long sides,
/// and clipped. `scaled` returns the size of the clip for the size of a frame.
fn check_boxes(scratch: &Scratch, scaled: impl Fn((f64, f64)) -> (f64, f64)) -> usize {
    let videos = tables::rows(&scratch.index(), "videos");
    let mut checked = 0;
    for person in tables::rows(&scratch.index(), "persons") {
        let Some(got) = probed(&person) else { continue };
        let video = videos.iter().find(|video| video["uri"] == person["uri"]).unwrap();
        let frame = (number(&video["width"]), number(&video["height"]));
        let clip = scaled(frame);
        let ratio = if frame.0 < frame.1 { clip.1 / frame.1 } else { clip.0 / frame.0 };
        let expected = ["x1", "y1", "x2", "y2"].map(|side| {
            let (from, to) = if side.starts_with('x') { (frame.0, clip.0) } else { (frame.1, clip.1) };
            (number(&person[side]).clamp(0.0, from - 1.0) * ratio).clamp(0.0, to - 1.0)
        });
        let worst = expected.iter().zip(got).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-3, "{person:?}: {expected:?} expected");
        checked += 1;
    }
    checked
}

#[test]
fn the_model_gets_boxes_in_pixels_of_the_scaled_frame() {
    let scratch = Scratch::new();
    let file = |name: &str| scratch.videos().join(name);
    test_video(&file("wide.mp4"), "426x240", "25", 2.0, &["-pix_fmt", "yuv420p"]);
    test_video(&file("upright.mkv"), "180x320", "30", 2.0, &["-pix_fmt", "yuv420p"]);
    let (from, to) = (file("wide.mp4"), file("turned.mp4"));
    ffmpeg(&["-i", from.to_str().unwrap(), "-c", "copy", "-metadata:s:v", "rotate=90", to.to_str().unwrap()]);
    let model = scratch.path("probe.onnx");
    probe(&model, 100);
    let job = scratch.job(&scratch.small_person_models());
    run(&job, &["--set", &format!("actions.model='{}'", model.display())], 0);
    let checked = check_boxes(&scratch, |frame| match frame {
        (426.0, 240.0) => (177.0, 100.0),
        (180.0, 320.0) => (100.0, 177.0),
        (240.0, 426.0) => (100.0, 177.0),
        other => panic!("{other:?}"),
    });
    assert!(checked >= 3, "{checked} persons");
}

#[test]
fn the_models_inputs_for_a_real_clip_match_the_reference() {
    let Some(reference) = reference() else { return };
    let scratch = Scratch::new();
    std::os::unix::fs::symlink(reference.join("videos/hd_short.mp4"), scratch.videos().join("hd_short.mp4")).unwrap();
    let model = scratch.path("probe.onnx");
    probe(&model, 256);
    let detector = reference.join("models/yolov5n.onnx");
    let job = scratch.job(&format!(
        "[actions]\nmodel = \"{}\"\n[persons]\nmodel = \"{}\"\n",
        model.display(),
        detector.display()
    ));
    run(&job, &[], 0);
    assert_eq!(check_boxes(&scratch, |_| (455.0, 256.0)), 2);
    // Means over the pathways of the first segment, computed with PyAV and NumPy after the reference's transforms.
    let expected = [0.2648, 0.3623, 0.2450, 0.2657, 0.3633, 0.2464];
    for person in tables::rows(&scratch.index(), "persons") {
        let Some(got) = probed(&person) else { continue };
        assert_eq!((person["segment"].as_i64(), person["frame"].as_i64()), (Some(0), Some(30)));
        let worst = expected.iter().zip(&got[4..]).map(|(a, b): (&f64, _)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst < 5e-4, "{got:?}");
    }
}

#[test]
fn boxes_of_other_classes_are_not_scored() {
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("a.mp4"), "320x240", "25", 2.0, &["-pix_fmt", "yuv420p"]);
    let classes = ["--set", "persons.classes=['person', 'bicycle', 'car', 'motorcycle']"];
    run(&scratch.job(&scratch.small_person_models()), &classes, 0);
    let rows = tables::rows(&scratch.index(), "persons");
    let (mut persons, mut others) = (0, 0);
    for row in rows.iter().filter(|row| row["frame"] == 25) {
        let is_person = row["label"] == "person";
        assert_eq!(row["actions"].is_null(), !is_person, "{row:?}");
        *(if is_person { &mut persons } else { &mut others }) += 1;
    }
    assert!(persons > 0 && others > 0, "{persons} persons, {others} others");
}

#[test]
fn overlapping_segments_score_the_frame_nearest_to_their_middle() {
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("a.mp4"), "320x240", "25", 4.0, &["-pix_fmt", "yuv420p"]);
    let steps = ["--set", "actions.clip_seconds=2", "--set", "actions.stride_seconds=0.5"];
    run(&scratch.job(&scratch.small_person_models()), &steps, 0);
    let segments = grouped(&scratch, "actions", "segment");
    let frames = grouped(&scratch, "persons", "frame");
    // The segments' middles are at 1, 1.5, 2, 2.5 and 3 s, and at 3.25, 3.5 and 3.75 s for the shorter ones at the end.
    // The detector's frames are at 1, 2 and 3 s. The last three segments contain the one at 3 s or none.
    let best = |frame| {
        let persons = &frames[&("a.mp4".to_owned(), frame)];
        persons.iter().map(|person| number(&person["actions"][0]["score"])).fold(0.0, f64::max)
    };
    for (segment, frame) in [(0, 25), (2, 50), (4, 75)] {
        assert_eq!(number(&segments[&("a.mp4".to_owned(), segment)][0]["top_score"]), best(frame), "{segment}");
    }
    let is_unlabelled = |segment| segments[&("a.mp4".to_owned(), segment)][0]["top_label"].is_null();
    assert_eq!((0..8).map(is_unlabelled).collect::<Vec<_>>(), [false, false, false, false, false, false, false, true]);
    assert!(frames[&("a.mp4".to_owned(), 0)].iter().all(|person| person["actions"].is_null()));
}

#[test]
fn a_segment_without_persons_has_a_row_without_a_label() {
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("a.mp4"), "160x120", "25", 5.0, &["-pix_fmt", "yuv420p"]);
    let job = scratch.job(&scratch.small_person_models());
    run(&job, &["--set", "persons.confidence=0.99", "--set", "actions.scores='full'"], 0);
    let rows = tables::rows(&scratch.index(), "actions");
    assert_eq!(rows.len(), 3);
    for row in &rows {
        assert!(row["top_label"].is_null() && row["top_score"].is_null() && row["scores"].is_null(), "{row:?}");
        assert_eq!(row["top"].as_array().unwrap().len(), 0);
        assert!(row["frames"].as_i64().unwrap() > 0);
    }
}

#[test]
fn a_job_without_a_detector_is_rejected() {
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("a.mp4"), "160x120", "25", 1.0, &["-pix_fmt", "yuv420p"]);
    let models = scratch.small_person_models();
    let job = scratch.job(models.split("[persons]").next().unwrap());
    let message = stderr(&run(&job, &[], 2));
    assert!(message.contains("scores the actions of persons, but the job has no [persons]"), "{message}");
    assert!(message.contains("hint: add the detector"), "{message}");
    assert!(!scratch.index().exists(), "files were written");
}

#[test]
fn a_video_that_is_too_wide_does_not_affect_others() {
    let scratch = Scratch::new();
    let file = |name: &str| scratch.videos().join(name);
    test_video(&file("banner.mp4"), "640x120", "25", 2.5, &["-pix_fmt", "yuv420p"]);
    test_video(&file("good.mp4"), "480x120", "25", 2.5, &["-pix_fmt", "yuv420p"]);
    run(&scratch.job(&scratch.small_person_models()), &[], 3);
    let videos = tables::rows(&scratch.index(), "videos");
    let status: Vec<_> =
        videos.iter().map(|row| (row["status"].as_str().unwrap(), row["error_kind"].as_str())).collect();
    assert_eq!(status, [("failed", Some("too_large")), ("ok", None)]);
    tables::assert_counts(&scratch.index());
}
