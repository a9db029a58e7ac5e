//! How much a model has done, counted by its thread and read by whoever wants to know.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How much a model has done.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Seconds that it ran.
    pub busy_seconds: f64,
    /// Batches run.
    pub batches: u64,
    /// Inputs in them.
    pub inputs: u64,
}

/// Counts while the model works. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct UsageCounter(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    busy_us: AtomicU64,
    batches: AtomicU64,
    inputs: AtomicU64,
}

impl UsageCounter {
    /// Counts a batch in.
    pub fn add(&self, inputs: usize, seconds: f64) {
        self.0.busy_us.fetch_add((seconds * 1e6) as u64, Ordering::Relaxed);
        self.0.batches.fetch_add(1, Ordering::Relaxed);
        self.0.inputs.fetch_add(inputs as u64, Ordering::Relaxed);
    }

    /// So far.
    pub fn usage(&self) -> Usage {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Usage {
            busy_seconds: load(&self.0.busy_us) as f64 / 1e6,
            batches: load(&self.0.batches),
            inputs: load(&self.0.inputs),
        }
    }
}
