//! A store in an S3 bucket or in an S3 compatible, below the prefix of its address. Timeouts are the SDK's and retries are
//! [`retry`]'s. The code here resolves what can be half done: a body that broke off, a conditional put whose answer was lost.

mod connect;
mod delete;
mod failure;
mod headers;
mod list;
mod pace;
mod read;
mod retry;
mod upload;

use std::path::Path;
use std::sync::Arc;

use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, DateTime as SdkDateTime};
use aws_sdk_s3::types::{GlacierJobParameters, Tier};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

pub(crate) use self::connect::sdk_config;
use self::failure::{Action, Place};
use self::pace::Pace;
use self::retry::{Retry, retry};
use super::{Access, FolderFilter, ObjectMeta, PutNew, RangeRead, RestoreRequest, RestoreTier, Restoring, Scanned};
use super::{Store, StoreConfig, StoreError, StoreErrorKind, StoreResult};

/// A bucket's prefix as a store.
#[derive(Debug, Clone)]
pub(super) struct S3Store {
    /// For requests that are answered at once.
    quick: Client,
    /// For requests that take longer for more bytes: uploads and server-side copies.
    slow: Client,
    /// Retries every request, including the first one for the bucket.
    retry: Retry,
    bucket: String,
    /// Empty, or ends in `/`.
    prefix: String,
    /// As configured, for messages. AWS if absent.
    endpoint: Option<String>,
    path_style: bool,
    /// `None` if requests are not signed.
    credentials: Option<SharedCredentialsProvider>,
    /// For the bytes that are read, if there is a limit.
    read_pace: Option<Arc<Pace>>,
    /// Whether listings show the ids of versions.
    versions: bool,
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
}

#[async_trait::async_trait]
impl Store for S3Store {
    fn uri(&self, key: &str) -> String {
        format!("s3://{}/{}{key}", self.bucket, self.prefix)
    }

    async fn access(&self) -> StoreResult<Option<Access>> {
        let place = self.place("");
        let credentials = match &self.credentials {
            Some(provider) => {
                provider.provide_credentials().await.map_err(|error| place.permanent(&error.to_string()))?
            }
            // Empty keys mean no signature.
            None => Credentials::new("", "", None, None, "anonymous"),
        };
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
        self.list_pages(prefix)
    }

    fn scan(&self, enter: FolderFilter) -> BoxStream<'static, StoreResult<Scanned>> {
        self.scan_folders(enter)
    }

    async fn folders(&self, prefix: &str) -> StoreResult<Vec<String>> {
        self.list_folders(prefix).await
    }

    async fn head(&self, key: &str) -> StoreResult<ObjectMeta> {
        retry!(self.retry, self.head_once(key).await)
    }

    async fn get_range(&self, key: &str, offset: u64, length: u64) -> StoreResult<RangeRead> {
        if length == 0 {
            return Ok(RangeRead { bytes: Bytes::new(), etag: self.head(key).await?.etag });
        }
        self.read(key, None, offset, Some(length)).await
    }

    async fn get_version_range(&self, key: &str, version_id: &str, offset: u64, length: u64) -> StoreResult<RangeRead> {
        self.read(key, Some(version_id), offset, Some(length)).await
    }

    async fn get(&self, key: &str) -> StoreResult<Bytes> {
        Ok(self.read(key, None, 0, None).await?.bytes)
    }

    async fn restore(&self, key: &str, version_id: Option<&str>, request: RestoreRequest) -> StoreResult<Restoring> {
        let tier = match request.tier {
            RestoreTier::Bulk => Tier::Bulk,
            RestoreTier::Standard => Tier::Standard,
            RestoreTier::Expedited => Tier::Expedited,
        };
        let job = GlacierJobParameters::builder().tier(tier).build();
        let job = job.map_err(|error| self.place(&self.uri(key)).permanent(&error.to_string()))?;
        let wanted = aws_sdk_s3::types::RestoreRequest::builder();
        let wanted = wanted.days(request.days.into()).glacier_job_parameters(job).build();
        let restore = self.quick.restore_object().bucket(&self.bucket).key(self.full_key(key)).restore_request(wanted);
        let restore = restore.set_version_id(version_id.map(str::to_owned));
        retry!(
            self.retry,
            match restore.clone().send().await {
                // 200 instead of 202: the object is restored, for longer now.
                Ok(_) => Ok(Restoring::Requested),
                Err(error) if error.code() == Some("RestoreAlreadyInProgress") => Ok(Restoring::Before),
                Err(error) => Err(self.failure(Action::Restore, key, &error)),
            }
        )
    }

    async fn put(&self, key: &str, body: Bytes) -> StoreResult<()> {
        retry!(self.retry, {
            let put = self.slow.put_object().bucket(&self.bucket).key(self.full_key(key));
            let put = put.body(ByteStream::from(body.clone())).send().await;
            put.map(drop).map_err(|error| self.failure(Action::Write, key, &error))
        })
    }

    /// A request whose answer was lost may have written the object. If a retry finds an object, this compares its bytes: the
    /// same bytes mean that it is ours. (Two writers of the same bytes can both get `Created`, but each record names its
    /// writer.)
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

    /// S3 copies up to 5 GiB in one request. Files that are published are far smaller, so there is no copy in parts.
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
        self.delete_all(keys).await
    }
}

fn unquoted(etag: Option<&str>) -> String {
    etag.unwrap_or_default().trim_matches('"').to_owned()
}

fn time(time: Option<&SdkDateTime>) -> DateTime<Utc> {
    // S3's answers have whole milliseconds at most.
    time.and_then(|time| DateTime::from_timestamp(time.secs(), time.subsec_nanos())).unwrap_or_default()
}

/// The characters of a key that the header for a copy's source takes as they are: RFC 3986's unreserved ones and the slash.
const COPY_SOURCE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

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
    fn etags_lose_their_quotes_and_nothing_else() {
        assert_eq!(unquoted(Some("\"0123-4\"")), "0123-4");
        assert_eq!(unquoted(Some("bare")), "bare");
        assert_eq!(unquoted(None), "");
    }
}
