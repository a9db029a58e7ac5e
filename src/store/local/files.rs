//! Single files: reading, writing whole or not at all, renaming, removing.

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use tempfile::NamedTempFile;
use walkdir::WalkDir;

use super::failure::{absent, failure};
use super::{LocalStore, TEMPORARY};
use crate::store::{ObjectMeta, RangeRead, StoreError, StoreErrorKind, StoreResult};

/// Attempts to create a directory and a file in it, while a concurrent delete removes empty directories.
const DIRECTORY_TRIES: usize = 16;

impl LocalStore {
    pub(super) fn read(&self, key: &str, offset: u64, length: u64) -> StoreResult<RangeRead> {
        let path = self.path(key)?;
        let failed = |error: io::Error| self.failure("read", &path, &error);
        // Checked first: opening a pipe would wait for its other end.
        regular(fs::metadata(&path)).map_err(failed)?;
        let file = File::open(&path).map_err(failed)?;
        let before = file.metadata().map_err(failed)?;
        let wanted = length.min(before.len().saturating_sub(offset));
        let mut bytes = vec![0; usize::try_from(wanted).map_err(|_| failed(ErrorKind::FileTooLarge.into()))?];
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        bytes.truncate(filled);
        let etag = etag(&before);
        if etag != self::etag(&file.metadata().map_err(failed)?) {
            return Err(StoreError {
                kind: StoreErrorKind::Changed,
                message: format!("failed to read {}: it was changed during the read", path.display()),
                hint: None,
            });
        }
        Ok(RangeRead { bytes: bytes.into(), etag })
    }

    /// Writes a temporary file beside its destination. When it is complete, `place` gives it its name.
    pub(super) fn write<T>(
        &self,
        key: &str,
        fill: impl Fn(&mut File) -> io::Result<()>,
        place: impl Fn(NamedTempFile, &Path) -> io::Result<T>,
    ) -> StoreResult<T> {
        let path = self.path(key)?;
        in_directory_of(&path, |directory| {
            let mut file = tempfile::Builder::new()
                .prefix(TEMPORARY)
                // The usual permissions, restricted by the umask. Temporary files are private otherwise.
                .permissions(fs::Permissions::from_mode(0o666))
                .tempfile_in(directory)?;
            fill(file.as_file_mut())?;
            place(file, &path)
        })
        .map_err(|error| failure("write", &path, &error))
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> StoreResult<()> {
        let (source, target) = (self.path(from)?, self.path(to)?);
        let renamed = in_directory_of(&target, |_| match fs::rename(&source, &target) {
            // If the source exists, a concurrent delete removed the target's directory: that is tried again.
            Err(error) if error.kind() == ErrorKind::NotFound && !source.exists() => Ok(target.is_file()),
            renamed => renamed.map(|()| true),
        });
        match renamed {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.failure("publish", &source, &ErrorKind::NotFound.into())),
            // A folder below the root is a link to another disk.
            Err(error) if error.kind() == ErrorKind::CrossesDevices => {
                self.write(to, |file| copy(&source, file), replace)?;
                fs::remove_file(&source).map_err(|error| failure("delete", &source, &error))
            }
            Err(error) => Err(failure("publish", &source, &error)),
        }
    }

    pub(super) fn remove(&self, key: &str) -> StoreResult<()> {
        let path = self.path(key)?;
        match fs::remove_file(&path) {
            Err(error) if !absent(&error) => return Err(failure("delete", &path, &error)),
            _ => {}
        }
        self.remove_empty_above(&path);
        Ok(())
    }

    /// Removes empty directories above a path, up to the first that is not empty.
    pub(super) fn remove_empty_above(&self, path: &Path) {
        for directory in path.ancestors().skip(1).take_while(|directory| *directory != self.root) {
            match fs::remove_dir(directory) {
                Err(error) if !absent(&error) => break,
                _ => {}
            }
        }
    }
}

/// Removes temporary files and empty folders below `folder`. Complete files, and folders with such files, stay.
pub(super) fn clear_temporaries(folder: &Path) -> io::Result<()> {
    for entry in WalkDir::new(folder).contents_first(true).into_iter().filter_map(Result::ok) {
        if entry.file_type().is_dir() {
            let _ = fs::remove_dir(entry.path());
        } else if entry.file_name().as_encoded_bytes().starts_with(TEMPORARY.as_bytes()) {
            match fs::remove_file(entry.path()) {
                Err(error) if !absent(&error) => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Calls `work` with the parent directory of `path`, which is created if absent. Tries again if a concurrent delete removes
/// the directory.
fn in_directory_of<T>(path: &Path, work: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
    let directory = path.parent().unwrap_or(path);
    let mut tries = 1;
    loop {
        let made = fs::create_dir_all(directory);
        // If a directory disappears during `create_dir_all`, the error is the same as for a file in its place.
        let removed = made.as_ref().is_err_and(|error| error.kind() == ErrorKind::AlreadyExists);
        match made.and_then(|()| work(directory)) {
            Err(error) if (removed || error.kind() == ErrorKind::NotFound) && tries < DIRECTORY_TRIES => tries += 1,
            done => return done,
        }
    }
}

pub(super) fn replace(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.persist(path).map(drop).map_err(|refused| refused.error)
}

/// Copies a file and waits until it is on the disk: after a power cut there must be no commit record whose files are missing.
pub(super) fn copy(source: &Path, file: &mut File) -> io::Result<()> {
    let mut source = File::open(source)
        .map_err(|error| io::Error::other(format!("{} cannot be read: {error}", source.display())))?;
    io::copy(&mut source, file)?;
    file.sync_data()
}

pub(super) fn regular(metadata: io::Result<Metadata>) -> io::Result<Metadata> {
    metadata.and_then(|metadata| if metadata.is_file() { Ok(metadata) } else { Err(ErrorKind::NotFound.into()) })
}

pub(super) fn describe(key: String, metadata: &Metadata) -> ObjectMeta {
    let modified = metadata.modified().map(DateTime::<Utc>::from).unwrap_or_default();
    ObjectMeta {
        key,
        size_bytes: metadata.len(),
        etag: etag(metadata),
        last_modified: modified.duration_trunc(TimeDelta::microseconds(1)).unwrap_or(modified),
        version_id: None,
        archived: None,
    }
}

/// Size and modification time, to the nanosecond. Not the inode number, which changes each time that a bucket is mounted.
fn etag(metadata: &Metadata) -> String {
    let modified_ns = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
    format!("{:x}-{modified_ns:x}", metadata.len())
}
