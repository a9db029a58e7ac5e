//! The same job on a directory and on S3, and objects that change between plan and work.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;

use md5::Digest;

use vidindex::store::{self, Store, StoreConfig};

use crate::outages::Unreliable;
use crate::support::bucket::{Bucket, comparable};
use crate::support::faults::{Fault, Often, What};
use crate::support::s3::{S3Server, environment, set_credentials};
use crate::support::{self, Scratch, run, said, stderr, stdout, tables, test_video, vidindex};

#[test]
fn a_bucket_gives_the_same_rows_as_a_directory() {
    let scratch = Scratch::new();
    let videos = scratch.videos();
    // The index of an MP4 is at its end, except with `+faststart`.
    test_video(&videos.join("moov at the end.mp4"), "320x240", "30", 6.0, &["-pix_fmt", "yuv420p", "-b:v", "4M"]);
    test_video(
        &videos.join("fast+start.mp4"),
        "320x240",
        "30",
        3.0,
        &["-pix_fmt", "yuv420p", "-movflags", "+faststart"],
    );
    test_video(&videos.join("b.mkv"), "320x240", "25", 5.0, &["-pix_fmt", "yuv420p"]);
    test_video(&videos.join("c.avi"), "320x240", "25", 5.0, &["-c:v", "mpeg4", "-bf", "2"]);
    std::fs::write(videos.join("empty.mp4"), b"").unwrap();
    let Some(bucket) = Bucket::with_videos(scratch) else { return };
    // Other objects with a common prefix, in the archive and in the output.
    let neighbour = bucket.scratch.path("neighbour");
    std::fs::create_dir(&neighbour).unwrap();
    std::fs::copy(bucket.scratch.videos().join("b.mkv"), neighbour.join("n.mkv")).unwrap();
    for uri in ["s3://archive/clips-2/", "s3://index/run-2/videos/", "s3://index/"] {
        bucket.copy("file", &neighbour, uri);
    }
    let local = bucket.scratch.job(&bucket.scratch.small_models());
    run(&local, &[], 3);
    bucket.vidindex(&["run", "--set", "input.uri=s3://archive/clips"], 3);
    let downloaded = bucket.index();
    let everything = bucket.scratch.path("everything");
    bucket.copy("tree", &everything, "s3://index/");
    let top: BTreeSet<_> = std::fs::read_dir(&everything).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(top, ["n.mkv", "run", "run-2"].map(OsString::from).into());
    let content = |name: &str| std::fs::read(everything.join(name)).unwrap();
    assert!(
        content("n.mkv") == std::fs::read(neighbour.join("n.mkv")).unwrap()
            && content("n.mkv") == content("run-2/videos/n.mkv")
    );
    for table in ["videos", "actions", "persons"] {
        let expected = comparable(&bucket.scratch.index(), table);
        assert!(!expected.is_empty());
        assert_eq!(comparable(&downloaded, table), expected, "{table}");
    }
    // The files of attempts are deleted in the bucket too, and a second run has nothing to do.
    assert_eq!(tables::files(&downloaded.join("_vidindex")).len(), 1, "there are files other than plan.parquet");
    let again = bucket.vidindex(&["run"], 0);
    assert!(stderr(&again).contains("already indexed"), "{}", said(&again));
}

#[test]
fn objects_that_are_deleted_or_changed_after_the_plan_get_failed_rows() {
    let scratch = Scratch::new();
    for name in ["stays.mp4", "goes.mp4", "changes.mp4"] {
        test_video(&scratch.videos().join(name), "160x120", "25", 3.0, &["-pix_fmt", "yuv420p"]);
    }
    let Some(bucket) = Bucket::with_videos(scratch) else { return };
    let run = stdout(&bucket.vidindex(&["plan"], 0));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = StoreConfig { endpoint: Some(bucket.server.endpoint()), ..Default::default() };
    set_credentials();
    runtime.block_on(async {
        let archive: std::sync::Arc<dyn Store> = store::open("s3://archive/clips/", &config).await.unwrap();
        archive.delete(&["goes.mp4".to_owned()]).await.unwrap();
        let other = archive.get("stays.mp4").await.unwrap().repeat(2);
        archive.put("changes.mp4", other.into()).await.unwrap();
    });
    bucket.vidindex(&["work", "--run", &run], 0);
    bucket.vidindex(&["seal", "--run", &run], 3);
    for row in tables::rows(&bucket.index(), "videos") {
        let expected = match row["uri"].as_str().unwrap() {
            "s3://archive/clips/stays.mp4" => ("ok", "none"),
            "s3://archive/clips/goes.mp4" => ("failed", "not_found"),
            "s3://archive/clips/changes.mp4" => ("failed", "changed_during_read"),
            other => panic!("{other}"),
        };
        let found = (row["status"].as_str().unwrap(), row["error_kind"].as_str().unwrap_or("none"));
        assert_eq!(found, expected, "{row:?}");
    }
}

