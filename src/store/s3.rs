//! A store in an S3 bucket, or in a compatible: the prefix of the address is the root. Timeouts are the SDK's, retries
//! are [`retry`]'s, and what can be half done (a body cut in the middle, a conditional put whose answer was lost) is
//! resolved here.

mod connect;
mod failure;
mod retry;
mod upload;

use std::path::Path;

use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::primitives::{ByteStream, DateTime as SdkDateTime};
use aws_sdk_s3::types::{Delete, ObjectIdentifier, OptionalObjectAttributes, RestoreStatus};
use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

pub(crate) use self::connect::sdk_config;
use self::failure::{Action, Place};
use self::retry::{Retry, retry};
use super::{Access, FolderFilter, ObjectMeta, PutNew, RangeRead, Scanned, is_archive};
use super::{Store, StoreConfig, StoreError, StoreErrorKind, StoreResult};

/// Keys in one `DeleteObjects`: S3's own limit.
const DELETE_KEYS_MAX: usize = 1000;

/// Single deletes at once, where a compatible has no `DeleteObjects`.
const DELETES_AT_ONCE: usize = 16;

/// Folders listed at the same time.
const LISTS_MAX: usize = 16;

/// What is encoded in the header that names a copy's source: all but the slash and RFC 3986's unreserved characters.
const COPY_SOURCE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// A bucket's prefix as a store.
#[derive(Debug, Clone)]
pub(super) struct S3Store {
    /// For what is answered at once.
    quick: Client,
    /// For what takes as long as its bytes do: uploads and server-side copies.
    slow: Client,
    /// Of every request but the first question.
    retry: Retry,
    bucket: String,
    /// Empty, or ends in `/`.
    prefix: String,
    /// As configured, for messages; AWS where it is absent.
    endpoint: Option<String>,
    path_style: bool,
    credentials: Option<SharedCredentialsProvider>,
}

impl S3Store {
    /// Connects to `bucket/prefix` and asks for the bucket.
    pub(super) async fn open(address: &str, config: &StoreConfig) -> StoreResult<Self> {
        connect::open(address, config).await
    }

    fn full_key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn place<'a>(&'a self, uri: &'a str) -> Place<'a> {
        Place { uri, bucket: &self.bucket, endpoint: self.endpoint.as_deref() }
    }

