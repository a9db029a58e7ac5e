//! The child's byte source: a seekable stream whose reads are answered by the parent over a socket.
//!
//! A request is an offset (u64) and a length (u32), little endian. The answer is a length (u32) followed by that many
//! bytes, at most [`READ_BYTES`], or [`READ_FAILED`]. With [`SPARSE`] in its length, a request states how much the next
//! requests need in all.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use super::fragments::Fragments;

/// Length that the parent answers if it could not read. The parent keeps the error itself.
pub const READ_FAILED: u32 = u32::MAX;

/// Bit in the length of a request by a reader that jumps.
pub const SPARSE: u32 = 1 << 31;

/// Size of one request and of FFmpeg's buffer: large enough to make the round trip cheap.
pub const READ_BYTES: usize = 256 * 1024;

/// Number of bytes at the end of the object that are kept: the size of the largest transport stream packet.
const TAIL_BYTES: usize = 204;

/// The connection to the parent.
#[derive(Debug)]
pub struct Link {
    socket: Mutex<UnixStream>,
    /// Parts of the object that read as zeros, by offset. They do not overlap.
    deferred: OnceLock<Vec<Range<u64>>>,
    /// What was observed so far.
    pub seen: Arc<Seen>,
}

impl Link {
    /// A connection over `socket`.
    pub fn new(socket: UnixStream) -> Arc<Self> {
        Arc::new(Self { socket: Mutex::new(socket), deferred: OnceLock::new(), seen: Arc::default() })
    }

    /// From now on, these parts of the object read as zeros through [`RemoteBytes`]. They are sorted and do not overlap.
    pub(super) fn defer(&self, parts: Vec<Range<u64>>) {
        // It is called once per video.
        let _ = self.deferred.set(parts);
    }

    /// Whether a part of the object reads as zeros.
    pub(super) fn is_deferring(&self) -> bool {
        self.deferred.get().is_some()
    }

    /// The first deferred part that ends after `offset`.
    fn deferred_after(&self, offset: u64) -> Option<Range<u64>> {
        let parts = self.deferred.get()?;
        parts.get(parts.partition_point(|part| part.end <= offset)).cloned()
    }

    /// Fills `buffer` with the bytes at `offset`. The next calls need `needed` bytes from there in all.
    pub(super) fn read_exactly(&self, offset: u64, buffer: &mut [u8], needed: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            let needed = needed.saturating_sub(done as u64).clamp(1, u64::from(SPARSE - 1)) as u32;
            match self.fetch(offset + done as u64, needed | SPARSE, &mut buffer[done..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => done += read,
            }
        }
        Ok(())
    }

    fn fetch(&self, offset: u64, length: u32, buffer: &mut [u8]) -> io::Result<usize> {
        let started = Instant::now();
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let mut request = [0u8; 12];
        request[..8].copy_from_slice(&offset.to_le_bytes());
        request[8..].copy_from_slice(&length.to_le_bytes());
        socket.write_all(&request)?;
        let mut answer = [0u8; 4];
        socket.read_exact(&mut answer)?;
        let answer = u32::from_le_bytes(answer);
        if answer == READ_FAILED || answer as usize > READ_BYTES {
            return Err(io::Error::other("the parent failed to read the object"));
        }
        let read = (answer as usize).min(buffer.len());
        socket.read_exact(&mut buffer[..read])?;
        // A sparse request may bring more than fits.
        io::copy(&mut (&mut *socket).take(u64::from(answer) - read as u64), &mut io::sink())?;
        self.seen.waited_us.fetch_add(started.elapsed().as_micros() as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// A seekable stream over one object, read through the parent.
#[derive(Debug)]
pub struct RemoteBytes {
    link: Arc<Link>,
    position: u64,
    size_bytes: u64,
    fragments: Fragments,
}

/// What was observed of an object while it was read.
#[derive(Debug, Default)]
pub struct Seen {
    /// Time spent waiting for bytes, microseconds.
    pub waited_us: AtomicU64,
    /// Whether the object is an MP4 file that ends inside a fragment's header.
    pub is_cut: AtomicBool,
    tail: Mutex<Tail>,
}

/// The bytes that were read last.
#[derive(Debug, Default)]
struct Tail {
    bytes: Vec<u8>,
    /// Offset in the object just after these bytes.
    end: u64,
}

impl Seen {
    fn remember(&self, offset: u64, bytes: &[u8]) {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        if tail.end != offset {
            tail.bytes.clear();
        }
        tail.bytes.extend_from_slice(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]);
        let surplus = tail.bytes.len().saturating_sub(TAIL_BYTES);
        tail.bytes.drain(..surplus);
        tail.end = offset + bytes.len() as u64;
    }

    /// The last bytes of an object of `size_bytes` (at most one transport stream packet), or nothing if the last read
    /// did not reach its end.
    pub fn end(&self, size_bytes: u64) -> Vec<u8> {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        if tail.end == size_bytes { tail.bytes.clone() } else { Vec::new() }
    }
}

impl RemoteBytes {
    /// An object of `size_bytes` whose reads are sent over `link`.
    pub fn new(link: Arc<Link>, size_bytes: u64) -> Self {
        Self { link, position: 0, size_bytes, fragments: Fragments::new(size_bytes) }
    }
}

impl Read for RemoteBytes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.size_bytes.saturating_sub(self.position);
        let mut wanted = (buffer.len() as u64).min(left).min(READ_BYTES as u64);
        if wanted == 0 {
            return Ok(0);
        }
        let deferred = self.link.deferred_after(self.position);
        match deferred {
            Some(part) if part.start <= self.position => {
                let zeros = wanted.min(part.end - self.position) as usize;
                buffer[..zeros].fill(0);
                self.position += zeros as u64;
                return Ok(zeros);
            }
            Some(part) => wanted = wanted.min(part.start - self.position),
            None => {}
        }
        let mode = if self.link.is_deferring() { SPARSE } else { 0 };
        let mut read = self.link.fetch(self.position, wanted as u32 | mode, &mut buffer[..wanted as usize])?;
        self.link.seen.remember(self.position, &buffer[..read]);
        self.fragments.see(self.position, &buffer[..read]);
        if let Some(end) = self.fragments.cut_at() {
            // Report the end here: without the incomplete header, FFmpeg can read the fragments before it.
            self.link.seen.is_cut.store(true, Ordering::Relaxed);
            self.size_bytes = end;
            read = read.min(end.saturating_sub(self.position) as usize);
        }
        self.position += read as u64;
        Ok(read)
    }
}

impl Seek for RemoteBytes {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
            SeekFrom::End(offset) => self.size_bytes.checked_add_signed(offset),
        };
        self.position = position.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}
