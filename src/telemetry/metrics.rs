//! Prometheus counters of a worker in a text file for a collector (node_exporter's `textfile`, or a push gateway).

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::Progress;
use super::readings::{Kind, Reading, readings};
use crate::error::{Error, Result};

/// Interval at which the file is replaced. Collectors read it every 15 seconds or less often.
const EVERY: Duration = Duration::from_secs(5);

/// The names of files in a directory: this, the run, the task, and the suffix that collectors look for.
const PREFIX: &str = "vidindex-";
const SUFFIX: &str = ".prom";

/// How long the file of a task that ended is kept.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// A metrics file that is kept up to date until [`MetricsFile::finish`].
pub struct MetricsFile {
    writer: Arc<Writer>,
    task: tokio::task::JoinHandle<()>,
}

struct Writer {
    path: PathBuf,
    registry: Registry,
}

impl MetricsFile {
    /// Writes the file for the first time and starts updating it. In a directory, each task has a file of its own, and files
    /// that no task has updated for a day are removed.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn start(path: &Path, run_id: &str, task: u32, progress: Arc<Progress>) -> Result<Self> {
        let path = match path.is_dir() {
            true => {
                sweep(path);
                path.join(format!("{PREFIX}{run_id}-{task}{SUFFIX}"))
            }
            false => path.to_owned(),
        };
        let labels = [("run_id", run_id.to_owned()), ("task", task.to_string())];
        let labels = labels.map(|(name, value)| (Cow::Borrowed(name), Cow::Owned(value)));
        let mut registry = Registry::with_prefix_and_labels("vidindex", labels.into_iter());
        registry.register_collector(Box::new(Counters(progress)));
        let writer = Arc::new(Writer { path, registry });
        writer.write()?;
        let again = writer.clone();
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(EVERY).await;
                if let Err(error) = again.write() {
                    tracing::warn!(%error, "the metrics are out of date");
                }
            }
        });
        Ok(Self { writer, task })
    }

    /// Writes the final state.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn finish(self) -> Result<()> {
        self.task.abort();
        self.writer.write()
    }
}

impl Drop for MetricsFile {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Writer {
    /// Replaces the file atomically, so that a collector never reads a partial file.
    fn write(&self) -> Result<()> {
        let failed = |problem: &dyn fmt::Display| {
            Error::failed(format!("failed to write the metrics to {}: {problem}", self.path.display()))
                .with_hint("let --metrics name a file in an existing, writable directory")
        };
        let mut text = String::new();
        encode(&mut text, &self.registry).map_err(|error| failed(&error))?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new().prefix(".vidindex").tempfile_in(folder).map_err(|e| failed(&e))?;
        std::io::Write::write_all(&mut file, text.as_bytes()).map_err(|error| failed(&error))?;
        // A temporary file is readable only by its owner, but the collector runs as another user.
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        file.as_file().set_permissions(everybody).map_err(|error| failed(&error))?;
        file.persist(&self.path).map_err(|error| failed(&error.error))?;
        Ok(())
    }
}

/// Removes the files of tasks that ended long ago, best effort: a collector would read them for ever.
fn sweep(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX));
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        if ours && modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > KEPT)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Reads the progress whenever the file is written.
struct Counters(Arc<Progress>);

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counters")
    }
}

impl Collector for Counters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Reading { name, help, kind, label, values } in readings(&self.0) {
            let kind = match kind {
                Kind::Gauge => MetricType::Gauge,
                Kind::Counter => MetricType::Counter,
            };
            let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
            for (value, number) in values {
                let labels = label.map(|label| [(label, value)]);
                let of_label = labels.iter().flatten().copied().collect::<Vec<_>>();
                let metric = metric.encode_family(&of_label)?;
                match kind {
                    MetricType::Gauge => ConstGauge::new(number).encode(metric)?,
                    _ => ConstCounter::new(number).encode(metric)?,
                }
            }
        }
        Ok(())
    }
}
