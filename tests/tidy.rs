//! The shape of the code: what each file must have, and which files alone may name AWS, FFmpeg and ONNX Runtime.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

use vidindex::job::Job;

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

#[test]
fn every_file_says_what_it_is_in_its_first_sentence() {
    for path in sources(&src()) {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//! "), "{} has no //! line at its top", path.display());
    }
}

#[test]
fn outside_libraries_are_named_in_their_own_folders_alone() {
    for path in sources(&src()) {
        let name = path.strip_prefix(src()).unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        for (library, home) in [
            ("aws_config", "store/"),
            ("aws_credential", "store/"),
            ("aws_smithy", "store/"),
            ("aws_sdk_s3", "store/"),
            ("aws_sdk_batch", "engine/aws_batch.rs"),
            ("k8s_openapi", "engine/kubernetes.rs"),
            ("ffmpeg_next", "decode"),
            ("ort::", "infer/"),
        ] {
            let named = text.lines().any(|line| {
                let code = line.split("//").next().unwrap();
                code.contains(&format!("use {library}"))
                    || code.contains(&format!(" {library}"))
                    || code.contains(&format!("({library}"))
            });
            assert!(!named || name.starts_with(home), "{name} names {library}, which belongs into {home}");
        }
    }
}

#[test]
fn every_job_file_that_ships_can_be_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("jobs");
    let mut read = 0;
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.extension().is_some_and(|extension| extension == "toml") {
            Job::load(&path, &[]).unwrap();
            read += 1;
        }
    }
    assert!(read >= 3);
}
