//! An output in memory for the tests of commit and seal: pauses at every step of every request, so that a test can
//! interleave or drop what uses it, and fails where it is told to.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::StreamExt;
use futures::stream::BoxStream;

use crate::store::{ObjectMeta, PutNew, RangeRead, Store, StoreError, StoreErrorKind, StoreResult};

/// How one request that writes fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Refused.
    Before,
    /// Done, but the answer was lost. A `put_new` is then told of its own object, as when the SDK repeats it.
    After,
}

/// A handle on the objects. Handles on the same objects fail each by its own list.
#[derive(Debug, Clone)]
pub(crate) struct MemoryStore {
    objects: Arc<Mutex<BTreeMap<String, Bytes>>>,
    /// Publishing takes `from` away, as in a directory; else it stays, as in a bucket.
    renames: bool,
    faults: Arc<Mutex<VecDeque<Fault>>>,
}

impl MemoryStore {
    pub(crate) fn directory() -> Self {
        Self { objects: Arc::default(), renames: true, faults: Arc::default() }
    }

    pub(crate) fn bucket() -> Self {
        Self { renames: false, ..Self::directory() }
    }

    /// The same objects; the next requests that write fail so.
    pub(crate) fn failing(&self, faults: impl IntoIterator<Item = Fault>) -> Self {
        Self { faults: Arc::new(Mutex::new(faults.into_iter().collect())), ..self.clone() }
    }

    pub(crate) fn add(&self, key: &str, body: &str) {
        self.objects().insert(key.to_owned(), Bytes::copy_from_slice(body.as_bytes()));
    }

    pub(crate) fn remove(&self, key: &str) {
        self.objects().remove(key);
    }

    /// Every object, as text.
    pub(crate) fn contents(&self) -> BTreeMap<String, String> {
        let text = |(key, body): (&String, &Bytes)| (key.clone(), String::from_utf8_lossy(body).into_owned());
        self.objects().iter().map(text).collect()
    }

    fn objects(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.objects.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn fault(&self) -> Fault {
        let mut faults = self.faults.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        faults.pop_front().unwrap_or(Fault::None)
    }

    /// One write: a pause, its effect, a pause; or the fault.
    async fn write<T>(&self, effect: impl FnOnce(&mut BTreeMap<String, Bytes>) -> StoreResult<T>) -> StoreResult<T> {
        let fault = self.fault();
        Pause::default().await;
        if fault == Fault::Before {
            return Err(refused(StoreErrorKind::Transient, "no answer"));
        }
        let done = effect(&mut self.objects());
        Pause::default().await;
        if fault == Fault::After {
            return Err(refused(StoreErrorKind::Transient, "answer lost"));
        }
        done
    }
}

fn refused(kind: StoreErrorKind, message: &str) -> StoreError {
    StoreError { kind, message: message.to_owned(), hint: None }
}

fn meta(key: &str, body: &Bytes) -> ObjectMeta {
    let last_modified = DateTime::<Utc>::UNIX_EPOCH;
    ObjectMeta {
        key: key.to_owned(),
        size_bytes: body.len() as u64,
        etag: format!("{body:?}"),
        last_modified,
        archived: None,
    }
}

#[async_trait::async_trait]
impl Store for MemoryStore {
    fn uri(&self, key: &str) -> String {
        format!("memory://{key}")
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.to_owned());
        let page = async move {
            Pause::default().await;
            let objects = store.objects();
            let found = objects.iter().filter(|(key, _)| key.starts_with(&prefix));
            futures::stream::iter(found.map(|(key, body)| Ok(meta(key, body))).collect::<Vec<_>>())
        };
        futures::stream::once(page).flatten().boxed()
    }

    async fn head(&self, key: &str) -> StoreResult<ObjectMeta> {
        self.get(key).await.map(|body| meta(key, &body))
    }

    async fn get_range(&self, key: &str, offset: u64, length: u64) -> StoreResult<RangeRead> {
        let body = self.get(key).await?;
        let end = offset.saturating_add(length).min(body.len() as u64);
        let bytes = body.slice(offset.min(end) as usize..end as usize);
        Ok(RangeRead { bytes, etag: meta(key, &body).etag })
    }

    async fn get(&self, key: &str) -> StoreResult<Bytes> {
        Pause::default().await;
        self.objects().get(key).cloned().ok_or_else(|| refused(StoreErrorKind::NotFound, key))
    }

    async fn put(&self, key: &str, body: Bytes) -> StoreResult<()> {
        self.write(|objects| {
            objects.insert(key.to_owned(), body);
            Ok(())
        })
        .await
    }

    async fn put_new(&self, key: &str, body: Bytes) -> StoreResult<PutNew> {
        let put = |objects: &mut BTreeMap<String, Bytes>| {
            if objects.contains_key(key) {
                return PutNew::Exists;
            }
            objects.insert(key.to_owned(), body);
            PutNew::Created
        };
        let fault = self.fault();
        Pause::default().await;
        if fault == Fault::Before {
            return Err(refused(StoreErrorKind::Transient, "no answer"));
        }
        let done = put(&mut self.objects());
        Pause::default().await;
        Ok(if fault == Fault::After { PutNew::Exists } else { done })
    }

    async fn put_file(&self, key: &str, file: &Path) -> StoreResult<()> {
        let body = std::fs::read(file).map_err(|error| refused(StoreErrorKind::Refused, &error.to_string()))?;
        self.put(key, body.into()).await
    }

    async fn publish(&self, from: &str, to: &str) -> StoreResult<()> {
        let renames = self.renames;
        self.write(|objects| {
            let body = if renames { objects.remove(from) } else { objects.get(from).cloned() };
            match body {
                Some(body) => {
                    objects.insert(to.to_owned(), body);
                    Ok(())
                }
                None if objects.contains_key(to) => Ok(()),
                None => Err(refused(StoreErrorKind::NotFound, from)),
            }
        })
        .await
    }

    async fn delete(&self, keys: &[String]) -> StoreResult<()> {
        for key in keys {
            self.write(|objects| {
                objects.remove(key);
                Ok(())
            })
            .await?;
        }
        Ok(())
    }
}

/// Pending once.
#[derive(Debug, Default)]
struct Pause(bool);

impl Future for Pause {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}
