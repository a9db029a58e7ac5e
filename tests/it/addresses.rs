//! Commands that read an index take its address instead of the job file.

use std::path::Path;

use crate::support::bucket::Bucket;
use crate::support::s3::{S3Server, environment};
use crate::support::{Scratch, run, said, stderr, stdout, tables, test_video, vidindex};

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
fn paths_in_a_job_file_are_relative_to_it_and_those_of_the_command_line_to_the_working_directory() {
    let scratch = Scratch::new();
    test_video(&scratch.path("a.mp4"), "160x120", "25", 1.0, &["-pix_fmt", "yuv420p"]);
    let [jobs, clips, elsewhere] = ["jobs", "clips", "elsewhere"].map(|name| scratch.path(name));
    [&jobs, &clips, &elsewhere].iter().for_each(|folder| std::fs::create_dir(folder).unwrap());
    std::fs::copy(scratch.path("a.mp4"), clips.join("a.mp4")).unwrap();
    let model = |text: &str| text.split('"').nth(1).unwrap().to_owned();
    std::fs::copy(model(&scratch.small_models()), scratch.path("slowfast.onnx")).unwrap();
    std::fs::copy(Path::new(&model(&scratch.small_models())).with_extension("toml"), scratch.path("slowfast.toml"))
        .unwrap();
    let job = jobs.join("job.toml");
    let write = |input: &str, output: &str, model: &str| {
        let text = format!("[input]\nuri = {input:?}\n[output]\nuri = {output:?}\n[actions]\nmodel = {model:?}\n");
        std::fs::write(&job, text).unwrap();
    };
    let run_in = |folder: &Path, job: &Path, args: &[&str]| {
        let mut command = vidindex(["run".as_ref(), job.as_os_str()]);
        let output = command.args(["--device", "cpu"]).args(args).current_dir(folder).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        stderr(&output)
    };
    let uris = |index: &str| {
        let rows = tables::rows(&scratch.path(index), "videos");
        rows.iter().map(|row| row["uri"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let expected = [clips.join("a.mp4").canonicalize().unwrap().to_str().unwrap().to_owned()];

    write("../clips", "../index", "../slowfast.onnx");
    for folder in [&elsewhere, &jobs, &scratch.dir.path().to_owned()] {
        let log = run_in(folder, &job, &[]);
        assert!(!log.contains("job.toml:"), "{log}");
    }
    assert_eq!(uris("index"), expected, "one row: it is the same video and the same index from anywhere");
    run_in(&elsewhere, Path::new("../jobs/job.toml"), &["--set", "output.uri=own"]);
    assert_eq!(uris("elsewhere/own"), expected);

    // What was read relative to the working directory is still found, with a warning that says what to write.
    write("clips", "index", "slowfast.onnx");
    let log = run_in(scratch.dir.path(), Path::new("jobs/job.toml"), &[]);
    assert!(
        log.contains("jobs/job.toml:2: there is no jobs/clips, so `clips` is relative to the working directory"),
        "{log}"
    );
    assert!(log.contains("write \"../clips\""), "{log}");
    assert_eq!(uris("index"), expected);
    std::fs::create_dir(jobs.join("clips")).unwrap();
    std::fs::copy(scratch.path("a.mp4"), jobs.join("clips/b.mp4")).unwrap();
    let log = run_in(scratch.dir.path(), Path::new("jobs/job.toml"), &["--set", "input.deleted_max=1"]);
    assert!(
        log.contains("`clips` is jobs/clips, relative to the job file; up to version 0.1 it was relative to the"),
        "{log}"
    );
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
