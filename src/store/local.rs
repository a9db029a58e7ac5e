//! A store in a directory: keys are paths below it, publishing is a rename, and a put-if-absent is a rename that
//! refuses to replace.

mod walk;

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tempfile::NamedTempFile;
use tokio::sync::mpsc;
use walkdir::WalkDir;

use self::walk::Met;
use super::{FolderFilter, ObjectMeta, PutNew, RangeRead, Scanned, Store, StoreError, StoreErrorKind, StoreResult};

/// Begins the name of a file that is still being written; such files are never listed.
const TEMPORARY: &str = ".vidindex-tmp-";

/// Objects that the walk may be ahead of who reads the listing.
const LISTED_AHEAD_MAX: usize = 1024;

/// Tries at making a directory and a file in it, while a concurrent delete removes directories left empty.
const DIRECTORY_TRIES: usize = 16;

/// A directory as a store.
#[derive(Debug, Clone)]
pub(super) struct LocalStore {
    root: PathBuf,
}

impl LocalStore {
    /// Takes the path as it was given, made absolute, so that an address stays the same when a link on the way is
    /// pointed elsewhere; only a path with `..` in it is resolved. Touches nothing else: the directory may be absent.
    pub(super) fn open(path: &str) -> StoreResult<Self> {
        let path = Path::new(path);
        let root = if path.components().any(|part| part == Component::ParentDir) {
            path.canonicalize().or_else(|_| std::path::absolute(path))
        } else {
            std::path::absolute(path)
        };
        match root {
            Ok(root) => Ok(Self { root: root.components().collect() }),
            Err(error) => Err(failure("open", path, &error)),
        }
    }

    /// The file behind a key. Keys that could name a file outside the root, or one file by two names, are refused.
    fn path(&self, key: &str) -> StoreResult<PathBuf> {
        if key.split('/').any(|part| matches!(part, "" | "." | "..") || part.contains('\0')) {
            return Err(StoreError {
                kind: StoreErrorKind::Refused,
                message: format!("`{}` is not a key below {}", key.escape_default(), self.root.display()),
                hint: None,
            });
        }
        Ok(self.root.join(key))
    }

    /// The same failure, told as the root's where the root is what is missing.
    fn failure(&self, action: &str, path: &Path, error: &io::Error) -> StoreError {
        if error.kind() == ErrorKind::NotFound && !self.root.exists() {
            self.no_root()
        } else {
            failure(action, path, error)
        }
    }

    fn no_root(&self) -> StoreError {
        StoreError {
            kind: StoreErrorKind::NoRoot,
            message: format!("failed to list {}: the directory does not exist", self.root.display()),
            hint: Some("check the `uri` in the job file; a relative path starts where vidindex was started".to_owned()),
        }
    }

    /// Passes everything below `prefix` to `visit`, until that returns false.
    fn walk(&self, prefix: &str, enter: &dyn Fn(&str) -> bool, visit: &mut dyn FnMut(Met) -> bool) -> StoreResult<()> {
        match fs::metadata(&self.root) {
            Ok(root) if root.is_dir() => {}
            Ok(_) => {
                return Err(StoreError {
                    kind: StoreErrorKind::NoRoot,
                    message: format!("failed to list {}: it is a file, not a directory", self.root.display()),
                    hint: Some("give the directory that holds it, and the file's name in `include`".to_owned()),
                });
            }
            // A directory to be written to comes into being with the first file: nothing is below it yet.
            Err(error) if error.kind() == ErrorKind::NotFound && !prefix.is_empty() => return Ok(()),
            Err(error) => return Err(self.failure("list", &self.root, &error)),
        }
        let folder = match prefix.trim_end_matches('/') {
            "" => self.root.clone(),
            folder => self.path(folder)?,
        };
        if !folder.is_dir() {
            return Ok(());
        }
        walk::walk(folder, prefix, enter, visit)
    }

