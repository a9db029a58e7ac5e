//! Object stores: the only shared state of a job. One trait, one file per kind of store.

pub mod faulty;
mod local;
pub mod memory;
mod record;
mod s3;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
pub(crate) use record::get_record;
pub(crate) use s3::sdk_config;

/// One object as the store lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Relative to the store's root, `/` between its parts.
    pub key: String,
    /// Length in bytes.
    pub size_bytes: u64,
    /// Changes whenever the content does; opaque, without quotes.
    pub etag: String,
    /// To the microsecond at most.
    pub last_modified: DateTime<Utc>,
    /// Its storage class, where the store says that it must be restored before it can be read.
    pub archived: Option<String>,
}

/// Whether objects of this storage class of S3's must be restored before they can be read.
pub(crate) fn is_archive(storage_class: &str) -> bool {
    matches!(storage_class, "GLACIER" | "DEEP_ARCHIVE")
}

/// What a scan of an input finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scanned {
    /// An object.
    Object(ObjectMeta),
    /// The key of a folder, ending in `/`, that was not opened because the caller's filter refused it.
    NotEntered(String),
    /// A file or folder that could not be listed.
    Unlisted {
        /// Ends in `/` for a folder. Bytes that are not UTF-8 are replaced.
        key: String,
        /// Names the path and the cause.
        reason: String,
    },
}

/// Says whether a scan opens a folder, given its key, which ends in `/`.
pub type FolderFilter = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Bytes of an object together with the etag of the version that they belong to.
#[derive(Debug, Clone)]
pub struct RangeRead {
    /// Shorter than asked for only at the object's end.
    pub bytes: Bytes,
    /// The version's etag, without quotes.
    pub etag: String,
}

/// Whether a put-if-absent wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutNew {
    /// Ours is there now.
    Created,
    /// Another's was there before: nothing written.
    Exists,
}

/// What a store's error means to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// No such object.
    NotFound,
    /// No such bucket or root directory.
    NoRoot,
    /// Credentials that are missing, wrong or expired, or a clock that is off: no request can succeed.
    Credentials,
    /// The credentials are good, but not for this object or operation.
    AccessDenied,
    /// The object is in an archive storage class, and not restored.
    Archived,
    /// The store is there, but cannot give this object's bytes: encrypted with a key that it does not have, a bad disk
    /// block.
    Unreadable,
    /// The object is not the version that was asked for.
    Changed,
    /// An outage, throttling, a timeout, a cut or nonsensical answer: the same request may succeed later. The store has
    /// retried it for as long as it does.
    Transient,
    /// Anything else: a retry would be refused again.
    Refused,
}

/// A store's refusal: which object, what it said, what to check.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    /// What the caller can do about it.
    pub kind: StoreErrorKind,
    /// Names the operation, the uri and the store's own words.
    pub message: String,
    /// What to check.
    pub hint: Option<String>,
}

/// Shorthand for a store's results.
pub type StoreResult<T> = Result<T, StoreError>;

/// A tree of objects: a bucket's prefix or a directory. Keys are relative to its root.
///
/// A store retries its own requests (S3's for minutes, see [`StoreConfig::retry_seconds`]): an error that comes out is
/// final for this request, of whatever kind.
#[async_trait::async_trait]
pub trait Store: std::fmt::Debug + Send + Sync {
    /// The full address of a key, as written to the tables: `s3://bucket/prefix/key`, or an absolute path.
    fn uri(&self, key: &str) -> String;

    /// Every object below `prefix` (a folder's key ending in `/`, or empty), in pages, ordered by key within S3's rules
    /// (a directory is listed in the order of its walk). An absent prefix is an empty list. An absent root
    /// is an error, for a directory only where it is listed whole.
    fn list(&self, prefix: &str) -> BoxStream<'static, StoreResult<ObjectMeta>>;

