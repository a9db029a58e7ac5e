//! Usage statistics of a model, counted by the thread that runs it and readable by others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Usage statistics of a model.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Seconds of running.
    pub busy_seconds: f64,
    /// Number of batches.
    pub batches: u64,
    /// Number of inputs in the batches.
    pub inputs: u64,
}

/// Counts a model's usage. All clones share the same counters.
#[derive(Debug, Clone, Default)]
pub struct UsageCounter(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    busy_us: AtomicU64,
    batches: AtomicU64,
    inputs: AtomicU64,
}

impl UsageCounter {
    /// Counts a batch.
    pub fn add(&self, inputs: usize, seconds: f64) {
        self.0.busy_us.fetch_add((seconds * 1e6) as u64, Ordering::Relaxed);
        self.0.batches.fetch_add(1, Ordering::Relaxed);
        self.0.inputs.fetch_add(inputs as u64, Ordering::Relaxed);
    }

    /// The statistics so far.
    pub fn usage(&self) -> Usage {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Usage {
            busy_seconds: load(&self.0.busy_us) as f64 / 1e6,
            batches: load(&self.0.batches),
            inputs: load(&self.0.inputs),
        }
    }
}
