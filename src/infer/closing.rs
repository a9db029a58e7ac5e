//! Closing: sessions end before the process does. ONNX Runtime's library, unloaded while a model runs, fails loudly.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use ort::session::{NoSelectedOutputs, RunOptions};

/// What stops a session's runs; lives as long as the session.
pub(super) type Stopper = RunOptions<NoSelectedOutputs>;

/// Of every open session. The library is the process's, and so are these.
static OPEN: Mutex<Vec<Weak<Stopper>>> = Mutex::new(Vec::new());

/// How often [`close_sessions`] looks.
const TICK: Duration = Duration::from_millis(5);

/// For a session that is about to open, which owns it.
pub(super) fn stopper() -> ort::Result<Arc<Stopper>> {
    let stopper = Arc::new(RunOptions::new()?);
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    open.retain(|other| other.strong_count() > 0);
    open.push(Arc::downgrade(&stopper));
    Ok(stopper)
}

/// Stops the models that run, and waits until all sessions are closed, for as long as `patience`. Their owners must have
/// been told to end: only they close a session.
pub fn close_sessions(patience: Duration) {
    let open = std::mem::take(&mut *OPEN.lock().unwrap_or_else(PoisonError::into_inner));
    for stopper in open.iter().filter_map(Weak::upgrade) {
        // A session that cannot be stopped ends its run by itself.
        let _ = stopper.terminate();
    }
    let started = Instant::now();
    while open.iter().any(|stopper| stopper.strong_count() > 0) && started.elapsed() < patience {
        std::thread::sleep(TICK);
    }
}
