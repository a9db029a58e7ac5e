//! The binary: runs the command line or, if started by itself for that purpose, the decoder process.

use std::process::ExitCode;

use vidindex::{cli, decode};

fn main() -> ExitCode {
    // This comes first because the decoder reads no arguments and no environment.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == decode::CHILD_ARGUMENT) {
        return decode::template::main();
    }
    keep_freed_memory_reusable();
    cli::main()
}

/// Sets up the C allocator such that memory does not grow with the length of a video.
///
/// Threads share a few arenas, because memory that a thread freed in its own arena is not used by the others, and the work
/// moves between threads. Blocks of 128 KiB and more are mapped, and unmapped when they are freed. By default, that limit
/// grows with the blocks that are freed, and then the pages of Parquet files fragment the arena.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn keep_freed_memory_reusable() {
    // SAFETY: `mallopt` takes two integers, and no other thread runs yet.
    unsafe {
        // With one, the threads that open two models wait for each other, which makes a short run 9 % longer.
        libc::mallopt(libc::M_ARENA_MAX, 4);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 * 1024);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn keep_freed_memory_reusable() {}
