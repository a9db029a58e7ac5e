//! The binary: runs the command line or, if started by itself for that purpose, the decoder process.

use std::process::ExitCode;

use vidindex::{cli, decode};

fn main() -> ExitCode {
    // This comes first because the decoder reads no arguments and no environment.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == decode::CHILD_ARGUMENT) {
        return decode::child::main();
    }
    use_one_allocation_arena();
    cli::main()
}

/// Makes all threads share one arena of the C allocator. With an arena per thread, the memory that a thread freed is not
/// used by the others, so a process whose work moves between threads grows with the length of a video.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn use_one_allocation_arena() {
    // SAFETY: `mallopt` takes two integers, and no other thread runs yet.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn use_one_allocation_arena() {}
