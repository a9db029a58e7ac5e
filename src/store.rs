//! Object stores, the only shared state of a job: one trait, and a file for each kind of store.

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
    /// Relative to the store's root, with `/` between its parts.
    pub key: String,
    /// Length in bytes.
    pub size_bytes: u64,
    /// Changes whenever the content changes. Opaque, without quotes.
    pub etag: String,
    /// Id of the version, if the store keeps versions and lists them ([`StoreConfig::versions`]).
    pub version_id: Option<String>,
    /// To the microsecond at most.
    pub last_modified: DateTime<Utc>,
    /// The storage class, if the store says that the object must be restored before it can be read.
    pub archived: Option<String>,
}

/// Whether objects of this storage class of S3 must be restored before they can be read.
pub(crate) fn is_archive(storage_class: &str) -> bool {
    matches!(storage_class, "GLACIER" | "DEEP_ARCHIVE")
}

/// What a scan of an input finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scanned {
    /// An object.
    Object(ObjectMeta),
    /// The key, ending in `/`, of a folder that was not opened because the caller's filter refused it.
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

/// Bytes of an object, and the etag of the version that they belong to.
#[derive(Debug, Clone)]
pub struct RangeRead {
    /// Shorter than requested only at the object's end.
    pub bytes: Bytes,
    /// The version's etag, without quotes.
    pub etag: String,
}

/// How an archived object is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestoreRequest {
    /// Days for which the object can then be read.
    pub days: u16,
    /// Speed and price.
    pub tier: RestoreTier,
}

/// The speed at which S3 restores an object, and what it costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RestoreTier {
    /// The cheapest: up to two days.
    Bulk,
    /// Up to half a day.
    Standard,
    /// Minutes. Not for DEEP_ARCHIVE.
    Expedited,
}

/// Whether a request to restore began a restoration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restoring {
    /// It did.
    Requested,
    /// The object is being restored already, or is restored.
    Before,
}

/// Whether a put-if-absent wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutNew {
    /// The object was written.
    Created,
    /// There was an object already. Nothing was written.
    Exists,
}

/// What a store's error means to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// No such object.
    NotFound,
    /// No such bucket or root directory.
    NoRoot,
    /// Credentials are missing, wrong or expired, or the clock is wrong: no request can succeed.
    Credentials,
    /// The credentials are valid, but do not allow this operation or access to this object.
    AccessDenied,
    /// The object is in an archive storage class and not restored.
    Archived,
    /// The store works, but cannot return this object's bytes: it is encrypted with a key that the store does not have, or a
    /// disk block is bad.
    Unreadable,
    /// The object is not the version that was requested.
    Changed,
    /// An outage, throttling, a timeout, or an answer that is incomplete or invalid: the same request may succeed later. The
    /// store has already retried it for its full time limit.
    Transient,
    /// Anything else. A retry would fail again.
    Refused,
}

/// Why a store failed: which object, what the store said, what to check.
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
/// A store retries its requests itself (S3 for minutes, see [`StoreConfig::retry_seconds`]). An error that it returns is final
/// for the request, whatever its kind.
#[async_trait::async_trait]
pub trait Store: std::fmt::Debug + Send + Sync {
    /// The full address of a key, as written to the tables: `s3://bucket/prefix/key`, or an absolute path.
    fn uri(&self, key: &str) -> String;

    /// Every object below `prefix` (a folder's key ending in `/`, or empty). A bucket lists them by key, a directory in the
    /// order of its walk. If nothing is below the prefix, the list is empty. An absent root is an error; an absent directory
    /// only if it is listed whole.
    fn list(&self, prefix: &str) -> BoxStream<'static, StoreResult<ObjectMeta>>;

