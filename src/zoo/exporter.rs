//! Reads the metadata that Ultralytics' exporters write into ONNX files. YOLOv5's `export.py` writes `stride` and
//! `names`; the `ultralytics` package (v5u, v8 and later) also writes `task`, `imgsz`, `end2end`, `args` and
//! `description`.

use crate::zoo::inspect::ModelInfo;
use crate::zoo::python::PyValue;

/// The metadata that describes a model's input, output and classes.
#[derive(Debug, Default)]
pub(crate) struct Exported {
    /// Class names by class number, or why they cannot be read.
    pub(crate) names: Option<Result<Vec<String>, String>>,
    /// `detect`, `segment` and so on. YOLOv5's own exporter does not write it.
    pub(crate) task: Option<String>,
    /// Height and width of the input in pixels.
    pub(crate) size: Option<[usize; 2]>,
    /// Whether the graph selects the boxes itself (`end2end` or `nms`).
    pub(crate) picks_boxes: bool,
    /// A description for humans, such as "Ultralytics YOLO11n model trained on coco.yaml".
    pub(crate) description: String,
}

impl Exported {
    pub(crate) fn of(model: &ModelInfo) -> Self {
        let text = |key: &str| model.metadata.get(key).map(String::as_str);
        let value = |key: &str| PyValue::parse(text(key)?).ok();
        let has_nms = value("args").and_then(|args| args.get("nms").cloned()) == Some(PyValue::Bool(true));
        Self {
            names: text("names").map(names),
            task: text("task").map(str::to_owned),
            size: value("imgsz").and_then(|value| size(&value)),
            picks_boxes: has_nms || value("end2end") == Some(PyValue::Bool(true)),
            description: text("description").unwrap_or_default().to_owned(),
        }
    }
}

/// Parses the names: a dict from numbers to names or (YOLOv5 before 7.0) a list.
fn names(text: &str) -> Result<Vec<String>, String> {
    let name = |value| match value {
        PyValue::Str(name) => Ok(name),
        // YAML reads the class name `0` as a number.
        PyValue::Int(number) => Ok(number.to_string()),
        _ => Err("a name is not a text".to_owned()),
    };
    match PyValue::parse(text)? {
        PyValue::List(list) => list.into_iter().map(name).collect(),
        PyValue::Dict(mut entries) => {
            let number = |key: &PyValue| match key {
                PyValue::Int(number) => Some(*number),
                PyValue::Str(digits) => digits.parse().ok(),
                _ => None,
            };
            entries.sort_by_key(|(key, _)| number(key));
            let missing = entries.iter().enumerate().find(|(at, (key, _))| number(key) != i64::try_from(*at).ok());
            match missing {
                Some((at, _)) => Err(format!("class {at} has no name, or two")),
                None => entries.into_iter().map(|(_, value)| name(value)).collect(),
            }
        }
        _ => Err("it is not a dict".to_owned()),
    }
}

fn size(value: &PyValue) -> Option<[usize; 2]> {
    let length = |value: &PyValue| match value {
        PyValue::Int(length) => usize::try_from(*length).ok(),
        _ => None,
    };
    match value {
        PyValue::List(sides) => match sides.as_slice() {
            [height, width] => Some([length(height)?, length(width)?]),
            [side] => length(side).map(|side| [side; 2]),
            _ => None,
        },
        side => length(side).map(|side| [side; 2]),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn names_are_a_dict_or_a_list() {
        let named = |text: &str| names(text).unwrap();
        assert_eq!(named("{0: 'person', 1: \"it's\"}"), ["person", "it's"]);
        assert_eq!(named("{1: 'b', 0: 'a'}"), ["a", "b"]);
        assert_eq!(named("['a', 'b']"), ["a", "b"]);
        assert_eq!(named("{'0': 'a', '1': 7}"), ["a", "7"]);
        for (text, error) in [
            ("{0: 'a', 2: 'c'}", "class 1 has no name, or two"),
            ("{0: 'a', 0: 'b'}", "class 1 has no name, or two"),
            ("{0: ['a']}", "a name is not a text"),
            ("person", "unexpected `p` at character 1"),
            ("7", "it is not a dict"),
        ] {
            assert_eq!(names(text).unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn sizes_are_one_or_two_numbers() {
        let read = |text: &str| size(&PyValue::parse(text).unwrap());
        assert_eq!(read("[384, 640]"), Some([384, 640]));
        assert_eq!((read("[320]"), read("320")), (Some([320; 2]), Some([320; 2])));
        assert_eq!((read("[-1, 2]"), read("'640'")), (None, None));
    }
}
