//! The workflows in `.github/` use only make targets and scripts that exist.

use std::path::Path;

use serde_norway::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The `run` commands of a workflow.
fn commands(workflow: &Value) -> Vec<String> {
    let jobs = workflow["jobs"].as_mapping().unwrap().values();
    let steps = jobs.flat_map(|job| job["steps"].as_sequence().unwrap());
    steps.filter_map(|step| Some(step.get("run")?.as_str().unwrap().to_owned())).collect()
}

#[test]
fn steps_use_existing_targets_and_scripts() {
    let makefile = std::fs::read_to_string(root().join("Makefile")).unwrap();
    let (mut targets, mut files) = (Vec::new(), Vec::new());
    for workflow in ["test.yml", "release.yml"] {
        let text = std::fs::read_to_string(root().join(".github/workflows").join(workflow)).unwrap();
        for command in commands(&serde_norway::from_str(&text).unwrap()) {
            for line in command.lines() {
                let words: Vec<&str> = line.split_whitespace().collect();
                if words[0] == "make" {
                    assert!(makefile.contains(&format!("\n{}: ", words[1])), "{workflow}: {line}");
                    targets.push(words[1].to_owned());
                }
                let own = |word: &&&str| word.starts_with(".ci/") || word.starts_with("terraform/");
                for word in words.iter().filter(own) {
                    assert!(root().join(word).is_file(), "{workflow}: there is no {word}");
                    files.push((*word).to_owned());
                }
            }
        }
    }
    assert_eq!(targets, ["package"]);
    assert_eq!(files, [".ci/run", ".ci/setup.sh", "terraform/image/Dockerfile"]);
}
