//! A store in an S3 bucket, or in a compatible: the prefix of the address is the root. Retries and timeouts are the
//! SDK's; what the SDK leaves open (a body cut in the middle, a conditional put whose answer was lost) is closed here.

mod connect;
mod failure;
mod upload;

use std::path::Path;
use std::time::Duration;

use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, DateTime as SdkDateTime};
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

pub(crate) use self::connect::sdk_config;
use self::failure::{Action, Place};
use super::{Access, ObjectMeta, PutNew, RangeRead, Store, StoreConfig, StoreError, StoreErrorKind, StoreResult};

/// Bodies that may break off before a read is given up.
const BODY_RETRIES_MAX: u32 = 3;

/// Tries at one conditional put.
const PUT_NEW_TRIES_MAX: u32 = 4;

/// Keys in one `DeleteObjects`: S3's own limit.
const DELETE_KEYS_MAX: usize = 1000;

/// Single deletes at once, where a compatible has no `DeleteObjects`.
const DELETES_AT_ONCE: usize = 16;

/// Folders listed at the same time.
const LISTS_MAX: usize = 16;

/// A bucket's prefix as a store.
#[derive(Debug, Clone)]
pub(super) struct S3Store {
    /// For what is answered at once.
    quick: Client,
    /// For what takes as long as its bytes do: uploads and server-side copies.
    slow: Client,
    /// `quick` without retries, for the conditional put, which must know of every try.
    once: Client,
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

    /// Reads from `offset` on, `length` bytes or all, asking again for the rest where a body breaks off.
    async fn read(&self, key: &str, offset: u64, length: Option<u64>) -> StoreResult<RangeRead> {
        let mut read = BytesMut::new();
        let mut etag = None;
        let mut broken = 0;
        loop {
            let start = offset + read.len() as u64;
            let range = match length {
                Some(length) => Some(format!("bytes={start}-{}", offset.saturating_add(length) - 1)),
                None => (start > 0).then(|| format!("bytes={start}-")),
            };
            let ranged = range.is_some();
            let reply =
                self.quick.get_object().bucket(&self.bucket).key(self.full_key(key)).set_range(range).send().await;
            let reply = match reply {
                Ok(reply) => reply,
                // Nothing there: an empty object, or an offset at its end or beyond.
                Err(error) if failure::status(&error) == Some(416) && etag.is_none() => {
                    return Ok(RangeRead { bytes: Bytes::new(), etag: self.head(key).await?.etag });
                }
                Err(error) => return Err(self.failure(Action::Read, key, &error)),
            };
            let version = unquoted(reply.e_tag());
            if etag.get_or_insert_with(|| version.clone()) != &version {
                return Err(self.place(&self.uri(key)).changed());
            }
            if ranged && start > 0 && reply.content_range().is_none() {
                return Err(self.place(&self.uri(key)).told("the endpoint ignores the range of a ranged read"));
            }
            match append_body(reply, &mut read, length).await {
                Ok(()) => return Ok(RangeRead { bytes: read.freeze(), etag: version }),
                Err(error) if broken < BODY_RETRIES_MAX => {
                    broken += 1;
                    tracing::warn!(
                        uri = self.uri(key),
                        read_bytes = read.len(),
                        error,
                        "a body broke off, asking for the rest"
                    );
                    backoff(broken).await;
                }
                Err(error) => return Err(self.place(&self.uri(key)).broken_off(&error)),
            }
        }
    }

    async fn delete_each(&self, keys: &[String]) -> StoreResult<()> {
        stream::iter(keys.to_vec())
            .map(|key| async move {
                match self.quick.delete_object().bucket(&self.bucket).key(self.full_key(&key)).send().await {
                    Err(error) if failure::status(&error) != Some(404) => {
                        Err(self.failure(Action::Delete, &key, &error))
                    }
                    _ => Ok(()),
                }
            })
            .buffer_unordered(DELETES_AT_ONCE)
            .try_collect()
            .await
    }

