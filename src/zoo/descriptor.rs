//! Descriptors: the small TOML file beside a model that states what its ONNX file cannot: labels, frame sampling,
//! normalisation, activation.
//!
//! [`Descriptor::for_model`] reads it and checks it against the model. Without a TOML file, the descriptor is inferred
//! from the graph's inputs and outputs.

mod slowfast;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize as _;

use crate::error::{Error, Result};
use crate::toml_text::TomlText;
use crate::zoo::detector::DetectorKeys;
pub use crate::zoo::detector::{DetectorDescriptor, Head, Size};
use crate::zoo::inspect::{ModelInfo, TensorInfo};
pub use crate::zoo::labels::{LabelSet, Labels};
pub use slowfast::{Activation, SlowFastDescriptor, SlowFastTensors, SlowSampling, slowfast_tensors};
use slowfast::{SLOWFAST_SHAPES, infer_slowfast};

/// What a model is and how it expects its input.
#[derive(Debug, Clone, PartialEq)]
pub enum Descriptor {
    /// `kind = "slowfast"`: takes clips and returns a score for each action.
    SlowFast(SlowFastDescriptor),
    /// `kind = "yolov5"`, `"yolov8"` or `"yolov10"`: takes pictures and returns boxes.
    Detector(DetectorDescriptor),
}

/// A descriptor as written, before it is combined with its model.
#[derive(Debug, PartialEq)]
enum Written {
    /// The flag tells whether the text has `labels`.
    SlowFast(SlowFastDescriptor, bool),
    Detector(Head, DetectorKeys),
}

/// The warning about a model with random weights.
pub const RANDOM: &str = "the weights are random, not trained: its labels and boxes are meaningless";

/// Where a model's weights come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Training.
    #[default]
    Trained,
    /// A random seed: the model's output is meaningless.
    Random,
}

impl Descriptor {
    /// Reads the TOML file beside the model and checks it against the model's inputs and outputs. Missing keys, or the
    /// whole descriptor if there is no TOML file, are inferred from the graph and its metadata. Doubtful labels are
    /// logged as a warning.
    ///
    /// # Errors
    /// If the TOML file has a mistake (the message names file and line) or contradicts the model, or if the model is
    /// neither a SlowFast nor a detector (the message says what was expected and found).
    pub fn for_model(model: &ModelInfo) -> Result<Self> {
        let path = Self::path(&model.path);
        let written = match std::fs::read_to_string(&path) {
            Ok(text) => Some(Written::parse(&path, &text)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::usage(format!("{}: failed to read: {error}", path.display()))),
        };
        let (descriptor, warning) = Self::of_model(model, written)?;
        if let Some(warning) = warning {
            tracing::warn!("{}: {warning}", model.path.display());
        }
        Ok(descriptor)
    }

    fn of_model(model: &ModelInfo, written: Option<Written>) -> Result<(Self, Option<String>)> {
        let path = Self::path(&model.path);
        let floats =
            |rank: usize| model.inputs.iter().any(|input| input.element.is_float() && input.shape.len() == rank);
        match written {
            Some(Written::SlowFast(written, has_labels)) => {
                let settled = written.settled(model, has_labels).and_then(|(own, warning)| {
                    own.check_against(model)?;
                    Ok((Self::SlowFast(own), warning))
                });
                settled.map_err(|error| name_file(&path, error))
            }
            Some(Written::Detector(head, written)) => {
                let (own, warning) = DetectorDescriptor::of_model(model, Some((head, written)))?;
                Ok((Self::Detector(own), warning))
            }
            None if floats(5) => {
                let settled = infer_slowfast(model)?.settled(model, false);
                let checked = settled.and_then(|(own, warning)| own.check().map(|()| (Self::SlowFast(own), warning)));
                checked.map_err(|error| name_file(&model.path, error))
            }
            None if floats(4) => {
                let (own, warning) = DetectorDescriptor::of_model(model, None)?;
                Ok((Self::Detector(own), warning))
            }
            None => Err(unlike(model, &format!("{SLOWFAST_SHAPES}, or {DETECTOR_SHAPES}"))),
        }
    }

