//! The child's output to its parent: messages over a socket, frames in shared memory.

use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use half::f16;
use memmap2::MmapMut;

use super::protocol::{Layout, Message, SlotKind, ToDecoder};

pub(super) struct Output {
    pub(super) control: UnixStream,
    pub(super) orders: BufReader<UnixStream>,
    pub(super) memory: MmapMut,
    pub(super) layout: Layout,
    pub(super) free: [Vec<usize>; 2],
    pub(super) waited_us: u64,
}

impl Output {
    pub(super) fn send(&mut self, message: &Message) -> io::Result<()> {
        let body = serde_json::to_vec(message)?;
        let mut framed = (body.len() as u32).to_le_bytes().to_vec();
        framed.extend_from_slice(&body);
        self.control.write_all(&framed)
    }

    /// Takes a free slot of this kind. Waits until the parent frees one.
    pub(super) fn slot(&mut self, kind: SlotKind) -> io::Result<usize> {
        let started = Instant::now();
        loop {
            if let Some(slot) = self.free[kind as usize].pop() {
                self.waited_us += started.elapsed().as_micros() as u64;
                return Ok(slot);
            }
            if let ToDecoder::Free { kind, slot } = receive(&mut self.orders)? {
                self.free[kind as usize].push(slot);
            }
        }
    }

    pub(super) fn bytes(&mut self, kind: SlotKind, slot: usize) -> &mut [u8] {
        &mut self.memory[self.layout.range(kind, slot)]
    }

    /// The first `bytes` of a clip's slot, as halves.
    pub(super) fn halves(&mut self, slot: usize, bytes: usize) -> &mut [f16] {
        let bytes = &mut self.bytes(SlotKind::Clip, slot)[..bytes];
        // SAFETY: slots begin on page boundaries, so no bytes are left over at either end, and any bits are a valid
        // f16.
        let (before, halves, _) = unsafe { bytes.align_to_mut::<f16>() };
        debug_assert!(before.is_empty());
        halves
    }
}

pub(super) fn receive(orders: &mut impl Read) -> io::Result<ToDecoder> {
    let mut length = [0u8; 4];
    orders.read_exact(&mut length)?;
    let mut body = vec![0u8; u32::from_le_bytes(length) as usize];
    orders.read_exact(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}
