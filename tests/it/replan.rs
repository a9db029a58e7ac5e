//! How the next plan handles temporary failures, archived objects, and videos that are deleted or restored.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use futures::TryStreamExt;
use serde_json::Value;
use vidindex::store::{self, StoreConfig};

use crate::support::bucket::Bucket;
use crate::support::s3::{environment, set_credentials};
use crate::support::{self, Scratch, query, run, said, stderr, stdout, tables, test_video, vidindex};

fn call(args: &[&str], code: i32) -> Output {
    let output = vidindex(args).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?} {}", said(&output));
    output
}

fn dry_run(job: &Path) -> String {
    stdout(&call(&["plan", job.to_str().unwrap(), "--dry-run"], 0))
}

fn set_modified(file: &Path, time: SystemTime) {
    std::fs::File::options().write(true).open(file).unwrap().set_modified(time).unwrap();
}

/// The rows of `videos` as (status, error_kind, failures), sorted by time.
fn history(index: &Path) -> Vec<(String, Option<String>, Option<i64>)> {
    let mut rows = tables::rows(index, "videos");
    rows.sort_by_key(|row| row["indexed_at"].as_i64());
    let text = |value: &Value| value.as_str().map(str::to_owned);
    rows.iter().map(|row| (text(&row["status"]).unwrap(), text(&row["error_kind"]), row["failures"].as_i64())).collect()
}

#[test]
fn a_temporary_failure_is_retried_until_five_failures_and_then_on_request() {
    let scratch = Scratch::new();
    let file = scratch.videos().join("a.mp4");
    test_video(&file, "128x96", "25", 1.0, &["-pix_fmt", "yuv420p"]);
    let listed = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
    set_modified(&file, listed);
    let job = scratch.job(&scratch.small_models());
    let job_file = job.to_str().unwrap();
    // The file is changed after each plan, and restored before the next one.
    for n in 1..=5 {
        let planned = call(&["plan", job_file, "--device", "cpu"], 0);
        assert_eq!(stderr(&planned).contains("retried=1"), n > 1, "{}", stderr(&planned));
        let run = stdout(&planned);
        set_modified(&file, listed + Duration::from_secs(60));
        call(&["work", job_file, "--device", "cpu", "--run", &run], 0);
        call(&["seal", job_file, "--run", &run], 3);
        set_modified(&file, listed);
    }
    let failed = |n| ("failed".to_owned(), Some("changed_during_read".to_owned()), Some(n));
    assert_eq!(history(&scratch.index()), (1..=5).map(failed).collect::<Vec<_>>());

    let log = stderr(&run(&job, &[], 0));
    assert!(log.contains("skipped 1 object") && log.contains("failed 5 times in a row (--retry-failed"), "{log}");
    run(&job, &["--retry-failed"], 0);
    assert_eq!(history(&scratch.index())[5..], [("ok".to_owned(), None, None)]);
    assert!(dry_run(&job).contains("already indexed"));
}

#[test]
fn a_dry_run_after_a_cancelled_run_says_what_the_next_run_does_and_writes_nothing() {
    let scratch = Scratch::new();
    for i in 0..3 {
        test_video(&scratch.videos().join(format!("{i}.mp4")), "128x96", "25", 1.0, &["-pix_fmt", "yuv420p"]);
    }
    let job = scratch.job(&format!("{}[run]\nshard_bytes = 1\n", scratch.small_models()));
    let job_file = job.to_str().unwrap();
    let cancelled = stdout(&call(&["plan", job_file], 0));
    // One of three shards is committed; nothing is sealed.
    call(&["work", job_file, "--device", "cpu", "--run", &cancelled, "--task", "0/3"], 0);
    let before = tables::files(&scratch.index());
    for command in ["plan", "submit"] {
        let mut dry = vidindex([command, job_file, "--dry-run"]);
        if command == "submit" {
            dry.args(["--engine", "slurm"]);
        }
        let dry = dry.output().unwrap();
        assert!(dry.status.success(), "{}", said(&dry));
        let log = stderr(&dry);
        assert!(log.contains("a run would first publish what this one committed") && log.contains(&cancelled), "{log}");
        let shown = if command == "plan" { stdout(&dry) } else { log };
        assert!(shown.contains("2 videos, ") && shown.contains("already indexed"), "{shown}");
    }
    assert_eq!(tables::files(&scratch.index()), before);
    let planned = call(&["plan", job_file], 0);
    assert!(stderr(&planned).contains("videos=2"), "{}", stderr(&planned));
}