    fn failure<E>(&self, action: Action, key: &str, error: &SdkError<E, HttpResponse>) -> StoreError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        self.place(&self.uri(key)).failure(action, error)
    }

    /// A HEAD's 404 has no body, so that it does not say which is missing: the bucket is asked.
    async fn bucket_is_missing(&self) -> bool {
        let asked = self.quick.head_bucket().bucket(&self.bucket).send().await;
        asked.is_err_and(|error| failure::status(&error) == Some(404))
    }

    /// Reads from `offset` on, `length` bytes or all. A body that breaks off is continued where it ended.
    async fn read(&self, key: &str, offset: u64, length: Option<u64>) -> StoreResult<RangeRead> {
        let mut read = BytesMut::new();
        let mut etag: Option<String> = None;
        match retry!(self.retry, self.read_on(key, offset, length, &mut read, &mut etag).await) {
            // Nothing there: an empty object, or an offset at its end or beyond.
            Ok(Part::BeyondTheEnd) => Ok(RangeRead { bytes: Bytes::new(), etag: self.head(key).await?.etag }),
            Ok(Part::Whole) => Ok(RangeRead { bytes: read.freeze(), etag: etag.unwrap_or_default() }),
            // Minutes of failures are this object's alone where the store answers otherwise (a lost placement group of
            // Ceph's): a whole shard must not wait for it.
            Err(error) if error.kind == StoreErrorKind::Transient && self.answers().await => {
                Err(StoreError { kind: StoreErrorKind::Unreadable, ..error })
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the store answers a question that has nothing to do with any object.
    async fn answers(&self) -> bool {
        match self.quick.head_bucket().bucket(&self.bucket).send().await {
            Ok(_) => true,
            Err(error) => failure::status(&error).is_some_and(|status| status < 500 && status != 429),
        }
    }

    /// One request for what is still missing of a read.
    async fn read_on(
        &self,
        key: &str,
        offset: u64,
        length: Option<u64>,
        read: &mut BytesMut,
        etag: &mut Option<String>,
    ) -> StoreResult<Part> {
        let start = offset + read.len() as u64;
        let range = match length {
            Some(length) => Some(format!("bytes={start}-{}", offset.saturating_add(length) - 1)),
            None => (start > 0).then(|| format!("bytes={start}-")),
        };
        let ranged = range.is_some();
        let reply = self.quick.get_object().bucket(&self.bucket).key(self.full_key(key)).set_range(range).send().await;
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) if failure::status(&error) == Some(416) && etag.is_none() => return Ok(Part::BeyondTheEnd),
            Err(error) => return Err(self.failure(Action::Read, key, &error)),
        };
        let uri = self.uri(key);
        let place = self.place(&uri);
        let version = unquoted(reply.e_tag());
        if etag.get_or_insert_with(|| version.clone()) != &version {
            return Err(place.changed());
        }
        if ranged && start > 0 && reply.content_range().is_none() {
            return Err(place.told("the endpoint ignores the range of a ranged read"));
        }
        if reply.content_length().is_none() {
            return Err(place.nonsense("the answer does not say how long it is"));
        }
        append_body(reply, read, length).await.map_err(|error| place.unreachable(Action::Read, &error))?;
        Ok(Part::Whole)
    }

    /// One page of a listing, the first without a token.
    async fn page(&self, listed: &Listed<'_>, token: Option<&str>) -> StoreResult<ListObjectsV2Output> {
        let prefix = Some(self.full_key(listed.prefix)).filter(|prefix| !prefix.is_empty());
        let page = self
            .quick
            .list_objects_v2()
            .bucket(&self.bucket)
            .set_prefix(prefix)
            .optional_object_attributes(OptionalObjectAttributes::RestoreStatus)
            .set_delimiter(listed.by_folder.then(|| "/".to_owned()))
            .set_continuation_token(token.map(ToOwned::to_owned));
        retry!(self.retry, page.clone().send().await.map_err(|error| self.failure(Action::List, listed.prefix, &error)))
    }

    async fn head_once(&self, key: &str) -> StoreResult<ObjectMeta> {
        let uri = self.uri(key);
        match self.quick.head_object().bucket(&self.bucket).key(self.full_key(key)).send().await {
            Ok(reply) => {
                let Some(size_bytes) = reply.content_length().and_then(|length| u64::try_from(length).ok()) else {
                    return Err(self.place(&uri).nonsense("the answer does not say how long it is"));
                };
                Ok(ObjectMeta {
                    key: key.to_owned(),
                    size_bytes,
                    etag: unquoted(reply.e_tag()),
                    last_modified: time(reply.last_modified()),
                    archived: archived(
                        reply.storage_class().map(|class| class.as_str()),
                        reply.restore().is_some_and(|restore| restore.contains("ongoing-request=\"false\"")),
                    ),
                })
            }
            Err(error) => Err(match failure::status(&error) {
                Some(404) if self.bucket_is_missing().await => self.place(&uri).no_bucket(Action::Read),
                Some(400 | 403) => {
                    self.refused_head(key).await.unwrap_or_else(|| self.failure(Action::Read, key, &error))
                }
                _ => self.failure(Action::Read, key, &error),
            }),
        }
    }

    /// A HEAD's refusal has no body: the same question as a GET has one, which says why.
    async fn refused_head(&self, key: &str) -> Option<StoreError> {
        let get = self.quick.get_object().bucket(&self.bucket).key(self.full_key(key)).range("bytes=0-0");
        get.send().await.err().map(|error| self.failure(Action::Read, key, &error))
    }

    async fn delete_each(&self, keys: &[String]) -> StoreResult<()> {
        stream::iter(keys.to_vec())
            .map(|key| async move {
                let delete = self.quick.delete_object().bucket(&self.bucket).key(self.full_key(&key));
                retry!(
                    self.retry,
                    match delete.clone().send().await {
                        Err(error) if failure::status(&error) != Some(404) => {
                            Err(self.failure(Action::Delete, &key, &error))
                        }
                        _ => Ok(()),
                    }
                )
            })
            .buffer_unordered(DELETES_AT_ONCE)
            .try_collect()
            .await
    }

    /// Whether they are gone: not where the store has no request that deletes many objects.
    async fn delete_together(&self, keys: &[String]) -> StoreResult<bool> {
        let first = keys.first().map_or("", String::as_str);
        let objects = keys
            .iter()
            .map(|key| ObjectIdentifier::builder().key(self.full_key(key)).build())
            .collect::<Result<Vec<_>, _>>()
            .and_then(|objects| Delete::builder().set_objects(Some(objects)).quiet(true).build())
            .map_err(|error| self.place(&self.uri(first)).told(&error.to_string()))?;
        let reply = match self.quick.delete_objects().bucket(&self.bucket).delete(objects).send().await {
            Ok(reply) => reply,
            // Older compatibles know only the MD5 header here, and some have no such request at all.
            Err(error)
                if matches!(failure::status(&error), Some(405 | 501))
                    || matches!(error.code(), Some("MissingContentMD5" | "InvalidRequest" | "NotImplemented")) =>
            {
                tracing::debug!(code = error.code(), "no delete of many objects here, deleting one by one");
                return Ok(false);
            }
            Err(error) => return Err(self.failure(Action::Delete, first, &error)),
        };
        match reply.errors().iter().find(|error| error.code() != Some("NoSuchKey")) {
            None => Ok(true),
            Some(error) => {
                let uri = format!("s3://{}/{}", self.bucket, error.key().unwrap_or_default());
                let code = error.code().unwrap_or("no code");
                Err(self.place(&uri).refused(Action::Delete, code, None, error.message()))
            }
        }
    }
}

