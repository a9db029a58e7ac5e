//! The job's `[engine.*]`: what an engine is told of the tasks. Nothing here has a bearing on what is found.

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

impl Engines {
    pub(super) fn read(document: &Document) -> Result<Self> {
        Ok(Self { slurm: document.section("engine.slurm").map(Slurm::read).transpose()?.unwrap_or_default() })
    }
}

impl Slurm {
    fn read(section: &Section) -> Result<Self> {
        let text = |key, example| section.get(key, &format!("a string such as {example}"), Entry::filled_text);
        let count = |key| {
            section.get(key, "a whole number of at least 1", |entry| {
                u32::try_from(entry.count()?).ok().filter(|count| *count >= 1)
            })
        };
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
