//! Reads: bytes of an object, continued where an answer broke off, and metadata.

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use bytes::{Bytes, BytesMut};

use super::failure::{self, Action};
use super::list::archived;
use super::retry::retry;
use super::{S3Store, time, unquoted};
use crate::store::{ObjectMeta, RangeRead, Store, StoreError, StoreErrorKind, StoreResult};

impl S3Store {
    /// Reads `length` bytes from `offset`, or all, of a version or of the newest one. If a body breaks off, the next request
    /// continues there.
    pub(super) async fn read(
        &self,
        key: &str,
        version_id: Option<&str>,
        offset: u64,
        length: Option<u64>,
    ) -> StoreResult<RangeRead> {
        let mut read = BytesMut::new();
        let mut etag: Option<String> = None;
        match retry!(self.retry, self.read_on((key, version_id), offset, length, &mut read, &mut etag).await) {
            // The object is empty, or the offset is not before its end.
            Ok(Part::BeyondTheEnd) => Ok(RangeRead { bytes: Bytes::new(), etag: self.head(key).await?.etag }),
            Ok(Part::Whole) => Ok(RangeRead { bytes: read.freeze(), etag: etag.unwrap_or_default() }),
            // After minutes of failures, only this object is at fault if the store answers other requests (Ceph that lost
            // a placement group). A whole shard must not fail because of it.
            Err(error) if error.kind == StoreErrorKind::Transient && self.answers().await => {
                Err(StoreError { kind: StoreErrorKind::Unreadable, ..error })
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the store answers a request that is not about an object.
    async fn answers(&self) -> bool {
        match self.quick.head_bucket().bucket(&self.bucket).send().await {
            Ok(_) => true,
            Err(error) => failure::status(&error).is_some_and(|status| status < 500 && status != 429),
        }
    }

    /// Requests the rest of a read.
    async fn read_on(
        &self,
        (key, version_id): (&str, Option<&str>),
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
        let get = self.quick.get_object().bucket(&self.bucket).key(self.full_key(key)).set_range(range);
        let reply = match get.set_version_id(version_id.map(str::to_owned)).send().await {
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
            return Err(place.permanent("the endpoint ignores the range of a ranged read"));
        }
        if reply.content_length().is_none() {
            return Err(place.invalid_answer("the answer does not say how long it is"));
        }
        let before = read.len();
        append_body(reply, read, length).await.map_err(|error| place.unreachable(Action::Read, &error))?;
        if let Some(pace) = &self.read_pace {
            pace.take((read.len() - before) as u64).await;
        }
        Ok(Part::Whole)
    }

    pub(super) async fn head_once(&self, key: &str) -> StoreResult<ObjectMeta> {
        let uri = self.uri(key);
        match self.quick.head_object().bucket(&self.bucket).key(self.full_key(key)).send().await {
            Ok(reply) => {
                let Some(size_bytes) = reply.content_length().and_then(|length| u64::try_from(length).ok()) else {
                    return Err(self.place(&uri).invalid_answer("the answer does not say how long it is"));
                };
                Ok(ObjectMeta {
                    key: key.to_owned(),
                    size_bytes,
                    etag: unquoted(reply.e_tag()),
                    version_id: reply.version_id().filter(|_| self.versions).map(str::to_owned),
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

    /// A refused HEAD has no body. The answer to a GET has one, which says why.
    async fn refused_head(&self, key: &str) -> Option<StoreError> {
        let get = self.quick.get_object().bucket(&self.bucket).key(self.full_key(key)).range("bytes=0-0");
        get.send().await.err().map(|error| self.failure(Action::Read, key, &error))
    }

    /// The answer 404 to a HEAD has no body and does not say what is missing, so this asks for the bucket.
    async fn bucket_is_missing(&self) -> bool {
        let asked = self.quick.head_bucket().bucket(&self.bucket).send().await;
        asked.is_err_and(|error| failure::status(&error) == Some(404))
    }
}

/// What one request returned of a read.
enum Part {
    Whole,
    BeyondTheEnd,
}

/// Appends the body until `length` bytes in total were read. Fails if the body ends before its announced length.
async fn append_body(reply: GetObjectOutput, read: &mut BytesMut, length: Option<u64>) -> Result<(), String> {
    let promised = reply.content_length().and_then(|length| usize::try_from(length).ok());
    let wanted = length.map_or(usize::MAX, |length| usize::try_from(length).unwrap_or(usize::MAX));
    let before = read.len();
    read.reserve(promised.unwrap_or(0).min(wanted - before));
    let mut body = reply.body;
    while let Some(bytes) = body.next().await {
        let bytes = bytes.map_err(|error| failure::innermost(&error))?;
        // There is more only if the endpoint ignored the range of a read from the start.
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
