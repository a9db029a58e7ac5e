//! The listing of an archive: runs on unreadable folders, unusual names, hidden files, and keys that do not fit the
//! partition columns.

use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::support::s3::S3Server;
use crate::support::{self, Scratch, query, said, stderr, stdout, tables, test_video, vidindex};

/// A user to whom permissions apply, unlike root.
const NOBODY: u32 = 65_534;

fn is_root(scratch: &Scratch) -> bool {
    std::fs::metadata(scratch.dir.path()).unwrap().uid() == 0
}

/// Makes [`NOBODY`] the owner of everything below the scratch directory, if the tests run as root.
fn change_owner(scratch: &Scratch) {
    if is_root(scratch) {
        for entry in walkdir::WalkDir::new(scratch.dir.path()) {
            chown(entry.unwrap().path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }
}

/// Runs `vidindex COMMAND JOB ARGS...` as [`NOBODY`] if `root`, otherwise as the user of the tests.
fn run_unprivileged(scratch: &Scratch, root: bool, command: &str, args: &[&str], code: i32) -> Output {
    let mut command = vidindex([command.as_ref(), scratch.path("job.toml").as_os_str()]);
    command.args(["--device", "cpu"]).args(args);
    if root {
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", said(&output));
    output
}

fn clip(path: &Path) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    test_video(path, "128x96", "25", 1.0, &["-pix_fmt", "yuv420p"]);
}

/// The key and status of each row of `videos`, sorted.
fn rows(index: &Path) -> Vec<String> {
    let row = |row: serde_json::Map<String, serde_json::Value>| {
        let uri = row["uri"].as_str().unwrap();
        format!("{} {}", uri.split_once("/videos/").unwrap().1, row["status"].as_str().unwrap())
    };
    let mut rows: Vec<_> = tables::rows(index, "videos").into_iter().map(row).collect();
    rows.sort();
    rows
}

fn dry_run(job: &Path, args: &[&str]) -> String {
    let output = vidindex(["plan".as_ref(), job.as_os_str(), "--dry-run".as_ref()]).args(args).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    stdout(&output)
}

fn assert_has(text: &str, lines: &[&str]) {
    lines.iter().for_each(|line| assert!(text.contains(line), "no {line:?} in:\n{text}"));
}

#[test]
fn unreadable_folders_are_skipped_and_their_indexed_videos_keep_their_rows() {
    let scratch = Scratch::new();
    let videos = scratch.videos();
    for name in ["here.mp4", "gone.mp4", "locked/b.mp4"] {
        clip(&videos.join(name));
    }
    for name in ["a.txt", "b.TXT", "c.jpg", "locked/d.txt"] {
        std::fs::write(videos.join(name), "x").unwrap();
    }
    scratch.job(&scratch.small_models());
    let root = is_root(&scratch);
    change_owner(&scratch);
    let run = |args: &[&str], code| run_unprivileged(&scratch, root, "run", args, code);
    let first = run(&[], 0);
    assert_has(&stderr(&first), &["4 files match no include: 3 .txt, 1 .jpg"]);

    std::fs::remove_file(videos.join("gone.mp4")).unwrap();
    for name in [&b"caf\xe9.mp4"[..], b"caf\xe9.txt", b"d\xff/a.mp4"] {
        let path = videos.join(OsStr::from_bytes(name));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "x").unwrap();
    }
    std::fs::create_dir(videos.join("lost+found")).unwrap();
    change_owner(&scratch);
    for locked in ["locked", "lost+found"] {
        std::fs::set_permissions(videos.join(locked), Permissions::from_mode(0o000)).unwrap();
    }
    let plan = run_unprivileged(&scratch, root, "plan", &["--dry-run"], 0);
    assert_has(
        &stdout(&plan),
        &[
            "deleted 1 object, ",
            "not listed 2 folders and 1 object: could not be listed",
            "    caf\u{fffd}.mp4, d\u{fffd}/, locked/",
            "skipped 1 folder: hidden",
        ],
    );
    let second = stderr(&run(&[], 3));
    assert_has(
        &second,
        &[
            "locked: Permission denied",
            "caf\\xE9.mp4\" is not UTF-8",
            "2 folders and 1 object could not be listed",
            "4 files match no include: 3 .txt, 1 .jpg",
        ],
    );
    let expected = ["gone.mp4 deleted", "gone.mp4 ok", "here.mp4 ok", "locked/b.mp4 ok"];
    assert_eq!(rows(&scratch.index()), expected, "videos in an unreadable folder are not marked as deleted");

    // If they are excluded, there are no warnings.
    let excluded = run(&["--set", "input.exclude=['locked/', 'caf*.mp4', 'd*/']"], 0);
    assert!(!stderr(&excluded).contains("could not be listed"), "{}", stderr(&excluded));
    assert_eq!(rows(&scratch.index()), expected);

    // A folder that can be listed, but whose files cannot be accessed.
    std::fs::set_permissions(videos.join("locked"), Permissions::from_mode(0o444)).unwrap();
    assert_has(&stderr(&run(&[], 3)), &["1 folder and 2 objects could not be listed", "locked/b.mp4"]);
    assert_eq!(rows(&scratch.index()), expected);

    std::fs::set_permissions(videos.join("locked"), Permissions::from_mode(0o755)).unwrap();
    std::fs::remove_file(videos.join("locked/b.mp4")).unwrap();
    run(&[], 3);
    assert!(rows(&scratch.index()).contains(&"locked/b.mp4 deleted".to_owned()), "{:?}", rows(&scratch.index()));
}

#[test]
fn an_unreadable_input_folder_fails_the_run() {
    let scratch = Scratch::new();
    clip(&scratch.videos().join("a.mp4"));
    scratch.job(&scratch.small_models());
    let root = is_root(&scratch);
    change_owner(&scratch);
    std::fs::set_permissions(scratch.videos(), Permissions::from_mode(0o000)).unwrap();
    let output = run_unprivileged(&scratch, root, "run", &[], 1);
    assert_has(&stderr(&output), &["videos: Permission denied", "hint:"]);
    std::fs::set_permissions(scratch.videos(), Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn hidden_and_system_files_are_skipped_and_reported_unless_the_job_includes_them() {
    let scratch = Scratch::new();
    let videos = scratch.videos();
    for name in ["a.mp4", ".Trashes/501/b.mp4", "cam-1/@eaDir/c.mp4", "cam-1/._d.mp4"] {
        clip(&videos.join(name));
    }
    let job = scratch.job(&scratch.small_models());
    assert_has(
        &dry_run(&job, &[]),
        &["1 video,", "skipped 2 folders and 1 object, ", ".Trashes/, cam-1/._d.mp4, cam-1/@eaDir/"],
    );
    let all = ["--set", "input.hidden=true"];
    support::run(&job, &all, 0);
    let indexed = [".Trashes/501/b.mp4 ok", "a.mp4 ok", "cam-1/._d.mp4 ok", "cam-1/@eaDir/c.mp4 ok"];
    assert_eq!(rows(&scratch.index()), indexed);
    // If they are skipped again, they are not marked as deleted.
    support::run(&job, &[], 0);
    assert_eq!(rows(&scratch.index()), indexed);
    std::fs::remove_dir_all(videos.join(".Trashes")).unwrap();
    assert!(!dry_run(&job, &[]).contains("deleted"));
    assert_has(&dry_run(&job, &all), &["deleted 1 object, "]);
}

#[test]
fn a_folder_with_only_hidden_videos_is_reported() {
    let scratch = Scratch::new();
    clip(&scratch.videos().join(".clips/a.mp4"));
    let job = scratch.job(&scratch.small_models());
    assert_has(&stderr(&support::run(&job, &[], 1)), &["0 objects seen", "1 folder hidden", "[input] hidden = true"]);
}

#[test]
fn a_bucket_is_filtered_like_a_directory() {
    let Some(server) = S3Server::shared() else { return };
    server.create_bucket("listing");
    let scratch = Scratch::new();
    let keys = [
        "a.mp4",
        "cam-1/b.mp4",
        "cam-2/.x/h.mp4",
        ".Trashes/c.mp4",
        "cam-1/@eaDir/d.mp4",
        "raw/e.mp4",
        "raw/f/g.mp4",
        "notes.txt",
    ];
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = vidindex::store::open("s3://listing/", &server.config()).await.unwrap();
        for key in keys {
            store.put(key, bytes::Bytes::from_static(b"x")).await.unwrap();
        }
    });
    let job = scratch.job(&scratch.small_models());
    let endpoint = format!("store.endpoint={}", server.config().endpoint.unwrap());
    let args = ["--set", "input.uri=s3://listing/", "--set", &endpoint, "--set", "input.exclude=['raw/']"];
    let plan = dry_run(&job, &args);
    assert_has(
        &plan,
        &[
            "2 videos,",
            "skipped 1 folder and 2 objects, 2 B: hidden",
            "skipped 1 folder: matched by input.exclude\n    raw/",
            "skipped 1 object, 1 B: not matched by input.include: 1 .txt",
        ],
    );
}

#[test]
fn partition_columns_that_differ_from_those_of_the_index_are_rejected() {
    if support::python().is_none() {
        return;
    }
    let scratch = Scratch::new();
    clip(&scratch.videos().join("cam-1/a.mp4"));
    let job = scratch.job(&scratch.small_models());
    support::run(&job, &[], 0);
    let count = |index: &Path| query(index, &["--format", "lines", "SELECT count(*) FROM current_videos"]);
    let partition = ["--set", "input.partition='(?<camera>cam-[^/]+)/'"];
    clip(&scratch.videos().join("cam-1/b.mp4"));
    for more in [&[][..], &["--reindex"], &["--retry-failed"]] {
        let rejected = support::run(&job, &[&partition[..], more].concat(), 2);
        assert_has(
            &stderr(&rejected),
            &[
                "are partitioned by dt, but this job would partition by camera, dt",
                "hint: set output.uri to a new location",
            ],
        );
    }
    assert_eq!(count(&scratch.index()), "1\n");

    // The fix in the hint works.
    let other = scratch.path("other");
    let other_output = format!("output.uri={}", other.display());
    support::run(&job, &[&partition[..], &["--set", &other_output]].concat(), 0);
    assert_eq!(count(&other), "2\n");
    support::run(&job, &[], 0);
    assert_eq!(count(&scratch.index()), "2\n");
    let rejected = support::run(&job, &["--set", &other_output], 2);
    assert_has(&stderr(&rejected), &["are partitioned by camera, dt, but this job would partition by dt"]);

    // The reason for the rejection: DuckDB cannot read both as one table.
    let file = tables::files(&other.join("videos")).remove(0);
    let to = scratch.index().join(file.strip_prefix(&other).unwrap());
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::copy(&file, &to).unwrap();
    let duckdb = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/duckdb");
    let mut command = vidindex(["query".as_ref(), scratch.index().as_os_str()]);
    let output = command.arg("SELECT count(*) FROM videos").env("VIDINDEX_DUCKDB", duckdb).output().unwrap();
    assert!(stderr(&output).contains("Hive partition mismatch"), "{}", said(&output));
}

#[test]
fn a_run_with_other_partition_columns_than_the_index_is_not_published() {
    let scratch = Scratch::new();
    clip(&scratch.videos().join("cam-1/a.mp4"));
    let job = scratch.job(&scratch.small_models());
    let planned = vidindex(["plan".as_ref(), job.as_os_str()]).output().unwrap();
    let run = stdout(&planned);
    let partition = ["--set", "input.partition='(?<camera>cam-[^/]+)/'"];
    support::run(&job, &partition, 0);
    let published = || ["videos", "actions", "persons"].map(|table| tables::files(&scratch.index().join(table)));
    let files = published();
    let resume = |command: &str| vidindex([command, job.to_str().unwrap(), "--run", &run]).output().unwrap();
    let worked = resume("work");
    assert_eq!(worked.status.code(), Some(0), "{}", said(&worked));
    let sealed = resume("seal");
    assert_eq!(sealed.status.code(), Some(2), "{}", said(&sealed));
    assert_has(&stderr(&sealed), &["are partitioned by camera, dt, but this job would partition by dt"]);
    // The next plan publishes unsealed runs, but not this one.
    assert_has(&stderr(&support::run(&job, &partition, 0)), &["not published", "already indexed"]);
    assert_eq!(published(), files);
}

#[test]
fn a_partition_value_that_is_too_long_fails_only_its_video() {
    let scratch = Scratch::new();
    let long = format!("cam-{}", "x".repeat(250));
    let name = |camera: &str| PathBuf::from(camera).join("a.mp4");
    for camera in ["cam-1", &long] {
        clip(&scratch.videos().join(name(camera)));
    }
    let job = scratch.job(&scratch.small_models());
    let partition = ["--set", "input.partition='(?<camera>cam-[^/]+)/'"];
    let plan = dry_run(&job, &partition);
    assert_has(&plan, &["2 videos,", "will fail 1 object, ", "too long for a folder's name", &long]);
    let first = support::run(&job, &partition, 3);
    assert_has(
        &stderr(&first),
        &["1 video will fail because a partition value is too long for a folder's name", &long],
    );
    let rows = tables::rows(&scratch.index(), "videos");
    let failed: Vec<_> = rows.iter().filter(|row| row["status"] == "failed").collect();
    assert_eq!((rows.len(), failed.len()), (2, 1), "{rows:?}");
    assert_eq!(failed[0]["error_kind"], "unsupported");
    assert_has(failed[0]["error_message"].as_str().unwrap(), &["`camera` is too long", "261 bytes"]);
    assert!(failed[0]["uri"].as_str().unwrap().contains(&long));
    let folders: Vec<_> = tables::files(&scratch.index().join("videos"));
    assert!(folders.iter().any(|file| file.to_str().unwrap().contains("camera=cam-1/")), "{folders:?}");
    assert!(folders.iter().any(|file| file.to_str().unwrap().contains("camera=__HIVE_DEFAULT_PARTITION__/")));
    assert_has(&stderr(&support::run(&job, &partition, 0)), &["failed before and unchanged"]);
}
