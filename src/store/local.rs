//! A store in a directory: objects are files, and a rename makes them appear whole.

use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use tokio::sync::mpsc;
use walkdir::WalkDir;

use super::{ObjectMeta, PutNew, RangeRead, Store, StoreError, StoreErrorKind, StoreResult};

/// Files being written are called so until they are whole; listings leave them out.
const TEMPORARY_PREFIX: &str = ".vidindex-tmp-";

/// Entries that the walk may be ahead of its reader.
const LISTED_AHEAD: usize = 1024;

/// A directory, made when something is first written to it.
#[derive(Debug, Clone)]
pub(super) struct LocalStore {
    root: PathBuf,
}

impl LocalStore {
    /// The directory at `path`, relative to the working directory.
    pub(super) fn open(path: &str) -> StoreResult<Self> {
        let root = std::path::absolute(path).map_err(|error| failed("open", Path::new(path), &error))?;
        if root.is_file() {
            return Err(StoreError {
                kind: StoreErrorKind::NoRoot,
                message: format!("{} is a file", root.display()),
                hint: Some("name the folder, and the file's name under include".to_owned()),
            });
        }
        Ok(Self { root })
    }

    /// The file of a key. No key leads out of the root.
    fn path(&self, key: &str) -> StoreResult<PathBuf> {
        let inside = Path::new(key).components().all(|part| matches!(part, Component::Normal(_)));
        if inside && !key.is_empty() {
            return Ok(self.root.join(key));
        }
        let message = format!("{key:?} is no key below {}", self.root.display());
        Err(StoreError { kind: StoreErrorKind::Other, message, hint: None })
    }

    /// Runs file operations on a key's path where they may block.
    async fn blocking<T: Send + 'static>(
        &self,
        doing: &'static str,
        key: &str,
        run: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> StoreResult<T> {
        let path = self.path(key)?;
        let shown = path.clone();
        match tokio::task::spawn_blocking(move || run(&path)).await {
            Ok(result) => result.map_err(|error| failed(doing, &shown, &error)),
            Err(error) => Err(failed(doing, &shown, &io::Error::other(error))),
        }
    }
}

#[async_trait::async_trait]
impl Store for LocalStore {
    fn uri(&self, key: &str) -> String {
        self.root.join(key).to_string_lossy().into_owned()
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        let (sender, receiver) = mpsc::channel(LISTED_AHEAD);
        let (root, prefix) = (self.root.clone(), prefix.to_owned());
        tokio::task::spawn_blocking(move || walk(&root, &prefix, |entry| sender.blocking_send(entry).is_ok()));
        futures::stream::unfold(receiver, |mut receiver| async { receiver.recv().await.map(|entry| (entry, receiver)) })
            .boxed()
    }

    async fn head(&self, key: &str) -> StoreResult<ObjectMeta> {
        let own = key.to_owned();
        self.blocking("look at", key, move |path| Ok(object(own, &fs::metadata(path)?))).await
    }

    async fn get_range(&self, key: &str, offset: u64, length: u64) -> StoreResult<RangeRead> {
        self.blocking("read", key, move |path| {
            let file = File::open(path)?;
            let metadata = file.metadata()?;
            let left = metadata.len().saturating_sub(offset);
            let mut buffer = vec![0; length.min(left) as usize];
            file.read_exact_at(&mut buffer, offset)?;
            Ok(RangeRead { bytes: buffer.into(), etag: etag(&metadata) })
        })
        .await
    }

    async fn get(&self, key: &str) -> StoreResult<Bytes> {
        self.blocking("read", key, |path| fs::read(path).map(Bytes::from)).await
    }

    async fn put(&self, key: &str, body: Bytes) -> StoreResult<()> {
        self.blocking("write", key, move |path| {
            let mut file = temporary(path)?;
            file.write_all(&body)?;
            file.persist(path).map(drop).map_err(|error| error.error)
        })
        .await
    }

    async fn put_new(&self, key: &str, body: Bytes) -> StoreResult<PutNew> {
        self.blocking("write", key, move |path| {
            let mut file = temporary(path)?;
            file.write_all(&body)?;
            // A link, or a rename that replaces nothing: one of any number of writers succeeds.
            match file.persist_noclobber(path) {
                Ok(_) => Ok(PutNew::Created),
                Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(PutNew::Exists),
                Err(error) => Err(error.error),
            }
        })
        .await
    }

    async fn put_file(&self, key: &str, file: &Path) -> StoreResult<()> {
        let from = file.to_owned();
        self.blocking("write", key, move |path| {
            let mut to = temporary(path)?;
            io::copy(&mut File::open(from)?, to.as_file_mut())?;
            to.persist(path).map(drop).map_err(|error| error.error)
        })
        .await
    }

