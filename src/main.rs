//! The binary: runs the command line or, if started by itself for that purpose, the decoder process.

use std::process::ExitCode;

use vidindex::{cli, decode};

fn main() -> ExitCode {
    // This comes first because the decoder reads no arguments and no environment.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == decode::CHILD_ARGUMENT) {
        return decode::child::main();
    }
    cli::main()
}