    /// Streams what `walk` sends. The walk starts with the first poll and stops when the stream is dropped.
    fn walked<T: Send + 'static>(
        &self,
        walk: impl FnOnce(&Self, &mpsc::Sender<StoreResult<T>>) -> StoreResult<()> + Send + 'static,
    ) -> BoxStream<'static, StoreResult<T>> {
        let store = self.clone();
        stream::once(async move {
            let (sender, receiver) = mpsc::channel(LISTED_AHEAD_MAX);
            tokio::task::spawn_blocking(move || {
                if let Err(error) = walk(&store, &sender) {
                    // Nobody listens any more: then nobody needs to know.
                    let _ = sender.blocking_send(Err(error));
                }
            });
            stream::unfold(receiver, async |mut receiver| receiver.recv().await.map(|object| (object, receiver)))
        })
        .flatten()
        .boxed()
    }

    fn read(&self, key: &str, offset: u64, length: u64) -> StoreResult<RangeRead> {
        let path = self.path(key)?;
        let failed = |error: io::Error| self.failure("read", &path, &error);
        // Asked before the open, which would wait for a pipe's other end.
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
                message: format!("failed to read {}: it was written to meanwhile", path.display()),
                hint: None,
            });
        }
        Ok(RangeRead { bytes: bytes.into(), etag })
    }

    /// Writes a file beside its destination, complete before `place` gives it its name.
    fn write<T>(
        &self,
        key: &str,
        fill: impl Fn(&mut File) -> io::Result<()>,
        place: impl Fn(NamedTempFile, &Path) -> io::Result<T>,
    ) -> StoreResult<T> {
        let path = self.path(key)?;
        in_directory_of(&path, |directory| {
            let mut file = tempfile::Builder::new()
                .prefix(TEMPORARY)
                // As any other program's files: narrowed by the umask, and not private as temporary files are.
                .permissions(fs::Permissions::from_mode(0o666))
                .tempfile_in(directory)?;
            fill(file.as_file_mut())?;
            place(file, &path)
        })
        .map_err(|error| failure("write", &path, &error))
    }

    fn rename(&self, from: &str, to: &str) -> StoreResult<()> {
        let (source, target) = (self.path(from)?, self.path(to)?);
        let renamed = in_directory_of(&target, |_| match fs::rename(&source, &target) {
            // Told apart from a directory that was removed under us, which is worth another try.
            Err(error) if error.kind() == ErrorKind::NotFound && !source.exists() => Ok(target.is_file()),
            renamed => renamed.map(|()| true),
        });
        match renamed {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.failure("publish", &source, &ErrorKind::NotFound.into())),
            // A folder below the root can be a link to another disk.
            Err(error) if error.kind() == ErrorKind::CrossesDevices => {
                self.write(to, |file| copy(&source, file), replace)?;
                fs::remove_file(&source).map_err(|error| failure("delete", &source, &error))
            }
            Err(error) => Err(failure("publish", &source, &error)),
        }
    }

    fn remove(&self, key: &str) -> StoreResult<()> {
        let path = self.path(key)?;
        match fs::remove_file(&path) {
            Err(error) if !absent(&error) => return Err(failure("delete", &path, &error)),
            _ => {}
        }
        self.remove_empty_above(&path);
        Ok(())
    }

    /// Ends at the first directory that is not empty, or that somebody else is using.
    fn remove_empty_above(&self, path: &Path) {
        for directory in path.ancestors().skip(1).take_while(|directory| *directory != self.root) {
            match fs::remove_dir(directory) {
                Err(error) if !absent(&error) => break,
                _ => {}
            }
        }
    }
}

#[async_trait::async_trait]
impl Store for LocalStore {
    fn uri(&self, key: &str) -> String {
        self.root.join(key).to_string_lossy().into_owned()
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        let prefix = prefix.to_owned();
        self.walked(move |store, objects| {
            store.walk(&prefix, &|_| true, &mut |met| {
                let object = match met {
                    Met::Object(object) => Ok(object),
                    Met::Unlisted { error, .. } => Err(error),
                    // Not written by this program.
                    Met::NotUtf8 { .. } | Met::NotEntered(_) => return true,
                };
                let go_on = object.is_ok();
                objects.blocking_send(object).is_ok() && go_on
            })
        })
    }

