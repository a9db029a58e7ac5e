//! Heartbeats: an attempt at a shard records its progress while it works, for `vidindex status`. Nothing else depends on
//! these records; only the commit counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::Utc;
use futures::future::join_all;

use crate::machine::host_name;
use crate::run::Task;
use crate::run::attempt::{AttemptId, AttemptRecord, HEARTBEAT, record_key};
use crate::store::Store;

/// Time limit for writing such a record: it is not worth waiting for a store that does not respond.
const PATIENCE: Duration = Duration::from_secs(10);

/// Time limit for the last records of stopped attempts. Engines give a task more time before they kill it.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a stopped attempt failed.
pub(super) const STOPPED_BY_SIGNAL: &str = "stopped by a signal";

/// The last records of stopped attempts, which are being written.
static STOPPED: Mutex<Vec<tokio::task::JoinHandle<()>>> = Mutex::new(Vec::new());

/// A running attempt. If it is dropped before it ends or fails, it records that it was stopped: see [`stopped`].
pub(crate) struct Attempt {
    pub(crate) id: AttemptId,
    output: Arc<dyn Store>,
    key: String,
    first: AttemptRecord,
    videos_done: Arc<AtomicU64>,
    heart: tokio::task::JoinHandle<()>,
    is_over: bool,
}

impl Attempt {
    pub(crate) fn begin(output: Arc<dyn Store>, run_id: &str, shard: u32, task: Option<Task>, videos: usize) -> Self {
        let id = AttemptId::unique();
        let now = Utc::now();
        let first = AttemptRecord {
            shard,
            attempt: id.clone(),
            task,
            host: host_name(),
            started_at: now,
            seen_at: now,
            videos: videos as u64,
            videos_done: 0,
            failure: None,
        };
        let key = record_key(run_id, shard, &id);
        let videos_done = Arc::new(AtomicU64::new(0));
        let heart = tokio::spawn({
            let (output, key, first, done) = (output.clone(), key.clone(), first.clone(), videos_done.clone());
            async move {
                let mut beats = tokio::time::interval(HEARTBEAT);
                loop {
                    beats.tick().await;
                    say(&*output, &key, &first, &done, None).await;
                }
            }
        });
        Self { id, output, key, first, videos_done, heart, is_over: false }
    }

    pub(super) fn done(&self, videos: usize) {
        self.videos_done.store(videos as u64, Ordering::Relaxed);
    }

    /// Removes the record, because the shard is committed by this attempt or another.
    pub(crate) async fn end(mut self) {
        self.is_over = true;
        self.heart.abort();
        let delete = self.output.delete(std::slice::from_ref(&self.key));
        match tokio::time::timeout(PATIENCE, delete).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(key = self.key, %error, "could not clear an attempt's record"),
            Err(_) => tracing::debug!(key = self.key, "no answer in time: an attempt's record stays until the seal"),
        }
    }

    pub(crate) async fn fail(mut self, why: &str) {
        self.is_over = true;
        self.heart.abort();
        say(&*self.output, &self.key, &self.first, &self.videos_done, Some(why)).await;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.heart.abort();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.is_over {
            return;
        }
        let (output, key, first) = (self.output.clone(), self.key.clone(), self.first.clone());
        let done = self.videos_done.clone();
        let says = async move { say(&*output, &key, &first, &done, Some(STOPPED_BY_SIGNAL)).await };
        STOPPED.lock().unwrap_or_else(PoisonError::into_inner).push(runtime.spawn(says));
    }
}

/// Waits a few seconds at most until dropped attempts have recorded that they were stopped.
pub(crate) async fn stopped() {
    let says = std::mem::take(&mut *STOPPED.lock().unwrap_or_else(PoisonError::into_inner));
    if tokio::time::timeout(STOP_TIMEOUT, join_all(says)).await.is_err() {
        tracing::debug!("the output does not respond: it is not recorded that this attempt was stopped");
    }
}

/// Writes the record, best effort.
async fn say(output: &dyn Store, key: &str, first: &AttemptRecord, done: &AtomicU64, failure: Option<&str>) {
    let record = AttemptRecord {
        seen_at: Utc::now(),
        videos_done: done.load(Ordering::Relaxed),
        failure: failure.map(ToOwned::to_owned),
        ..first.clone()
    };
    // A record of plain values can always be written as JSON.
    let body = serde_json::to_vec(&record).unwrap_or_default();
    match tokio::time::timeout(PATIENCE, output.put(key, body.into())).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(key, %error, "could not record the progress of the attempt"),
        Err(_) => tracing::debug!(key, "no answer in time: could not record the progress of the attempt"),
    }
}
