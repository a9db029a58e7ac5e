//! An engine's own command-line tool, found on the path.

use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::error::{Error, Result};

/// Runs it with `input` on its standard input; gives its standard output. `absent` and `refused` are the hints for a
/// tool that is not there and for one that failed.
///
/// # Errors
/// The tool is not there or failed: its own words.
pub(super) async fn run(mut command: Command, input: &str, absent: &str, refused: &str) -> Result<String> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let failed = |problem: String| Error::failed(format!("{name}: {problem}"));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(format!("cannot be run: {error}")).with_hint(absent))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read its input says why in its own words.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(failed(said).with_hint(refused))
}
