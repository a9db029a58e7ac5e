//! `models pull` from a server that cuts responses, ignores ranges, changes its file or is unavailable; and `models
//! list`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use vidindex::error::Result;
use vidindex::hash::hex;
use vidindex::telemetry::{LogFormat, Transfer};
use vidindex::zoo::{pull, registry};

use crate::support::site::Site;
use crate::support::{Scratch, said, stderr, stdout, vidindex};

const FILE: &str = "yolov5n.pt";

/// Reproducible pseudorandom bytes.
fn bytes(seed: u32, length: usize) -> Vec<u8> {
    (0..length as u32).map(|i| ((i ^ seed).wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn sha256(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

async fn pull(mirror: &str, cache: &Path) -> Result<PathBuf> {
    let (_, official) = registry::official("yolov5n").unwrap();
    let mut transfer = Transfer::start(FILE, LogFormat::Text, true);
    pull::pull(&official, Some(&mirror.parse().unwrap()), cache, &mut transfer).await
}

/// A `models pull` process with its cache below `scratch`.
fn pull_process(mirror: &str, scratch: &Scratch) -> Command {
    let mut command = vidindex(["models", "pull", "yolov5n", "--checkpoint-only", "--mirror", mirror]);
    command.env("XDG_CACHE_HOME", scratch.path("")).env("NO_PROXY", "127.0.0.1");
    command
}

fn names(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_checkpoint_is_downloaded_once_and_then_verified() {
    let (content, scratch) = (bytes(1, 300_000), Scratch::new());
    let site = Site::start(&content);
    let cache = scratch.path("cache");
    let file = pull(&site.url(), &cache).await.unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), content);
    assert_eq!(names(&cache), ["yolov5n.pt", "yolov5n.pt.sha256"]);
    let record = std::fs::read_to_string(cache.join("yolov5n.pt.sha256")).unwrap();
    assert_eq!(record, format!("{}  yolov5n.pt\n", sha256(&content)));

    assert_eq!(pull(&site.url(), &cache).await.unwrap(), file);
    assert_eq!(site.behaviour().requests.len(), 1, "the cached file was not used");
    assert!(site.behaviour().requests[0].starts_with("GET /zoo/yolov5n.pt HTTP/1.1\r\n"));

    std::fs::write(&file, b"damaged").unwrap();
    let error = pull(&site.url(), &cache).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&sha256(b"damaged")) && text.contains(&sha256(&content)), "{text}");
    assert!(error.hint().unwrap().contains("yolov5n.pt.sha256"));
    assert_eq!(std::fs::read(&file).unwrap(), b"damaged");
}

#[tokio::test]
async fn an_interrupted_download_is_resumed() {
    let (content, scratch) = (bytes(1, 300_000), Scratch::new());
    let site = Site::start(&content);
    site.behaviour().cuts.extend([100_000, 50_000]);
    let file = pull(&site.url(), &scratch.path("cache")).await.unwrap();
    assert_eq!(std::fs::read(file).unwrap(), content);
    let ranges = [None, Some("bytes=100000-".to_owned()), Some("bytes=150000-".to_owned())];
    assert_eq!(site.request_headers("range"), ranges);
    assert_eq!(site.request_headers("if-range")[1..], [Some("\"first\"".to_owned()), Some("\"first\"".to_owned())]);
}

#[tokio::test]
async fn a_download_is_resumed_after_its_process_is_killed() {
    let (content, scratch) = (bytes(1, 300_000), Scratch::new());
    let site = Site::start(&content);
    {
        let mut behaviour = site.behaviour();
        behaviour.cuts.push_back(100_000);
        behaviour.hangs = true;
    }
    let mut process = pull_process(&site.url(), &scratch).stderr(Stdio::null()).spawn().unwrap();
    let cache = scratch.path("vidindex");
    let part = cache.join("yolov5n.pt.part");
    let begun = Instant::now();
    while std::fs::metadata(&part).map_or(0, |part| part.len()) < 100_000 {
        assert!(begun.elapsed() < Duration::from_secs(20), "no bytes arrived");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let error = pull(&site.url(), &cache).await.unwrap_err().to_string();
    assert!(error.ends_with("another process is downloading it"), "{error}");
    process.kill().unwrap();
    process.wait().unwrap();

    assert_eq!(std::fs::read(pull(&site.url(), &cache).await.unwrap()).unwrap(), content);
    assert_eq!(site.request_headers("range"), [None, Some("bytes=100000-".to_owned())]);
    assert_eq!(names(&cache), ["yolov5n.pt", "yolov5n.pt.sha256"]);
}

#[tokio::test]
async fn a_complete_part_file_needs_no_more_bytes() {
    let (content, scratch) = (bytes(1, 300_000), Scratch::new());
    let site = Site::start(&content);
    let cache = scratch.path("cache");
    std::fs::create_dir(&cache).unwrap();
    std::fs::write(cache.join("yolov5n.pt.part"), &content).unwrap();
    std::fs::write(cache.join("yolov5n.pt.part.from"), format!("{}/{FILE}\n\"first\"\n", site.url())).unwrap();
    assert_eq!(std::fs::read(pull(&site.url(), &cache).await.unwrap()).unwrap(), content);
    assert_eq!(site.request_headers("range"), [Some("bytes=300000-".to_owned())]);
}

#[tokio::test]
async fn a_download_from_a_server_without_ranges_starts_over() {
    let (content, scratch) = (bytes(1, 300_000), Scratch::new());
    let site = Site::start(&content);
    {
        let mut behaviour = site.behaviour();
        behaviour.ranges = false;
        behaviour.etag = None;
        behaviour.cuts.extend([200_000, 100_000]);
    }
    let file = pull(&site.url(), &scratch.path("cache")).await.unwrap();
    assert_eq!(std::fs::read(file).unwrap(), content);
    assert_eq!(site.behaviour().requests.len(), 3);
}

#[tokio::test]
async fn a_download_starts_over_if_the_file_changed() {
    let (new, scratch) = (bytes(2, 250_000), Scratch::new());
    let site = Site::start(&bytes(1, 300_000));
    let cache = scratch.path("cache");
    {
        let mut behaviour = site.behaviour();
        behaviour.cuts.extend([50_000; 4]);
        behaviour.etag = None;
    }
    let error = pull(&site.url(), &cache).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("{}/{FILE}: failed to download: ", site.url())), "{error}");
    assert!(error.hint().unwrap().contains("to resume the download"));
    // The part of the first file must not be used for another one.
    let other = Site::start(&new);
    other.behaviour().cuts.push_back(100_000);
    std::fs::write(cache.join("yolov5n.pt.part.from"), format!("{}/{FILE}\n\"old\"\n", other.url())).unwrap();
    assert_eq!(std::fs::read(pull(&other.url(), &cache).await.unwrap()).unwrap(), new);
    assert_eq!(other.request_headers("if-range"), [Some("\"old\"".to_owned()), Some("\"first\"".to_owned())]);
}

