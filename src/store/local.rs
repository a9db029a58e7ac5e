//! A store in a directory: keys are paths below it, publishing is a rename, and a put-if-absent is a rename that does not
//! replace.

mod failure;
mod files;
mod walk;

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::mpsc;

use self::failure::{absent, failure};
use self::files::{clear_temporaries, copy, describe, regular, replace};
use self::walk::Met;
use super::{FolderFilter, ObjectMeta, PutNew, RangeRead, Scanned, Store, StoreError, StoreErrorKind, StoreResult};

/// The beginning of the names of files that are still being written. Such files are never listed.
const TEMPORARY: &str = ".vidindex-tmp-";

/// Objects that the walk may be ahead of the reader of the listing.
const LISTED_AHEAD_MAX: usize = 1024;

/// A directory as a store.
#[derive(Debug, Clone)]
pub(super) struct LocalStore {
    root: PathBuf,
}

impl LocalStore {
    /// Makes the path absolute. Links are not resolved, so that addresses stay the same if a link is changed; only a path with
    /// `..` in it is resolved. The directory may be absent.
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

    /// The file of a key. Refuses keys that could name a file outside the root, or a file by a second name.
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

    /// As the function [`failure`], but says so if the root is what is missing.
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

    /// Passes everything below `prefix` to `visit` until that returns false.
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
            // An output directory is created with its first file.
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
                    // Fails if the listing was dropped.
                    let _ = sender.blocking_send(Err(error));
                }
            });
            stream::unfold(receiver, async |mut receiver| receiver.recv().await.map(|object| (object, receiver)))
        })
        .flatten()
        .boxed()
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
                    // vidindex does not write such names.
                    Met::NotUtf8 { .. } | Met::NotEntered(_) => return true,
                };
                let listed = object.is_ok();
                objects.blocking_send(object).is_ok() && listed
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

/// Runs file system calls, which block, on a thread of their own.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> StoreResult<T> + Send + 'static) -> StoreResult<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(StoreError {
            kind: StoreErrorKind::Refused,
            message: format!("a file operation stopped: {error}"),
            hint: None,
        })
    })
}
