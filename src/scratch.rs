//! A process's scratch directory. It is removed at exit; directories of killed processes are removed by later
//! processes.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use tempfile::TempDir;

use crate::error::{Error, Result};

const PREFIX: &str = "vidindex-";

/// How often a directory is created anew because another process took it for a leftover before it was locked.
const TRIES: usize = 16;

/// A private directory that is removed when this value is dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    directory: TempDir,
    /// The lock, which the kernel releases when the process ends.
    _lock: File,
}

impl Scratch {
    /// Creates a directory in the system's temporary directory (`TMPDIR`), and removes those whose processes have
    /// ended.
    pub(crate) fn new() -> Result<Self> {
        Self::below(&std::env::temp_dir()).map_err(|error| {
            Error::failed(format!("failed to create a scratch directory: {error}"))
                .with_hint("set TMPDIR to a directory with free space")
        })
    }

    fn below(parent: &Path) -> io::Result<Self> {
        sweep(parent);
        for _ in 0..TRIES {
            let directory = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
            if let Some(lock) = lock(directory.path())? {
                return Ok(Self { directory, _lock: lock });
            }
        }
        Err(io::Error::other("other processes remove it"))
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Locks a new directory. `None` if another process, which took it for a leftover, has removed it or is about to.
fn lock(directory: &Path) -> io::Result<Option<File>> {
    let file = match File::open(directory) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => return Ok(None),
        // Some network file systems do not support locks. There, leftover directories are not removed automatically.
        Err(TryLockError::Error(_)) | Ok(()) => {}
    }
    let is_there = fs::metadata(directory).is_ok_and(|at| file.metadata().is_ok_and(|own| own.ino() == at.ino()));
    Ok(is_there.then_some(file))
}

/// Removes leftover directories: those whose lock is free. Those that cannot be read or removed (another user's) are skipped.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let ours = entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes())
            && entry.file_type().is_ok_and(|kind| kind.is_dir());
        let Some(directory) = ours.then(|| File::open(entry.path()).ok()).flatten() else { continue };
        // The lock is kept during the removal, so that nobody begins to use the directory.
        if directory.try_lock().is_ok() {
            match fs::remove_dir_all(entry.path()) {
                Ok(()) => {
                    tracing::info!(path = %entry.path().display(), "removed the scratch directory of a killed process")
                }
                Err(error) => tracing::debug!(path = %entry.path().display(), %error, "not removed"),
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_next_worker_removes_what_a_killed_one_left_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let at = |name: &str| parent.path().join(name);
        let working = Scratch::below(parent.path()).unwrap();
        for name in ["vidindex-killed", "another-programs"] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("rows.parquet"), "rows").unwrap();
        }
        let next = Scratch::below(parent.path()).unwrap();
        assert!(!at("vidindex-killed").exists());
        assert!(at("another-programs").exists() && working.path().exists());
        let path = next.path().to_owned();
        drop(next);
        assert!(!path.exists());
    }

    #[test]
    fn processes_that_begin_at_the_same_time_never_remove_each_others_directories() {
        let parent = tempfile::tempdir().unwrap();
        std::thread::scope(|threads| {
            for _ in 0..8 {
                threads.spawn(|| {
                    for _ in 0..50 {
                        let scratch = Scratch::below(parent.path()).unwrap();
                        let file = scratch.path().join("rows");
                        fs::write(&file, "rows").unwrap();
                        assert_eq!(fs::read_to_string(&file).unwrap(), "rows");
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
