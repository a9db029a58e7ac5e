//! Closes sessions before the process exits. If a model still runs while the library of ONNX Runtime is unloaded, the
//! library prints errors.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use ort::session::{NoSelectedOutputs, RunOptions};

/// Stops a session's runs. Lives as long as the session.
pub(super) type Stopper = RunOptions<NoSelectedOutputs>;

/// One for every open session. It is global because the library is.
static OPEN: Mutex<Vec<Weak<Stopper>>> = Mutex::new(Vec::new());

/// Interval at which [`close_sessions`] checks.
const TICK: Duration = Duration::from_millis(5);

/// Creates the stopper of a session that is about to be opened.
pub(super) fn stopper() -> ort::Result<Arc<Stopper>> {
    let stopper = Arc::new(RunOptions::new()?);
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    open.retain(|other| other.strong_count() > 0);
    open.push(Arc::downgrade(&stopper));
    Ok(stopper)
}

/// Stops running models, and waits up to `patience` until all sessions are closed. Their owners close them; they must be
/// ending already.
pub fn close_sessions(patience: Duration) {
    let open = std::mem::take(&mut *OPEN.lock().unwrap_or_else(PoisonError::into_inner));
    for stopper in open.iter().filter_map(Weak::upgrade) {
        // If it cannot be stopped, it will end anyway.
        let _ = stopper.terminate();
    }
    let started = Instant::now();
    while open.iter().any(|stopper| stopper.strong_count() > 0) && started.elapsed() < patience {
        std::thread::sleep(TICK);
    }
}
