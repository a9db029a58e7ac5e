//! Progress of commands that handle many files: a bar on a terminal, lines in a log.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{BAR, LOG_EVERY};

/// What takes less time shows no progress.
const SHOWN_AFTER: Duration = Duration::from_secs(1);

/// Whether standard error is a terminal and shows text.
pub(super) static ON_SCREEN: AtomicBool = AtomicBool::new(false);

/// Counts steps and shows how many are done, until it is dropped.
#[derive(Debug)]
pub(crate) struct Steps {
    what: &'static str,
    /// None if it is unknown.
    total: Option<u64>,
    done: AtomicU64,
    started: Instant,
    shown: Mutex<Shown>,
}

#[derive(Debug)]
struct Shown {
    logged: Instant,
    /// Whether the bar on the screen is this one.
    bar: Option<ProgressBar>,
}

impl Steps {
    /// `what` is done to each of `total` things, for example `shards published`.
    pub(crate) fn start(what: &'static str, total: Option<u64>) -> Self {
        let started = Instant::now();
        Self { what, total, done: AtomicU64::new(0), started, shown: Mutex::new(Shown { logged: started, bar: None }) }
    }

    /// One more is done.
    pub(crate) fn step(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        if self.started.elapsed() < SHOWN_AFTER {
            return;
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if ON_SCREEN.load(Ordering::Relaxed) {
            let bar = shown.bar.get_or_insert_with(|| self.bar());
            bar.set_position(done);
        } else if shown.logged.elapsed() >= LOG_EVERY {
            shown.logged = Instant::now();
            tracing::info!(done, total = self.total, "progress: {}", self.line(done));
        }
    }

    fn line(&self, done: u64) -> String {
        match self.total {
            Some(total) => format!("{} of {} {}", HumanCount(done), HumanCount(total), self.what),
            None => format!("{} {}", HumanCount(done), self.what),
        }
    }

    fn bar(&self) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(self.total, ProgressDrawTarget::stderr());
        let of = self.total.map_or(String::new(), |_| "[{bar:24}] ".to_owned());
        let count = if self.total.is_some() { "{human_pos} of {human_len}" } else { "{human_pos}" };
        if let Ok(style) = ProgressStyle::with_template(&format!("{{elapsed:>4}} {of}{count} {}", self.what)) {
            bar.set_style(style.progress_chars("=> "));
        }
        // Log lines hide one bar. Another command's is not replaced.
        let mut current = BAR.lock().unwrap_or_else(PoisonError::into_inner);
        match &*current {
            Some(_) => ProgressBar::hidden(),
            None => {
                *current = Some(bar.clone());
                bar
            }
        }
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        let shown = self.shown.get_mut().unwrap_or_else(PoisonError::into_inner);
        if shown.bar.take().is_some_and(|bar| !bar.is_hidden())
            && let Some(bar) = BAR.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_many_of_how_many() {
        assert_eq!(Steps::start("shards published", Some(10_000)).line(1234), "1,234 of 10,000 shards published");
        assert_eq!(Steps::start("files read", None).line(7), "7 files read");
    }
}
