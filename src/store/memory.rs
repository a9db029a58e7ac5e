//! A store in memory, for tests that need neither a disk nor a server.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use chrono::{SubsecRound, Utc};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use sha2::{Digest, Sha256};

use super::{FolderFilter, ObjectMeta, PutNew, RangeRead, Scanned, Store, StoreError, StoreErrorKind, StoreResult};
use crate::hash::hex;

/// A handle on objects in memory. Clones share the objects.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    /// Without a `/` at its end.
    root: String,
    kind: Kind,
    /// None if the root does not exist.
    objects: Arc<Mutex<Option<Objects>>>,
    fetched_bytes: Arc<AtomicU64>,
}

type Objects = BTreeMap<String, (ObjectMeta, Bytes)>;

/// What the store behaves like where stores differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bucket,
    Directory,
}

impl MemoryStore {
    /// An empty store that behaves like a bucket: publishing copies. `root` is the address of its keys, such as
    /// `s3://index/`.
    pub fn bucket(root: &str) -> Self {
        Self::new(root, Kind::Bucket, Some(Objects::new()))
    }

    /// An empty store that behaves like a directory: publishing renames.
    pub fn directory(root: &str) -> Self {
        Self::new(root, Kind::Directory, Some(Objects::new()))
    }

    /// A store that behaves like a directory that does not exist before the first write.
    pub fn absent_directory(root: &str) -> Self {
        Self::new(root, Kind::Directory, None)
    }

    fn new(root: &str, kind: Kind, objects: Option<Objects>) -> Self {
        let objects = Arc::new(Mutex::new(objects));
        Self { root: root.trim_end_matches('/').to_owned(), kind, objects, fetched_bytes: Arc::default() }
    }

    /// A store with the same objects, which do not change with those of this one.
    pub fn copied(&self) -> Self {
        Self::new(&self.root, self.kind, self.objects().clone())
    }

    /// Writes an object without waiting.
    pub fn insert(&self, key: &str, body: impl Into<Bytes>) {
        self.objects().get_or_insert_default().insert(key.to_owned(), object(key, body.into()));
    }

    /// Adds an object that listings show with this metadata, and that is read as empty.
    pub fn insert_listed(&self, meta: ObjectMeta) {
        self.objects().get_or_insert_default().insert(meta.key.clone(), (meta, Bytes::new()));
    }

    /// Removes an object without waiting.
    pub fn remove(&self, key: &str) {
        self.objects().iter_mut().for_each(|objects| drop(objects.remove(key)));
    }

    /// The keys of all objects, in order.
    pub fn keys(&self) -> Vec<String> {
        self.objects().iter().flat_map(Objects::keys).cloned().collect()
    }

    /// The bytes that all calls of [`Store::get_range`] returned so far.
    pub fn fetched_bytes(&self) -> u64 {
        self.fetched_bytes.load(Ordering::Relaxed)
    }

    /// All objects.
    pub fn contents(&self) -> BTreeMap<String, Bytes> {
        let objects = self.objects();
        objects.iter().flatten().map(|(key, (_, body))| (key.clone(), body.clone())).collect()
    }

    fn objects(&self) -> MutexGuard<'_, Option<Objects>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, action: &str, key: &str) -> StoreResult<(ObjectMeta, Bytes)> {
        let objects = self.objects();
        let objects = objects.as_ref().ok_or_else(|| self.no_root())?;
        objects.get(key).cloned().ok_or_else(|| StoreError {
            kind: StoreErrorKind::NotFound,
            message: format!("failed to {action} {}: there is no such object", self.uri(key)),
            hint: None,
        })
    }

    fn no_root(&self) -> StoreError {
        StoreError {
            kind: StoreErrorKind::NoRoot,
            message: format!("failed to list {}: the directory does not exist", self.root),
            hint: Some("write to it first".to_owned()),
        }
    }

    /// What lies below `prefix` at this moment. Like a directory's, an absent root is an error only if it is listed whole.
    fn below(&self, prefix: &str) -> StoreResult<Vec<ObjectMeta>> {
        match &*self.objects() {
            Some(objects) => {
                let metas = objects.values().map(|(meta, _)| meta);
                Ok(metas.filter(|meta| meta.key.starts_with(prefix)).cloned().collect())
            }
            None if prefix.is_empty() => Err(self.no_root()),
            None => Ok(Vec::new()),
        }
    }
}

