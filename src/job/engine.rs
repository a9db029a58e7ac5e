//! The job's `[engine.*]`: what an engine is told of the tasks. Nothing here has a bearing on what is found.

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

/// How often engines try a task that are told so.
const ATTEMPTS: u32 = 3;

impl Engines {
    pub(super) fn read(document: &Document) -> Result<Self> {
        Ok(Self {
            slurm: document.section("engine.slurm").map(Slurm::read).transpose()?.unwrap_or_default(),
            aws_batch: document.section("engine.aws-batch").map(AwsBatch::read).transpose()?,
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