    async fn publish(&self, from: &str, to: &str) -> StoreResult<()> {
        let source = self.path(from)?;
        self.blocking("publish", to, move |path| {
            fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
            match fs::rename(&source, path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && path.exists() => Ok(()),
                result => result,
            }
        })
        .await
    }

    async fn delete(&self, keys: &[String]) -> StoreResult<()> {
        for key in keys {
            let root = self.root.clone();
            self.blocking("delete", key, move |path| {
                match fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                // Only empty folders go, and another writer may just fill one: that it stays is no error.
                let folders = path.ancestors().skip(1).take_while(|folder| **folder != root);
                for folder in folders {
                    if fs::remove_dir(folder).is_err() {
                        break;
                    }
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    async fn clear_unfinished(&self, prefix: &str) -> StoreResult<()> {
        self.blocking("clear", prefix, |folder| {
            // From the leaves up. A file that a writer is just done with, and a folder that it has just filled, stay.
            for entry in WalkDir::new(folder).contents_first(true).into_iter().filter_map(Result::ok) {
                if entry.file_type().is_dir() {
                    let _ = fs::remove_dir(entry.path());
                } else if entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX) {
                    match fs::remove_file(entry.path()) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                        _ => {}
                    }
                }
            }
            Ok(())
        })
        .await
    }
}

/// Hands every file below `prefix` to `send`, by name, until it wants no more.
fn walk(root: &Path, prefix: &str, mut send: impl FnMut(StoreResult<ObjectMeta>) -> bool) {
    // A directory to be written to comes into being with the first file: nothing is below it yet.
    if !root.is_dir() && prefix.is_empty() {
        let hint = "check the path; a relative one goes by the working directory".to_owned();
        let message = format!("failed to list {}: no such folder", root.display());
        send(Err(StoreError { kind: StoreErrorKind::NoRoot, message, hint: Some(hint) }));
        return;
    }
    let below = root.join(prefix);
    if !below.is_dir() {
        return;
    }
    for entry in WalkDir::new(&below).follow_links(true).sort_by_file_name() {
        let listed = match entry {
            Ok(entry) if !entry.file_type().is_file() => continue,
            Ok(entry) if entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX) => continue,
            Ok(entry) => {
                let Some(key) = entry.path().strip_prefix(root).ok().and_then(Path::to_str) else {
                    tracing::warn!(path = %entry.path().display(), "file skipped: its name is not UTF-8");
                    continue;
                };
                match entry.metadata() {
                    Ok(metadata) => Ok(object(key.to_owned(), &metadata)),
                    // Gone since it was named.
                    Err(_) => continue,
                }
            }
            Err(error) => {
                let path = error.path().unwrap_or(&below).to_owned();
                match error.io_error() {
                    // Gone, or a link to nowhere.
                    Some(problem) if problem.kind() == io::ErrorKind::NotFound => continue,
                    Some(problem) => Err(failed("list", &path, problem)),
                    None => {
                        tracing::warn!(path = %path.display(), "folder skipped: its links lead back to itself");
                        continue;
                    }
                }
            }
        };
        if !send(listed) {
            return;
        }
    }
}

fn object(key: String, metadata: &Metadata) -> ObjectMeta {
    let modified = chrono::DateTime::from_timestamp(metadata.mtime(), (metadata.mtime_nsec() / 1000 * 1000) as u32);
    ObjectMeta { key, size_bytes: metadata.len(), etag: etag(metadata), last_modified: modified.unwrap_or_default() }
}

/// Size and time of the last change, to the nanosecond. Not the inode: mounted buckets number their files anew each time.
fn etag(metadata: &Metadata) -> String {
    format!("{:x}-{:x}.{:x}", metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

fn temporary(path: &Path) -> io::Result<tempfile::NamedTempFile> {
    use std::os::unix::fs::PermissionsExt;
    let folder = path.parent().unwrap_or(Path::new("."));
    let make = || {
        fs::create_dir_all(folder)?;
        // As any file is made: others may read the tables.
        let mode = fs::Permissions::from_mode(0o666);
        tempfile::Builder::new().prefix(TEMPORARY_PREFIX).permissions(mode).tempfile_in(folder)
    };
    // Somebody may remove the folder, empty as yet, between the two steps.
    make().or_else(|error| if error.kind() == io::ErrorKind::NotFound { make() } else { Err(error) })
}

fn failed(doing: &str, path: &Path, error: &io::Error) -> StoreError {
    let (kind, hint) = match error.kind() {
        io::ErrorKind::NotFound => (StoreErrorKind::NotFound, None),
        io::ErrorKind::PermissionDenied => (StoreErrorKind::AccessDenied, Some("check who owns it and its mode")),
        io::ErrorKind::StorageFull => (StoreErrorKind::Other, Some("the disk is full")),
        _ => (StoreErrorKind::Other, None),
    };
    StoreError {
        kind,
        message: format!("failed to {doing} {}: {error}", path.display()),
        hint: hint.map(str::to_owned),
    }
}