/// Changes the storage class of an object with boto3. With `restore`, the object is restored first.
fn change_class(bucket: &Bucket, key: &str, storage_class: &str, restore: bool) {
    let script = "
import boto3, sys
endpoint, key, storage_class, restore = sys.argv[1:]
s3 = boto3.client('s3', endpoint_url=endpoint, region_name='us-east-1')
if restore == 'true':
    s3.restore_object(Bucket='archive', Key=key, RestoreRequest={'Days': 2})
if storage_class:
    s3.copy_object(Bucket='archive', Key=key, CopySource={'Bucket': 'archive', 'Key': key}, StorageClass=storage_class)
";
    let mut command = Command::new(support::python().unwrap());
    let restore = restore.to_string();
    command.args(["-c", script, &bucket.server.endpoint(), key, storage_class, &restore]).envs(environment());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn archived_objects_are_reported_once_and_read_after_they_are_restored() {
    let scratch = Scratch::new();
    for name in ["cold.mp4", "deep.mp4", "instant.mp4", "warm.mp4"] {
        test_video(&scratch.videos().join(name), "128x96", "25", 1.0, &["-pix_fmt", "yuv420p"]);
    }
    let Some(bucket) = Bucket::with_videos(scratch) else { return };
    for (name, class) in [("cold", "GLACIER"), ("deep", "DEEP_ARCHIVE"), ("instant", "GLACIER_IR")] {
        change_class(&bucket, &format!("clips/{name}.mp4"), class, false);
    }
    let planned = stdout(&bucket.vidindex(&["plan", "--dry-run"], 0));
    assert!(planned.starts_with("2 videos, ") && planned.contains("archived 2 objects, "), "{planned}");
    bucket.vidindex(&["run"], 3);
    for row in tables::rows(&bucket.index(), "videos") {
        let message = row["error_message"].as_str().unwrap_or_default();
        let found = (row["status"].as_str().unwrap(), row["error_kind"].as_str(), row["failures"].as_i64());
        let class = match row["uri"].as_str().unwrap().rsplit('/').next().unwrap() {
            "cold.mp4" => "class GLACIER; restore it",
            "deep.mp4" => "class DEEP_ARCHIVE; restore it",
            _ => {
                assert_eq!(found, ("ok", None, None));
                continue;
            }
        };
        assert_eq!(found, ("failed", Some("archived"), Some(0)));
        assert!(message.contains(class), "{message}");
    }
    for _ in 0..2 {
        let log = stderr(&bucket.vidindex(&["run"], 0));
        assert!(log.contains("skipped 2 objects") && log.contains("still in an archive storage class"), "{log}");
    }

    // One object is moved to a class that can be read. The other is restored in place, which the listing of this server
    // does not report.
    let shown = bucket.vidindex(&["restore"], 0);
    assert!(stdout(&shown).contains("DEEP_ARCHIVE  1 video, ") && stdout(&shown).contains("GLACIER       1 video, "));
    assert!(stderr(&shown).contains("nothing is requested without --yes"), "{}", said(&shown));
    change_class(&bucket, "clips/cold.mp4", "STANDARD", true);
    let requested = stdout(&bucket.vidindex(&["restore", "--yes", "--days", "3"], 0));
    assert!(requested.ends_with("requested 1 video"), "{requested}");
    bucket.vidindex(&["run"], 0);
    let ok = |index: &Path| {
        let rows = tables::rows(index, "videos");
        rows.iter().filter(|row| row["status"] == "ok" && row["failures"].is_null()).count()
    };
    assert_eq!(ok(&bucket.index()), 3);
    bucket.vidindex(&["run", "--retry-failed"], 0);
    assert_eq!(ok(&bucket.index()), 4);
    assert_eq!(stdout(&bucket.vidindex(&["restore"], 0)), "no video of the job is in an archive storage class");
}

/// A listing as AWS returns it. The server of the other tests omits `RestoreStatus`.
const LISTING: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>archive</Name><Prefix></Prefix>
<KeyCount>4</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>
<Contents><Key>cold.mp4</Key><LastModified>2026-11-01T09:30:12.000Z</LastModified><ETag>"a"</ETag><Size>1</Size>
<StorageClass>GLACIER</StorageClass></Contents>
<Contents><Key>restored.mp4</Key><LastModified>2026-11-01T09:30:12.000Z</LastModified><ETag>"b"</ETag><Size>1</Size>
<StorageClass>GLACIER</StorageClass><RestoreStatus><IsRestoreInProgress>false</IsRestoreInProgress>
<RestoreExpiryDate>2026-12-01T00:00:00.000Z</RestoreExpiryDate></RestoreStatus></Contents>
<Contents><Key>thawing.mp4</Key><LastModified>2026-11-01T09:30:12.000Z</LastModified><ETag>"c"</ETag><Size>1</Size>
<StorageClass>DEEP_ARCHIVE</StorageClass><RestoreStatus><IsRestoreInProgress>true</IsRestoreInProgress></RestoreStatus></Contents>
<Contents><Key>warm.mp4</Key><LastModified>2026-11-01T09:30:12.000Z</LastModified><ETag>"d"</ETag><Size>1</Size>
<StorageClass>STANDARD</StorageClass></Contents></ListBucketResult>"#;

#[test]
fn a_listing_requests_the_restore_status_of_archived_objects() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", server.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        loop {
            let (mut stream, _) = server.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            let request = String::from_utf8(request).unwrap().to_lowercase();
            let is_list = request.starts_with("get ");
            let body = if is_list { LISTING } else { "" };
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            stream.write_all((head + body).as_bytes()).unwrap();
            if is_list {
                return request;
            }
        }
    });
    set_credentials();
    let config = StoreConfig { endpoint: Some(endpoint), ..StoreConfig::default() };
    let objects: Vec<_> = tokio::runtime::Runtime::new().unwrap().block_on(async {
        let archive = store::open("s3://archive/", &config).await.unwrap();
        archive.list("").try_collect().await.unwrap()
    });
    let found: Vec<_> = objects.iter().map(|object| (object.key.as_str(), object.archived.as_deref())).collect();
    let expected = [
        ("cold.mp4", Some("GLACIER")),
        ("restored.mp4", None),
        ("thawing.mp4", Some("DEEP_ARCHIVE")),
        ("warm.mp4", None),
    ];
    assert_eq!(found, expected);
    assert!(server.join().unwrap().contains("x-amz-optional-object-attributes: restorestatus"));
}

