//! The job's `[engine.*]`: what an engine is told of the tasks. Nothing here has a bearing on what is found.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::reader::{Document, Entry, Section};
use crate::error::Result;

/// The settings of every engine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Engines {
    /// `[engine.slurm]`.
    pub slurm: Slurm,
    /// `[engine.aws-batch]`.
    pub aws_batch: Option<AwsBatch>,
    /// `[engine.kubernetes]`.
    pub kubernetes: Option<Kubernetes>,
}

/// `[engine.slurm]`, in the words of `sbatch`; what is absent is left to the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Slurm {
    /// Where the tasks and the seal run.
    pub partition: Option<String>,
    /// Who pays.
    pub account: Option<String>,
    /// The longest that a task may take (`4:00:00`).
    pub time: Option<String>,
    /// What each task holds besides processors (`gpu:1`).
    pub gres: Option<String>,
    /// Processors of a task.
    pub cpus: Option<u32>,
    /// Memory of a task (`32G`).
    pub memory: Option<String>,
    /// The most tasks; absent means one for each shard, as far as the cluster's `MaxArraySize` goes.
    pub tasks: Option<u32>,
    /// The most tasks at work at once.
    pub at_once: Option<u32>,
    /// Further options of `sbatch`, for the tasks and the seal.
    pub options: Vec<String>,
    /// The folder of the logs, seen from every machine.
    pub logs: PathBuf,
}

impl Default for Slurm {
    fn default() -> Self {
        Self {
            partition: None,
            account: None,
            time: None,
            gres: None,
            cpus: None,
            memory: None,
            tasks: None,
            at_once: None,
            options: Vec::new(),
            logs: "logs".into(),
        }
    }
}

/// `[engine.aws-batch]`; what is absent is left to the job definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwsBatch {
    /// Name or ARN of the queue that the tasks go to.
    pub queue: String,
    /// Name (`:revision`) or ARN of the definition that says image and roles.
    pub job_definition: String,
    /// The seal's queue, which needs no GPU; absent means the tasks'.
    pub seal_queue: Option<String>,
    /// The seal's definition; absent means the tasks'.
    pub seal_job_definition: Option<String>,
    /// GPUs of a task.
    pub gpus: Option<u32>,
    /// Processors of a task.
    pub vcpus: Option<u32>,
    /// Memory of a task, in MiB.
    pub memory_mib: Option<u64>,
    /// How often a task is tried, 1 to 10.
    pub attempts: u32,
    /// The longest that an attempt may take.
    pub timeout_seconds: Option<u32>,
    /// The most tasks; absent means one for each shard, as far as Batch goes (10 000).
    pub tasks: Option<u32>,
}

/// `[engine.kubernetes]`; amounts in Kubernetes' words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kubernetes {
    /// The container image.
    pub image: String,
    /// Absent means that of `kubectl`'s context.
    pub namespace: Option<String>,
    /// Whose rights the pods have, where they come from the cluster.
    pub service_account: Option<String>,
    /// A Secret that becomes the pods' environment: a store's credentials.
    pub secret: Option<String>,
    /// GPUs of a task.
    pub gpus: Option<u32>,
    /// Processors of a task (`4`, `3500m`).
    pub cpus: Option<String>,
    /// Memory of a task (`16Gi`).
    pub memory: Option<String>,
    /// The most tasks; absent means one for each shard, up to 10 000.
    pub tasks: Option<u32>,
    /// The most tasks at work at once.
    pub at_once: Option<u32>,
    /// How often a task is tried; evictions are not counted.
    pub attempts: u32,
    /// The longest that all tasks together may take; then what is done is sealed.
    pub deadline_seconds: u32,
    /// Labels of the tasks' nodes.
    pub node_selector: BTreeMap<String, String>,
    /// The taints of nodes that the tasks may run on all the same: `key[=value][:Effect]`. GPUs' is always among them.
    pub tolerations: Vec<String>,
}

/// How often a task is tried where the engine is to be told.
const ATTEMPTS: u32 = 3;

const DAY_SECONDS: u32 = 24 * 3600;

impl Engines {
    pub(super) fn read(document: &Document) -> Result<Self> {
        Ok(Self {
            slurm: document.section("engine.slurm").map(Slurm::read).transpose()?.unwrap_or_default(),
            aws_batch: document.section("engine.aws-batch").map(AwsBatch::read).transpose()?,
            kubernetes: document.section("engine.kubernetes").map(Kubernetes::read).transpose()?,
        })
    }
}