#[tokio::test]
async fn a_part_of_another_url_is_not_resumed() {
    let (content, scratch) = (bytes(1, 300_000), Scratch::new());
    let site = Site::start(&content);
    let cache = scratch.path("cache");
    std::fs::create_dir(&cache).unwrap();
    std::fs::write(cache.join("yolov5n.pt.part"), bytes(2, 400_000)).unwrap();
    std::fs::write(cache.join("yolov5n.pt.part.from"), "https://elsewhere.example/yolov5n.pt\n\"first\"\n").unwrap();
    assert_eq!(std::fs::read(pull(&site.url(), &cache).await.unwrap()).unwrap(), content);
    assert_eq!(site.request_headers("range"), [None]);
}

#[tokio::test]
async fn a_file_that_differs_from_the_first_download_is_rejected() {
    let (content, other, scratch) = (bytes(1, 1000), bytes(2, 1000), Scratch::new());
    let site = Site::start(&content);
    let cache = scratch.path("cache");
    std::fs::remove_file(pull(&site.url(), &cache).await.unwrap()).unwrap();
    site.behaviour().content = Some(other.clone());
    let error = pull(&site.url(), &cache).await.unwrap_err().to_string();
    assert!(error.contains(&sha256(&other)) && error.contains(&sha256(&content)), "{error}");
    assert_eq!(names(&cache), ["yolov5n.pt.sha256"], "the rejected file was kept");
    assert!(std::fs::read_to_string(cache.join("yolov5n.pt.sha256")).unwrap().starts_with(&sha256(&content)));
}