    /// Every object in any order, from several places at once where that is faster. Unlike [`Store::list`], it continues
    /// past what cannot be listed, and it does not open folders that `enter` refuses. A store lists the objects of a refused
    /// folder when it has no cheap way to leave them out.
    fn scan(&self, enter: FolderFilter) -> BoxStream<'static, StoreResult<Scanned>> {
        // A store without folders has nothing to open.
        let _ = enter;
        self.list("").map_ok(Scanned::Object).boxed()
    }

    /// The names of what lies directly below `prefix` (a folder's key ending in `/`, or empty) and has something below
    /// itself: folders, ordered by name, without their `/`. Does not look into them, however much they hold.
    async fn folders(&self, prefix: &str) -> StoreResult<Vec<String>> {
        // For stores that have nothing better: all that lies below.
        let keys = self.list(prefix).map_ok(|object| object.key);
        let name = |key: String| Some(key.strip_prefix(prefix)?.split_once('/')?.0.to_owned());
        let names: BTreeSet<String> = keys.try_filter_map(async |key| Ok(name(key))).try_collect().await?;
        Ok(names.into_iter().collect())
    }

    /// One object's metadata.
    async fn head(&self, key: &str) -> StoreResult<ObjectMeta>;

    /// `length` bytes from `offset` (fewer at the end, none beyond it).
    async fn get_range(&self, key: &str, offset: u64, length: u64) -> StoreResult<RangeRead>;

    /// A whole, small object.
    async fn get(&self, key: &str) -> StoreResult<Bytes>;

    /// Writes an object whole or not at all, replacing one that is there.
    async fn put(&self, key: &str, body: Bytes) -> StoreResult<()>;

    /// Writes an object only where none is: atomic, exactly one of any number of racing writers is told `Created`.
    async fn put_new(&self, key: &str, body: Bytes) -> StoreResult<PutNew>;

    /// Uploads a file whole or not at all, in parts where it is large.
    async fn put_file(&self, key: &str, file: &Path) -> StoreResult<()>;

    /// Puts the object `from` under the key `to` without its bytes passing here: a server-side copy, or a rename in a
    /// directory (then `from` is gone). Where `from` is gone and `to` is there, it was done before: not an error.
    async fn publish(&self, from: &str, to: &str) -> StoreResult<()>;

    /// Removes objects; absent ones are not an error. Directories left empty go too.
    async fn delete(&self, keys: &[String]) -> StoreResult<()>;

    /// What another program needs to read here. None where files are simply opened.
    async fn access(&self) -> StoreResult<Option<Access>> {
        Ok(None)
    }

    /// Removes what a writer that died left unfinished below `prefix` (a folder's key ending in `/`), which no listing
    /// shows. To be called where nobody's writing counts any more.
    async fn clear_unfinished(&self, prefix: &str) -> StoreResult<()> {
        // Most stores show an object whole or have nothing of it.
        let _ = prefix;
        Ok(())
    }
}

/// How to reach an S3 or a compatible: the job's `[store]` section. Credentials only ever come from the SDK's chain.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// URL of an S3 compatible; absent means AWS.
    pub endpoint: Option<String>,
    /// Region; absent means the SDK's chain (environment, profile, instance), then us-east-1.
    pub region: Option<String>,
    /// `http://endpoint/bucket/key` and not `http://bucket.endpoint/key`; absent means true where an endpoint is set.
    pub path_style: Option<bool>,
    /// Seconds for which a request is retried while the store is away or overloaded; absent means
    /// [`StoreConfig::RETRY_SECONDS`].
    pub retry_seconds: Option<u64>,
}

impl StoreConfig {
    /// How long a request is retried unless the job says otherwise: a throttled or restarting store recovers in minutes.
    pub const RETRY_SECONDS: u64 = 300;
}

/// What another program needs to read a bucket: the settings that we found, and the credentials of this moment.
#[derive(Clone)]
pub struct Access {
    /// URL of an S3 compatible; absent means AWS.
    pub endpoint: Option<String>,
    /// The bucket's.
    pub region: Option<String>,
    /// As in [`StoreConfig`].
    pub path_style: bool,
    /// Who asks.
    pub access_key_id: String,
    /// Proves it.
    pub secret_access_key: String,
    /// Comes with credentials that last for a time.
    pub session_token: Option<String>,
}

/// Without what nobody may see.
impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { endpoint, region, access_key_id, .. } = self;
        f.debug_struct("Access")
            .field("endpoint", endpoint)
            .field("region", region)
            .field("key", access_key_id)
            .finish()
    }
}

/// Opens `s3://bucket/prefix/` or a directory (`file:///…` or a path).
///
/// A directory need not be there yet to be written to: the first put makes it. A bucket is asked for once, so that a
/// wrong name, absent credentials or a dead endpoint is told here, within seconds, and not in the middle of the work.
///
/// # Errors
/// `NoRoot`, `Credentials`, `AccessDenied` or `Transient` with what to check.
pub async fn open(uri: &str, config: &StoreConfig) -> StoreResult<Arc<dyn Store>> {
    if let Some(rest) = uri.strip_prefix("s3://") {
        return Ok(Arc::new(s3::S3Store::open(rest, config).await?));
    }
    let path = uri.strip_prefix("file://").unwrap_or(uri);
    if path.is_empty() || path.contains("://") {
        return Err(StoreError {
            kind: StoreErrorKind::NoRoot,
            message: format!("`{uri}` is not the address of a store"),
            hint: Some(
                "give `s3://bucket/prefix/` (with `endpoint` in [store] for an S3 compatible), `file:///directory` or a path"
                    .to_owned(),
            ),
        });
    }
    Ok(Arc::new(local::LocalStore::open(path)?))
}