    async fn delete_together(&self, keys: &[String]) -> StoreResult<()> {
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
                return self.delete_each(keys).await;
            }
            Err(error) => return Err(self.failure(Action::Delete, first, &error)),
        };
        match reply.errors().iter().find(|error| error.code() != Some("NoSuchKey")) {
            None => Ok(()),
            Some(error) => {
                let uri = format!("s3://{}/{}", self.bucket, error.key().unwrap_or_default());
                Err(self.place(&uri).refused(Action::Delete, error.code().unwrap_or("no code"), error.message()))
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
        let pages = self
            .quick
            .list_objects_v2()
            .bucket(&self.bucket)
            .set_prefix(Some(self.full_key(prefix)).filter(|prefix| !prefix.is_empty()))
            .into_paginator()
            .send();
        let (store, prefix) = (self.clone(), prefix.to_owned());
        stream::try_unfold((pages, store, prefix), async |(mut pages, store, prefix)| match pages.next().await {
            None => Ok(None),
            Some(Err(error)) => Err(store.failure(Action::List, &prefix, &error)),
            Some(Ok(page)) => {
                let objects = page.contents.unwrap_or_default();
                let objects: Vec<_> = objects.into_iter().filter_map(|object| store.describe(object)).map(Ok).collect();
                Ok(Some((stream::iter(objects), (pages, store, prefix))))
            }
        })
        .try_flatten()
        .boxed()
    }

    /// Folder by folder where the first that branches has no more of them than a page holds: a listing's pages can only
    /// be asked for in turn.
    fn list_unordered(&self, prefix: &str) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.to_owned());
        stream::once(async move {
            let mut folder = prefix.clone();
            let mut beside = Vec::new();
            loop {
                let level = store.level(&folder).await?;
                let Some((objects, mut folders)) = level else {
                    return Ok(stream::iter(beside).map(Ok).chain(store.list(&folder)).boxed());
                };
                beside.extend(objects);
                match folders.pop() {
                    Some(only) if folders.is_empty() => folder = only,
                    last => {
                        folders.extend(last);
                        let lists = stream::iter(folders).map(move |folder| store.list(&folder));
                        let lists = lists.flatten_unordered(LISTS_MAX);
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
        let mut pages = self
            .quick
            .list_objects_v2()
            .bucket(&self.bucket)
            .set_prefix(Some(below.clone()).filter(|prefix| !prefix.is_empty()))
            .delimiter("/")
            .into_paginator()
            .send();
        let mut names = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.failure(Action::List, prefix, &error))?;
            let folders = page.common_prefixes().iter().filter_map(|folder| folder.prefix());
            names.extend(
                folders.filter_map(|folder| Some(folder.strip_prefix(&below)?.trim_end_matches('/').to_owned())),
            );
        }
        Ok(names)
    }

    async fn head(&self, key: &str) -> StoreResult<ObjectMeta> {
        match self.quick.head_object().bucket(&self.bucket).key(self.full_key(key)).send().await {
            Ok(reply) => Ok(ObjectMeta {
                key: key.to_owned(),
                size_bytes: size(reply.content_length()),
                etag: unquoted(reply.e_tag()),
                last_modified: time(reply.last_modified()),
            }),
            Err(error) if failure::status(&error) == Some(404) && self.bucket_is_missing().await => {
                Err(self.place(&self.uri(key)).no_bucket(Action::Read))
            }
            Err(error) => Err(self.failure(Action::Read, key, &error)),
        }
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
        let put = self.slow.put_object().bucket(&self.bucket).key(self.full_key(key)).body(ByteStream::from(body));
        put.send().await.map(drop).map_err(|error| self.failure(Action::Write, key, &error))
    }

    /// A try whose answer was lost may have written: refused after such a one, the object is read, and it is ours if
    /// its bytes are. (Two writers of the same bytes could then both be told `Created`; a record names its writer.)
    async fn put_new(&self, key: &str, body: Bytes) -> StoreResult<PutNew> {
        let mut answer_lost = false;
        let mut tries = 1;
        loop {
            let put = self.once.put_object().bucket(&self.bucket).key(self.full_key(key)).if_none_match("*");
            let Err(error) = put.body(ByteStream::from(body.clone())).send().await else { return Ok(PutNew::Created) };
            match failure::status(&error) {
                Some(412) if answer_lost && self.get(key).await? == body => return Ok(PutNew::Created),
                Some(412) => return Ok(PutNew::Exists),
                // 409: another's conditional put of this key is under way.
                Some(409 | 429) if tries < PUT_NEW_TRIES_MAX => {}
                Some(500..) if error.code() != Some("NotImplemented") && tries < PUT_NEW_TRIES_MAX => {
                    answer_lost = true
                }
                None if failure::answer_lost(&error) && tries < PUT_NEW_TRIES_MAX => answer_lost = true,
                _ => return Err(self.failure(Action::WriteNew, key, &error)),
            }
            backoff(tries).await;
            tries += 1;
        }
    }

    async fn put_file(&self, key: &str, file: &Path) -> StoreResult<()> {
        self.upload(key, file).await
    }

    /// S3 copies up to 5 GiB in one request; nothing that is published is near that, so that there is no other way.
    async fn publish(&self, from: &str, to: &str) -> StoreResult<()> {
        let source = format!("{}/{}", self.bucket, percent_encoded(&self.full_key(from)));
        let copy = self.slow.copy_object().bucket(&self.bucket).key(self.full_key(to)).copy_source(source);
        let Err(error) = copy.send().await else { return Ok(()) };
        let failure = self.failure(Action::Copy, from, &error);
        if failure.kind == StoreErrorKind::NotFound && self.head(to).await.is_ok() { Ok(()) } else { Err(failure) }
    }

    async fn delete(&self, keys: &[String]) -> StoreResult<()> {
        for keys in keys.chunks(DELETE_KEYS_MAX) {
            self.delete_together(keys).await?;
        }
        Ok(())
    }
}

impl S3Store {
    /// The objects and folders directly below a folder, with their keys; none where they are more than a page holds.
    async fn level(&self, folder: &str) -> StoreResult<Option<(Vec<ObjectMeta>, Vec<String>)>> {
        let page = self
            .quick
            .list_objects_v2()
            .bucket(&self.bucket)
            .set_prefix(Some(self.full_key(folder)).filter(|prefix| !prefix.is_empty()))
            .delimiter("/")
            .send()
            .await
            .map_err(|error| self.failure(Action::List, folder, &error))?;
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
        })
    }
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

/// 100 ms, doubled by each further try.
async fn backoff(tries: u32) {
    tokio::time::sleep(Duration::from_millis(50 << tries.min(6))).await;
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

/// For the header that names a copy's source: everything but RFC 3986's unreserved characters and the slash.
fn percent_encoded(key: &str) -> String {
    let mut encoded = String::with_capacity(key.len() + key.len() / 4);
    for byte in key.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                encoded.push(char::from(byte))
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_source_keeps_slashes_and_encodes_what_urls_reserve() {
        assert_eq!(percent_encoded("a b/c+d/é?#%.mp4"), "a%20b/c%2Bd/%C3%A9%3F%23%25.mp4");
        assert_eq!(percent_encoded("plain/Key-1_2.~"), "plain/Key-1_2.~");
    }

    #[test]
    fn etags_lose_their_quotes_and_nothing_else() {
        assert_eq!(unquoted(Some("\"0123-4\"")), "0123-4");
        assert_eq!(unquoted(Some("bare")), "bare");
        assert_eq!(unquoted(None), "");
    }
}
