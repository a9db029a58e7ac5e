//! Each kind of SlowFast that `models build` writes, run with ONNX Runtime and compared with the same network in NumPy.

use std::path::Path;
use std::process::Command;

use vidindex::error::Error;
use vidindex::infer::session::Runtime;
use vidindex::zoo::deploy::Deployment;
use vidindex::zoo::descriptor::{Descriptor, Labels, SlowSampling};
use vidindex::zoo::{self, BuildOptions, BuiltModel};

use crate::support::{self, Scratch, run, runtime, said, tables, test_video, vidindex};

fn floats(path: &Path) -> Vec<f32> {
    std::fs::read(path).unwrap().as_chunks::<4>().0.iter().map(|&word| f32::from_le_bytes(word)).collect()
}

/// The maximum difference between a network's logits and those of the reference, relative to the largest reference
/// logit. `make` writes the network from a file of weights.
fn error(
    runtime: &Runtime,
    python: &Path,
    name: &str,
    make: impl Fn(&Path, BuildOptions) -> Result<BuiltModel, Error>,
) -> f32 {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/slowfast_reference.py");
    assert!(Command::new(python).arg(script).arg(name).arg(folder).status().unwrap().success(), "{name}");
    let shapes = std::fs::read(folder.join("shapes.json")).unwrap();
    let shapes: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&shapes).unwrap();
    let inputs: Vec<(&str, Vec<i64>, Vec<f32>)> = shapes
        .iter()
        .filter(|(input, _)| *input != "logits")
        .map(|(input, shape)| {
            let shape = shape.as_array().unwrap().iter().map(|length| length.as_i64().unwrap()).collect();
            (input.as_str(), shape, floats(&folder.join(format!("{input}.bin"))))
        })
        .collect();
    let options = BuildOptions {
        labels: Some(Labels::List((0..5).map(|class| class.to_string()).collect())),
        out: folder.into(),
        ..BuildOptions::default()
    };
    let built = make(&folder.join("weights.safetensors"), options).unwrap();
    let mut model = runtime.open(&Deployment::read(&built.onnx).unwrap(), &[]).unwrap();
    let inputs: Vec<_> = inputs.iter().map(|(input, shape, data)| (*input, shape.clone(), data.as_slice())).collect();
    let found = model.run(&support::floats(&model, &inputs), "logits", |_, logits| Ok(logits.to_vec())).unwrap().output;
    let expected = floats(&folder.join("logits.bin"));
    assert_eq!(found.len(), expected.len(), "{name}");
    let largest = expected.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
    found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest
}

#[test]
fn each_kind_of_slowfast_matches_the_reference() {
    let Some(python) = support::python() else { return };
    for name in [
        "slowfast-tiny-4x8",
        "slowfast-tiny-2x16-beta4-tconv3",
        "slowfast-tiny-4x8-alpha2-temporal2",
        "slowfast-tiny-4x8-ttoc-diff",
        "slowfast-tiny-4x8-sample-grey",
        "slowfast-tiny-4x8-nl",
        "slowfast-tiny-4x8-ava-nl-ttoc",
        "slow-tiny-4x16",
        "slow-tiny-4x16-nlsoftmax",
        "slow-tiny-4x16-ava-nlsoftmax",
        "fast-tiny-8x2-beta2-diff",
    ] {
        let error = error(runtime(), &python, name, |weights, options| {
            zoo::build(name, &BuildOptions { weights: Some(weights.into()), ..options })
        });
        println!("{name}: {error:.1e}");
        assert!(error < 1e-4, "{name}: off by {error} of the largest logit");
    }
}

#[test]
fn a_slowfast_of_mmaction2_matches_the_reference() {
    let Some(python) = support::python() else { return };
    for (name, arch) in
        [("slowfast-tiny-4x8-mmaction2", "slowfast-tiny-4x8"), ("slowfast-tiny-2x16-mmaction2", "slowfast-tiny-2x16")]
    {
        let error = error(runtime(), &python, name, |weights, options| {
            let built = zoo::convert(weights, Some(arch), &BuildOptions { side: Some(96), ..options })?;
            let Descriptor::SlowFast(described) = &built.descriptor else { panic!("a YOLOv5") };
            assert_eq!(described.slow_sampling, SlowSampling::Stride);
            assert_eq!((described.mean, described.std), ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]));
            Ok(built)
        });
        println!("{name}: {error:.1e}");
        assert!(error < 1e-4, "{name}: off by {error} of the largest logit");
    }
}

#[test]
fn a_job_supports_networks_with_one_pathway_and_other_classes() {
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("a.mp4"), "160x120", "30", 5.0, &["-pix_fmt", "yuv420p"]);
    std::fs::write(scratch.path("classes.txt"), "walk\nrun\nstand\n").unwrap();
    for name in ["slow-tiny-8x8", "fast-tiny-32x2"] {
        let out = scratch.path(&format!("{name}.onnx"));
        let labels = scratch.path("classes.txt");
        let options = ["--activation", "sigmoid", "--labels", labels.to_str().unwrap(), "--out", out.to_str().unwrap()];
        let built = vidindex(["models", "build", name]).args(options).output().unwrap();
        assert!(built.status.success(), "{}", said(&built));
        let job = scratch.job(&format!("[actions]\nmodel = \"{}\"\nscores = \"full\"\n", out.display()));
        run(&job, &["--reindex"], 0);
    }
    let rows = tables::rows(&scratch.index(), "actions");
    assert_eq!(rows.len(), 6, "not three segments of each network");
    for row in rows {
        let scores: Vec<f64> = row["scores"].as_array().unwrap().iter().map(|score| score.as_f64().unwrap()).collect();
        assert!(scores.len() == 3 && scores.iter().all(|score| (0.0..=1.0).contains(score)), "{row:?}");
        assert!(["walk", "run", "stand"].contains(&row["top_label"].as_str().unwrap()), "{row:?}");
        assert!((scores.iter().sum::<f64>() - 1.0).abs() > 1e-3, "with sigmoid, scores must not sum to 1: {row:?}");
    }
}

#[test]
fn a_network_with_only_a_slow_pathway_scores_persons() {
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("a.mp4"), "160x120", "30", 3.0, &["-pix_fmt", "yuv420p"]);
    let out = scratch.path("slow.onnx");
    let name = "slow-tiny-4x16-ava";
    let built = vidindex(["models", "build", name, "--out", out.to_str().unwrap()]).output().unwrap();
    assert!(built.status.success(), "{}", said(&built));
    let job = scratch.job(&scratch.small_person_models());
    run(&job, &["--set", &format!("actions.model='{}'", out.display())], 0);
    assert!(tables::rows(&scratch.index(), "persons").iter().any(|row| !row["actions"].is_null()));
}
