//! Ranged reads of one object. While the decoder reads sequentially, they are ahead of it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::decode::ByteSource;
use crate::error::{VideoError, VideoErrorKind, WorkError};
use crate::run::VideoObject;
use crate::store::{RangeRead, Store, StoreResult};

/// Bytes that are read after a jump of the decoder. An index at the end of the file is usually shorter.
const JUMP_BYTES: u64 = 512 * 1024;
/// Bytes that are read at least, because a shorter request is not faster.
const SPARSE_BYTES: u64 = 64 * 1024;
/// Bytes that are read at a time, and ahead, after the decoder has read sequentially for a while.
pub const AHEAD_BYTES: u64 = 4 * 1024 * 1024;
/// Blocks that are kept per video, because the decoder alternates between streams that are far apart in the file.
const CHUNKS_MAX: usize = 4;

/// The bytes of one object, for its decoder.
#[derive(Debug)]
pub struct Fetch {
    store: Arc<dyn Store>,
    key: Arc<str>,
    uri: String,
    size_bytes: u64,
    etag: String,
    version_id: Option<String>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The latest block comes last.
    chunks: VecDeque<Chunk>,
    ahead: Option<Ahead>,
}

#[derive(Debug)]
struct Chunk {
    offset: u64,
    bytes: Bytes,
}

impl Chunk {
    fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
}

#[derive(Debug)]
struct Ahead {
    offset: u64,
    read: JoinHandle<StoreResult<RangeRead>>,
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.read.abort();
    }
}

impl Fetch {
    /// The object as listed. Bytes of another version are rejected.
    pub fn new(store: Arc<dyn Store>, object: &VideoObject) -> Self {
        Self {
            store,
            key: object.key.as_str().into(),
            uri: object.uri.clone(),
            size_bytes: object.size_bytes,
            etag: object.etag.clone(),
            version_id: object.version_id.clone(),
            state: Mutex::default(),
        }
    }

    fn request(&self, offset: u64, length: u64) -> impl Future<Output = StoreResult<RangeRead>> + Send + 'static {
        let (store, key, version_id) = (self.store.clone(), self.key.clone(), self.version_id.clone());
        async move {
            match version_id {
                Some(version_id) => store.get_version_range(&key, &version_id, offset, length).await,
                None => store.get_range(&key, offset, length).await,
            }
        }
    }

    fn read_ahead(&self, state: &mut State, offset: u64) {
        if offset < self.size_bytes {
            let read = tokio::spawn(self.request(offset, AHEAD_BYTES));
            state.ahead = Some(Ahead { offset, read });
        }
    }

    fn checked(&self, read: RangeRead) -> Result<Bytes, WorkError> {
        if read.etag == self.etag {
            return Ok(read.bytes);
        }
        let message = format!("{} changed after it was listed", self.uri);
        Err(VideoError::new(VideoErrorKind::ChangedDuringRead, message).into())
    }
}

#[async_trait::async_trait]
impl ByteSource for Fetch {
    async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes, WorkError> {
        self.read(offset, length, Pattern::Sequential).await
    }

    async fn read_sparsely(&self, offset: u64, length: usize) -> Result<Bytes, WorkError> {
        self.read(offset, length, Pattern::Sparse).await
    }
}

/// How a decoder reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pattern {
    /// From the start to the end, but for a few jumps.
    Sequential,
    /// Only what it asks for.
    Sparse,
}

impl Fetch {
    async fn read(&self, offset: u64, length: usize, pattern: Pattern) -> Result<Bytes, WorkError> {
        if offset >= self.size_bytes || length == 0 {
            return Ok(Bytes::new());
        }
        let mut state = self.state.lock().await;
        let covers = |chunk: &Chunk| (chunk.offset..chunk.end()).contains(&offset);
        if !state.chunks.iter().any(covers) {
            let before = state.chunks.iter().find(|chunk| chunk.end() == offset);
            let in_order = before.map(|chunk| chunk.bytes.len() as u64);
            let read = match state.ahead.take() {
                Some(mut ahead) if ahead.offset == offset => match (&mut ahead.read).await {
                    Ok(read) => read,
                    Err(_) => self.request(offset, AHEAD_BYTES).await,
                },
                _ => {
                    let length = match pattern {
                        Pattern::Sparse => (length as u64).clamp(SPARSE_BYTES, AHEAD_BYTES),
                        // Growing, because many jobs jump after the first megabyte.
                        Pattern::Sequential => in_order.map_or(JUMP_BYTES, |before| (2 * before).min(AHEAD_BYTES)),
                    };
                    self.request(offset, length).await
                }
            };
            let bytes = self.checked(read.map_err(WorkError::of_input)?)?;
            if bytes.is_empty() {
                let message = format!("{} is shorter than listed", self.uri);
                return Err(VideoError::new(VideoErrorKind::ChangedDuringRead, message).into());
            }
            let chunk = Chunk { offset, bytes };
            if pattern == Pattern::Sequential && in_order.is_some() && 2 * chunk.bytes.len() as u64 >= AHEAD_BYTES {
                self.read_ahead(&mut state, chunk.end());
            }
            state.chunks.push_back(chunk);
            if state.chunks.len() > CHUNKS_MAX {
                state.chunks.pop_front();
            }
        }
        let found = state.chunks.iter().find(|chunk| covers(chunk));
        Ok(found.map_or_else(Bytes::new, |chunk| {
            let from = (offset - chunk.offset) as usize;
            chunk.bytes.slice(from..chunk.bytes.len().min(from + length))
        }))
    }
}
