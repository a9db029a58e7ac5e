//! Buckets that keep versions: a job can index exactly what its plan listed.

use std::process::Command;

use crate::support::bucket::Bucket;
use crate::support::s3::environment;
use crate::support::{self, Scratch, said, stderr, stdout, tables, test_video};

/// Changes the archive with boto3: `version` lets it keep versions, `replace` writes an object, `delete` leaves a delete marker.
fn change(bucket: &Bucket, what: &str, key: &str, file: &str) {
    let script = "
import boto3, sys
what, key, file, endpoint = sys.argv[1:]
s3 = boto3.client('s3', endpoint_url=endpoint, region_name='us-east-1')
if what == 'version':
    s3.put_bucket_versioning(Bucket='archive', VersioningConfiguration={'Status': 'Enabled'})
elif what == 'replace':
    s3.upload_file(file, 'archive', key)
else:
    s3.delete_object(Bucket='archive', Key=key)
";
    let mut command = Command::new(support::python().unwrap());
    let output = command.args(["-c", script, what, key, file, &bucket.server.endpoint()]).envs(environment()).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

/// URI, status, version and length of each video that is not deleted, sorted.
fn videos(bucket: &Bucket) -> Vec<(String, String, Option<String>, f64)> {
    let mut rows: Vec<_> = tables::rows(&bucket.index(), "videos")
        .iter()
        .map(|row| {
            let text = |name: &str| row[name].as_str().map(str::to_owned);
            let name = text("uri").unwrap().rsplit('/').next().unwrap().to_owned();
            (name, text("status").unwrap(), text("version_id"), row["duration_seconds"].as_f64().unwrap_or(0.0).round())
        })
        .collect();
    rows.sort_by(|a, b| a.partial_cmp(b).unwrap());
    rows
}

#[test]
fn the_listed_version_is_indexed_and_cut_even_if_the_video_was_replaced_or_deleted_since() {
    let Some(duckdb) = support::python().map(|python| python.with_file_name("duckdb")) else { return };
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("from-before.mp4"), "128x96", "25", 1.0, &["-pix_fmt", "yuv420p"]);
    let [long, short] = [("long.mp4", 4.0), ("short.mp4", 2.0)].map(|(name, seconds)| {
        let file = scratch.path(name);
        test_video(&file, "128x96", "25", seconds, &["-pix_fmt", "yuv420p"]);
        file.display().to_string()
    });
    let Some(bucket) = Bucket::with_videos(scratch) else { return };
    change(&bucket, "version", "", "");
    for name in ["clips/goes.mp4", "clips/changes.mp4"] {
        change(&bucket, "replace", name, &short);
        // Only the newest version is listed.
        change(&bucket, "replace", name, &long);
    }
    let job = std::fs::read_to_string(&bucket.job).unwrap();
    std::fs::write(&bucket.job, job.replacen("[input]\n", "[input]\nversions = true\n", 1)).unwrap();

    let run = stdout(&bucket.vidindex(&["plan"], 0));
    change(&bucket, "replace", "clips/changes.mp4", &short);
    change(&bucket, "delete", "clips/goes.mp4", "");
    bucket.vidindex(&["work", "--run", &run], 0);
    bucket.vidindex(&["seal", "--run", &run], 0);
    let indexed = videos(&bucket);
    let seconds: Vec<_> = indexed.iter().map(|(name, status, _, seconds)| (&**name, &**status, *seconds)).collect();
    assert_eq!(seconds, [("changes.mp4", "ok", 4.0), ("from-before.mp4", "ok", 1.0), ("goes.mp4", "ok", 4.0)]);
    let ids: Vec<_> = indexed.iter().map(|(_, _, id, _)| id.as_deref()).collect();
    assert!(ids[0].is_some_and(|id| id.len() > 8) && ids[2].is_some_and(|id| id.len() > 8), "{ids:?}");
    assert_ne!(ids[0], ids[2]);
    assert_eq!(ids[1], Some("null"), "an object from before the bucket kept versions");

    // What the index says about the old version can still be looked at.
    let clips = bucket.scratch.path("clips");
    let duckdb = duckdb.to_str().unwrap();
    let cut = ["clips", "--video", "changes.mp4", "--from", "2.5", "--to", "3.5", "--duckdb", duckdb, "-o"];
    bucket.vidindex(&[&cut[..], &[clips.to_str().unwrap()]].concat(), 0);
    assert_eq!(std::fs::read_dir(&clips).unwrap().count(), 1);

    let log = stderr(&bucket.vidindex(&["run", "--confirm-deleted"], 0));
    assert!(log.contains("deleted=1"), "{log}");
    let shorter = videos(&bucket).into_iter().filter(|(name, _, _, seconds)| name == "changes.mp4" && *seconds == 2.0);
    assert_eq!(shorter.map(|(_, _, id, _)| id).filter(|id| id.is_some() && id.as_deref() != ids[0]).count(), 1);
    let log = stderr(&bucket.vidindex(&["run"], 0));
    assert!(log.contains("already indexed"), "{log}");
}
