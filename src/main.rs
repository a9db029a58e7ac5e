//! The binary: the command line, or, re-executed, the decoder process.

use std::process::ExitCode;

use vidindex::{cli, decode};

fn main() -> ExitCode {
    // Before anything else: the decoder reads no arguments and no environment.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == decode::CHILD_ARGUMENT) {
        return decode::child::main();
    }
    cli::main()
}
