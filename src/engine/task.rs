//! Determines which task this process is, from the environment that an engine sets.

use crate::error::{Error, Result};
use crate::work::Task;

/// The task of this process: the requested one (`I/N`), otherwise the one in the engine's environment variables,
/// otherwise all shards.
///
/// # Errors
/// A usage error if a number is missing or invalid.
pub(crate) fn task(asked: Option<&str>, variable: impl Fn(&str) -> Option<String>) -> Result<Task> {
    if let Some(asked) = asked {
        let numbers = asked.split_once('/').and_then(|(i, n)| Some((i.trim().parse().ok()?, n.trim().parse().ok()?)));
        return match numbers {
            Some((index, count)) if index < count => Ok(Task { index, count }),
            _ => Err(Error::usage(format!("`{asked}` is not a task"))
                .with_hint("write task I of N as I/N with I from 0, for example 0/4")),
        };
    }
    // (index, count, first index)
    let engines = [
        ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", Some("SLURM_ARRAY_TASK_MIN")),
        ("AWS_BATCH_JOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_SIZE", None),
        ("JOB_COMPLETION_INDEX", "VIDINDEX_TASKS", None),
    ];
    let number = |name: &str| -> Result<Option<u32>> {
        let Some(text) = variable(name) else { return Ok(None) };
        let parsed = text.trim().parse();
        parsed.map(Some).map_err(|_| Error::usage(format!("{name}={text} is not a number")))
    };
    for (index_name, count_name, min_name) in engines {
        let Some(index) = number(index_name)? else { continue };
        let count = number(count_name)?.ok_or_else(|| {
            Error::usage(format!("{index_name} is set, but {count_name} is not"))
                .with_hint(format!("set {count_name}, or use --task I/N"))
        })?;
        let first = min_name.map_or(Ok(None), &number)?.unwrap_or(0);
        return match index.checked_sub(first) {
            Some(index) if index < count => Ok(Task { index, count }),
            _ => {
                Err(Error::usage(format!("{index_name}={index} is out of range for {count} tasks starting at {first}")))
            }
        };
    }
    Ok(Task::ALL)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn with(variables: &[(&str, &str)]) -> Result<Task> {
        task(None, |name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn each_engine_names_its_task() {
        let two_of_four = Task { index: 2, count: 4 };
        let slurm = [("SLURM_ARRAY_TASK_ID", "3"), ("SLURM_ARRAY_TASK_COUNT", "4"), ("SLURM_ARRAY_TASK_MIN", "1")];
        assert_eq!(with(&slurm).unwrap(), two_of_four);
        let batch = [("AWS_BATCH_JOB_ARRAY_INDEX", "2"), ("AWS_BATCH_JOB_ARRAY_SIZE", "4")];
        assert_eq!(with(&batch).unwrap(), two_of_four);
        assert_eq!(with(&[("JOB_COMPLETION_INDEX", "2"), ("VIDINDEX_TASKS", "4")]).unwrap(), two_of_four);
        assert_eq!(with(&[]).unwrap(), Task::ALL);
    }

    #[test]
    fn an_invalid_task_is_refused() {
        assert!(with(&[("JOB_COMPLETION_INDEX", "2")]).is_err());
        assert!(with(&[("AWS_BATCH_JOB_ARRAY_INDEX", "4"), ("AWS_BATCH_JOB_ARRAY_SIZE", "4")]).is_err());
        assert!(task(Some("4/4"), |_| None).is_err());
        assert!(task(Some("x"), |_| None).unwrap_err().hint().unwrap().contains("0/4"));
        assert_eq!(task(Some("0/4"), |_| None).unwrap(), Task { index: 0, count: 4 });
    }
}
