//! For the planner's tests: a store in memory and samples of its types.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use proptest::prelude::*;

use crate::job::Job;
use crate::run::{Todo, VideoObject};
use crate::store::{ObjectMeta, PutNew, RangeRead, Store, StoreError, StoreErrorKind, StoreResult};

/// A tree of objects in memory. Objects of [`MemoryStore::add`] have a size and no bytes.
#[derive(Debug)]
pub(crate) struct MemoryStore {
    root: String,
    objects: Mutex<BTreeMap<String, (ObjectMeta, Bytes)>>,
}

impl MemoryStore {
    pub(crate) fn new(root: &str) -> Self {
        Self { root: root.trim_end_matches('/').to_owned(), objects: Mutex::default() }
    }

    /// Sets an object of this size, modified on 2026-11-01, its etag made of key and size.
    pub(crate) fn add(&self, key: &str, size_bytes: u64) {
        let video = video(key, size_bytes);
        let VideoObject { etag, last_modified, .. } = video;
        let meta = ObjectMeta { key: key.to_owned(), size_bytes, etag, last_modified, archived: None };
        self.objects.lock().unwrap().insert(key.to_owned(), (meta, Bytes::new()));
    }

    /// Moves an object into this storage class, of which a read needs a restore.
    pub(crate) fn archive(&self, key: &str, storage_class: &str) {
        self.objects.lock().unwrap().get_mut(key).unwrap().0.archived = Some(storage_class.to_owned());
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.objects.lock().unwrap().keys().cloned().collect()
    }

    fn find(&self, key: &str) -> StoreResult<(ObjectMeta, Bytes)> {
        let message = format!("cannot read {}", self.uri(key));
        let absent = StoreError { kind: StoreErrorKind::NotFound, message, hint: None };
        self.objects.lock().unwrap().get(key).cloned().ok_or(absent)
    }
}

#[async_trait::async_trait]
impl Store for MemoryStore {
    fn uri(&self, key: &str) -> String {
        format!("{}/{key}", self.root)
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        let objects = self.objects.lock().unwrap();
        let found: Vec<_> = objects
            .values()
            .filter(|(meta, _)| meta.key.starts_with(prefix))
            .map(|(meta, _)| Ok(meta.clone()))
            .collect();
        stream::iter(found).boxed()
    }

    async fn head(&self, key: &str) -> StoreResult<ObjectMeta> {
        Ok(self.find(key)?.0)
    }

    async fn get_range(&self, key: &str, offset: u64, length: u64) -> StoreResult<RangeRead> {
        let (meta, bytes) = self.find(key)?;
        let at = |position: u64| usize::try_from(position).unwrap().min(bytes.len());
        Ok(RangeRead { bytes: bytes.slice(at(offset)..at(offset + length)), etag: meta.etag })
    }

    async fn get(&self, key: &str) -> StoreResult<Bytes> {
        Ok(self.find(key)?.1)
    }

    async fn put(&self, key: &str, body: Bytes) -> StoreResult<()> {
        self.add(key, body.len() as u64);
        self.objects.lock().unwrap().get_mut(key).unwrap().1 = body;
        Ok(())
    }

    async fn put_new(&self, key: &str, body: Bytes) -> StoreResult<PutNew> {
        if self.find(key).is_ok() {
            return Ok(PutNew::Exists);
        }
        self.put(key, body).await?;
        Ok(PutNew::Created)
    }

    async fn put_file(&self, key: &str, file: &Path) -> StoreResult<()> {
        self.put(key, std::fs::read(file).unwrap().into()).await
    }

    async fn publish(&self, from: &str, to: &str) -> StoreResult<()> {
        self.put(to, self.get(from).await?).await
    }

    async fn delete(&self, keys: &[String]) -> StoreResult<()> {
        self.objects.lock().unwrap().retain(|key, _| !keys.contains(key));
        Ok(())
    }
}

/// A video of this key and size below `s3://archive/2026/`.
pub(crate) fn video(key: &str, size_bytes: u64) -> VideoObject {
    VideoObject {
        key: key.to_owned(),
        uri: format!("s3://archive/2026/{key}"),
        size_bytes,
        etag: format!("{key}-{size_bytes}"),
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