    /// Path of a model's descriptor: `NAME.toml` beside `NAME.onnx`.
    pub fn path(model: &Path) -> PathBuf {
        model.with_extension("toml")
    }

    /// Whether the TOML file beside this model says that its weights are random.
    pub fn says_random(model: &Path) -> bool {
        let path = Self::path(model);
        let written = std::fs::read_to_string(&path).ok().and_then(|text| Written::parse(&path, &text).ok());
        let weights = match written {
            Some(Written::SlowFast(slowfast, _)) => slowfast.weights,
            Some(Written::Detector(_, written)) => written.weights,
            None => Origin::Trained,
        };
        weights == Origin::Random
    }

    /// Whether the weights are random, so that the output is meaningless.
    pub fn is_random(&self) -> bool {
        let weights = match self {
            Self::SlowFast(slowfast) => slowfast.weights,
            Self::Detector(detector) => detector.weights,
        };
        weights == Origin::Random
    }

    /// The text of the descriptor file. Everything in it but `weights` affects the output rows, so fingerprints include
    /// this text besides the model's hash. Its comments count, too: rewording one would cause every video to be
    /// indexed again.
    pub fn to_toml(&self) -> String {
        match self {
            Self::SlowFast(slowfast) => slowfast.to_toml(),
            Self::Detector(detector) => detector.to_toml(),
        }
    }

    /// Names of the classes, in the order of the scores.
    pub fn labels(&self) -> &Labels {
        match self {
            Self::SlowFast(slowfast) => &slowfast.labels,
            Self::Detector(detector) => &detector.labels,
        }
    }
}

impl Written {
    /// Parses a descriptor. `path` is used in messages.
    ///
    /// # Errors
    /// If it has a mistake. The message names file, line and key.
    fn parse(path: &Path, text: &str) -> Result<Self> {
        let name = path.display().to_string();
        let mistake = |error: toml::de::Error| TomlText { name: &name, text }.error(&error);
        // `kind` decides which keys are allowed. It is removed from the table, so that the rest is parsed strictly.
        let mut table = toml::de::DeTable::parse(text).map_err(mistake)?;
        let kind = table.get_mut().remove("kind");
        let kind = kind.as_ref().and_then(|kind| kind.get_ref().as_str()).unwrap_or_default();
        let has_labels = table.get_ref().contains_key("labels");
        let rest = toml::de::Deserializer::from(table);
        let (written, labels) = match (kind, Head::named(kind)) {
            ("slowfast", _) => {
                let slowfast = SlowFastDescriptor::deserialize(rest).map_err(mistake)?;
                let crop = if slowfast.persons { slowfast.side } else { slowfast.crop };
                let slowfast = SlowFastDescriptor { crop, ..slowfast };
                slowfast.check().map_err(|error| name_file(path, error))?;
                let labels = has_labels.then(|| slowfast.labels.clone());
                (Self::SlowFast(slowfast, has_labels), labels)
            }
            (_, Some(head)) => {
                let written = DetectorKeys::deserialize(rest).map_err(mistake)?;
                let labels = written.labels.clone();
                (Self::Detector(head, written), labels)
            }
            _ => {
                let expected = "`kind` must be \"slowfast\", \"yolov5\", \"yolov8\" or \"yolov10\"";
                return Err(Error::usage(format!("{}: {expected}", path.display())));
            }
        };
        match labels {
            Some(labels) if labels.is_empty() => Err(name_file(path, Error::usage("`labels` is empty"))),
            _ => Ok(written),
        }
    }
}

impl Origin {
    pub(super) fn to_toml(self) -> String {
        match self {
            Self::Trained => String::new(),
            Self::Random => line("weights", "\"random\"", "not trained: its labels and boxes are meaningless"),
        }
    }
}

