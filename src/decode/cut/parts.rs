//! The clip's file, as FFmpeg writes it. The parent has it, so this sends each write with its place.

use std::io::{self, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex, PoisonError};

use crate::decode::output::Output;
use crate::decode::protocol::{Message, SlotKind};

/// Bytes of a part, at most.
pub(in crate::decode) const PART_BYTES: usize = 256 * 1024;

/// A file of the parent.
pub(super) struct Parts {
    output: Arc<Mutex<Output>>,
    position: u64,
    length: u64,
}

impl Parts {
    pub(super) fn new(output: Arc<Mutex<Output>>) -> Self {
        Self { output, position: 0, length: 0 }
    }
}

impl Write for Parts {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let bytes = buffer.len().min(PART_BYTES);
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = output.slot(SlotKind::Image)?;
        output.bytes(SlotKind::Image, slot)[..bytes].copy_from_slice(&buffer[..bytes]);
        output.send(&Message::Part { slot, offset: self.position, bytes })?;
        self.position += bytes as u64;
        self.length = self.length.max(self.position);
        Ok(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Parts {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
            SeekFrom::End(offset) => self.length.checked_add_signed(offset),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