#[async_trait::async_trait]
impl Store for MemoryStore {
    fn uri(&self, key: &str) -> String {
        format!("{}/{key}", self.root)
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.to_owned());
        each(move || store.below(&prefix))
    }

    fn scan(&self, enter: FolderFilter) -> BoxStream<'static, StoreResult<Scanned>> {
        let store = self.clone();
        each(move || {
            let mut scanned = Vec::new();
            let mut refused: Option<String> = None;
            for meta in store.below("")? {
                // Keys are in order, so those of a folder follow each other.
                if refused.as_ref().is_some_and(|folder| meta.key.starts_with(folder)) {
                    continue;
                }
                let mut folders = meta.key.match_indices('/').map(|(at, _)| &meta.key[..=at]);
                refused = folders.find(|folder| !enter(folder)).map(str::to_owned);
                scanned.push(refused.clone().map_or(Scanned::Object(meta), Scanned::NotEntered));
            }
            Ok(scanned)
        })
    }

    async fn head(&self, key: &str) -> StoreResult<ObjectMeta> {
        Ok(self.find("read", key)?.0)
    }

    async fn get_range(&self, key: &str, offset: u64, length: u64) -> StoreResult<RangeRead> {
        let (meta, body) = self.find("read", key)?;
        let end = offset.saturating_add(length).min(body.len() as u64);
        let bytes = body.slice(offset.min(end) as usize..end as usize);
        self.fetched_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(RangeRead { bytes, etag: meta.etag })
    }

    async fn get(&self, key: &str) -> StoreResult<Bytes> {
        Ok(self.find("read", key)?.1)
    }

    async fn put(&self, key: &str, body: Bytes) -> StoreResult<()> {
        self.insert(key, body);
        Ok(())
    }

    async fn put_new(&self, key: &str, body: Bytes) -> StoreResult<PutNew> {
        match self.objects().get_or_insert_default().entry(key.to_owned()) {
            Entry::Occupied(_) => Ok(PutNew::Exists),
            Entry::Vacant(entry) => {
                entry.insert(object(key, body));
                Ok(PutNew::Created)
            }
        }
    }

    async fn put_file(&self, key: &str, file: &Path) -> StoreResult<()> {
        let body = std::fs::read(file).map_err(|error| StoreError {
            kind: StoreErrorKind::Refused,
            message: format!("failed to write {}: {} cannot be read: {error}", self.uri(key), file.display()),
            hint: None,
        })?;
        self.put(key, body.into()).await
    }

    async fn publish(&self, from: &str, to: &str) -> StoreResult<()> {
        match self.find("publish", from) {
            Ok((_, body)) => {
                self.insert(to, body);
                if self.kind == Kind::Directory {
                    self.remove(from);
                }
                Ok(())
            }
            Err(error) if error.kind == StoreErrorKind::NotFound && self.find("publish", to).is_ok() => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn delete(&self, keys: &[String]) -> StoreResult<()> {
        keys.iter().for_each(|key| self.remove(key));
        Ok(())
    }
}

fn object(key: &str, body: Bytes) -> (ObjectMeta, Bytes) {
    let meta = ObjectMeta {
        key: key.to_owned(),
        size_bytes: body.len() as u64,
        etag: hex(&Sha256::digest(&body)[..16]),
        last_modified: Utc::now().trunc_subsecs(6),
        version_id: None,
        archived: None,
    };
    (meta, body)
}

/// A stream of what `found` returns when the stream is polled first.
fn each<T: Send + 'static>(
    found: impl FnOnce() -> StoreResult<Vec<T>> + Send + 'static,
) -> BoxStream<'static, StoreResult<T>> {
    let all = stream::once(async move {
        match found() {
            Ok(found) => stream::iter(found).map(Ok).left_stream(),
            Err(error) => stream::iter([Err(error)]).right_stream(),
        }
    });
    all.flatten().boxed()
}
