//! The same job over a directory and over S3, and what can happen to objects between plan and work.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::ffi::OsString;

use support::bucket::{Bucket, comparable};
use support::s3::set_credentials;
use support::{Scratch, run, said, stderr, stdout, tables, test_video};
use vidindex::store::{self, Store, StoreConfig};

#[test]
fn a_bucket_gives_the_rows_of_a_directory() {
    let scratch = Scratch::new();
    let videos = scratch.videos();
    // The index of an MP4 lies at its end unless it is asked for elsewhere.
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
    // Neighbours whose keys begin alike, in the archive and in the output.
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
    let kept = |name: &str| std::fs::read(everything.join(name)).unwrap();
    assert!(
        kept("n.mkv") == std::fs::read(neighbour.join("n.mkv")).unwrap() && kept("n.mkv") == kept("run-2/videos/n.mkv")
    );
    for table in ["videos", "actions", "persons"] {
        let expected = comparable(&bucket.scratch.index(), table);
        assert!(!expected.is_empty());
        assert_eq!(comparable(&downloaded, table), expected, "{table}");
    }
    // The attempts are cleared in the bucket too, and a second run finds nothing to do.
    assert_eq!(tables::files(&downloaded.join("_vidindex")).len(), 1, "plan.parquet alone");
    let again = bucket.vidindex(&["run"], 0);
    assert!(stderr(&again).contains("already indexed"), "{}", said(&again));
}

#[test]
fn objects_that_go_or_change_after_the_plan_get_a_row_that_says_so() {
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
fn a_missing_bucket_is_named() {
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("a.mp4"), "160x120", "25", 1.0, &["-pix_fmt", "yuv420p"]);
    let Some(bucket) = Bucket::with_videos(scratch) else { return };
    for section in ["input", "output"] {
        let output = bucket.vidindex(&["run", "--set", &format!("{section}.uri=s3://nowhere/x/")], 1);
        let said = stderr(&output);
        assert!(said.contains("nowhere") && said.contains("hint:"), "{said}");
    }
}
