//! Usage statistics of a model, counted by the threads that run it and readable by others.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Usage statistics of a model.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Seconds in which at least one batch ran.
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
    /// The time up to which running is counted, because batches may overlap.
    counted: Mutex<Option<Instant>>,
}

impl UsageCounter {
    /// Counts a batch that ends now and ran for so long.
    pub fn add(&self, inputs: usize, seconds: f64) {
        let now = Instant::now();
        let before = self.0.counted.lock().unwrap_or_else(PoisonError::into_inner).replace(now);
        let since = before.map_or(Duration::MAX, |before| now - before);
        let seconds = seconds.min(since.as_secs_f64());
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
