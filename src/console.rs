//! Writes to standard output and standard error, tolerates a closed pipe, and decides whether colours are used.

use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};

use crate::error::{Error, Result};

/// Writes a line to standard output. Returns whether the output is still open. A closed pipe (`| head`) is not an
/// error: the command continues and keeps its exit code, and only its output is lost.
///
/// # Errors
/// If the line cannot be written for another reason, such as a full disk.
pub(crate) fn print(line: impl Display) -> Result<bool> {
    let mut output = io::stdout().lock();
    match writeln!(output, "{line}").and_then(|()| output.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::failed(format!("failed to write to standard output: {error}"))),
    }
}

/// Writes a value to standard output as indented JSON.
///
/// # Errors
/// As for [`print`].
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value);
    print(text.map_err(|error| Error::failed(format!("failed to print the summary: {error}")))?)?;
    Ok(())
}

/// Writes a line to standard error and ignores failures.
pub(crate) fn note(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Whether this is a terminal with a movable cursor, as needed for progress bars and for clearing the screen.
pub(crate) fn is_screen(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && !is_dumb(|name| std::env::var(name).ok())
}

/// Whether output to this stream is coloured.
pub(crate) fn is_coloured(stream: &impl IsTerminal) -> bool {
    coloured(stream.is_terminal(), |name| std::env::var(name).ok())
}

/// `NO_COLOR` (no-color.org) takes precedence over `CLICOLOR_FORCE` and `CLICOLOR` (bixense.com/clicolors).
fn coloured(is_terminal: bool, variable: impl Fn(&str) -> Option<String>) -> bool {
    let is_set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
    let is_zero = |name: &str| variable(name).is_some_and(|value| value == "0");
    if is_set("NO_COLOR") {
        return false;
    }
    if is_set("CLICOLOR_FORCE") && !is_zero("CLICOLOR_FORCE") {
        return true;
    }
    is_terminal && !is_zero("CLICOLOR") && !is_dumb(variable)
}

fn is_dumb(variable: impl Fn(&str) -> Option<String>) -> bool {
    variable("TERM").is_some_and(|term| term == "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_unless_variables_say_otherwise() {
        let with = |is_terminal, variables: &[(&str, &str)]| {
            coloured(is_terminal, |name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
        };
        assert!(with(true, &[]) && !with(false, &[]));
        assert!(with(true, &[("NO_COLOR", "")]), "an empty variable has no effect");
        assert!(!with(true, &[("NO_COLOR", "1")]) && !with(true, &[("NO_COLOR", "0")]));
        assert!(!with(true, &[("TERM", "dumb")]) && with(true, &[("TERM", "xterm")]));
        assert!(!with(true, &[("CLICOLOR", "0")]));
        assert!(with(false, &[("CLICOLOR_FORCE", "1")]) && with(true, &[("CLICOLOR_FORCE", "1"), ("TERM", "dumb")]));
        assert!(!with(false, &[("CLICOLOR_FORCE", "0")]));
        assert!(!with(true, &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]));
    }
}