    /// Every object in any order, from several folders at once if that is faster. Unlike [`Store::list`], it continues past
    /// what cannot be listed, and does not open folders that `enter` refuses. A store lists the objects of a refused folder if
    /// it cannot leave them out cheaply.
    fn scan(&self, enter: FolderFilter) -> BoxStream<'static, StoreResult<Scanned>> {
        // For stores without folders.
        let _ = enter;
        self.list("").map_ok(Scanned::Object).boxed()
    }

    /// The names of the folders directly below `prefix` (a folder's key ending in `/`, or empty), sorted, without their `/`.
    /// Does not list what is in them, if the store can avoid it.
    async fn folders(&self, prefix: &str) -> StoreResult<Vec<String>> {
        // For stores that have nothing better than a list of all objects.
        let keys = self.list(prefix).map_ok(|object| object.key);
        let name = |key: String| Some(key.strip_prefix(prefix)?.split_once('/')?.0.to_owned());
        let names: BTreeSet<String> = keys.try_filter_map(async |key| Ok(name(key))).try_collect().await?;
        Ok(names.into_iter().collect())
    }

    /// One object's metadata.
    async fn head(&self, key: &str) -> StoreResult<ObjectMeta>;

    /// `length` bytes from `offset`: fewer at the object's end, none beyond it.
    async fn get_range(&self, key: &str, offset: u64, length: u64) -> StoreResult<RangeRead>;

    /// As [`Store::get_range`], of a version of the object that has this id.
    async fn get_version_range(&self, key: &str, version_id: &str, offset: u64, length: u64) -> StoreResult<RangeRead> {
        // For stores that keep no versions. The ETag tells whether it is the right one.
        let _ = version_id;
        self.get_range(key, offset, length).await
    }

    /// A whole, small object.
    async fn get(&self, key: &str) -> StoreResult<Bytes>;

    /// Writes an object whole or not at all. Replaces an existing object.
    async fn put(&self, key: &str, body: Bytes) -> StoreResult<()>;

    /// Writes an object if there is none. Atomic: of any number of concurrent writers exactly one gets `Created`.
    async fn put_new(&self, key: &str, body: Bytes) -> StoreResult<PutNew>;

    /// Uploads a file whole or not at all. Large files are uploaded in parts.
    async fn put_file(&self, key: &str, file: &Path) -> StoreResult<()>;

    /// Copies the object `from` to the key `to` on the server, or renames it in a directory, where `from` no longer exists
    /// afterwards. If only `to` exists, the object was published before, which is not an error.
    async fn publish(&self, from: &str, to: &str) -> StoreResult<()>;

    /// Removes objects. Absent ones are not an error. Also removes directories that become empty.
    async fn delete(&self, keys: &[String]) -> StoreResult<()>;

    /// Asks for a copy of an archived object, or of a version of it, that can be read for some days. It takes hours until the
    /// copy is there.
    async fn restore(&self, key: &str, version_id: Option<&str>, request: RestoreRequest) -> StoreResult<Restoring> {
        let _ = (version_id, request);
        Err(StoreError {
            kind: StoreErrorKind::Refused,
            message: format!("failed to restore {}: only S3 has archive storage classes", self.uri(key)),
            hint: None,
        })
    }

    /// What another program needs to read objects. None if it can open them as files.
    async fn access(&self) -> StoreResult<Option<Access>> {
        Ok(None)
    }

    /// Removes unfinished files below `prefix` (a folder's key ending in `/`), which writers that died left behind and listings do not
    /// show. Call it when nobody writes there any more.
    async fn clear_unfinished(&self, prefix: &str) -> StoreResult<()> {
        // Most stores keep nothing of an unfinished object.
        let _ = prefix;
        Ok(())
    }
}

/// Checks that the store keeps the promise of [`Store::put_new`], without which two workers could both commit a shard. Some S3
/// compatibles ignore the condition. There must be an object at `key`, and `other` must differ from it.
///
/// # Errors
/// `Refused` if the store has replaced the object, which is then removed.
pub(crate) async fn check_put_new(store: &dyn Store, key: &str, other: Bytes) -> StoreResult<()> {
    match store.put_new(key, other).await? {
        PutNew::Exists => Ok(()),
        PutNew::Created => {
            store.delete(&[key.to_owned()]).await?;
            Err(StoreError {
                kind: StoreErrorKind::Refused,
                message: format!(
                    "{}: this store ignores conditions of puts (If-None-Match), which commits need",
                    store.uri(key)
                ),
                hint: Some("use another store for [output]; docs/stores.md names some".to_owned()),
            })
        }
    }
}