    fn scan(&self, enter: FolderFilter) -> BoxStream<'static, StoreResult<Scanned>> {
        self.walked(move |store, objects| {
            store.walk("", &*enter, &mut |met| {
                let scanned = match met {
                    Met::Object(object) => Scanned::Object(object),
                    Met::NotEntered(key) => Scanned::NotEntered(key),
                    Met::Unlisted { key, error } => Scanned::Unlisted { key, reason: error.message },
                    Met::NotUtf8 { key, path } => {
                        Scanned::Unlisted { key, reason: format!("the name of {path:?} is not UTF-8") }
                    }
                };
                objects.blocking_send(Ok(scanned)).is_ok()
            })
        })
    }

    async fn folders(&self, prefix: &str) -> StoreResult<Vec<String>> {
        let (store, prefix) = (self.clone(), prefix.to_owned());
        blocking(move || {
            let folder = match prefix.trim_end_matches('/') {
                "" => store.root.clone(),
                folder => store.path(folder)?,
            };
            let mut names = Vec::new();
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if absent(&error) => return Ok(names),
                Err(error) => return Err(failure("list", &folder, &error)),
            };
            for entry in entries {
                let entry = entry.map_err(|error| failure("list", &folder, &error))?;
                let is_folder = match entry.file_type() {
                    Ok(file_type) if !file_type.is_symlink() => file_type.is_dir(),
                    _ => entry.path().is_dir(),
                };
                if is_folder {
                    names.extend(entry.file_name().into_string());
                }
            }
            names.sort_unstable();
            Ok(names)
        })
        .await
    }

    async fn head(&self, key: &str) -> StoreResult<ObjectMeta> {
        let (store, key) = (self.clone(), key.to_owned());
        blocking(move || {
            let path = store.path(&key)?;
            match regular(fs::metadata(&path)) {
                Ok(metadata) => Ok(describe(key, &metadata)),
                Err(error) => Err(store.failure("read", &path, &error)),
            }
        })
        .await
    }

    async fn get_range(&self, key: &str, offset: u64, length: u64) -> StoreResult<RangeRead> {
        let (store, key) = (self.clone(), key.to_owned());
        blocking(move || store.read(&key, offset, length)).await
    }

    async fn get(&self, key: &str) -> StoreResult<Bytes> {
        Ok(self.get_range(key, 0, u64::MAX).await?.bytes)
    }

    async fn put(&self, key: &str, body: Bytes) -> StoreResult<()> {
        let (store, key) = (self.clone(), key.to_owned());
        blocking(move || store.write(&key, |file| file.write_all(&body), replace)).await
    }

    async fn put_new(&self, key: &str, body: Bytes) -> StoreResult<PutNew> {
        let (store, key) = (self.clone(), key.to_owned());
        blocking(move || {
            store.write(
                &key,
                |file| {
                    file.write_all(&body)?;
                    file.sync_data()
                },
                |file, path| match file.persist_noclobber(path) {
                    Ok(_) => Ok(PutNew::Created),
                    Err(refused) if refused.error.kind() == ErrorKind::AlreadyExists => Ok(PutNew::Exists),
                    Err(refused) => Err(refused.error),
                },
            )
        })
        .await
    }

    async fn put_file(&self, key: &str, file: &Path) -> StoreResult<()> {
        let (store, key, source) = (self.clone(), key.to_owned(), file.to_owned());
        blocking(move || store.write(&key, |file| copy(&source, file), replace)).await
    }

    async fn publish(&self, from: &str, to: &str) -> StoreResult<()> {
        let (store, from, to) = (self.clone(), from.to_owned(), to.to_owned());
        blocking(move || store.rename(&from, &to)).await
    }

    async fn delete(&self, keys: &[String]) -> StoreResult<()> {
        let (store, keys) = (self.clone(), keys.to_owned());
        blocking(move || keys.iter().try_for_each(|key| store.remove(key))).await
    }

    async fn clear_unfinished(&self, prefix: &str) -> StoreResult<()> {
        let (store, folder) = (self.clone(), self.path(prefix.trim_end_matches('/'))?);
        blocking(move || {
            clear_temporaries(&folder).map_err(|error| failure("clear", &folder, &error))?;
            store.remove_empty_above(&folder);
            Ok(())
        })
        .await
    }
}

/// From the leaves up. A file that a writer is just done with, and a folder that it has just filled, stay.
fn clear_temporaries(folder: &Path) -> io::Result<()> {
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

/// File system calls wait: never on the runtime's own threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> StoreResult<T> + Send + 'static) -> StoreResult<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(StoreError {
            kind: StoreErrorKind::Refused,
            message: format!("a file operation stopped: {error}"),
            hint: None,
        })
    })
}

