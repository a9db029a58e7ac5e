//! Turns on a GPU. Models run beside each other, unless one of them runs with new shapes. Then CUDA's libraries measure which
//! algorithms are fastest, and meanwhile calls of other threads that allocate or wait for the GPU fail ("operation not permitted
//! when stream is capturing").

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Decides which models run at the same time. All models of a runtime share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Turn(Arc<RwLock<()>>);

impl Turn {
    /// Waits until no model runs, and keeps others from running.
    pub(super) fn alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while a model keeps others from running.
    pub(super) fn beside_others(&self) -> RwLockReadGuard<'_, ()> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}
