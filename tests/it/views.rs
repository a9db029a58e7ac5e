//! The part of a frame that the action model sees: actions at the edge of a wide frame.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Scratch, drawn_clip, drawn_clips, ffmpeg, said, tables, test_video, tiny_model, vidindex};

const VIEWS: [&str; 3] = ["center", "three-crops", "whole"];

/// Numbers of upright clips of 480 x 360, in which the people stay near the middle.
const CLIPS: [usize; 6] = [0, 1, 3, 5, 6, 8];

/// Puts the middle of each clip at the right edge of a frame of 720 x 360, beyond the square in the centre.
fn encode_wide(folder: &Path) {
    for number in CLIPS {
        let clip = drawn_clip(number);
        let wide = folder.join(clip.file_name().unwrap()).with_extension("mp4");
        let filter = "crop=240:360,pad=720:360:480:0:gray";
        let [clip, wide] = [&clip, &wide].map(|path| path.to_str().unwrap());
        ffmpeg(&[
            "-i",
            clip,
            "-vf",
            filter,
            "-fps_mode",
            "passthrough",
            "-c:v",
            "libx264",
            "-preset",
            "veryfast",
            wide,
        ]);
    }
}

/// The mean score of the true action of each segment that one action fills, and the share of such segments whose top label
/// it is.
fn accuracy(index: &Path) -> (f64, f64) {
    let truth = std::fs::read(drawn_clips().join("truth.json")).unwrap();
    let truth: Value = serde_json::from_slice(&truth).unwrap();
    let stem = |path: &Value| Path::new(path.as_str().unwrap()).file_stem().unwrap().to_owned();
    let (mut scores, mut top) = (Vec::new(), 0.0);
    for row in tables::rows(index, "actions") {
        let video = truth["videos"].as_array().unwrap().iter().find(|video| stem(&video["path"]) == stem(&row["uri"]));
        let [start, end] = ["start_seconds", "end_seconds"].map(|name| row[name].as_f64().unwrap());
        let fills =
            |act: &&Value| act["start_seconds"].as_f64() <= Some(start) && act["end_seconds"].as_f64() >= Some(end);
        let Some(act) = video.unwrap()["actions"].as_array().unwrap().iter().find(fills) else { continue };
        let ranked = row["top"].as_array().unwrap();
        let own = ranked.iter().find(|ranked| ranked["label"] == act["label"]);
        scores.push(own.map_or(0.0, |own| own["score"].as_f64().unwrap()));
        top += f64::from(row["top_label"] == act["label"]);
    }
    assert!(scores.len() > 20, "{} segments", scores.len());
    (scores.iter().sum::<f64>() / scores.len() as f64, top / scores.len() as f64)
}

/// Indexes the videos with this view.
fn index(scratch: &Scratch, model: &Path, device: &str, view: &str) -> PathBuf {
    let actions = format!(
        "[actions]\nmodel = \"{}\"\nstride_seconds = 1\nscores = \"full\"\nembedding = true\nview = \"{view}\"\n",
        model.display()
    );
    let (job, index) = (scratch.job(&actions), scratch.path(view));
    let set = format!("output.uri={}", index.display());
    let output = vidindex(["run".as_ref(), job.as_os_str()]).args(["--device", device, "--set", &set]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", said(&output));
    index
}

#[test]
fn actions_at_the_edge_of_a_wide_frame_are_found_by_views_of_all_of_it() {
    let scratch = Scratch::new();
    encode_wide(&scratch.videos());
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo-slowfast.onnx");
    let [center, crops, whole] = VIEWS.map(|view| accuracy(&index(&scratch, &model, "openvino", view)));
    println!("mean score of the true action, top-1: center {center:?}, three-crops {crops:?}, whole {whole:?}");
    assert!(center.0 < 0.25 && center.1 < 0.35, "center: {center:?}");
    // Only one of the three crops shows the action.
    assert!(crops.0 > 0.3 && crops.0 > 2.0 * center.0, "three crops: {crops:?}");
    assert!(whole.0 > 0.6 && whole.1 > 0.8, "whole: {whole:?}");
}

#[test]
fn all_views_of_a_square_video_are_the_same() {
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("square.mp4"), "128x128", "25", 5.0, &["-pix_fmt", "yuv420p"]);
    let model = tiny_model("slowfast-r50-4x16", "64");
    let values = |view| -> Vec<f64> {
        let rows = tables::rows(&index(&scratch, &model, "cpu", view), "actions");
        let lists = rows.iter().flat_map(|row| ["scores", "embedding"].map(|list| row[list].as_array().unwrap()));
        lists.flatten().map(|value| value.as_f64().unwrap()).collect()
    };
    let [center, crops, whole] = VIEWS.map(values);
    assert!(center.len() > 2000, "{} values", center.len());
    for (view, values) in [("three-crops", crops), ("whole", whole)] {
        assert_eq!(values.len(), center.len(), "{view}");
        let difference = values.iter().zip(&center).map(|(a, b)| (a - b).abs() / b.abs().max(0.01)).fold(0.0, f64::max);
        println!("{view}: largest relative difference {difference:.1e}");
        assert!(difference < 1e-4, "{view}: {difference}");
    }
}

#[test]
fn a_model_that_scores_persons_rejects_a_view() {
    let scratch = Scratch::new();
    let sections = scratch.small_person_models().replace("[persons]", "view = \"whole\"\n[persons]");
    let output = vidindex(["run".as_ref(), scratch.job(&sections).as_os_str()]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("`view` in [actions] has no effect"), "{}", said(&output));
}