#[test]
fn an_inventory_report_replaces_the_listing_of_a_bucket() {
    let scratch = Scratch::new();
    for name in ["in the+report.mp4", "since.mp4"] {
        test_video(&scratch.videos().join(name), "160x120", "25", 1.0, &["-pix_fmt", "yuv420p"]);
    }
    let Some(bucket) = Bucket::with_videos(scratch) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = StoreConfig { endpoint: Some(bucket.server.endpoint()), ..Default::default() };
    set_credentials();
    let folder = "reports/archive/daily";
    runtime.block_on(async {
        let archive = store::open("s3://archive/", &config).await.unwrap();
        let video = archive.head("clips/in the+report.mp4").await.unwrap();
        let line = |key: &str| {
            let time = video.last_modified.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
            format!("\"archive\",\"{key}\",\"{}\",\"{time}\",\"{}\"\n", video.size_bytes, video.etag)
        };
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all((line("clips/in+the%2Breport.mp4") + &line("elsewhere/x.mp4")).as_bytes()).unwrap();
        let data = encoder.finish().unwrap();
        let md5: String = md5::Md5::digest(&data).iter().map(|byte| format!("{byte:02x}")).collect();
        let manifest = serde_json::json!({
            "sourceBucket": "archive", "fileFormat": "CSV", "fileSchema": "Bucket, Key, Size, LastModifiedDate, ETag",
            "files": [{"key": format!("{folder}/data/1.csv.gz"), "size": data.len(), "MD5checksum": md5}],
        });
        let index = store::open("s3://index/", &config).await.unwrap();
        index.put(&format!("{folder}/data/1.csv.gz"), data.into()).await.unwrap();
        let manifest = manifest.to_string().into_bytes();
        index.put(&format!("{folder}/2026-11-02T01-00Z/manifest.json"), manifest.into()).await.unwrap();
    });
    let inventory = format!("input.inventory=s3://index/{folder}/2026-11-02T01-00Z/manifest.json");
    bucket.vidindex(&["run", "--set", &inventory], 0);
    let rows = tables::rows(&bucket.index(), "videos");
    let uris: Vec<_> = rows.iter().map(|row| row["uri"].as_str().unwrap()).collect();
    assert_eq!(uris, ["s3://archive/clips/in the+report.mp4"]);
}

#[test]
fn the_error_for_a_missing_bucket_names_it() {
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("a.mp4"), "160x120", "25", 1.0, &["-pix_fmt", "yuv420p"]);
    let Some(bucket) = Bucket::with_videos(scratch) else { return };
    for section in ["input", "output"] {
        let output = bucket.vidindex(&["run", "--set", &format!("{section}.uri=s3://nowhere/x/")], 1);
        let message = stderr(&output);
        assert!(message.contains("nowhere") && message.contains("hint:"), "{message}");
    }
}

#[test]
fn videos_and_index_can_lie_in_different_stores() {
    let Some(duckdb) = support::python().map(|python| python.with_file_name("duckdb")) else { return };
    let scratch = Scratch::new();
    for name in ["a.mp4", "b.mp4"] {
        test_video(&scratch.videos().join(name), "160x120", "25", 3.0, &["-pix_fmt", "yuv420p"]);
    }
    let (Some(bucket), Some(other)) = (Bucket::with_videos(scratch), S3Server::start()) else { return };
    other.create_bucket("elsewhere");
    let text = std::fs::read_to_string(&bucket.job).unwrap().replace("s3://index/run/", "s3://elsewhere/run/");
    let endpoint = other.endpoint();
    std::fs::write(&bucket.job, format!("{text}\n[output.store]\nendpoint = \"{endpoint}\"\n")).unwrap();
    bucket.vidindex(&["run"], 0);
    assert!(tables::files(&bucket.index()).is_empty(), "the bucket beside the videos stays empty");
    let duckdb = duckdb.to_str().unwrap();
    let counted =
        bucket.vidindex(&["query", "--duckdb", duckdb, "--format", "lines", "SELECT count(*) FROM current_videos"], 0);
    assert_eq!(stdout(&counted), "2");
    assert!(stdout(&bucket.vidindex(&["status"], 0)).contains("sealed"));
    let clips = bucket.scratch.path("clips");
    bucket.vidindex(&["clips", "--video", "b.mp4", "--to", "1", "--duckdb", duckdb, "-o", clips.to_str().unwrap()], 0);
    assert_eq!(std::fs::read_dir(&clips).unwrap().count(), 1);
}