#[async_trait::async_trait]
impl Store for S3Store {
    fn uri(&self, key: &str) -> String {
        format!("s3://{}/{}{key}", self.bucket, self.prefix)
    }

    async fn access(&self) -> StoreResult<Option<Access>> {
        let place = self.place("");
        let provider = self.credentials.as_ref().ok_or_else(|| place.told("there are no credentials"))?;
        let credentials = provider.provide_credentials().await.map_err(|error| place.told(&error.to_string()))?;
        Ok(Some(Access {
            endpoint: self.endpoint.clone(),
            region: self.quick.config().region().map(ToString::to_string),
            path_style: self.path_style,
            access_key_id: credentials.access_key_id().to_owned(),
            secret_access_key: credentials.secret_access_key().to_owned(),
            session_token: credentials.session_token().map(ToOwned::to_owned),
        }))
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        let first = Some(None);
        stream::try_unfold((self.clone(), prefix.to_owned(), first), async |(store, prefix, token)| {
            let Some(token) = token else { return Ok(None) };
            let listed = Listed { prefix: &prefix, by_folder: false };
            let page = store.page(&listed, Option::<String>::as_deref(&token)).await?;
            let next = next_page(&page).map(Some);
            let objects = page.contents.unwrap_or_default();
            let objects: Vec<_> = objects.into_iter().filter_map(|object| store.describe(object)).map(Ok).collect();
            Ok(Some((stream::iter(objects), (store, prefix, next))))
        })
        .try_flatten()
        .boxed()
    }