/// How to reach S3 or an S3 compatible: the job's `[store]` section. Credentials always come from the SDK's default chain.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// URL of an S3 compatible. Absent: AWS.
    pub endpoint: Option<String>,
    /// Region. Absent: from the SDK's chain (environment, profile, instance), else us-east-1.
    pub region: Option<String>,
    /// Whether URLs are `http://endpoint/bucket/key` and not `http://bucket.endpoint/key`. Absent: true if an endpoint is set.
    pub path_style: Option<bool>,
    /// Seconds for which a request is retried while the store is unavailable or overloaded. Absent:
    /// [`StoreConfig::RETRY_SECONDS`].
    pub retry_seconds: Option<u64>,
    /// The profile of the AWS configuration files whose credentials are used. Absent: as the SDK's chain finds them.
    pub profile: Option<String>,
    /// Whether requests are not signed, for public buckets.
    pub anonymous: Option<bool>,
    /// Whether requests agree to pay for their transfer, for buckets whose owner does not.
    pub requester_pays: Option<bool>,
    /// How the store encrypts what is written. Absent: as the bucket's settings say.
    pub encryption: Option<Encryption>,
    /// Id or alias of the key for [`Encryption::Kms`]. Absent: the account's key for S3.
    pub kms_key: Option<String>,
    /// The most requests that a process sends in a second.
    pub requests_per_second: Option<u64>,
    /// The most bytes that a process reads in a second, on average.
    pub bytes_per_second: Option<u64>,
    /// Whether listings show the ids of versions. The job has it in `[input]`.
    #[serde(skip)]
    pub versions: bool,
}

/// How a store encrypts objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Encryption {
    /// With a key of the store.
    #[serde(rename = "AES256")]
    Aes256,
    /// With a key in AWS KMS.
    #[serde(rename = "aws:kms")]
    Kms,
}

impl Encryption {
    /// The name in S3's requests and in the job file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Aes256 => "AES256",
            Self::Kms => "aws:kms",
        }
    }
}

impl StoreConfig {
    /// These settings, and those of `others` for the keys that these lack.
    #[must_use]
    pub fn or(self, others: &Self) -> Self {
        Self {
            endpoint: self.endpoint.or_else(|| others.endpoint.clone()),
            region: self.region.or_else(|| others.region.clone()),
            path_style: self.path_style.or(others.path_style),
            retry_seconds: self.retry_seconds.or(others.retry_seconds),
            profile: self.profile.or_else(|| others.profile.clone()),
            anonymous: self.anonymous.or(others.anonymous),
            requester_pays: self.requester_pays.or(others.requester_pays),
            encryption: self.encryption.or(others.encryption),
            kms_key: self.kms_key.or_else(|| others.kms_key.clone()),
            requests_per_second: self.requests_per_second.or(others.requests_per_second),
            bytes_per_second: self.bytes_per_second.or(others.bytes_per_second),
            versions: self.versions || others.versions,
        }
    }

    /// The default, in seconds: a store that throttles or restarts recovers within minutes.
    pub const RETRY_SECONDS: u64 = 300;
}

/// What another program needs to read a bucket: the resolved settings and the current credentials.
#[derive(Clone)]
pub struct Access {
    /// URL of an S3 compatible. Absent: AWS.
    pub endpoint: Option<String>,
    /// The bucket's region.
    pub region: Option<String>,
    /// As in [`StoreConfig`].
    pub path_style: bool,
    /// The public part of the credentials.
    pub access_key_id: String,
    /// The secret part.
    pub secret_access_key: String,
    /// Set for temporary credentials.
    pub session_token: Option<String>,
}

/// Leaves out the secrets.
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
/// The first write creates a directory that does not exist. A bucket must exist: the store looks for it, so that a wrong name,
/// missing credentials or a wrong endpoint are errors here within seconds, and not in the middle of the work.
///
/// # Errors
/// `NoRoot`, `Credentials`, `AccessDenied` or `Transient`, with a hint what to check.
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
