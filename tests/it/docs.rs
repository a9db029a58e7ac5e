//! The documentation: its commands and job files are valid, its queries run, and its links resolve.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Parser;
use vidindex::cli::Cli;
use vidindex::job::{Job, SECTIONS};

use crate::support::index::{Indexed, R50, YOLO, run, write};
use crate::support::{self, Scratch, query};

const REQUIRED: [(&str, &str); 3] =
    [("input", "uri = \"clips\""), ("output", "uri = \"index\""), ("persons", "model = \"models/yolov5s.onnx\"")];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Path and text of every page.
fn pages() -> Vec<(PathBuf, String)> {
    let top = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"].map(|name| root().join(name));
    let docs = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let docs = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let pages: Vec<_> = top.into_iter().chain(docs).collect();
    assert!(pages.len() > 10);
    pages.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// The language and text of each code block of a page. Each indented line is a block without a language.
fn blocks(text: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut fence = false;
    for line in text.lines() {
        if let Some(language) = line.strip_prefix("```") {
            fence = !fence;
            if fence {
                found.push((language.to_owned(), String::new()));
            }
        } else if fence {
            let (_, block) = found.last_mut().unwrap();
            block.push_str(line);
            block.push('\n');
        } else if let Some(line) = line.strip_prefix("    ") {
            found.push((String::new(), format!("{line}\n")));
        }
    }
    found
}

#[test]
fn every_command_is_valid() {
    let mut count = 0;
    for (path, text) in pages() {
        for (_, block) in blocks(&text).into_iter().filter(|(language, _)| language.is_empty()) {
            let line = block.trim().trim_start_matches("run=$(").replace("$run", "20261123T073712123Z-ab12cd");
            let line = line.split("  #").next().unwrap().trim().trim_end_matches(')');
            if !line.starts_with("vidindex ") || line.contains("──>") {
                continue;
            }
            let mut words = shlex::split(line).unwrap();
            words.truncate(words.iter().position(|word| word.starts_with('>')).unwrap_or(words.len()));
            let parsed = Cli::try_parse_from(&words);
            assert!(parsed.is_ok(), "{}: {line}\n{}", path.display(), parsed.unwrap_err());
            // A job file that a command names must be part of the repository.
            for job in words.iter().filter(|word| word.starts_with("jobs/")) {
                assert!(root().join(job).is_file(), "{}: {line}: there is no {job}", path.display());
            }
            count += 1;
        }
    }
    assert!(count > 30, "{count} commands");
}

#[test]
fn every_make_target_exists() {
    let makefile = std::fs::read_to_string(root().join("Makefile")).unwrap();
    for (path, text) in pages() {
        for (_, block) in blocks(&text) {
            let Some(target) = block.strip_prefix("make ").and_then(|rest| rest.split_whitespace().next()) else {
                continue;
            };
            assert!(makefile.contains(&format!("\n{target}: ")), "{}: make {target}", path.display());
        }
    }
}

#[test]
fn every_job_file_is_valid() {
    let mut count = 0;
    for (path, text) in pages() {
        for (_, block) in blocks(&text).into_iter().filter(|(language, _)| language == "toml") {
            let mut job = block.clone();
            for (section, line) in REQUIRED {
                if !block.contains(&format!("[{section}]")) {
                    job.push_str(&format!("\n[{section}]\n{line}\n"));
                }
            }
            Job::parse(&path.display().to_string(), &job, &[]).unwrap();
            count += 1;
        }
    }
    assert!(count >= 3);
}

#[test]
fn every_key_of_the_job_file_is_documented_with_a_valid_example() {
    let page = std::fs::read_to_string(root().join("docs/job-file.md")).unwrap();
    let mut documented: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for part in page.split("\n## `[").skip(1) {
        let (section, rows) = part.split_once("]`").unwrap();
        let keys = documented.entry(section).or_default();
        for row in rows.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
            let [key, _, _, _, example] = cells[..] else { panic!("{row}") };
            let (key, example) = (key.trim_matches('`'), example.trim_matches('`'));
            keys.push(key);
            let mut job: BTreeMap<&str, Vec<&str>> = BTreeMap::from(REQUIRED.map(|(name, line)| (name, vec![line])));
            let others = match section {
                "actions" => vec!["model = \"models/a.onnx\""],
                "engine.aws-batch" => vec!["queue = \"q\"", "job_definition = \"d\""],
                "engine.kubernetes" => vec!["image = \"i\""],
                _ => Vec::new(),
            };
            let lines = job.entry(section).or_default();
            lines.extend(others);
            lines.retain(|line| line.split(" = ").next() != Some(key));
            lines.push(example);
            let text: String =
                job.iter().map(|(section, lines)| format!("[{section}]\n{}\n", lines.join("\n"))).collect();
            Job::parse(key, &text, &[]).unwrap_or_else(|error| panic!("{section}.{key}: {error}\n{text}"));
        }
        keys.sort_unstable();
    }
    // They have the keys of [store].
    let store = documented["store"].clone();
    for section in ["input.store", "output.store"] {
        assert!(page.contains(&format!("`[{section}]`")));
        documented.insert(section, store.clone());
    }
    let known: BTreeMap<&str, Vec<&str>> = SECTIONS.iter().map(|(name, keys)| (*name, keys.to_vec())).collect();
    assert_eq!(documented, known);
}

#[test]
fn every_query_runs() {
    if support::python().is_none() {
        return;
    }
    let scratch = Scratch::new();
    let both = run(1, Some(R50), Some(YOLO));
    write(&scratch.index(), &both, &[Indexed::new(&both, "cam-1", "2026-11-01", 0, 1)]);
    let mut count = 0;
    for (_, text) in pages() {
        for (_, sql) in blocks(&text).into_iter().filter(|(language, _)| language == "sql") {
            query(&scratch.index(), &["--format", "csv", &sql]);
            count += 1;
        }
    }
    assert!(count >= 3);
}

#[test]
fn every_link_resolves() {
    let anchor = |heading: &str| -> String {
        let kept = heading.to_lowercase().replace(' ', "-");
        kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
    };
    for (path, text) in pages() {
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if link.starts_with("https://") {
                continue;
            }
            let (file, heading) = link.split_once('#').map_or((link, None), |(file, heading)| (file, Some(heading)));
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link}", path.display());
            if let Some(heading) = heading {
                let text = std::fs::read_to_string(&target).unwrap();
                let found =
                    text.lines().filter_map(|line| line.split_once("# ")).any(|(_, title)| anchor(title) == heading);
                assert!(found, "{}: {link}", path.display());
            }
        }
    }
}