/// The rows of the current views, without the columns that depend on the run.
fn shown(index: &Path) -> [String; 3] {
    let all = |table: &str, excluded: &str| {
        let sql = format!("SELECT * EXCLUDE ({excluded}) FROM current_{table} ORDER BY ALL");
        query(index, &["--format", "json", &sql])
    };
    [
        all("videos", "run_id, shard, indexed_at, decode_seconds, inference_seconds"),
        all("actions", "run_id"),
        all("persons", "run_id"),
    ]
}

fn count(index: &Path) -> usize {
    let count = query(index, &["--format", "lines", "SELECT count(*) FROM current_videos"]);
    count.trim().parse().unwrap()
}

/// Makes the sealed runs more than a day old.
fn age_runs(index: &Path) {
    for run in std::fs::read_dir(index.join("_vidindex/runs")).unwrap() {
        let path = run.unwrap().path().join("summary.json");
        let mut summary: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        summary["sealed_at"] = "2020-01-01T00:00:00Z".into();
        std::fs::write(&path, summary.to_string()).unwrap();
    }
}

/// Creates two folders of three videos, and returns the job.
fn cameras(scratch: &Scratch) -> PathBuf {
    let first = scratch.path("first.mp4");
    test_video(&first, "128x96", "25", 2.5, &["-pix_fmt", "yuv420p"]);
    for camera in ["cam-1", "cam-2"] {
        std::fs::create_dir_all(scratch.videos().join(camera)).unwrap();
        for name in ["a.mp4", "b.mp4", "c.mp4"] {
            std::fs::copy(&first, scratch.videos().join(camera).join(name)).unwrap();
        }
    }
    scratch.job(&format!("{}[report]\nthumbnails = true\n", scratch.small_models()))
}

