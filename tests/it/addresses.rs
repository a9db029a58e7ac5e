//! Commands that read an index take its address instead of the job file.

use std::path::Path;

use crate::support::bucket::Bucket;
use crate::support::s3::{S3Server, environment};
use crate::support::{Scratch, run, said, stderr, stdout, test_video, vidindex};

fn indexed() -> Scratch {
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("a.mp4"), "160x120", "25", 1.0, &["-pix_fmt", "yuv420p"]);
    run(&scratch.job(&scratch.small_models()), &[], 0);
    scratch
}

#[test]
fn an_index_is_enough_for_commands_that_read_it() {
    let scratch = indexed();
    let (job, index) = (scratch.path("job.toml"), scratch.index());
    let of = |place: &Path, args: &[&str]| {
        let output = vidindex([args[0].as_ref(), place.as_os_str()]).args(&args[1..]).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        stdout(&output)
    };
    for args in [&["status"][..], &["compact", "--dry-run"], &["prune"]] {
        assert_eq!(of(&index, args), of(&job, args), "{args:?}");
    }
    let [by_job, by_index] = ["job.html", "index.html"].map(|name| scratch.path(name));
    of(&job, &["report", "-o", by_job.to_str().unwrap()]);
    of(&index, &["report", "-o", by_index.to_str().unwrap()]);
    assert!(std::fs::metadata(&by_index).unwrap().len() > 10_000);
    assert_eq!(std::fs::metadata(by_job).unwrap().len(), std::fs::metadata(by_index).unwrap().len());
    // An index that was moved is read where it is now, and a name without `.toml` may be a job file.
    let moved = scratch.path("moved");
    std::fs::rename(&index, &moved).unwrap();
    assert!(of(&moved, &["status"]).contains("sealed"));
    let text = std::fs::read_to_string(&job).unwrap().replace(index.to_str().unwrap(), moved.to_str().unwrap());
    let other = scratch.path("job.txt");
    std::fs::write(&other, text).unwrap();
    assert_eq!(of(&other, &["status"]), of(&moved, &["status"]));
}

#[test]
fn an_index_in_a_bucket_is_read_with_the_settings_of_the_environment() {
    let Some(server) = S3Server::start() else { return };
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("a.mp4"), "160x120", "25", 1.0, &["-pix_fmt", "yuv420p"]);
    let bucket = Bucket::on(server, scratch);
    bucket.vidindex(&["run"], 0);
    let mut command = vidindex(["status", "s3://index/run/"]);
    let output = command.envs(environment()).env("AWS_ENDPOINT_URL_S3", bucket.server.endpoint()).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(stdout(&output), stdout(&bucket.vidindex(&["status"], 0)));
}

#[test]
fn a_place_that_is_no_index_is_named_in_the_error() {
    let scratch = indexed();
    let fails = |place: &Path, args: &[&str], expected: &str| {
        let output = vidindex(["status".as_ref(), place.as_os_str()]).args(args).output().unwrap();
        assert!(matches!(output.status.code(), Some(1 | 2)), "{}", said(&output));
        assert!(stderr(&output).contains(expected), "{}", said(&output));
    };
    fails(&scratch.videos(), &[], "there are no runs in");
    fails(&scratch.path("absent"), &[], "absent");
    fails(&scratch.index(), &["--set", "persons.iou=0.5"], "--set changes a job file");
}
