//! The rows of a GPU match those of the processor. `make test-gpu` runs this; elsewhere it says that it was skipped.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::support::{Scratch, said, stderr, tables, vidindex};

type Row = Map<String, Value>;

/// The folder with the libraries for a GPU.
fn libraries() -> Option<PathBuf> {
    let folder = std::env::var_os("VIDINDEX_GPU_LIBRARIES").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: `make test-gpu` runs this on a machine with a GPU");
    }
    folder
}

/// Indexes drawn clips with the demo's models. Returns the rows of `actions` and `persons`, in the order of the clips.
fn index(scratch: &Scratch, libraries: &Path, device: &str, precision: &str) -> [Vec<Row>; 2] {
    let model = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name).display().to_string();
    let job = scratch.job(&format!(
        "[actions]\nmodel = \"{}\"\nscores = \"full\"\n[persons]\nmodel = \"{}\"\n[run]\nprecision = \"{precision}\"\n",
        model("demo-slowfast.onnx"),
        model("demo-yolov5.onnx")
    ));
    let index = scratch.path(&format!("index-{device}-{precision}"));
    let output = vidindex(["run".as_ref(), job.as_os_str()])
        .args(["--device", device, "--set", &format!("output.uri={}", index.display())])
        .env("VIDINDEX_ONNXRUNTIME", libraries)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(!stderr(&output).contains("WARN"), "{}", said(&output));
    ["actions", "persons"].map(|table| tables::rows(&index, table))
}

fn number(row: &Row, column: &str) -> f64 {
    row[column].as_f64().unwrap()
}

/// The largest difference of a score, and of a box's coordinate in pixels.
fn difference([actions, persons]: &[Vec<Row>; 2], [other_actions, other_persons]: &[Vec<Row>; 2]) -> (f64, f64) {
    assert_eq!((actions.len(), persons.len()), (other_actions.len(), other_persons.len()));
    let mut scores = 0.0_f64;
    for (row, other) in actions.iter().zip(other_actions) {
        assert_eq!(
            (&row["uri"], &row["segment"], &row["top_label"]),
            (&other["uri"], &other["segment"], &other["top_label"])
        );
        let pairs = row["scores"].as_array().unwrap().iter().zip(other["scores"].as_array().unwrap());
        scores = pairs.map(|(a, b)| (a.as_f64().unwrap() - b.as_f64().unwrap()).abs()).fold(scores, f64::max);
    }
    let mut pixels = 0.0_f64;
    for (row, other) in persons.iter().zip(other_persons) {
        assert_eq!((&row["uri"], &row["frame"]), (&other["uri"], &other["frame"]));
        let off = |column| (number(row, column) - number(other, column)).abs();
        pixels = ["x1", "y1", "x2", "y2"].into_iter().map(off).fold(pixels, f64::max);
        assert!(off("confidence") <= 0.02, "{row:?} {other:?}");
    }
    (scores, pixels)
}

#[test]
fn the_rows_of_a_gpu_match_those_of_the_processor() {
    let Some(libraries) = libraries() else { return };
    let scratch = Scratch::new();
    scenes::write(&scratch.videos(), 3, 8).unwrap();
    std::fs::remove_file(scratch.videos().join("truth.json")).unwrap();
    let expected = index(&scratch, &libraries, "cpu", "fp32");
    assert!(expected[0].len() >= 8 && expected[1].len() >= 20, "{} and {}", expected[0].len(), expected[1].len());
    for (precision, scores_max, pixels_max) in [("fp32", 1e-4, 0.02), ("auto", 0.02, 1.0)] {
        let (scores, pixels) = difference(&expected, &index(&scratch, &libraries, "cuda:0", precision));
        eprintln!("cuda, {precision}: scores differ by at most {scores:.1e}, boxes by {pixels:.3} pixels");
        assert!(scores <= scores_max && pixels <= pixels_max, "{precision}: {scores}, {pixels} pixels");
    }
}
