//! The structure of the code: each file has a description, only certain files use AWS, FFmpeg and ONNX Runtime, and
//! imports follow `ARCHITECTURE.md`.

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
fn each_file_starts_with_a_description() {
    for path in sources(&src()) {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//! "), "{} does not start with a //! line", path.display());
    }
}

#[test]
fn external_libraries_are_used_only_in_their_folders() {
    for path in sources(&src()) {
        let name = path.strip_prefix(src()).unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        for (library, home) in [
            ("aws_config", "store/"),
            ("aws_credential", "store/"),
            ("aws_smithy", "store/"),
            ("aws_sdk_s3", "store/"),
            ("aws_sdk_batch", "engine/aws_batch.rs"),
            ("k8s_openapi", "engine/kubernetes"),
            ("ffmpeg_next", "decode"),
            ("ort::", "infer/"),
        ] {
            let named = text.lines().any(|line| {
                let code = line.split("//").next().unwrap();
                code.contains(&format!("use {library}"))
                    || code.contains(&format!(" {library}"))
                    || code.contains(&format!("({library}"))
            });
            assert!(!named || name.starts_with(home), "{name} uses {library}, which belongs in {home}");
        }
    }
}

/// A reader who searches for the name of a type finds one type.
#[test]
fn no_two_public_types_have_the_same_name() {
    let mut homes = std::collections::BTreeMap::<String, Vec<String>>::new();
    for path in sources(&src()) {
        let text = std::fs::read_to_string(&path).unwrap();
        for line in text.lines().map(str::trim_start) {
            let kinds = ["pub struct ", "pub enum ", "pub trait ", "pub type "];
            let Some(rest) = kinds.iter().find_map(|kind| line.strip_prefix(kind)) else { continue };
            let name = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            homes.entry(name).or_default().push(path.display().to_string());
        }
    }
    assert!(homes.len() > 100, "{} types", homes.len());
    let shared: Vec<_> = homes.into_iter().filter(|(_, homes)| homes.len() > 1).collect();
    assert!(shared.is_empty(), "types of the same name: {shared:?}");
}

/// `println!` and `eprintln!` panic if the output is closed.
#[test]
fn lines_are_printed_only_by_the_console() {
    for path in sources(&src()) {
        let text = std::fs::read_to_string(&path).unwrap();
        let before_tests = text.split("#[cfg(test)]").next().unwrap();
        let prints = ["print!(", "println!("].iter().any(|call| before_tests.contains(call));
        assert!(!prints, "{} prints directly: use crate::console", path.display());
    }
}

/// The rooms of `src/` in the order in which `ARCHITECTURE.md` lists them.
fn rooms() -> Vec<String> {
    let map = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).unwrap();
    let section = map.split("## Rooms").nth(1).unwrap().split("\n## ").next().unwrap();
    section.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned())).collect()
}

/// The rooms that the code imports, by `crate::room` or `crate::{room, ...}`.
fn imported(code: &str) -> Vec<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = Vec::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            None => found.push(word(rest)),
            Some(group) => {
                let group = group.split(';').next().unwrap();
                let mut depth = 0;
                let mut begins = true;
                for (at, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        _ => {}
                    }
                    if depth == 0 && begins && (c.is_alphanumeric() || c == '_') {
                        found.push(word(&group[at..]));
                        begins = false;
                    }
                    begins |= depth == 0 && c == ',';
                }
            }
        }
    }
    found
}

#[test]
fn rooms_import_only_rooms_above_them() {
    let rooms = rooms();
    let place = |room: &str| rooms.iter().position(|other| other == room);
    let mut wrong = Vec::new();
    for path in sources(&src()) {
        let name = path.strip_prefix(src()).unwrap().to_str().unwrap();
        let room = name.split('/').next().unwrap().trim_end_matches(".rs");
        if matches!(room, "lib" | "main") {
            continue;
        }
        let own = place(room).unwrap_or_else(|| panic!("ARCHITECTURE.md does not list {room}"));
        if name.ends_with("tests.rs") || name.ends_with("testing.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let is_module = |part: &&str| part.lines().take(3).any(|line| line.contains("mod ") && line.ends_with('{'));
        let (first, rest) = text.split_once("#[cfg(test)]\n").unwrap_or((&text, ""));
        // The attribute is followed by one item, or by a module of tests that ends the file.
        let items = rest.split("#[cfg(test)]\n").take_while(|part| !is_module(part));
        let lines = std::iter::once(first).chain(items).flat_map(str::lines);
        let code: String = lines.map(|line| format!("{}\n", line.split("//").next().unwrap())).collect();
        for other in imported(&code) {
            match place(&other) {
                Some(theirs) if theirs <= own => {}
                Some(_) => wrong.push(format!("{name} ({room}) imports {other}, which is below it in ARCHITECTURE.md")),
                None => wrong.push(format!("{name} imports crate::{other}, which is not a room")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let files: Vec<String> = std::fs::read_dir(src())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap().trim_end_matches(".rs").to_owned())
        .collect();
    let absent: Vec<_> = rooms.iter().filter(|room| !files.contains(room)).collect();
    assert!(absent.is_empty() && rooms.len() > 20, "rooms in ARCHITECTURE.md that are not in src/: {absent:?}");
}

#[test]
fn the_job_files_in_jobs_are_valid() {
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
