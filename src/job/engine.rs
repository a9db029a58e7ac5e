//! The job's `[engine.*]` sections: settings of the engines that run tasks. They do not change results.

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

/// `[engine.slurm]`, in the terms of `sbatch`. The cluster decides what is absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Slurm {
    /// The partition of the tasks and the seal.
    pub partition: Option<String>,
    /// The account that is charged.
    pub account: Option<String>,
    /// The time limit of a task (`4:00:00`).
    pub time: Option<String>,
    /// Generic resources of a task (`gpu:1`).
    pub gres: Option<String>,
    /// CPUs of a task.
    pub cpus: Option<u32>,
    /// Memory of a task (`32G`).
    pub memory: Option<String>,
    /// The number of tasks at most. The default is one per shard, up to the cluster's `MaxArraySize`.
    pub tasks: Option<u32>,
    /// The number of tasks at most that run at the same time.
    pub at_once: Option<u32>,
    /// More options of `sbatch`, for the tasks and the seal.
    pub options: Vec<String>,
    /// The folder of the logs, which every machine must see.
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

/// `[engine.aws-batch]`. The job definition decides what is absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwsBatch {
    /// Name or ARN of the tasks' queue.
    pub queue: String,
    /// Name (with `:revision`) or ARN of the job definition, which has the image and the roles.
    pub job_definition: String,
    /// The seal's queue, which needs no GPU. The default is the tasks' queue.
    pub seal_queue: Option<String>,
    /// The seal's job definition. The default is the tasks' definition.
    pub seal_job_definition: Option<String>,
    /// GPUs of a task.
    pub gpus: Option<u32>,
    /// CPUs of a task.
    pub vcpus: Option<u32>,
    /// Memory of a task, in MiB.
    pub memory_mib: Option<u64>,
    /// Attempts of a task, 1 to 10.
    pub attempts: u32,
    /// The time limit of an attempt, at least 60.
    pub timeout_seconds: Option<u32>,
    /// The number of tasks at most. The default is one per shard, up to 10,000, the limit of AWS Batch.
    pub tasks: Option<u32>,
}

/// `[engine.kubernetes]`. Amounts are Kubernetes quantities.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kubernetes {
    /// The container image.
    pub image: String,
    /// The namespace. The default is that of `kubectl`'s context.
    pub namespace: Option<String>,
    /// The service account of the pods.
    pub service_account: Option<String>,
    /// A Secret whose entries become environment variables of the pods, such as the store's credentials.
    pub secret: Option<String>,
    /// GPUs of a task.
    pub gpus: Option<u32>,
    /// Processors of a task (`4`, `3500m`).
    pub cpus: Option<String>,
    /// Memory of a task (`16Gi`).
    pub memory: Option<String>,
    /// The number of tasks at most. The default is one per shard, up to 10,000.
    pub tasks: Option<u32>,
    /// The number of tasks at most that run at the same time.
    pub at_once: Option<u32>,
    /// Attempts of a task. Evictions do not count.
    pub attempts: u32,
    /// The time limit of all tasks together. After it, the seal publishes what is done.
    pub deadline_seconds: u32,
    /// The number of tasks that may fail before the others are stopped. The default is any number.
    pub max_failed_tasks: Option<u32>,
    /// Size of the scratch disk of a task (`50Gi`). The default is what the node has.
    pub scratch: Option<String>,
    /// The manifest of a Pod that is laid over the run's pods. Its container `vidindex` stands for theirs.
    pub pod_template: Option<PathBuf>,
    /// Labels that the tasks' nodes must have.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the tasks tolerate, as `key[=value][:Effect]`. They always tolerate the taint of GPU nodes.
    pub tolerations: Vec<String>,
}

/// The default for engines that need a number of attempts.
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
            // AWS Batch rejects less than a minute.
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
            false => Err(format!("contains {option:?}, which is not an option: options begin with --")),
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
            _ => Err(format!("contains {label:?}, which is not of the form key=value")),
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
            max_failed_tasks: count(section, "max_failed_tasks", 0..=u32::MAX)?,
            scratch: quantity("scratch", "\"50Gi\"")?,
            pod_template: section
                .get("pod_template", "a path such as \"pod.yaml\"", |entry| section.path(entry))?
                .map(PathBuf::from),
            node_selector: selectors
                .iter()
                .filter_map(|label| label.split_once('='))
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
            tolerations: section.strings("tolerations", check_toleration)?.unwrap_or_default(),
        })
    }
}

/// Whether this is a Kubernetes quantity. Its rarer forms are not accepted.
fn is_quantity(text: &str) -> bool {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    digits.parse::<f64>().is_ok_and(|amount| amount > 0.0)
        && ["", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"].contains(&unit)
}

fn check_toleration(taint: &str) -> Result<(), String> {
    let (key, effect) = taint.split_once(':').unwrap_or((taint, "NoSchedule"));
    if key.is_empty() || key.starts_with('=') || !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
        return Err(format!("contains {taint:?}: a taint is key[=value][:Effect], such as \"spot=true:NoSchedule\""));
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
    fn amounts_are_kubernetes_quantities() {
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