    /// Folder by folder where the first that branches has no more of them than a page holds: a listing's pages can only
    /// be asked for in turn. Folders further down are not told apart from their objects.
    fn scan(&self, enter: FolderFilter) -> BoxStream<'static, StoreResult<Scanned>> {
        let store = self.clone();
        stream::once(async move {
            let mut folder = String::new();
            let mut beside = Vec::new();
            loop {
                let level = store.level(&folder).await?;
                let Some((objects, folders)) = level else {
                    let list = store.list(&folder).map_ok(Scanned::Object);
                    return Ok(stream::iter(beside).map(Ok).chain(list).boxed());
                };
                let (mut folders, refused): (Vec<_>, Vec<_>) = folders.into_iter().partition(|folder| enter(folder));
                beside.extend(objects.into_iter().map(Scanned::Object));
                beside.extend(refused.into_iter().map(Scanned::NotEntered));
                match folders.pop() {
                    Some(only) if folders.is_empty() => folder = only,
                    last => {
                        folders.extend(last);
                        let lists = stream::iter(folders).map(move |folder| store.list(&folder));
                        let lists = lists.flatten_unordered(LISTS_MAX).map_ok(Scanned::Object);
                        return Ok(stream::iter(beside).map(Ok).chain(lists).boxed());
                    }
                }
            }
        })
        .try_flatten()
        .boxed()
    }

    async fn folders(&self, prefix: &str) -> StoreResult<Vec<String>> {
        let below = self.full_key(prefix);
        let listed = Listed { prefix, by_folder: true };
        let mut names = Vec::new();
        let mut token = None;
        loop {
            let page = self.page(&listed, token.as_deref()).await?;
            let folders = page.common_prefixes().iter().filter_map(|folder| folder.prefix());
            names.extend(
                folders.filter_map(|folder| Some(folder.strip_prefix(&below)?.trim_end_matches('/').to_owned())),
            );
            token = next_page(&page);
            if token.is_none() {
                return Ok(names);
            }
        }
    }

    async fn head(&self, key: &str) -> StoreResult<ObjectMeta> {
        retry!(self.retry, self.head_once(key).await)
    }

    async fn get_range(&self, key: &str, offset: u64, length: u64) -> StoreResult<RangeRead> {
        if length == 0 {
            return Ok(RangeRead { bytes: Bytes::new(), etag: self.head(key).await?.etag });
        }
        self.read(key, offset, Some(length)).await
    }

    async fn get(&self, key: &str) -> StoreResult<Bytes> {
        Ok(self.read(key, 0, None).await?.bytes)
    }

    async fn put(&self, key: &str, body: Bytes) -> StoreResult<()> {
        retry!(self.retry, {
            let put = self.slow.put_object().bucket(&self.bucket).key(self.full_key(key));
            let put = put.body(ByteStream::from(body.clone())).send().await;
            put.map(drop).map_err(|error| self.failure(Action::Write, key, &error))
        })
    }

    /// An attempt whose answer was lost may have written: refused after such a one, the object is read, and it is ours
    /// if its bytes are. (Two writers of the same bytes could then both be told `Created`; a record names its writer.)
    async fn put_new(&self, key: &str, body: Bytes) -> StoreResult<PutNew> {
        let mut may_be_ours = false;
        let done = retry!(self.retry, {
            let put = self.quick.put_object().bucket(&self.bucket).key(self.full_key(key)).if_none_match("*");
            match put.body(ByteStream::from(body.clone())).send().await {
                Ok(_) => Ok(PutNew::Created),
                Err(error) if failure::status(&error) == Some(412) => Ok(PutNew::Exists),
                Err(error) => {
                    may_be_ours |= failure::may_have_arrived(&error);
                    Err(self.failure(Action::WriteNew, key, &error))
                }
            }
        })?;
        match done {
            PutNew::Exists if may_be_ours && self.get(key).await? == body => Ok(PutNew::Created),
            done => Ok(done),
        }
    }

    async fn put_file(&self, key: &str, file: &Path) -> StoreResult<()> {
        self.upload(key, file).await
    }

    /// S3 copies up to 5 GiB in one request; nothing that is published is near that, so that there is no other way.
    async fn publish(&self, from: &str, to: &str) -> StoreResult<()> {
        let source = format!("{}/{}", self.bucket, utf8_percent_encode(&self.full_key(from), COPY_SOURCE));
        let copy = self.slow.copy_object().bucket(&self.bucket).key(self.full_key(to)).copy_source(source);
        let copied = retry!(
            self.retry,
            copy.clone().send().await.map(drop).map_err(|error| self.failure(Action::Copy, from, &error))
        );
        match copied {
            Err(error) if error.kind == StoreErrorKind::NotFound && self.head(to).await.is_ok() => Ok(()),
            copied => copied,
        }
    }

    async fn delete(&self, keys: &[String]) -> StoreResult<()> {
        for keys in keys.chunks(DELETE_KEYS_MAX) {
            if !retry!(self.retry, self.delete_together(keys).await)? {
                self.delete_each(keys).await?;
            }
        }
        Ok(())
    }
}

impl S3Store {
    /// The objects and folders directly below a folder, with their keys; none where they are more than a page holds.
    async fn level(&self, folder: &str) -> StoreResult<Option<(Vec<ObjectMeta>, Vec<String>)>> {
        let page = self.page(&Listed { prefix: folder, by_folder: true }, None).await?;
        if page.is_truncated() == Some(true) {
            return Ok(None);
        }
        let key =
            |folder: &aws_sdk_s3::types::CommonPrefix| folder.prefix()?.strip_prefix(&self.prefix).map(str::to_owned);
        let folders = page.common_prefixes().iter().filter_map(key).collect();
        let objects = page.contents.unwrap_or_default();
        Ok(Some((objects.into_iter().filter_map(|object| self.describe(object)).collect(), folders)))
    }

    /// None for the markers that consoles leave in place of folders.
    fn describe(&self, object: aws_sdk_s3::types::Object) -> Option<ObjectMeta> {
        let key = object.key()?.strip_prefix(self.prefix.as_str())?;
        if key.is_empty() || key.ends_with('/') {
            return None;
        }
        Some(ObjectMeta {
            key: key.to_owned(),
            size_bytes: size(object.size()),
            etag: unquoted(object.e_tag()),
            last_modified: time(object.last_modified()),
            archived: archived(
                object.storage_class().map(|class| class.as_str()),
                object.restore_status().is_some_and(is_restored),
            ),
        })
    }
}

