//! Failures between vidindex and a store: those of one video fail only its row, outages are retried, and those of the
//! job (credentials, clocks) end the run. The tests use the real binary and an S3 server behind a proxy that injects
//! faults.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::support::bucket::{Bucket, Endpoint, comparable};
use crate::support::faults::{Fault, FaultProxy, Often, What};
use crate::support::s3::S3Server;
use crate::support::{self, Scratch, run, said, stderr, tables, test_video};

/// An S3 server behind a proxy that injects faults.
pub(crate) struct Unreliable {
    pub(crate) proxy: FaultProxy,
    /// Kept running as long as the proxy.
    _server: S3Server,
}

impl Endpoint for Unreliable {
    fn endpoint(&self) -> String {
        self.proxy.endpoint()
    }
}

impl Unreliable {
    pub(crate) fn start() -> Option<Self> {
        let server = S3Server::start()?;
        let proxy = FaultProxy::start(server.address(), Vec::new());
        Some(Self { proxy, _server: server })
    }
}

fn videos(scratch: &Scratch, count: usize) {
    for n in 0..count {
        test_video(&scratch.videos().join(format!("v{n}.mp4")), "96x64", "10", 2.0, &["-pix_fmt", "yuv420p"]);
    }
}

/// The input is behind the proxy, and the output is the local directory `index`.
fn with_local_output(count: usize) -> Option<Bucket<Unreliable>> {
    let scratch = Scratch::new();
    videos(&scratch, count);
    let server = Unreliable::start()?;
    let bucket = Bucket::on(server, scratch);
    let text = std::fs::read_to_string(&bucket.job).unwrap();
    let output = format!("uri = \"{}\"", bucket.scratch.index().display());
    std::fs::write(&bucket.job, text.replace("uri = \"s3://index/run/\"", &output)).unwrap();
    Some(bucket)
}