/// Number of inputs that a run's models processed.
fn inputs(output: &Output) -> u64 {
    let lines = stderr(output).lines().map(str::to_owned).collect::<Vec<_>>();
    let events = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter_map(|event| event["fields"]["inputs"].as_u64()).sum()
}

#[test]
fn a_missing_folder_is_reported_and_marked_as_deleted_only_on_request() {
    if support::python().is_none() {
        return;
    }
    let scratch = Scratch::new();
    let (job, index) = (cameras(&scratch), scratch.index());
    run(&job, &[], 0);
    std::fs::rename(scratch.videos().join("cam-2"), scratch.path("moved")).unwrap();
    std::fs::copy(scratch.path("first.mp4"), scratch.videos().join("cam-1/new.mp4")).unwrap();
    assert!(dry_run(&job).starts_with("1 video, "));
    let missing = "missing 3 objects, ";
    let log = stderr(&run(&job, &[], 0));
    assert!(log.contains(missing) && log.contains("of 6 indexed") && log.contains("\n    cam-2/: all 3"), "{log}");
    assert_eq!(count(&index), 7, "the other videos are not indexed");
    let log = stderr(&run(&job, &[], 0));
    assert!(log.contains("nothing new") && log.contains(missing), "{log}");
    let log = stderr(&run(&job, &["--set", "input.deleted_max=0.5", "--confirm-deleted"], 0));
    assert!(!log.contains(missing) && log.contains("3 deleted"), "{log}");
    assert_eq!(count(&index), 4);
    // A single missing video is always marked.
    std::fs::remove_file(scratch.videos().join("cam-1/new.mp4")).unwrap();
    run(&job, &[], 0);
    assert_eq!(count(&index), 3);
}

#[test]
fn the_rows_of_a_restored_folder_are_restored_without_inference() {
    if support::python().is_none() {
        return;
    }
    let scratch = Scratch::new();
    let (job, index) = (cameras(&scratch), scratch.index());
    assert!(inputs(&run(&job, &["--log-format", "json"], 0)) > 0);
    let before = shown(&index);
    let thumbnails = tables::rows(&index, "thumbnails").len();
    let (folder, moved) = (scratch.videos().join("cam-2"), scratch.path("moved"));
    let delete_and_restore_folder = || {
        std::fs::rename(&folder, &moved).unwrap();
        run(&job, &["--confirm-deleted"], 0);
        assert_eq!(count(&index), 3);
        std::fs::rename(&moved, &folder).unwrap();
    };
    let run_again = || {
        let planned = dry_run(&job);
        let output = run(&job, &["--log-format", "json"], 0);
        assert_eq!(shown(&index), before);
        (planned, inputs(&output))
    };

    delete_and_restore_folder();
    let (planned, seen) = run_again();
    assert!(planned.starts_with("0 videos, 0 B to index") && planned.contains("restored 3 objects, "), "{planned}");
    assert_eq!((seen, tables::rows(&index, "thumbnails").len()), (0, thumbnails / 2 * 3));
    assert!(dry_run(&job).contains("skipped 6 objects, "), "{}", dry_run(&job));

    // The rows of the deleted folder are in the same files as those of the other folder. `prune` and `compact` keep
    // them.
    delete_and_restore_folder();
    age_runs(&index);
    call(&["prune", job.to_str().unwrap(), "--yes"], 0);
    let merged = call(&["compact", job.to_str().unwrap()], 0);
    assert!(!stdout(&merged).contains("nothing to compact"), "{}", stdout(&merged));
    assert_eq!(run_again().1, 0);

    // All videos are deleted, and their rows are pruned. The restored videos are indexed again.
    let all_moved = scratch.path("all");
    std::fs::rename(scratch.videos(), &all_moved).unwrap();
    std::fs::create_dir(scratch.path("videos")).unwrap();
    run(&job, &["--confirm-deleted"], 0);
    assert_eq!(count(&index), 0);
    age_runs(&index);
    call(&["prune", job.to_str().unwrap(), "--yes"], 0);
    std::fs::remove_dir(scratch.path("videos")).unwrap();
    std::fs::rename(&all_moved, scratch.path("videos")).unwrap();
    let (planned, seen) = run_again();
    assert!(planned.starts_with("6 videos, ") && seen > 0, "{seen} {planned}");
}