pub(super) fn line(key: &str, value: impl fmt::Display, comment: &str) -> String {
    match comment {
        "" => format!("{key} = {value}\n"),
        comment => format!("{:<32}  # {comment}\n", format!("{key} = {value}")),
    }
}

const DETECTOR_SHAPES: &str = "a detector's pictures [n, 3, H, W] -> boxes";

/// Whether the input has `rank` dimensions, the second of which is the three colours.
pub(super) fn is_pictures(input: &TensorInfo, rank: usize) -> bool {
    input.element.is_float() && input.shape.len() == rank && input.fixed(1).is_none_or(|channels| channels == 3)
}

fn unlike(model: &ModelInfo, expected: &str) -> Error {
    let list = |tensors: &[TensorInfo]| tensors.iter().map(TensorInfo::to_string).collect::<Vec<_>>().join(", ");
    let (inputs, outputs) = (list(&model.inputs), list(&model.outputs));
    let path = Descriptor::path(&model.path);
    Error::usage(format!("{}: expected {expected}; found {inputs} -> {outputs}", model.path.display()))
        .with_hint(format!("export it with these shapes; set what they do not determine in {}", path.display()))
}

pub(super) fn name_file(path: &Path, error: Error) -> Error {
    let named = Error::usage(format!("{}: {error}", path.display()));
    match error.hint() {
        Some(hint) => named.with_hint(hint),
        None => named,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
pub(super) mod tests {
    use super::*;
    use crate::zoo::inspect::{Dim, Element};

    /// A model with these inputs and outputs. A dimension of 0 is free.
    pub(in crate::zoo) fn model(inputs: &[(&str, &[usize])], outputs: &[(&str, &[usize])]) -> ModelInfo {
        let tensors = |list: &[(&str, &[usize])]| {
            let dim = |&length: &usize| if length == 0 { Dim::Free("n".into()) } else { Dim::Fixed(length) };
            let tensor = |(name, shape): &(&str, &[usize])| TensorInfo {
                name: (*name).into(),
                element: Element::Float32,
                shape: shape.iter().map(dim).collect(),
                operator: None,
            };
            list.iter().map(tensor).collect()
        };
        ModelInfo {
            path: "/nowhere/m.onnx".into(),
            size_bytes: 0,
            sha256: String::new(),
            producer: String::new(),
            opset: 17,
            metadata: Default::default(),
            inputs: tensors(inputs),
            outputs: tensors(outputs),
            parameters: 0,
            multiply_adds: None,
        }
    }

    fn parse(text: &str) -> Result<Written> {
        Written::parse(Path::new("m.toml"), text)
    }

    fn refusal(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    fn slowfast(text: &str) -> SlowFastDescriptor {
        match parse(text) {
            Ok(Written::SlowFast(slowfast, _)) => slowfast,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_written_descriptor_reads_back() {
        let custom =
            SlowFastDescriptor { activation: Activation::Sigmoid, mean: [0.1, 0.2, 0.0], ..Default::default() };
        for descriptor in [SlowFastDescriptor::default(), custom] {
            assert_eq!(slowfast(&descriptor.to_toml()), descriptor);
        }
        let labels = Labels::List(vec!["say \"a\"".into(), "b\\c".into()]);
        for (head, size) in [
            (Head::Yolov5, Size::square(320)),
            (Head::Yolov8, Size { height: 384, width: 640 }),
            (Head::Yolov10, Size::square(640)),
        ] {
            let weights = Origin::Random;
            let text = DetectorDescriptor { head, labels: labels.clone(), size, weights }.to_toml();
            let written = DetectorKeys { labels: Some(labels.clone()), side: Some(size), weights };
            assert_eq!(parse(&text).unwrap(), Written::Detector(head, written), "{text}");
        }
    }

    #[test]
    fn omitted_keys_have_the_defaults_of_their_kind() {
        assert_eq!(slowfast("kind = \"slowfast\""), SlowFastDescriptor::default());
        let written = DetectorKeys::default();
        assert_eq!(parse("kind = \"yolov5\"").unwrap(), Written::Detector(Head::Yolov5, written));
        assert_eq!(SlowFastDescriptor::default().clip_fraction(), (64, 30));
    }

    #[test]
    fn mistakes_name_file_line_and_key() {
        let error = refusal("kind = \"yolov5\"\nalpha = 4\n");
        assert!(
            error.starts_with("m.toml:2:1: unknown field `alpha`, expected one of `labels`, `side`, `weights`"),
            "{error}"
        );
        let error = refusal("kind = \"slowfast\"\n\nframes = \"many\"\n");
        assert!(error.starts_with("m.toml:3:10: ") && error.ends_with("\n  3 | frames = \"many\""), "{error}");
        let error = refusal("labels = \"imagenet\"\nkind = \"slowfast\"");
        assert!(error.starts_with("m.toml:1:10: ") && error.contains("\"kinetics-400\", "), "{error}");
        let error = refusal("kind\nside = 3");
        assert!(error.starts_with("m.toml:1:"), "{error}");
        assert_eq!(refusal("side = 3"), "m.toml: `kind` must be \"slowfast\", \"yolov5\", \"yolov8\" or \"yolov10\"");
        assert!(refusal("kind = \"slowfast\"\nalpha = 5").contains("`frames` = 32 must be a multiple of `alpha` = 5"));
        assert!(refusal("kind = \"slowfast\"\nstd = [1, 0, 1]").contains("`std`"));
        assert!(refusal("kind = \"yolov5\"\nlabels = []").contains("`labels` is empty"));
        for side in ["-1", "\"large\"", "[384]", "[1, 2, 3]", "0.5"] {
            let error = refusal(&format!("kind = \"yolov8\"\nside = {side}"));
            assert!(
                error.starts_with("m.toml:2:8: ") && error.contains("a number of pixels, or [height, width]"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_foreign_slowfast_is_recognized_by_its_frames() {
        let fast: &[usize] = &[1, 3, 32, 224, 224];
        let slow: &[usize] = &[1, 3, 4, 224, 224];
        let info = model(&[("input.1", fast), ("input.2", slow)], &[("out", &[1, 7])]);
        assert_eq!(slowfast_tensors(&info).unwrap().slow.unwrap().name, "input.2");
        let Descriptor::SlowFast(found) = Descriptor::for_model(&info).unwrap() else { panic!("not a SlowFast") };
        assert_eq!((found.frames, found.alpha, found.crop, found.side), (32, 8, 224, 224));
        assert_eq!(found.labels.names()[6], "class_6");
    }

    /// The inputs of a SlowFast that scores persons.
    const PERSONS: [(&str, &[usize]); 3] =
        [("slow", &[0, 3, 8, 0, 0]), ("fast", &[0, 3, 32, 0, 0]), ("boxes", &[0, 5])];

    #[test]
    fn a_slowfast_that_takes_boxes_scores_persons_in_whole_frames() {
        let expected = SlowFastDescriptor {
            labels: Labels::Set(LabelSet::Ava80),
            persons: true,
            activation: Activation::Sigmoid,
            ..SlowFastDescriptor::default()
        };
        let info = model(&PERSONS, &[("logits", &[0, 80])]);
        let found = Descriptor::for_model(&info).unwrap();
        assert_eq!(found, Descriptor::SlowFast(expected));
        let text = found.to_toml();
        assert!(text.contains("persons = true") && !text.contains("crop ="), "{text}");
        assert_eq!(Descriptor::SlowFast(slowfast(&text)), found);
        assert_eq!(slowfast_tensors(&info).unwrap().boxes.unwrap().name, "boxes");
    }

    #[test]
    fn a_slowfast_that_takes_boxes_must_take_frames_of_every_shape() {
        let mut square = PERSONS;
        square[1].1 = &[0, 3, 32, 256, 256];
        let mut batch = PERSONS;
        batch[0].1 = &[4, 3, 8, 0, 0];
        let mut points = PERSONS;
        points[2].1 = &[0, 2];
        for inputs in [square, batch, points] {
            let error = Descriptor::for_model(&model(&inputs, &[("logits", &[0, 80])])).unwrap_err().to_string();
            assert!(error.contains("H and W free, and boxes [boxes, 5]"), "{error}");
        }
    }

    #[test]
    fn a_network_of_one_clip_has_one_pathway() {
        let mut info = model(&[("x", &[1, 3, 8, 256, 256])], &[("y", &[1, 400])]);
        let expected = SlowFastDescriptor { frames: 8, sampling_rate: 8, alpha: 0, ..SlowFastDescriptor::default() };
        assert_eq!(Descriptor::for_model(&info).unwrap(), Descriptor::SlowFast(expected.clone()));
        assert_eq!((expected.slow_frames(), expected.clip_fraction()), (0, (64, 30)));
        let directory = tempfile::tempdir().unwrap();
        info.path = directory.path().join("m.onnx");
        std::fs::write(Descriptor::path(&info.path), "kind = \"slowfast\"\nframes = 8").unwrap();
        let error = Descriptor::for_model(&info).unwrap_err().to_string();
        assert!(error.ends_with("`alpha` must be 0: the model has one pathway"), "{error}");
    }

    #[test]
    fn a_network_that_ends_in_softmax_gets_no_second_one() {
        let clips: [(&str, &[usize]); 2] = [("slow", &[0, 3, 8, 256, 256]), ("fast", &[0, 3, 32, 256, 256])];
        let mut info = model(&clips, &[("scores", &[0, 400])]);
        info.outputs[0].operator = Some("Softmax".into());
        let expected = SlowFastDescriptor { activation: Activation::None, ..SlowFastDescriptor::default() };
        assert_eq!(Descriptor::for_model(&info).unwrap(), Descriptor::SlowFast(expected));
    }

    #[test]
    fn other_networks_are_refused_with_what_was_expected_and_found() {
        let refusal = |inputs: &[(&str, &[usize])], outputs: &[(&str, &[usize])]| {
            Descriptor::for_model(&model(inputs, outputs)).unwrap_err().to_string()
        };
        let error = refusal(&[("tokens", &[1, 128])], &[("y", &[1, 2])]);
        assert!(error.contains("expected a SlowFast's") && error.contains("a detector's"), "{error}");
        assert!(error.ends_with("found tokens float32[1, 128] -> y float32[1, 2]"), "{error}");
        let clip: (&str, &[usize]) = ("x", &[1, 3, 8, 224, 224]);
        let three_clips = refusal(&[clip; 3], &[("y", &[1, 400])]);
        assert!(three_clips.contains("two clips"), "{three_clips}");
    }

    #[test]
    fn a_descriptor_that_contradicts_its_model_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut info =
            model(&[("slow", &[0, 3, 8, 256, 256]), ("fast", &[0, 3, 32, 256, 256])], &[("logits", &[0, 400])]);
        info.path = directory.path().join("m.onnx");
        let toml = Descriptor::path(&info.path);
        for (text, why) in [
            ("kind = \"slowfast\"\nframes = 64", "`frames` is 64, but the model was built for 32"),
            ("kind = \"slowfast\"\ncrop = 224", "`crop` is 224, but the model was built for 256"),
            ("kind = \"slowfast\"\nlabels = [\"a\"]", "`labels` names 1 classes, but the model has 400"),
            ("kind = \"yolov5\"", "expected a detector's pictures"),
        ] {
            std::fs::write(&toml, text).unwrap();
            let error = Descriptor::for_model(&info).unwrap_err().to_string();
            assert!(error.contains("/m.") && error.contains(why), "{error}");
        }
        info.inputs = model(&PERSONS, &[]).inputs;
        std::fs::write(&toml, "kind = \"slowfast\"").unwrap();
        let error = Descriptor::for_model(&info).unwrap_err().to_string();
        assert!(error.ends_with("`persons` must be true: the model takes boxes"), "{error}");
    }
}
