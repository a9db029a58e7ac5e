//! The child's byte source: a seekable stream whose reads are answered by the parent over a socket.
//!
//! A request is an offset (u64) and a length (u32), little endian. The answer is a length (u32) followed by that many
//! bytes, or [`READ_FAILED`].

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::fragments::Fragments;

/// Length that the parent answers if it could not read. The parent keeps the error itself.
pub const READ_FAILED: u32 = u32::MAX;

/// Size of one request and of FFmpeg's buffer: large enough to make the round trip cheap.
pub const READ_BYTES: usize = 256 * 1024;

/// Number of bytes at the end of the object that are kept: the size of the largest transport stream packet.
const TAIL_BYTES: usize = 204;

/// A seekable stream over one object, read through the parent.
#[derive(Debug)]
pub struct RemoteBytes {
    socket: UnixStream,
    position: u64,
    size_bytes: u64,
    fragments: Fragments,
    seen: Arc<Seen>,
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
    /// An object of `size_bytes` whose reads are sent over `socket`.
    pub fn new(socket: UnixStream, size_bytes: u64, seen: Arc<Seen>) -> Self {
        Self { socket, position: 0, size_bytes, fragments: Fragments::new(size_bytes), seen }
    }

    fn fetch(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut request = [0u8; 12];
        request[..8].copy_from_slice(&self.position.to_le_bytes());
        request[8..].copy_from_slice(&(buffer.len() as u32).to_le_bytes());
        self.socket.write_all(&request)?;
        let mut length = [0u8; 4];
        self.socket.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length);
        if length == READ_FAILED || length as usize > buffer.len() {
            return Err(io::Error::other("the parent failed to read the object"));
        }
        self.socket.read_exact(&mut buffer[..length as usize])?;
        Ok(length as usize)
    }
}

impl Read for RemoteBytes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.size_bytes.saturating_sub(self.position);
        let wanted = (buffer.len() as u64).min(left).min(READ_BYTES as u64) as usize;
        if wanted == 0 {
            return Ok(0);
        }
        let started = Instant::now();
        let result = self.fetch(&mut buffer[..wanted]);
        self.seen.waited_us.fetch_add(started.elapsed().as_micros() as u64, Ordering::Relaxed);
        let mut read = result?;
        self.seen.remember(self.position, &buffer[..read]);
        self.fragments.see(self.position, &buffer[..read]);
        if let Some(end) = self.fragments.cut_at() {
            // Report the end here: without the incomplete header, FFmpeg can read the fragments before it.
            self.seen.is_cut.store(true, Ordering::Relaxed);
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
