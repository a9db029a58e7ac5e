//! A model that `models build` created with random weights is reported everywhere, because its results are meaningless.

use serde_json::Value;

use crate::support::browser::Browser;
use crate::support::{Scratch, run, said, stderr, stdout, test_video, vidindex};

const RANDOM: &str = "the weights are random";

#[test]
fn random_weights_are_reported_by_all_commands() {
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("a.mp4"), "160x120", "30", 2.0, &["-pix_fmt", "yuv420p"]);
    let models = scratch.path("models");
    let out = models.to_str().unwrap();
    let build = ["models", "build", "slowfast-tiny", "--out", out];
    let built = vidindex(build).output().unwrap();
    assert!(built.status.success() && stderr(&built).contains(RANDOM), "{}", said(&built));
    let sidecar = models.join("slowfast-tiny.toml");
    let described = std::fs::read_to_string(&sidecar).unwrap();
    assert!(described.lines().any(|line| line.starts_with("weights = \"random\"")), "{described}");

    let list = stdout(&vidindex(["models", "list", "--out", out]).output().unwrap());
    let line = list.lines().find(|line| line.starts_with("slowfast-tiny ")).unwrap();
    assert!(line.contains(" random "), "{line}");
    let json = vidindex(["models", "list", "--json", "--out", out]).output().unwrap().stdout;
    let json: Vec<Value> = serde_json::from_slice(&json).unwrap();
    let random = |name: &str| &json.iter().find(|model| model["name"] == name).unwrap()["random"];
    assert_eq!((random("slowfast-tiny"), random("yolov5n")), (&Value::Bool(true), &Value::Null));

    let onnx = models.join("slowfast-tiny.onnx");
    let inspect = vidindex(["models", "inspect", onnx.to_str().unwrap()]).output().unwrap();
    assert!(
        stderr(&inspect).contains(RANDOM) && stdout(&inspect).contains("weights = \"random\""),
        "{}",
        said(&inspect)
    );

    let job = scratch.job(&format!("[actions]\nmodel = \"{}\"\n", onnx.display()));
    let doctor = vidindex(["doctor".as_ref(), job.as_os_str()]).output().unwrap();
    assert!(doctor.status.success(), "a warning must not fail: {}", said(&doctor));
    let line = stdout(&doctor).lines().find(|line| line.starts_with("WARN  models: ")).unwrap().to_owned();
    assert!(line.contains("slowfast-tiny.onnx") && line.contains(RANDOM), "{line}");

    let ran = run(&job, &[], 0);
    assert!(stderr(&ran).contains(RANDOM), "{}", said(&ran));
    let page = scratch.path("report.html");
    let report = |args: &[&str]| {
        let mut command = vidindex(["report".as_ref(), job.as_os_str(), "-o".as_ref(), page.as_os_str()]);
        let output = command.args(args).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        stderr(&output)
    };
    let run_id = stdout(&ran);
    // The run has recorded it, so that the model's descriptor is not needed.
    std::fs::remove_file(&sidecar).unwrap();
    assert!(report(&["--run", &run_id]).contains(RANDOM));
    if let Some(browser) = Browser::start() {
        browser.open(&page);
        let notes = browser.text("#notes");
        assert!(notes.contains("slowfast-tiny-") && notes.contains("are random, not trained"), "{notes}");
    }

    // Without that line in the descriptor, the model counts as trained.
    std::fs::write(&sidecar, described.replace("weights = \"random\"", "# ")).unwrap();
    let trained = run(&job, &["--reindex"], 0);
    assert!(!stderr(&trained).contains(RANDOM), "{}", said(&trained));
    assert!(!report(&["--run", &stdout(&trained)]).contains(RANDOM));
}
