//! A run on a distributed S3 store that loses a machine: Ceph's gateway with three storage daemons. `make test-heavy`
//! runs it.

use std::process::Stdio;
use std::time::Duration;

use crate::support::bucket::{Bucket, comparable};
use crate::support::ceph::Ceph;
use crate::support::s3::environment;
use crate::support::{Scratch, run, stderr, stdout, tables, test_video, vidindex};

/// The detector processes many frames, so that the work takes long enough to be interrupted.
const LONG_WORK: &str = "frames_per_second = 12\n[run]\ndevice = \"cpu\"\nshard_bytes = 1\n";

#[test]
#[ignore = "make test-heavy"]
fn no_row_is_lost_if_a_storage_daemon_dies_during_the_work() {
    let Some(ceph) = Ceph::start() else { return };
    let scratch = Scratch::new();
    for i in 0..8 {
        let file = scratch.videos().join(format!("{i}.mp4"));
        test_video(&file, "320x240", "25", 4.0 + f64::from(i) / 4.0, &["-pix_fmt", "yuv420p"]);
    }
    let job = scratch.job(&format!("{}{LONG_WORK}", scratch.small_models()));
    run(&job, &[], 0);

    let mut bucket = Bucket::on(ceph, scratch);
    let text = std::fs::read_to_string(&bucket.job).unwrap();
    std::fs::write(&bucket.job, text.replace("[run]\ndevice = \"cpu\"\n", LONG_WORK)).unwrap();
    let planned = stdout(&bucket.vidindex(&["plan"], 0));
    // Two workers process the same shards, and the store decides which of them commits.
    let worker = || {
        let mut command = vidindex(["work".as_ref(), bucket.job.as_os_str()]);
        let command = command.args(["--run", &planned]).envs(environment());
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let workers = [worker(), worker()];
    let records = bucket.scratch.path("records");
    let committed = || {
        bucket.copy("tree", &records, &format!("s3://index/run/_vidindex/runs/{planned}/shards/"));
        std::fs::read_dir(&records).map_or(0, Iterator::count)
    };
    let started = std::time::Instant::now();
    while committed() < 2 {
        assert!(started.elapsed() < Duration::from_secs(120), "no two shards were committed in time");
        std::thread::sleep(Duration::from_millis(200));
    }
    eprintln!("{} of 8 shards are committed; {}", committed(), bucket.server.health());
    bucket.server.lose_storage();
    for worker in workers {
        let output = worker.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    }
    eprintln!("{}; {:?} after the first shard", bucket.server.health(), started.elapsed());
    bucket.vidindex(&["seal", "--run", &planned], 0);
    let index = bucket.index();
    for table in ["videos", "actions", "persons"] {
        let expected = comparable(&bucket.scratch.index(), table);
        assert!(!expected.is_empty());
        assert_eq!(comparable(&index, table), expected, "{table}");
    }
    tables::assert_counts(&index);
    assert!(bucket.server.health().contains("2 up"), "{}", bucket.server.health());
}