#[test]
fn models_in_a_bucket_are_fetched_into_the_cache_of_the_machine() {
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("a.mp4"), "160x120", "25", 3.0, &["-pix_fmt", "yuv420p"]);
    let models = scratch.path("models");
    std::fs::create_dir(&models).unwrap();
    let sections = scratch.small_models();
    let sections: Vec<String> = sections
        .lines()
        .map(|line| match line.strip_prefix("model = \"").and_then(|rest| rest.strip_suffix('"')) {
            Some(path) => {
                let path = Path::new(path);
                for file in [path.to_owned(), path.with_extension("toml")] {
                    std::fs::copy(&file, models.join(file.file_name().unwrap())).unwrap();
                }
                format!("model = \"s3://models/zoo/{}\"", path.file_name().unwrap().display())
            }
            None => line.to_owned(),
        })
        .collect();
    let Some(server) = S3Server::start() else { return };
    let bucket = Bucket::with_models(server, scratch, &(sections.join("\n") + "\n"));
    bucket.server.create_bucket("models");
    let cache = bucket.scratch.path("cache");
    let index = |code: i32| {
        let mut command = vidindex(["run".as_ref(), bucket.job.as_os_str(), "--reindex".as_ref()]);
        let output = command.envs(environment()).env("XDG_CACHE_HOME", &cache).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        output
    };
    let missing = index(2);
    assert!(
        stderr(&missing).contains("s3://models/zoo/") && stderr(&missing).contains("upload it"),
        "{}",
        said(&missing)
    );
    bucket.copy("file", &models, "s3://models/zoo/");
    let first = index(0);
    assert_eq!(
        stderr(&first).matches("model fetched").count(),
        4,
        "two models and their descriptors: {}",
        said(&first)
    );
    let second = index(0);
    assert!(!stderr(&second).contains("model fetched"), "{}", said(&second));
    let rows = tables::rows(&bucket.index(), "videos");
    assert!(rows.iter().all(|row| row["status"] == "ok" && row["segments"].as_i64() > Some(0)), "{rows:?}");
}

#[test]
fn a_store_that_ignores_conditions_is_refused_before_any_work() {
    let Some(server) = Unreliable::start() else { return };
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("a.mp4"), "128x96", "25", 1.0, &["-pix_fmt", "yuv420p"]);
    let bucket = Bucket::on(server, scratch);
    bucket.server.proxy.set(vec![Fault::on_all(What::Unconditional, Often::Always)]);
    for command in ["plan", "doctor"] {
        let output = bucket.vidindex(&[command], 1);
        assert!(said(&output).contains("this store ignores conditions of puts (If-None-Match)"), "{}", said(&output));
    }
    bucket.server.proxy.set(Vec::new());
    assert_eq!(stdout(&bucket.vidindex(&["status"], 0)), "", "no run is left");
    bucket.vidindex(&["run"], 0);
}

#[test]
fn a_profile_gives_the_credentials_of_one_store() {
    let Some(server) = Unreliable::start() else { return };
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("a.mp4"), "128x96", "25", 1.0, &["-pix_fmt", "yuv420p"]);
    let bucket = Bucket::on(server, scratch);
    let profiles = bucket.scratch.path("credentials");
    std::fs::write(&profiles, "[archive]\naws_access_key_id = OFTHEPROFILE\naws_secret_access_key = s\n").unwrap();
    bucket.server.proxy.set(Vec::new());
    let mut command = vidindex(["run".as_ref(), bucket.job.as_os_str()]);
    command.args(["--set", "input.store.profile=archive"]).envs(environment());
    let output = command.env("AWS_SHARED_CREDENTIALS_FILE", &profiles).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let seen = bucket.server.proxy.seen();
    let signed_with = |bucket: &str, own: bool| {
        let of_bucket = seen.iter().filter(|seen| seen.target.starts_with(bucket));
        of_bucket.filter(|seen| (seen.access_key.as_deref() == Some("OFTHEPROFILE")) == own).count()
    };
    assert!(signed_with("/archive", true) > 1 && signed_with("/archive", false) == 0, "{seen:#?}");
    assert!(signed_with("/index", false) > 1 && signed_with("/index", true) == 0, "{seen:#?}");
}
