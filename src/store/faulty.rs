//! A store that fails by a script, for tests: it wraps another store, and pauses at every step of every request, so that a
//! test can interleave or drop what uses it.

use std::collections::VecDeque;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use super::{
    Access, FolderFilter, ObjectMeta, PutNew, RangeRead, Scanned, Store, StoreError, StoreErrorKind, StoreResult,
};

/// How a request that writes fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteFault {
    /// Nothing is written, and the error is of this kind.
    Refused(StoreErrorKind),
    /// The object is written, and the error is transient. A `put_new` says [`PutNew::Exists`] instead, as a repeated request
    /// finds the object that the first one wrote.
    AnswerLost,
}

impl WriteFault {
    /// The store does not answer.
    pub const OUTAGE: Self = Self::Refused(StoreErrorKind::Transient);
}

/// How a request that reads fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFault {
    /// The error is of this kind.
    Refused(StoreErrorKind),
    /// A listing ends after this many objects with a transient error. An object ends after this many bytes without any, as
    /// if a gateway hid that the connection broke off. Other requests succeed.
    CutOff(usize),
}

/// A handle on another store. Clones share its scripts.
#[derive(Debug, Clone)]
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    writes: Script<WriteFault>,
    reads: Script<ReadFault>,
}

/// The outcome of the next requests; those beyond its end succeed.
type Script<T> = Arc<Mutex<VecDeque<Option<T>>>>;

impl FaultyStore {
    /// A store that does not fail.
    pub fn new(inner: impl Store + 'static) -> Self {
        Self { inner: Arc::new(inner), writes: Arc::default(), reads: Arc::default() }
    }

    /// Makes the next requests that write fail: `put`, `put_new`, `put_file`, `publish`, and `delete` once for each key.
    #[must_use]
    pub fn failing_writes(self, script: impl IntoIterator<Item = Option<WriteFault>>) -> Self {
        Self { writes: Arc::new(Mutex::new(script.into_iter().collect())), ..self }
    }

    /// Makes the next requests that read fail: `list`, `scan`, `folders`, `head`, `get` and `get_range`.
    #[must_use]
    pub fn failing_reads(self, script: impl IntoIterator<Item = Option<ReadFault>>) -> Self {
        Self { reads: Arc::new(Mutex::new(script.into_iter().collect())), ..self }
    }

    fn error(&self, kind: StoreErrorKind, action: &str, key: &str, said: &str) -> StoreError {
        StoreError { kind, message: format!("failed to {action} {}: {said}", self.uri(key)), hint: None }
    }

    /// The bytes that a read may return, after the pause before it.
    async fn before_read(&self, key: &str) -> StoreResult<usize> {
        let fault = next(&self.reads);
        Pause::default().await;
        match fault {
            None => Ok(usize::MAX),
            Some(ReadFault::CutOff(length)) => Ok(length),
            Some(ReadFault::Refused(kind)) => Err(self.error(kind, "read", key, "refused")),
        }
    }

    async fn write<T>(&self, key: &str, request: impl Future<Output = StoreResult<T>>) -> StoreResult<Answer<T>> {
        let fault = next(&self.writes);
        Pause::default().await;
        if let Some(WriteFault::Refused(kind)) = fault {
            return Err(self.error(kind, "write", key, "refused"));
        }
        let done = request.await?;
        Pause::default().await;
        Ok(if fault.is_some() { Answer::Lost } else { Answer::Came(done) })
    }

    async fn write_with_answer<T>(&self, key: &str, request: impl Future<Output = StoreResult<T>>) -> StoreResult<T> {
        match self.write(key, request).await? {
            Answer::Came(done) => Ok(done),
            Answer::Lost => Err(self.error(StoreErrorKind::Transient, "write", key, "the answer was lost")),
        }
    }

    fn listing<T: Send + 'static>(
        &self,
        prefix: &str,
        listing: BoxStream<'static, StoreResult<T>>,
    ) -> BoxStream<'static, StoreResult<T>> {
        let fail = |kind, said| stream::iter([Err(self.error(kind, "list", prefix, said))]);
        let listing = match next(&self.reads) {
            None => listing,
            Some(ReadFault::Refused(kind)) => fail(kind, "refused").boxed(),
            Some(ReadFault::CutOff(length)) => {
                listing.take(length).chain(fail(StoreErrorKind::Transient, "the listing broke off")).boxed()
            }
        };
        let paused = async {
            Pause::default().await;
            listing
        };
        stream::once(paused).flatten().boxed()
    }
}

#[async_trait::async_trait]
impl Store for FaultyStore {
    fn uri(&self, key: &str) -> String {
        self.inner.uri(key)
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.listing(prefix, self.inner.list(prefix))
    }

    fn scan(&self, enter: FolderFilter) -> BoxStream<'static, StoreResult<Scanned>> {
        self.listing("", self.inner.scan(enter))
    }

    async fn folders(&self, prefix: &str) -> StoreResult<Vec<String>> {
        self.before_read(prefix).await?;
        self.inner.folders(prefix).await
    }

    async fn head(&self, key: &str) -> StoreResult<ObjectMeta> {
        self.before_read(key).await?;
        self.inner.head(key).await
    }

    async fn get_range(&self, key: &str, offset: u64, length: u64) -> StoreResult<RangeRead> {
        let most = self.before_read(key).await?;
        let mut read = self.inner.get_range(key, offset, length).await?;
        read.bytes.truncate(most);
        Ok(read)
    }

    async fn get_version_range(&self, key: &str, version_id: &str, offset: u64, length: u64) -> StoreResult<RangeRead> {
        let most = self.before_read(key).await?;
        let mut read = self.inner.get_version_range(key, version_id, offset, length).await?;
        read.bytes.truncate(most);
        Ok(read)
    }

    async fn get(&self, key: &str) -> StoreResult<Bytes> {
        let most = self.before_read(key).await?;
        let mut body = self.inner.get(key).await?;
        body.truncate(most);
        Ok(body)
    }

    async fn put(&self, key: &str, body: Bytes) -> StoreResult<()> {
        self.write_with_answer(key, self.inner.put(key, body)).await
    }

    async fn put_new(&self, key: &str, body: Bytes) -> StoreResult<PutNew> {
        match self.write(key, self.inner.put_new(key, body)).await? {
            Answer::Came(done) => Ok(done),
            Answer::Lost => Ok(PutNew::Exists),
        }
    }

    async fn put_file(&self, key: &str, file: &Path) -> StoreResult<()> {
        self.write_with_answer(key, self.inner.put_file(key, file)).await
    }

    async fn publish(&self, from: &str, to: &str) -> StoreResult<()> {
        self.write_with_answer(from, self.inner.publish(from, to)).await
    }

    /// Key by key, so that a fault leaves it half done.
    async fn delete(&self, keys: &[String]) -> StoreResult<()> {
        for key in keys {
            self.write_with_answer(key, self.inner.delete(std::slice::from_ref(key))).await?;
        }
        Ok(())
    }

    async fn access(&self) -> StoreResult<Option<Access>> {
        self.inner.access().await
    }

    async fn clear_unfinished(&self, prefix: &str) -> StoreResult<()> {
        self.inner.clear_unfinished(prefix).await
    }
}

/// What a writer gets to know of a request that was done.
enum Answer<T> {
    Came(T),
    Lost,
}

fn next<T>(script: &Script<T>) -> Option<T> {
    script.lock().unwrap_or_else(PoisonError::into_inner).pop_front().flatten()
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
