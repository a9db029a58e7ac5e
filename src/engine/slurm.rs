//! Slurm: an array job by `sbatch`, and a job that seals when the array has ended. Slurm requeues the tasks of a lost
//! machine. It may also run a task twice, which is harmless.

use tokio::process::Command;

use super::queue::Counts;
use super::{Submission, Submitted};
use crate::error::{Error, Result};
use crate::job::engine::Slurm;
use crate::run::RunId;

/// The largest array index is one less than `MaxArraySize`, whose default is 1001.
const ARRAY_DEFAULT: u32 = 1000;

/// Input of `sbatch`: its options, and the script on its standard input.
#[derive(Debug, PartialEq, Eq)]
struct Batch {
    options: Vec<String>,
    script: String,
}

/// See [`super::submit`].
pub(super) async fn submit(submission: &Submission<'_>, dry_run: bool) -> Result<Submitted> {
    let settings = &submission.job.engine.slurm;
    let array_max = match array_max().await {
        Err(_) if dry_run => ARRAY_DEFAULT,
        found => found?,
    };
    let directory = std::env::current_dir()
        .map_err(|error| Error::failed(format!("failed to determine the working directory: {error}")))?;
    let logs = directory.join(&settings.logs).join(submission.run.as_str());
    let name = job_name(submission.run);
    let common = |log: &str| {
        vec![
            format!("--job-name={name}"),
            format!("--chdir={}", directory.display()),
            format!("--output={}", logs.join(log).display()),
            // A requeued task continues in the same file.
            "--open-mode=append".to_owned(),
            "--requeue".to_owned(),
        ]
    };
    let tasks = submission.tasks(settings.tasks, array_max);
    let job_file = directory.join(&submission.job_file);
    let command =
        |name: &str| [vec![submission.program.display().to_string()], submission.arguments(name, &job_file)].concat();
    let work = Batch {
        options: [common("work-%a.log"), work_options(settings, tasks)].concat(),
        script: script(&command("work")),
    };
    let seal = |array: &str| Batch {
        options: [
            common("seal.log"),
            vec![format!("--dependency=afterany:{array}"), "--kill-on-invalid-dep=yes".to_owned()],
            shared_options(settings),
        ]
        .concat(),
        script: script(&command("seal")),
    };
    if dry_run {
        return Ok(Submitted::shown([work, seal("ARRAY")].iter().map(Batch::to_string).collect()));
    }
    std::fs::create_dir_all(&logs)
        .map_err(|error| Error::failed(format!("{}: failed to create: {error}", logs.display())))?;
    let array = work.hand_in().await?;
    let sealing = seal(&array).hand_in().await.map_err(|error| {
        Error::failed(format!("the tasks were submitted as Slurm job {array}, but submitting the seal failed: {error}"))
            .with_hint(format!("when they have finished, run: {}", quoted(&command("seal"))))
    })?;
    let lines = vec![
        format!("tasks   Slurm job {array}: {tasks} for {} shards", submission.shards),
        format!("seal    Slurm job {sealing}, after the tasks have ended"),
        format!("logs    {}", logs.display()),
        format!("watch   squeue -j {array},{sealing}    stop  scancel {array}"),
    ];
    Ok(Submitted { lines, jobs: vec![array, sealing] })
}

/// The name of the tasks' job and of the seal's.
fn job_name(run: &RunId) -> String {
    format!("vidindex-{run}")
}

/// Counts the waiting and running tasks of the run. Uses the jobs' name, because `squeue` rejects numbers of jobs that
/// it has forgotten.
pub(super) async fn counts(run: &RunId) -> Result<Counts> {
    let mut squeue = Command::new("squeue");
    squeue.args(["--noheader", "--array", "--format=%T", &format!("--name={}", job_name(run))]);
    let absent = "run this on a machine with Slurm's commands on the PATH";
    let states = super::tool::run(squeue, "", absent, "check that the cluster is up").await?;
    Ok(count(&states))
}

/// Counts states that `squeue` lists. It does not list ended jobs.
fn count(states: &str) -> Counts {
    let mut counts = Counts::default();
    for state in states.lines() {
        match state.trim() {
            "PENDING" | "REQUEUED" | "SUSPENDED" | "STOPPED" => counts.pending += 1,
            _ => counts.running += 1,
        }
    }
    counts
}

