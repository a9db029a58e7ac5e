//! Runs an engine's command-line tool.

use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::error::{Error, Result};

/// Runs the tool with `input` on its standard input and returns its standard output. `absent` is the hint if the tool
/// is missing, `refused` the hint if it fails.
///
/// # Errors
/// If the tool is missing or fails. The message contains its error output.
pub(super) async fn run(mut command: Command, input: &str, absent: &str, refused: &str) -> Result<String> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let failed = |problem: String| Error::failed(format!("{name}: {problem}"));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(format!("failed to run: {error}")).with_hint(absent))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that does not read its input reports the reason itself.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(failed(said).with_hint(refused))
}
