//! The workflows in `.github/` and the build of the image use only make targets, scripts and files that exist.

use std::path::Path;
use std::process::Command;

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

/// The manifest names files of benches and tests, so Cargo fails if the image's build does not have them.
#[test]
fn the_image_copies_what_its_build_reads() {
    let folder = root().join("terraform/image");
    let (dockerfile, ignored) = (folder.join("Dockerfile"), folder.join("Dockerfile.dockerignore"));
    let (dockerfile, ignored) =
        (std::fs::read_to_string(dockerfile).unwrap(), std::fs::read_to_string(ignored).unwrap());
    let build = dockerfile.split("\nFROM ").nth(1).unwrap();
    let source = tempfile::tempdir().unwrap();
    for copied in build.lines().filter_map(|line| line.strip_prefix("COPY ")) {
        let mut paths: Vec<&str> = copied.split_whitespace().collect();
        let to = source.path().join(paths.pop().unwrap());
        for path in paths {
            let is_sent = |line: &str| line.strip_prefix('!').is_some_and(|sent| Path::new(path).starts_with(sent));
            assert!(ignored.lines().any(is_sent), "{path} is ignored");
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            let copy = Command::new("cp").arg("-r").arg(root().join(path)).arg(&to).status().unwrap();
            assert!(copy.success(), "there is no {path}");
        }
    }
    // Crates for other platforms may not have been downloaded.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let cargo = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--offline", "--format-version", "1", "--filter-platform", &platform])
        .current_dir(source.path())
        .output()
        .unwrap();
    assert!(cargo.status.success(), "{}", String::from_utf8_lossy(&cargo.stderr));
}
