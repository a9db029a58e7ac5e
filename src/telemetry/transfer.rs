//! Progress of a file download: a bar on a terminal, occasional lines otherwise.

use std::io;
use std::sync::PoisonError;
use std::time::Instant;

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{BAR, LOG_EVERY, LogFormat};
use crate::console;

/// A transfer whose progress is displayed until it is dropped.
#[derive(Debug)]
pub struct Transfer {
    name: String,
    /// Counts the bytes, and is drawn if there is a terminal.
    bar: ProgressBar,
    logged: Option<Instant>,
}

impl Transfer {
    /// Starts to display the transfer of this file. Nothing is displayed if `quiet`.
    pub fn start(name: &str, format: LogFormat, quiet: bool) -> Self {
        let on_terminal = !quiet && format == LogFormat::Text && console::is_screen(&io::stderr());
        let target = if on_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        let template = "{msg} [{bar:24}] {bytes}/{total_bytes}  {bytes_per_sec}  ETA {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(name.to_owned());
        if on_terminal {
            *BAR.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar.clone());
        }
        Self { name: name.to_owned(), bar, logged: (!quiet && !on_terminal).then(Instant::now) }
    }

    /// Sets the number of bytes transferred, and the total if known.
    pub fn at(&mut self, bytes: u64, of: Option<u64>) {
        if let Some(of) = of {
            self.bar.set_length(of);
        }
        self.bar.set_position(bytes);
        if self.logged.is_some_and(|logged| logged.elapsed() >= LOG_EVERY) {
            self.logged = Some(Instant::now());
            let of = of.map(|of| format!(" of {}", HumanBytes(of))).unwrap_or_default();
            tracing::info!(file = self.name, "progress: {}{of}", HumanBytes(bytes));
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        BAR.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.bar.finish_and_clear();
    }
}
