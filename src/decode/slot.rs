//! Slots: the shared memory through which frames come from the decoder process.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use half::f16;
use memmap2::MmapMut;
use rustix::fs::{MemfdFlags, SealFlags};
use tokio::sync::mpsc;

use super::protocol::{Layout, SlotKind};

/// A filled slot of shared memory. Dropping it returns the slot to the child.
#[derive(Debug)]
pub struct Slot {
    shared: Arc<Shared>,
    kind: SlotKind,
    slot: usize,
    /// Number of bytes that are filled.
    bytes: usize,
}

#[derive(Debug)]
pub(super) struct Shared {
    memory: MmapMut,
    layout: Layout,
    freed: mpsc::UnboundedSender<(SlotKind, usize)>,
    /// Slots held by the parent, by kind: a bit for each.
    taken: [AtomicU64; 2],
}

impl Shared {
    /// Maps memory for these slots. Returns it with its file, for the child. Slots that are dropped are sent to `freed`.
    pub(super) fn new(
        layout: Layout,
        freed: mpsc::UnboundedSender<(SlotKind, usize)>,
    ) -> std::io::Result<(Arc<Self>, OwnedFd)> {
        let (frames, memory) = shared_memory(layout.bytes())?;
        Ok((Arc::new(Self { memory, layout, freed, taken: Default::default() }), frames))
    }

    /// The first `bytes` of a slot, which is now held by the parent. `None` if there is no such slot, or the parent holds it
    /// already: a process that sends a slot twice could fill the parent's queues.
    pub(super) fn take(self: &Arc<Self>, kind: SlotKind, slot: usize, bytes: usize) -> Option<Slot> {
        if slot >= self.layout.slots(kind) || bytes > self.layout.slot_bytes(kind) {
            return None;
        }
        let bit = 1 << slot;
        if self.taken[kind as usize].fetch_or(bit, Ordering::Relaxed) & bit != 0 {
            return None;
        }
        Some(Slot { shared: self.clone(), kind, slot, bytes })
    }

    /// Bytes of each slot of this kind.
    pub(super) fn slot_bytes(&self, kind: SlotKind) -> usize {
        self.layout.slot_bytes(kind)
    }

    /// Whether the parent holds all slots of a kind, so that the child may be waiting for one.
    pub(super) fn is_used_up(&self) -> bool {
        [SlotKind::Clip, SlotKind::Image].into_iter().any(|kind| {
            let slots = self.layout.slots(kind);
            slots > 0 && self.taken[kind as usize].load(Ordering::Relaxed).count_ones() as usize >= slots
        })
    }
}

impl Slot {
    /// The slot's bytes. A hostile child could still change them, but they are only pixels, and every value is valid.
    pub fn bytes(&self) -> &[u8] {
        &self.shared.memory[self.shared.layout.range(self.kind, self.slot)][..self.bytes]
    }

    /// The values of a clip, `[3, frames, height, width]`.
    pub fn halves(&self) -> &[f16] {
        // SAFETY: slots begin on page boundaries, so no bytes are left over at either end, and any bits are a valid
        // f16.
        let (_, halves, _) = unsafe { self.bytes().align_to::<f16>() };
        halves
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shared.taken[self.kind as usize].fetch_and(!(1 << self.slot), Ordering::Relaxed);
        // If the child has ended already, nobody needs the slot.
        let _ = self.shared.freed.send((self.kind, self.slot));
    }
}

/// Creates memory that both processes map and neither can shrink.
fn shared_memory(bytes: usize) -> std::io::Result<(OwnedFd, MmapMut)> {
    let fd = rustix::fs::memfd_create("vidindex-frames", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&fd, bytes as u64)?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    // SAFETY: the file is sealed against shrinking, so every access stays inside it. The child only writes to slots
    // that it holds; if it breaks that rule, the worst outcome is a torn pixel.
    let memory = unsafe { MmapMut::map_mut(&fd)? };
    Ok((fd, memory))
}