/// What a listing is asked for.
struct Listed<'a> {
    /// Relative to the store's root.
    prefix: &'a str,
    /// Folders, and not what is in them.
    by_folder: bool,
}

/// What one request brought of a read.
enum Part {
    Whole,
    BeyondTheEnd,
}

/// The token of the page after this one, where there is one.
fn next_page(page: &ListObjectsV2Output) -> Option<String> {
    page.next_continuation_token().filter(|_| page.is_truncated() == Some(true)).map(ToOwned::to_owned)
}

/// The storage class, where it must be restored before a read. (GLACIER_IR can be read; which objects of
/// INTELLIGENT_TIERING are archived, a listing does not say.)
fn archived(storage_class: Option<&str>, is_restored: bool) -> Option<String> {
    storage_class.filter(|class| is_archive(class) && !is_restored).map(str::to_owned)
}

fn is_restored(status: &RestoreStatus) -> bool {
    status.is_restore_in_progress() != Some(true) && status.restore_expiry_date().is_some()
}

/// Appends until `length` bytes in all were read or the body ends where it said it would.
async fn append_body(reply: GetObjectOutput, read: &mut BytesMut, length: Option<u64>) -> Result<(), String> {
    let promised = reply.content_length().and_then(|length| usize::try_from(length).ok());
    let wanted = length.map_or(usize::MAX, |length| usize::try_from(length).unwrap_or(usize::MAX));
    let before = read.len();
    read.reserve(promised.unwrap_or(0).min(wanted - before));
    let mut body = reply.body;
    while let Some(bytes) = body.next().await {
        let bytes = bytes.map_err(|error| failure::innermost(&error))?;
        // More than was asked for comes only where the range of a read from the start was ignored.
        let room = wanted - read.len();
        read.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if read.len() == wanted {
            return Ok(());
        }
    }
    match promised {
        Some(promised) if read.len() - before < promised => {
            Err(format!("the body ended after {} of {promised} bytes", read.len() - before))
        }
        _ => Ok(()),
    }
}

fn unquoted(etag: Option<&str>) -> String {
    etag.unwrap_or_default().trim_matches('"').to_owned()
}

fn size(length: Option<i64>) -> u64 {
    length.and_then(|length| u64::try_from(length).ok()).unwrap_or(0)
}

fn time(time: Option<&SdkDateTime>) -> DateTime<Utc> {
    // Whole milliseconds at the most, in every answer of S3's.
    time.and_then(|time| DateTime::from_timestamp(time.secs(), time.subsec_nanos())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_source_keeps_slashes_and_encodes_what_urls_reserve() {
        let encoded = |key| utf8_percent_encode(key, COPY_SOURCE).to_string();
        assert_eq!(encoded("a b/c+d/é?#%.mp4"), "a%20b/c%2Bd/%C3%A9%3F%23%25.mp4");
        assert_eq!(encoded("plain/Key-1_2.~"), "plain/Key-1_2.~");
    }

    #[test]
    fn an_archived_object_can_be_read_once_its_restore_has_ended() {
        let object = |class: Option<&str>, restore: Option<RestoreStatus>| {
            let class = class.map(aws_sdk_s3::types::ObjectStorageClass::from);
            let object =
                aws_sdk_s3::types::Object::builder().set_storage_class(class).set_restore_status(restore).build();
            archived(object.storage_class().map(|c| c.as_str()), object.restore_status().is_some_and(is_restored))
        };
        let status = |ongoing: bool, expires: bool| {
            let expires = expires.then(|| SdkDateTime::from_secs(2_000_000_000));
            Some(RestoreStatus::builder().is_restore_in_progress(ongoing).set_restore_expiry_date(expires).build())
        };
        for class in ["GLACIER", "DEEP_ARCHIVE"] {
            assert_eq!(object(Some(class), None).as_deref(), Some(class));
            assert_eq!(object(Some(class), status(true, false)).as_deref(), Some(class), "under way");
            assert_eq!(object(Some(class), status(false, false)).as_deref(), Some(class));
            assert_eq!(object(Some(class), status(false, true)), None);
        }
        for class in [None, Some("STANDARD"), Some("GLACIER_IR"), Some("INTELLIGENT_TIERING"), Some("COLD_COMPATIBLE")]
        {
            assert_eq!(object(class, None), None);
        }
    }

    #[test]
    fn etags_lose_their_quotes_and_nothing_else() {
        assert_eq!(unquoted(Some("\"0123-4\"")), "0123-4");
        assert_eq!(unquoted(Some("bare")), "bare");
        assert_eq!(unquoted(None), "");
    }
}
