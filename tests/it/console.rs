//! The output of the commands to closed pipes, full disks and terminals, and its colours.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use clap::CommandFactory;
use regex::Regex;
use vidindex::cli::Cli;

use crate::support::{self, Scratch, run, said, stderr, stdout, test_video, vidindex};

/// An archive of one video, and its job.
fn archive() -> (Scratch, PathBuf) {
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("a.mp4"), "160x120", "25", 2.0, &["-pix_fmt", "yuv420p"]);
    let job = scratch.job(&format!("{}[run]\ndevice = \"cpu\"\n", scratch.small_models()));
    (scratch, job)
}

/// A pipe whose reader has exited, as after `| head -1`.
fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn a_closed_pipe_is_not_an_error() {
    let (scratch, job) = archive();
    let [job, index] = [&job, &scratch.index()].map(|path| path.to_str().unwrap().to_owned());
    let model = scratch.small_models().split('"').nth(1).unwrap().to_owned();
    let planned = stdout(&vidindex(["plan", &job]).output().unwrap());
    let page = scratch.path("report.html");
    let commands: Vec<Vec<&str>> = vec![
        vec!["--help"],
        vec!["plan", &job, "--dry-run"],
        vec!["plan", &job],
        // The run never starts, so only the closed pipe can end the watch.
        vec!["status", &job, "--run", &planned, "--watch"],
        vec!["status", &job, "--run", &planned, "--json"],
        vec!["run", &job],
        vec!["run", &job, "--json"],
        vec!["run", &job, "--reindex", "--json"],
        vec!["status", &job],
        vec!["status", &job, "--json"],
        vec!["seal", &job, "--run", &planned, "--json"],
        vec!["report", &job, "-o", page.to_str().unwrap()],
        vec!["prune", &job],
        vec!["compact", &job],
        vec!["compact", &job, "--dry-run"],
        vec!["submit", &job, "--reindex", "--engine", "slurm", "--dry-run"],
        vec!["completions", "bash"],
        vec!["models", "list"],
        vec!["models", "list", "--json"],
        vec!["models", "inspect", &model],
        vec!["models", "inspect", &model, "--json"],
        vec!["doctor", &job],
    ];
    for command in &commands {
        // Sealing a run without commits exits with 3.
        let code = if command[0] == "seal" { 3 } else { 0 };
        let output = vidindex(command).stdout(closed_pipe()).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{command:?} {}", said(&output));
        let log = stderr(&output);
        assert!(!log.contains("panicked") && !log.contains("error"), "{command:?} {log}");
    }
    // The same applies if the log goes to a closed pipe.
    for command in [&commands[1], &commands[7], &commands[14], &commands[17]] {
        let status = vidindex(command).stdout(Stdio::null()).stderr(closed_pipe()).status().unwrap();
        assert_eq!(status.code(), Some(0), "{command:?}");
    }
    assert!(Path::new(&index).join("videos").is_dir() && page.is_file());
}

#[test]
fn a_query_into_a_closed_pipe_ends_like_duckdb() {
    let Some(python) = support::python() else { return };
    // The program itself, because the package's launcher converts a signal into an exit code.
    let find = "import duckdb_cli, os; print(os.path.join(os.path.dirname(duckdb_cli.__file__), 'duckdb'))";
    let duckdb = stdout(&Command::new(python).args(["-c", find]).output().unwrap());
    let (scratch, job) = archive();
    run(&job, &[], 0);
    let mut command = vidindex(["query".as_ref(), scratch.index().as_os_str()]);
    command.args(["--format", "csv", "FROM range(1000000)", "--duckdb", &duckdb]);
    let output = command.stdout(closed_pipe()).output().unwrap();
    let pipe = rustix::process::Signal::PIPE.as_raw();
    assert!(output.status.signal() == Some(pipe) && stderr(&output).is_empty(), "{}", said(&output));
}

