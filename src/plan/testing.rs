//! Samples of the planner's types, for tests.

#![expect(clippy::unwrap_used, reason = "tests")]

use chrono::{DateTime, Utc};
use proptest::prelude::*;

use crate::job::Job;
use crate::run::{Todo, VideoObject};
use crate::store::ObjectMeta;
use crate::store::memory::MemoryStore;

/// Adds an object to an input as [`video`] describes it.
pub(crate) fn add(input: &MemoryStore, key: &str, size_bytes: u64) {
    let VideoObject { key, etag, last_modified, .. } = video(key, size_bytes);
    input.insert_listed(ObjectMeta { key, size_bytes, etag, version_id: None, last_modified, archived: None });
}

/// A video of this key and size below `s3://archive/2026/`.
pub(crate) fn video(key: &str, size_bytes: u64) -> VideoObject {
    VideoObject {
        key: key.to_owned(),
        uri: format!("s3://archive/2026/{key}"),
        size_bytes,
        etag: format!("{key}-{size_bytes}"),
        version_id: None,
        last_modified: "2026-11-01T12:00:00.123456Z".parse::<DateTime<Utc>>().unwrap(),
        partition: Vec::new(),
        todo: Todo::default(),
    }
}

/// Distinct keys over a few days and cameras, sizes from nothing to more than a shard.
pub(super) fn archive() -> impl Strategy<Value = Vec<VideoObject>> {
    let size = prop_oneof![Just(0_u64), 1_u64..1000, 1000_u64..20_000];
    prop::collection::vec((size, 0_u32..3, 0_u32..3), 0..120).prop_map(|videos| {
        let one = |(n, (size_bytes, camera, day)): (usize, (u64, u32, u32))| VideoObject {
            last_modified: DateTime::UNIX_EPOCH + chrono::Duration::days(i64::from(day)),
            version_id: (n % 2 == 0).then(|| format!("v{n}")),
            partition: vec![("camera".to_owned(), camera.to_string())],
            todo: match (day, n % 4) {
                (0, 0) => Todo::MarkDeleted,
                (0, 1) => Todo::MarkArchived { storage_class: "DEEP_ARCHIVE".to_owned() },
                (0, 2) => Todo::Restore { from: format!("camera={camera}/dt=1970-01-01/part-r-000000.parquet") },
                _ => Todo::Index { failures: u32::try_from(n % 3).unwrap() },
            },
            ..video(&format!("{camera}/{n}.mp4"), size_bytes)
        };
        videos.into_iter().enumerate().map(one).collect()
    })
}

/// The smallest job.
pub(crate) fn job() -> Job {
    let text = "
        input.uri = 's3://archive/2026/'
        output.uri = 's3://index/'
        persons.model = 'models/yolov5s.onnx'
        run.shard_bytes = 100
    ";
    Job::parse("test.toml", text, &[]).unwrap()
}