#[tokio::test]
async fn a_web_page_is_not_a_checkpoint() {
    let scratch = Scratch::new();
    let site = Site::start(b"<html>log in</html>");
    site.behaviour().content_type = "text/html; charset=utf-8";
    let error = pull(&site.url(), &scratch.path("cache")).await.unwrap_err().to_string();
    assert!(error.ends_with("the server returned a web page instead of the file"), "{error}");
    assert!(!scratch.path("cache/yolov5n.pt.sha256").exists());
}

#[tokio::test]
async fn a_mirror_can_be_a_folder() {
    let (content, scratch) = (bytes(1, 1000), Scratch::new());
    let mirror = scratch.path("mirror");
    std::fs::create_dir(&mirror).unwrap();
    let error = pull(mirror.to_str().unwrap(), &scratch.path("cache")).await.unwrap_err().to_string();
    assert!(error.contains("mirror/yolov5n.pt: failed to copy"), "{error}");
    std::fs::write(mirror.join(FILE), &content).unwrap();
    let file = pull(&format!("file://{}", mirror.display()), &scratch.path("cache")).await.unwrap();
    assert_eq!(std::fs::read(file).unwrap(), content);
}

#[test]
fn the_error_for_a_missing_file_names_the_url_and_suggests_a_mirror() {
    let (site, scratch) = (Site::start(b""), Scratch::new());
    site.behaviour().content = None;
    let output = pull_process(&site.url(), &scratch).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let text = stderr(&output);
    assert!(text.contains(&format!("error: {}/yolov5n.pt: the server returned 404 Not Found", site.url())), "{text}");
    assert!(text.contains("--mirror"), "{text}");
    assert_eq!(site.behaviour().requests.len(), 1, "the request was retried");
    let licence = text.find("AGPL-3.0").unwrap();
    assert!(licence < text.find("error: ").unwrap(), "the licence does not come first: {text}");
}

#[test]
fn pull_without_a_network_fails_within_seconds() {
    let scratch = Scratch::new();
    // A port on which nothing listens any more.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let begun = Instant::now();
    let output = pull_process(&format!("http://127.0.0.1:{port}"), &scratch).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let text = stderr(&output);
    let url = format!("error: http://127.0.0.1:{port}/yolov5n.pt: failed to download: ");
    assert!(text.contains(&url) && text.contains("Connection refused") && text.contains("--mirror"), "{text}");
}

#[test]
fn names_that_cannot_be_pulled_are_rejected() {
    for (name, message) in
        [("yolov5s-v5", "no official weights of `yolov5s-v5`"), ("yolov7", "did you mean `yolov5n`?")]
    {
        let output = vidindex(["models", "pull", name]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(stderr(&output).contains(message), "{}", said(&output));
    }
}

#[test]
fn the_list_shows_installed_and_available_models() {
    let scratch = Scratch::new();
    let models = scratch.path("models");
    std::fs::create_dir(&models).unwrap();
    std::fs::write(models.join("yolov5s.onnx"), "").unwrap();
    let list = |options: &[&str]| {
        let output = vidindex(["models", "list", "--out", models.to_str().unwrap()]).args(options).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        stdout(&output)
    };
    let table = list(&[]);
    let line = |name: &str| table.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap().to_owned();
    for words in ["yes", "7.23 M", "8.2", "AGPL-3.0", "COCO val AP 37.4"] {
        assert!(line("yolov5s").contains(words), "{words} in {}", line("yolov5s"));
    }
    for words in ["34.54 M", "65.71 G", "Apache-2.0", "top-1 76.9", "top-5 92.7"] {
        assert!(line("slowfast-r50-8x8").contains(words), "{words} in {}", line("slowfast-r50-8x8"));
    }
    assert!(!line("yolov5m").contains("yes"));
    let json: serde_json::Value = serde_json::from_str(&list(&["--json"])).unwrap();
    let models = json.as_array().unwrap();
    assert_eq!(models.len(), registry::MODELS.len());
    let detection = models.iter().find(|model| model["name"] == "slowfast-r50-8x8-ava").unwrap();
    assert_eq!(detection["official"]["accuracy_percent"]["AVA 2.2 mAP"], 24.67);
    assert!(detection["official"]["url"].as_str().unwrap().ends_with("/ava/SLOWFAST_8x8_R50_DETECTION.pyth"));
    assert!(detection["here"].is_null());
}