#[test]
fn a_full_disk_is_reported_as_an_error() {
    for command in [["models", "list"], ["doctor", "--quiet"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = vidindex(command).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(stderr(&output).contains("failed to write to standard output: No space left"), "{}", said(&output));
    }
}

/// Runs the command on a pseudo-terminal, with these variables and without the caller's own colour variables.
fn on_terminal(command: &[&str], variables: &[(&str, &str)]) -> String {
    let binary = env!("CARGO_BIN_EXE_vidindex");
    let line = shlex::try_join(std::iter::once(binary).chain(command.iter().copied())).unwrap();
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    let output = with_variables(&mut script, variables).stdin(Stdio::null()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn with_variables<'a>(command: &'a mut Command, variables: &[(&str, &str)]) -> &'a mut Command {
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "CI"] {
        command.env_remove(name);
    }
    command.env("TERM", "xterm-256color").envs(variables.iter().copied())
}

fn colours(text: &str) -> usize {
    Regex::new("\x1b\\[[0-9;]*m").unwrap().find_iter(text).count()
}

#[test]
fn only_terminals_get_colours_and_no_color_is_respected() {
    let (_scratch, job) = archive();
    let job = job.to_str().unwrap();
    let commands: [&[&str]; 4] =
        [&["run", job, "--reindex"], &["--help"], &["run", "nowhere.toml"], &["run", job, "--no-such-flag"]];
    for command in commands {
        for variables in [("NO_COLOR", "1"), ("CLICOLOR", "0")] {
            let text = on_terminal(command, &[variables]);
            assert!(!text.is_empty() && colours(&text) == 0, "{command:?} {variables:?} {text:?}");
        }
        let dumb = on_terminal(command, &[("TERM", "dumb")]);
        assert!(!dumb.is_empty() && !dumb.contains('\x1b'), "{command:?} {dumb:?}");
        let piped = with_variables(&mut vidindex(command), &[]).output().unwrap();
        assert!(!said(&piped).contains('\x1b'), "{}", said(&piped));
    }
    assert!(colours(&on_terminal(commands[0], &[])) > 0, "a terminal gets colours");
    assert!(colours(&on_terminal(commands[0], &[("NO_COLOR", "")])) > 0, "an empty NO_COLOR has no effect");
    let forced: Output = with_variables(&mut vidindex(commands[0]), &[("CLICOLOR_FORCE", "1")]).output().unwrap();
    assert!(colours(&stderr(&forced)) > 0, "{}", said(&forced));
    let disabled =
        with_variables(&mut vidindex(commands[0]), &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]).output().unwrap();
    assert_eq!(colours(&said(&disabled)), 0, "{}", said(&disabled));
}

#[test]
fn a_query_on_a_terminal_passes_no_color_to_duckdb() {
    let Some(python) = support::python() else { return };
    let (scratch, job) = archive();
    run(&job, &[], 0);
    let duckdb = python.with_file_name("duckdb");
    let index = scratch.index();
    let command =
        ["query", index.to_str().unwrap(), "--duckdb", duckdb.to_str().unwrap(), "SELECT 12345 AS n; SELECT nope"];
    let text = on_terminal(&command, &[("NO_COLOR", "1")]);
    assert!(text.contains("12345") && text.contains("nope") && colours(&text) == 0, "{text:?}");
}

#[test]
fn every_command_has_an_example_in_its_help() {
    fn check(command: &clap::Command) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let name = command.get_name();
        assert!(help.contains("Example") && help.contains("vidindex "), "{name}: {help:?}");
        assert!(command.get_about().is_some(), "{name} has no description");
        command.get_subcommands().for_each(check);
    }
    check(&Cli::command());
}

#[test]
fn completions_work_in_bash_and_exist_for_every_shell() {
    let script = stdout(&vidindex(["completions", "bash"]).output().unwrap());
    let complete = "COMP_WORDS=(vidindex mod); COMP_CWORD=1; _vidindex vidindex mod vidindex; echo \"${COMPREPLY[@]}\"";
    let completed = Command::new("bash").args(["-c", &format!("{script}\n{complete}")]).output().unwrap();
    assert_eq!(stdout(&completed), "models", "{}", said(&completed));
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        assert!(stdout(&vidindex(["completions", shell]).output().unwrap()).contains("retry-failed"), "{shell}");
    }
}