/// Does `work` in the parent directory of `path`, made where it is absent; again where it is removed in between.
fn in_directory_of<T>(path: &Path, work: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
    let directory = path.parent().unwrap_or(path);
    let mut tries = 1;
    loop {
        let made = fs::create_dir_all(directory);
        // A directory that was there and then was not looks to `create_dir_all` like a file in its place.
        let removed = made.as_ref().is_err_and(|error| error.kind() == ErrorKind::AlreadyExists);
        match made.and_then(|()| work(directory)) {
            Err(error) if (removed || error.kind() == ErrorKind::NotFound) && tries < DIRECTORY_TRIES => tries += 1,
            done => return done,
        }
    }
}

fn replace(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.persist(path).map(drop).map_err(|refused| refused.error)
}

/// On the disk when it returns: a commit record must not outlive, through a power cut, the files that it names.
fn copy(source: &Path, file: &mut File) -> io::Result<()> {
    let mut source = File::open(source)
        .map_err(|error| io::Error::other(format!("{} cannot be read: {error}", source.display())))?;
    io::copy(&mut source, file)?;
    file.sync_data()
}

fn regular(metadata: io::Result<Metadata>) -> io::Result<Metadata> {
    metadata.and_then(|metadata| if metadata.is_file() { Ok(metadata) } else { Err(ErrorKind::NotFound.into()) })
}

fn describe(key: String, metadata: &Metadata) -> ObjectMeta {
    let modified = metadata.modified().map(DateTime::<Utc>::from).unwrap_or_default();
    ObjectMeta {
        key,
        size_bytes: metadata.len(),
        etag: etag(metadata),
        last_modified: modified.duration_trunc(TimeDelta::microseconds(1)).unwrap_or(modified),
        archived: None,
    }
}

/// Size and modification time, to the nanosecond. Not the inode: mounted buckets number their files anew each time.
fn etag(metadata: &Metadata) -> String {
    let modified_ns = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
    format!("{:x}-{modified_ns:x}", metadata.len())
}

fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn failure(action: &str, path: &Path, error: &io::Error) -> StoreError {
    let (kind, hint) = match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => (StoreErrorKind::NotFound, None),
        ErrorKind::PermissionDenied => {
            (StoreErrorKind::AccessDenied, Some("check the permissions of it and of the directories above it"))
        }
        ErrorKind::ReadOnlyFilesystem => (StoreErrorKind::AccessDenied, Some("the file system is mounted read-only")),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => (StoreErrorKind::Refused, Some("free some space there")),
        ErrorKind::InvalidFilename => (StoreErrorKind::Refused, Some("a part of the name is longer than 255 bytes")),
        _ => (kind_by_errno(action, error), None),
    };
    StoreError {
        kind,
        message: format!("failed to {action} {}: {error}", path.display()),
        hint: hint.map(ToOwned::to_owned),
    }
}

/// A file that the disk or its server does not give is this file's matter; a server that does not answer, or a machine
/// that is short of something, is an outage.
fn kind_by_errno(action: &str, error: &io::Error) -> StoreErrorKind {
    use rustix::io::Errno;
    match Errno::from_io_error(error) {
        Some(
            Errno::TIMEDOUT
            | Errno::HOSTDOWN
            | Errno::HOSTUNREACH
            | Errno::NETDOWN
            | Errno::NETUNREACH
            | Errno::NOTCONN
            | Errno::CONNRESET
            | Errno::CONNABORTED
            | Errno::CONNREFUSED
            | Errno::SHUTDOWN
            | Errno::AGAIN
            | Errno::BUSY
            | Errno::INTR
            | Errno::NOLCK
            | Errno::NOMEM
            | Errno::NFILE
            | Errno::MFILE,
        ) => StoreErrorKind::Transient,
        // Of one file that is read; while one is written, the disk or the mount is at fault, and may come back.
        Some(_) if action == "read" => StoreErrorKind::Unreadable,
        Some(Errno::IO | Errno::STALE) => StoreErrorKind::Transient,
        _ => StoreErrorKind::Refused,
    }
}
