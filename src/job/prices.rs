//! The job's `[prices]`: what a run costs, for `vidindex plan --estimate`.

use serde::{Deserialize, Serialize};

use super::reader::{Entry, Section};
use crate::error::{Error, Result};

/// Prices in one currency. They change nothing that a run does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prices {
    /// The currency, as it is printed.
    pub currency: String,
    /// An hour of a task: of a machine, or of a GPU with its share of the machine.
    pub task_hour: f64,
    /// A GiB that is read from the input.
    pub gib_read: f64,
    /// A thousand reads (`GET`).
    pub thousand_reads: f64,
    /// A thousand writes and lists (`PUT`, `COPY`, `LIST`).
    pub thousand_writes: f64,
}

impl Prices {
    pub(super) fn read(section: &Section) -> Result<Self> {
        let price = |key| {
            let amount = |entry: &Entry| entry.number().filter(|number| *number >= 0.0);
            Ok::<_, Error>(section.get(key, "a number of at least 0", amount)?.unwrap_or(0.0))
        };
        Ok(Self {
            currency: section.get("currency", "a currency such as \"USD\"", Entry::filled_text)?.unwrap_or_default(),
            task_hour: price("task_hour")?,
            gib_read: price("gib_read")?,
            thousand_reads: price("thousand_reads")?,
            thousand_writes: price("thousand_writes")?,
        })
    }
}