impl AwsBatch {
    fn read(section: &Section) -> Result<Self> {
        let name = |key, example| section.required(key, "a name or an ARN", example, Entry::filled_text);
        let memory = section.get("memory", "a size of at least 4 MiB such as \"30 GiB\"", |entry| {
            let bytes = entry.text()?.parse::<bytesize::ByteSize>().ok()?.as_u64();
            Some(bytes >> 20).filter(|mib| *mib >= 4)
        })?;
        Ok(Self {
            queue: name("queue", "queue = \"vidindex-gpu\"")?,
            job_definition: name("job_definition", "job_definition = \"vidindex\"")?,
            seal_queue: text(section, "seal_queue", "\"vidindex-cpu\"")?,
            seal_job_definition: text(section, "seal_job_definition", "\"vidindex-cpu\"")?,
            gpus: count(section, "gpus", 1..=u32::MAX)?,
            vcpus: count(section, "vcpus", 1..=u32::MAX)?,
            memory_mib: memory,
            attempts: count(section, "attempts", 1..=10)?.unwrap_or(ATTEMPTS),
            // Less than a minute Batch refuses.
            timeout_seconds: count(section, "timeout_seconds", 60..=i32::MAX as u32)?,
            tasks: count(section, "tasks", 1..=u32::MAX)?,
        })
    }
}

impl Slurm {
    fn read(section: &Section) -> Result<Self> {
        let text = |key, example| text(section, key, example);
        let count = |key| count(section, key, 1..=u32::MAX);
        let option = |option: &str| match option.starts_with("--") {
            true => Ok(()),
            false => Err(format!("holds {option:?}, which is no option: they begin with --")),
        };
        Ok(Self {
            partition: text("partition", "\"gpu\"")?,
            account: text("account", "\"vision\"")?,
            time: text("time", "\"4:00:00\"")?,
            gres: text("gres", "\"gpu:1\"")?,
            cpus: count("cpus")?,
            memory: text("memory", "\"32G\"")?,
            tasks: count("tasks")?,
            at_once: count("at_once")?,
            options: section.strings("options", option)?.unwrap_or_default(),
            logs: text("logs", "\"logs\"")?.map_or_else(|| Self::default().logs, PathBuf::from),
        })
    }
}

impl Kubernetes {
    fn read(section: &Section) -> Result<Self> {
        let quantity = |key, example: &str| {
            section.get(key, &format!("an amount such as {example}"), |entry| {
                entry.text().filter(|text| is_quantity(text))
            })
        };
        let selector = |label: &str| match label.split_once('=') {
            Some((key, _)) if !key.is_empty() => Ok(()),
            _ => Err(format!("holds {label:?}, which is not of the form key=value")),
        };
        let selectors = section.strings("node_selector", selector)?.unwrap_or_default();
        Ok(Self {
            image: section.required(
                "image",
                "an image's name",
                "image = \"registry.example/vidindex:1\"",
                Entry::filled_text,
            )?,
            namespace: text(section, "namespace", "\"video\"")?,
            service_account: text(section, "service_account", "\"vidindex\"")?,
            secret: text(section, "secret", "\"s3-credentials\"")?,
            gpus: count(section, "gpus", 1..=u32::MAX)?,
            cpus: quantity("cpus", "\"4\" or \"3500m\"")?,
            memory: quantity("memory", "\"16Gi\"")?,
            tasks: count(section, "tasks", 1..=u32::MAX)?,
            at_once: count(section, "at_once", 1..=u32::MAX)?,
            attempts: count(section, "attempts", 1..=u32::MAX)?.unwrap_or(ATTEMPTS),
            deadline_seconds: count(section, "deadline_seconds", 1..=u32::MAX)?.unwrap_or(DAY_SECONDS),
            node_selector: selectors
                .iter()
                .filter_map(|label| label.split_once('='))
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
            tolerations: section.strings("tolerations", check_toleration)?.unwrap_or_default(),
        })
    }
}

/// Kubernetes' way to write an amount, without its rarer forms.
fn is_quantity(text: &str) -> bool {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    digits.parse::<f64>().is_ok_and(|amount| amount > 0.0)
        && ["", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"].contains(&unit)
}

fn check_toleration(taint: &str) -> Result<(), String> {
    let (key, effect) = taint.split_once(':').unwrap_or((taint, "NoSchedule"));
    if key.is_empty() || key.starts_with('=') || !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
        return Err(format!("holds {taint:?}: they are written key[=value][:Effect], as in \"spot=true:NoSchedule\""));
    }
    Ok(())
}

fn text(section: &Section, key: &str, example: &str) -> Result<Option<String>> {
    section.get(key, &format!("a string such as {example}"), Entry::filled_text)
}

fn count(section: &Section, key: &str, range: RangeInclusive<u32>) -> Result<Option<u32>> {
    let wanted = match *range.end() {
        u32::MAX => format!("a whole number of at least {}", range.start()),
        end => format!("a whole number from {} to {end}", range.start()),
    };
    section.get(key, &wanted, |entry| u32::try_from(entry.count()?).ok().filter(|count| range.contains(count)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_kubernetes_own() {
        assert!(["4", "0.5", "3500m", "16Gi", "64M"].iter().all(|text| is_quantity(text)));
        assert!(["", "Gi", "16 GiB", "16GB", "-1", "0", "inf"].iter().all(|text| !is_quantity(text)));
    }

    #[test]
    fn tolerations_are_written_as_taints() {
        assert!(
            ["spot", "spot=true", "spot=true:NoExecute", "a.b/c:NoSchedule"]
                .iter()
                .all(|t| check_toleration(t).is_ok())
        );
        assert!(["", "=true", ":NoSchedule", "spot:Never"].iter().all(|t| check_toleration(t).is_err()));
    }
}
