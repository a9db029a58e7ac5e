//! The child's byte source: a seekable stream whose reads are answered by the parent over a socket.
//!
//! A request is the offset (u64) and length (u32), little endian; the answer a length (u32) and that many bytes.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::fragments::Fragments;

/// An answer's length when the parent could not read: the parent knows why.
pub const READ_FAILED: u32 = u32::MAX;

/// What the child asks for at once, and FFmpeg's buffer: large enough to make the round trip cheap.
pub const READ_BYTES: usize = 256 * 1024;

/// Bytes kept of the end: the largest packet of a transport stream.
const TAIL_BYTES: usize = 204;

/// Bytes of one object, asked of the parent.
#[derive(Debug)]
pub struct RemoteBytes {
    socket: UnixStream,
    position: u64,
    size_bytes: u64,
    fragments: Fragments,
    seen: Arc<Seen>,
}

/// What was seen of an object while it was read.
#[derive(Debug, Default)]
pub struct Seen {
    /// Time spent waiting for bytes, microseconds.
    pub waited_us: AtomicU64,
    /// The object is an MP4 file that ends inside the header of a fragment.
    pub is_cut: AtomicBool,
    tail: Mutex<Tail>,
}

/// The bytes read last.
#[derive(Debug, Default)]
struct Tail {
    bytes: Vec<u8>,
    /// Where they end in the object.
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

    /// What was read last, if that was the end of an object of `size_bytes`: at most a packet of a transport stream.
    pub fn end(&self, size_bytes: u64) -> Vec<u8> {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        if tail.end == size_bytes { tail.bytes.clone() } else { Vec::new() }
    }
}

impl RemoteBytes {
    /// An object of `size_bytes` behind `socket`.
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
            return Err(io::Error::other("the parent could not read"));
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
            // Without the header that is incomplete FFmpeg reads the fragments before it.
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
