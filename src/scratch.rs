//! A process's scratch directory. It is removed at exit; directories of killed processes are removed by later
//! processes.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use crate::error::{Error, Result};

const PREFIX: &str = "vidindex-";

/// Directories younger than this are never removed, because a directory is created before it is locked.
const STALE_AFTER: Duration = Duration::from_secs(60);

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
        let directory = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
        let lock = File::open(directory.path())?;
        // Some network file systems do not support locks. There, leftover directories are not removed automatically.
        let _ = lock.try_lock();
        Ok(Self { directory, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Removes leftover directories. Those that cannot be read or removed (another user's) are skipped.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let ours = entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes())
            && entry.file_type().is_ok_and(|kind| kind.is_dir());
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let stale = modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > STALE_AFTER));
        if ours && stale && File::open(entry.path()).is_ok_and(|directory| directory.try_lock().is_ok()) {
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

    fn make_old(path: &Path) {
        let long_ago = std::time::SystemTime::now() - 2 * STALE_AFTER;
        File::open(path).unwrap().set_modified(long_ago).unwrap();
    }

    #[test]
    fn the_next_worker_removes_what_a_killed_one_left_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let at = |name: &str| parent.path().join(name);
        for name in ["vidindex-killed", "vidindex-young", "another-programs"] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("rows.parquet"), "rows").unwrap();
        }
        let working = Scratch::below(parent.path()).unwrap();
        for path in [&at("vidindex-killed"), &at("another-programs"), working.path()] {
            make_old(path);
        }
        let next = Scratch::below(parent.path()).unwrap();
        assert!(!at("vidindex-killed").exists());
        assert!(at("vidindex-young").exists() && at("another-programs").exists() && working.path().exists());
        let path = next.path().to_owned();
        drop(next);
        assert!(!path.exists());
    }
}