fn kinds(index: &Path) -> BTreeMap<String, String> {
    let name = |row: &serde_json::Map<String, serde_json::Value>| {
        row["uri"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()
    };
    let kind = |row: &serde_json::Map<String, serde_json::Value>| match row["error_kind"].as_str() {
        Some(kind) => format!("{} {kind}", row["status"].as_str().unwrap()),
        None => row["status"].as_str().unwrap().to_owned(),
    };
    tables::rows(index, "videos").iter().map(|row| (name(row), kind(row))).collect()
}

fn reads_of(bucket: &'static str) -> impl Fn(&str, &str) -> bool + Send + Sync + 'static {
    let prefix = format!("/{bucket}/");
    move |method, target| method == "GET" && target.starts_with(&prefix)
}

#[test]
fn invalid_credentials_end_the_run_without_failed_rows_and_the_next_run_completes_it() {
    let Some(bucket) = with_local_output(6) else { return };
    let refusals = [
        (400, "ExpiredToken", "renew the session"),
        (403, "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
        (403, "RequestTimeTooSkewed", "clock"),
    ];
    for (status, code, hint) in refusals {
        // Each video is read with one request. Only the first request succeeds.
        let rule = Fault::new(reads_of("archive"), What::Refuse(status, code), Often::After(1));
        bucket.server.proxy.set(vec![rule]);
        let output = bucket.vidindex(&["run"], 1);
        assert!(stderr(&output).contains(code) && stderr(&output).contains(hint), "{}", said(&output));
        // All videos are in one shard, which is not committed.
        assert_eq!(kinds(&bucket.scratch.index()), BTreeMap::new(), "{code}");
    }
    bucket.server.proxy.set(Vec::new());
    bucket.vidindex(&["run"], 0);
    let kinds = kinds(&bucket.scratch.index());
    assert_eq!(kinds.len(), 6);
    assert!(kinds.values().all(|status| status == "ok"), "{kinds:?}");
    tables::assert_counts(&bucket.scratch.index());
}

#[test]
fn an_unreadable_object_fails_only_its_own_row() {
    let Some(bucket) = with_local_output(8) else { return };
    let refusals = [
        (400, "InvalidRequest", "unreadable"),
        (400, "KMS.DisabledException", "unreadable"),
        (403, "AccessDenied", "access_denied"),
        (405, "MethodNotAllowed", "unreadable"),
        (403, "InvalidObjectState", "archived"),
        (404, "NoSuchKey", "not_found"),
        // It fails like in an outage, but the other objects can be read.
        (500, "InternalError", "unreadable"),
    ];
    let rule = |(n, (status, code, _)): (usize, &(u16, &'static str, &str))| {
        let target = format!("/archive/clips/v{n}.mp4");
        let on = move |_: &str, requested: &str| requested.starts_with(&target);
        Fault::new(on, What::Refuse(*status, code), Often::Always)
    };
    bucket.server.proxy.set(refusals.iter().enumerate().map(rule).collect());
    bucket.vidindex(&["run", "--set", "run.shard_bytes=1", "--set", "store.retry_seconds=1"], 3);
    let kinds = kinds(&bucket.scratch.index());
    for (n, (_, code, kind)) in refusals.iter().enumerate() {
        assert_eq!(kinds[&format!("v{n}.mp4")], format!("failed {kind}"), "{code}");
    }
    assert_eq!(kinds["v7.mp4"], "ok");
    let archived =
        tables::rows(&bucket.scratch.index(), "videos").into_iter().find(|row| row["error_kind"] == "archived");
    assert!(archived.unwrap()["error_message"].as_str().unwrap().contains("restore it"), "the row contains the hint");
}

#[test]
fn an_unreadable_local_file_fails_only_its_own_row() {
    let scratch = Scratch::new();
    videos(&scratch, 2);
    // The kernel reports a size of 4096 bytes, but reads of the file fail.
    let unreadable = Path::new("/sys/class/net/lo/speed");
    assert!(unreadable.metadata().unwrap().len() > 0 && std::fs::read(unreadable).is_err());
    std::os::unix::fs::symlink(unreadable, scratch.videos().join("a.mp4")).unwrap();
    run(&scratch.job(&scratch.small_models()), &[], 3);
    let kinds = kinds(&scratch.index());
    assert_eq!(kinds.values().map(String::as_str).collect::<Vec<_>>(), ["failed unreadable", "ok", "ok"]);
}

#[test]
fn missing_credentials_end_the_run_with_a_hint_and_without_rows() {
    let Some(bucket) = with_local_output(1) else { return };
    let mut command = support::vidindex(["run".as_ref(), bucket.job.as_os_str()]);
    command.env_clear().env("HOME", "/nonexistent").env("AWS_EC2_METADATA_DISABLED", "true");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(stderr(&output).contains("hint: set AWS_ACCESS_KEY_ID"), "{}", said(&output));
    assert!(tables::files(&bucket.scratch.index()).is_empty());
}

/// Both the input and the output are in buckets.
fn in_bucket(server: Unreliable, count: usize) -> Bucket<Unreliable> {
    let scratch = Scratch::new();
    videos(&scratch, count);
    Bucket::on(server, scratch)
}

#[test]
fn transient_failures_of_every_kind_of_request_are_retried() {
    let Some(server) = Unreliable::start() else { return };
    let bucket = in_bucket(server, 2);
    let expected = {
        let scratch = Scratch::new();
        videos(&scratch, 2);
        run(&scratch.job(&scratch.small_models()), &[], 0);
        scratch
    };
    let is_list = |method: &str, target: &str| method == "GET" && target.contains("list-type=2");
    let is_copy = |method: &str, target: &str| method == "PUT" && target.starts_with("/index/run/videos/");
    let is_commit = |method: &str, target: &str| method == "PUT" && target.contains("/shards/");
    let is_part = |method: &str, target: &str| method == "PUT" && target.contains("/parts/");
    let is_record =
        |method: &str, target: &str| method == "GET" && target.contains("/_vidindex/") && target.contains(".json");
    let is_head = |method: &str, target: &str| method == "HEAD" && target.contains("/_vidindex/");
    bucket.server.proxy.set(vec![
        // Each request fails four times in a row, which is more often than the SDK would try by default.
        Fault::new(is_list, What::Refuse(503, "SlowDown"), Often::Times(2)),
        Fault::new(is_list, What::CutBody(300), Often::Times(1)),
        Fault::new(is_list, What::ResetBefore, Often::Times(1)),
        Fault::new(is_commit, What::ResetAfter, Often::Times(2)),
        Fault::new(is_commit, What::Status(500, String::new()), Often::Times(2)),
        Fault::new(is_part, What::Refuse(400, "RequestTimeout"), Often::Times(4)),
        Fault::new(is_copy, What::ErrorInside200("InternalError"), Often::Times(2)),
        Fault::new(is_copy, What::ResetAfter, Often::Times(2)),
        Fault::new(is_record, What::ShortBody(20), Often::Times(2)),
        Fault::new(is_head, What::NoLength, Often::Times(2)),
        Fault::new(is_head, What::Delay(Duration::from_millis(300)), Often::Times(2)),
        Fault::new(reads_of("archive"), What::CutBody(1000), Often::Times(2)),
        Fault::new(reads_of("archive"), What::Refuse(503, "ServiceUnavailable"), Often::Times(2)),
    ]);
    bucket.vidindex(&["run"], 0);
    let injected = bucket.server.proxy.injected();
    assert!(injected.iter().all(|times| *times > 0), "{injected:?}");
    let index = bucket.index();
    for table in ["videos", "actions", "persons"] {
        assert_eq!(comparable(&index, table), comparable(&expected.index(), table), "{table}");
    }
}

#[test]
fn a_long_outage_fails_the_task_and_the_run_can_be_resumed() {
    let Some(server) = Unreliable::start() else { return };
    let bucket = in_bucket(server, 2);
    let run = support::stdout(&bucket.vidindex(&["plan"], 0));
    bucket.server.proxy.set(vec![Fault::new(
        |method, target| method == "PUT" && target.contains("/parts/") && target.contains(".parquet"),
        What::Refuse(503, "SlowDown"),
        Often::Always,
    )]);
    let args = ["work", "--run", &run, "--task", "0/1", "--set", "store.retry_seconds=1"];
    let output = bucket.vidindex(&args, 1);
    assert!(stderr(&output).contains("SlowDown"), "{}", said(&output));
    bucket.server.proxy.set(Vec::new());
    bucket.vidindex(&["work", "--run", &run, "--task", "0/1"], 0);
    bucket.vidindex(&["seal", "--run", &run], 0);
    tables::assert_counts(&bucket.index());
}

/// Faults in about a fifth of all requests, of all the kinds of a failing S3 server.
fn random_faults(seed: u64) -> Vec<Fault> {
    let is_copy = |method: &str, target: &str| method == "PUT" && !target.contains("/_vidindex/");
    let faults = [
        (What::Status(500, String::new()), 0.035),
        (What::Refuse(503, "SlowDown"), 0.035),
        (What::Refuse(500, "InternalError"), 0.03),
        (What::ResetBefore, 0.03),
        (What::ResetAfter, 0.03),
        (What::CutBody(200), 0.03),
        (What::Delay(Duration::from_millis(200)), 0.01),
    ];
    let mut rules: Vec<Fault> =
        faults.into_iter().map(|(what, share)| Fault::on_all(what, Often::Share(share, seed))).collect();
    rules.push(Fault::new(is_copy, What::ErrorInside200("InternalError"), Often::Share(0.2, seed)));
    rules
}

/// The result of a complete run.
struct Outcome {
    code: Option<i32>,
    /// Number of requests that failed, out of `requests`.
    failed: u32,
    requests: usize,
    /// The rows of each table.
    rows: Vec<Vec<String>>,
}

fn run_with_random_faults(seed: u64) -> Outcome {
    let bucket = in_bucket(Unreliable::start().unwrap(), RANDOM_FAULTS_VIDEOS);
    bucket.server.proxy.set(random_faults(seed));
    let mut command = support::vidindex(["run".as_ref(), bucket.job.as_os_str()]);
    command.args(["--set", "run.shard_bytes=20000"]).envs(support::s3::environment());
    let output = command.output().unwrap();
    let failed = bucket.server.proxy.injected().iter().sum();
    let requests = bucket.server.proxy.seen().len();
    bucket.server.proxy.set(Vec::new());
    let code = output.status.code();
    eprintln!("seed {seed}: exit code {code:?}, {failed} of {requests} requests failed");
    if code != Some(0) {
        eprintln!("{}", said(&output));
        // The next run completes the index.
        bucket.vidindex(&["run"], 0);
    }
    let index = bucket.index();
    Outcome {
        code,
        failed,
        requests,
        rows: ["videos", "actions", "persons"].map(|table| comparable(&index, table)).into(),
    }
}

const RANDOM_FAULTS_VIDEOS: usize = 8;

#[test]
fn random_faults_do_not_change_the_rows_and_at_least_nine_of_ten_runs_succeed() {
    if S3Server::start().is_none() {
        return;
    }
    let scratch = Scratch::new();
    videos(&scratch, RANDOM_FAULTS_VIDEOS);
    run(&scratch.job(&scratch.small_models()), &[], 0);
    let expected: Vec<_> = ["videos", "actions", "persons"].map(|table| comparable(&scratch.index(), table)).into();
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        // The runs mostly wait, so several run concurrently.
        let tasks: Vec<_> = (0..5).map(|n| scope.spawn(move || [n, n + 5].map(run_with_random_faults))).collect();
        tasks.into_iter().flat_map(|task| task.join().unwrap()).collect()
    });
    for outcome in &outcomes {
        assert!(outcome.rows == expected, "the rows differ");
        let share = f64::from(outcome.failed) / outcome.requests as f64;
        assert!((0.1..0.35).contains(&share), "{} of {} failed", outcome.failed, outcome.requests);
    }
    let succeeded = outcomes.iter().filter(|outcome| outcome.code == Some(0)).count();
    assert!(succeeded >= 9, "{succeeded} of 10 runs succeeded");
}