fn work_options(settings: &Slurm, tasks: u32) -> Vec<String> {
    let at_once = settings.at_once.map(|count| format!("%{count}")).unwrap_or_default();
    let mut options = vec![format!("--array=0-{}{at_once}", tasks - 1)];
    options.extend(settings.time.as_ref().map(|time| format!("--time={time}")));
    options.extend(settings.gres.as_ref().map(|gres| format!("--gres={gres}")));
    options.extend(settings.cpus.map(|cpus| format!("--cpus-per-task={cpus}")));
    options.extend(settings.memory.as_ref().map(|memory| format!("--mem={memory}")));
    [options, shared_options(settings)].concat()
}

/// Options of the tasks and of the seal.
fn shared_options(settings: &Slurm) -> Vec<String> {
    let partition = settings.partition.as_ref().map(|partition| format!("--partition={partition}"));
    let account = settings.account.as_ref().map(|account| format!("--account={account}"));
    partition.into_iter().chain(account).chain(settings.options.iter().cloned()).collect()
}

/// The shell replaces itself with the command, so that Slurm's signals reach it.
fn script(command: &[String]) -> String {
    format!("#!/bin/sh\nexec {}\n", quoted(command))
}

fn quoted(command: &[String]) -> String {
    // This only fails for a NUL character, which no argument of a process can contain.
    shlex::try_join(command.iter().map(String::as_str)).unwrap_or_else(|_| command.join(" "))
}

impl Batch {
    /// Submits the job and returns its number.
    async fn hand_in(&self) -> Result<String> {
        let mut sbatch = Command::new("sbatch");
        sbatch.arg("--parsable").args(&self.options);
        // A task is a job of its own, even if it is submitted from inside another one.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SLURM_ARRAY_")) {
            sbatch.env_remove(name);
        }
        let said = run(sbatch, &self.script).await?;
        // The output is `NUMBER` or `NUMBER;CLUSTER`.
        let number = said.trim().split(';').next().unwrap_or_default();
        match number.parse::<u64>() {
            Ok(_) => Ok(number.to_owned()),
            Err(_) => Err(Error::failed(format!("sbatch returned {:?} instead of a job number", said.trim()))),
        }
    }
}

impl std::fmt::Display for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sbatch {} <<'END'\n{}END", quoted(&self.options), self.script)
    }
}

/// The cluster's maximum number of tasks in an array.
async fn array_max() -> Result<u32> {
    let mut scontrol = Command::new("scontrol");
    scontrol.args(["show", "config"]);
    let config = run(scontrol, "").await?;
    let limit = config.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "MaxArraySize").then(|| value.trim().parse::<u32>().ok())?
    });
    // The largest index is one below the limit.
    Ok(limit.map_or(ARRAY_DEFAULT, |limit| limit.saturating_sub(1)))
}

async fn run(command: Command, input: &str) -> Result<String> {
    super::tool::run(
        command,
        input,
        "submit from a machine with Slurm's commands on the PATH",
        "the settings come from [engine.slurm] in the job file; --dry-run shows them",
    )
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_become_options() {
        let settings = Slurm {
            partition: Some("gpu".to_owned()),
            time: Some("4:00:00".to_owned()),
            gres: Some("gpu:1".to_owned()),
            at_once: Some(8),
            options: vec!["--qos=low".to_owned()],
            ..Slurm::default()
        };
        let options = work_options(&settings, 20);
        let expected = ["--array=0-19%8", "--time=4:00:00", "--gres=gpu:1", "--partition=gpu", "--qos=low"];
        assert_eq!(options, expected);
        assert_eq!(shared_options(&settings), ["--partition=gpu", "--qos=low"], "the seal needs no GPU");
    }

    #[test]
    fn tasks_are_counted_by_their_states() {
        assert_eq!(count(""), Counts::default());
        assert_eq!(count("RUNNING\nPENDING\nPENDING\nCOMPLETING\n"), Counts { pending: 2, running: 2 });
    }

    #[test]
    fn odd_paths_reach_the_shell_whole() {
        let command = ["/opt/my tools/vidindex", "work", "it's.toml"].map(str::to_owned);
        let script = script(&command);
        assert!(script.starts_with("#!/bin/sh\nexec "));
        assert_eq!(shlex::split(script.lines().nth(1).unwrap_or_default()).unwrap_or_default()[1..], command);
    }
}
