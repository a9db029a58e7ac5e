//! A store in S3 or a compatible. Single requests are retried by the SDK; what it does not retry (a body that breaks off)
//! is asked for again here.

use std::path::Path;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::meta::region::RegionProviderChain;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{RequestChecksumCalculation, ResponseChecksumValidation};
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, Length};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, Delete, Object, ObjectIdentifier};
use aws_smithy_http_client::tls;
use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use super::{ObjectMeta, PutNew, RangeRead, Store, StoreConfig, StoreError, StoreErrorKind, StoreResult};

/// Larger files are uploaded in parts of this size (S3 takes 5 MiB to 5 GiB, and 10,000 parts).
const PART_BYTES: u64 = 16 * 1024 * 1024;
/// Parts under way at once.
const PARTS_AT_ONCE: usize = 4;
/// Keys of one DeleteObjects.
const DELETE_KEYS_MAX: usize = 1000;
/// Attempts at a request, the first among them.
const ATTEMPTS_MAX: u32 = 3;
/// Times that a body which breaks off is asked for again.
const BODY_RETRIES_MAX: u32 = 3;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Until the answer begins.
const READ_TIMEOUT: Duration = Duration::from_secs(20);
/// One attempt, with a part of [`PART_BYTES`] on a slow line.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(120);
/// S3 may ask to repeat a conditional put that met another one.
const CONFLICT_RETRIES_MAX: u32 = 5;

/// A bucket's prefix.
#[derive(Debug, Clone)]
pub(super) struct S3Store {
    client: Client,
    bucket: String,
    /// Empty, or ends in `/`.
    prefix: String,
    endpoint: Option<String>,
}

impl S3Store {
    /// `rest` is what follows `s3://`. Nothing is asked of the server yet.
    pub(super) async fn open(rest: &str, config: &StoreConfig) -> StoreResult<Self> {
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            let hint = Some("an address is written s3://bucket/prefix/".to_owned());
            return Err(StoreError {
                kind: StoreErrorKind::NoRoot,
                message: format!("s3://{rest} names no bucket"),
                hint,
            });
        }
        let prefix = prefix.trim_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
            .build_https();
        let region = RegionProviderChain::first_try(config.region.clone().map(aws_sdk_s3::config::Region::new))
            .or_default_provider()
            .or_else("us-east-1");
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .region(region)
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS_MAX))
            .timeout_config(timeouts);
        if let Some(endpoint) = &config.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        let shared = loader.load().await;
        let endpoint = config.endpoint.clone().or_else(|| shared.endpoint_url().map(str::to_owned));
        let settings = aws_sdk_s3::config::Builder::from(&shared)
            .force_path_style(config.path_style.unwrap_or(endpoint.is_some()))
            // Compatibles do not all know the newer checksums.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .build();
        Ok(Self { client: Client::from_conf(settings), bucket: bucket.to_owned(), prefix, endpoint })
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Says what failed, on what, and what to check.
    fn failed<E, R>(&self, doing: &str, key: &str, error: SdkError<E, R>) -> StoreError
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
        R: std::fmt::Debug + HttpStatus + Send + Sync + 'static,
    {
        let status = error.raw_response().and_then(HttpStatus::status);
        let code = error.code().unwrap_or_default().to_owned();
        let credentials = format!("{}", DisplayErrorContext(&error)).contains("credentials");
        let at = self.endpoint.as_deref().map(|endpoint| format!(" at {endpoint}")).unwrap_or_default();
        let (kind, why, hint) = match (&error, code.as_str(), status) {
            (SdkError::TimeoutError(_) | SdkError::ResponseError(_), ..) => unreachable(&at),
            (SdkError::DispatchFailure(_), ..) if credentials => no_credentials(),
            (SdkError::DispatchFailure(failure), ..) if failure.is_timeout() || failure.is_io() => unreachable(&at),
            (SdkError::ConstructionFailure(_), ..) if credentials => no_credentials(),
            (_, "NoSuchBucket", _) => (
                StoreErrorKind::NoRoot,
                format!("there is no bucket {}{at}", self.bucket),
                "check the bucket's name in uri, and endpoint and region in [store]",
            ),
            (_, "NoSuchKey" | "NotFound", _) | (_, "", Some(404)) => {
                (StoreErrorKind::NotFound, "no such object".to_owned(), "")
            }
            (
                _,
                "AccessDenied" | "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "ExpiredToken" | "InvalidToken",
                _,
            )
            | (_, _, Some(401 | 403)) => (
                StoreErrorKind::AccessDenied,
                format!("access denied ({})", if code.is_empty() { "403" } else { &code }),
                "check the credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE or the instance's role) and what they may do here",
            ),
            (_, "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException", _) => (
                StoreErrorKind::NoRoot,
                format!("the bucket {} is in another region", self.bucket),
                "set region in [store] to the bucket's",
            ),
            _ => (StoreErrorKind::Other, DisplayErrorContext(&error).to_string(), ""),
        };
        let message = format!("failed to {doing} {}: {why}", self.uri(key));
        StoreError { kind, message, hint: Some(hint).filter(|hint| !hint.is_empty()).map(str::to_owned) }
    }

    async fn open_range(&self, key: &str, offset: u64, length: u64) -> StoreResult<Option<GetObjectOutput>> {
        let range = format!("bytes={offset}-{}", offset + length - 1);
        let asked = self.client.get_object().bucket(&self.bucket).key(self.key(key)).range(range).send().await;
        match asked {
            Ok(output) => Ok(Some(output)),
            // Beyond the end, or of an empty object.
            Err(error) if error.raw_response().and_then(HttpStatus::status) == Some(416) => Ok(None),
            Err(error) => Err(self.failed("read", key, error)),
        }
    }

    async fn upload_parts(&self, key: &str, file: &Path, size_bytes: u64, upload: &str) -> StoreResult<()> {
        let parts = (0..size_bytes.div_ceil(PART_BYTES)).map(|index| async move {
            let offset = index * PART_BYTES;
            let length = PART_BYTES.min(size_bytes - offset);
            let source = ByteStream::read_from().path(file).offset(offset).length(Length::Exact(length));
            let body = source.build().await.map_err(|error| file_failed(file, &error))?;
            let number = index as i32 + 1;
            let request = self.client.upload_part().bucket(&self.bucket).key(self.key(key)).upload_id(upload);
            let sent = request.part_number(number).body(body).send().await;
            let sent = sent.map_err(|error| self.failed("upload a part of", key, error))?;
            Ok(CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag).build())
        });
        let parts: Vec<CompletedPart> = stream::iter(parts).buffered(PARTS_AT_ONCE).try_collect().await?;
        let completed = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = self.client.complete_multipart_upload().bucket(&self.bucket).key(self.key(key));
        let sent = request.upload_id(upload).multipart_upload(completed).send().await;
        sent.map(drop).map_err(|error| self.failed("complete the upload of", key, error))
    }
}

#[async_trait::async_trait]
impl Store for S3Store {
    fn uri(&self, key: &str) -> String {
        format!("s3://{}/{}", self.bucket, self.key(key))
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.to_owned());
        let pages = self.client.list_objects_v2().bucket(&self.bucket).prefix(self.key(&prefix));
        let pages = pages.into_paginator().send();
        // One page is asked for when the last is used up.
        stream::try_unfold((pages, store, prefix), |(mut pages, store, prefix)| async move {
            let Some(page) = pages.next().await else { return Ok(None) };
            let page = page.map_err(|error| store.failed("list", &prefix, error))?;
            let objects: Vec<_> =
                page.contents.unwrap_or_default().into_iter().filter_map(|o| listed(o, &store.prefix)).collect();
            Ok(Some((stream::iter(objects.into_iter().map(Ok)), (pages, store, prefix))))
        })
        .try_flatten()
        .boxed()
    }

    async fn head(&self, key: &str) -> StoreResult<ObjectMeta> {
        let sent = self.client.head_object().bucket(&self.bucket).key(self.key(key)).send().await;
        let head = sent.map_err(|error| self.failed("look at", key, error))?;
        Ok(ObjectMeta {
            key: key.to_owned(),
            size_bytes: head.content_length.unwrap_or_default().max(0) as u64,
            etag: bare(head.e_tag),
            last_modified: time(head.last_modified),
        })
    }

    async fn get_range(&self, key: &str, offset: u64, length: u64) -> StoreResult<RangeRead> {
        if length == 0 {
            return Ok(RangeRead { bytes: Bytes::new(), etag: self.head(key).await?.etag });
        }
        let (mut read, mut etag, mut retries) = (BytesMut::new(), None, 0);
        loop {
            let from = offset + read.len() as u64;
            let Some(output) = self.open_range(key, from, length - read.len() as u64).await? else {
                let etag = match etag {
                    Some(etag) => etag,
                    None => self.head(key).await?.etag,
                };
                return Ok(RangeRead { bytes: read.freeze(), etag });
            };
            let version = bare(output.e_tag);
            if etag.get_or_insert_with(|| version.clone()) != &version {
                let message = format!("{} changed while it was read", self.uri(key));
                return Err(StoreError { kind: StoreErrorKind::Changed, message, hint: None });
            }
            let mut body = output.body;
            let broken = loop {
                match body.try_next().await {
                    Ok(Some(bytes)) => read.extend_from_slice(&bytes),
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            };
            match broken {
                None => return Ok(RangeRead { bytes: read.freeze(), etag: version }),
                Some(error) if retries == BODY_RETRIES_MAX => {
                    let message = format!("failed to read {}: the answer broke off: {error}", self.uri(key));
                    return Err(StoreError { kind: StoreErrorKind::Unreachable, message, hint: None });
                }
                Some(_) if read.len() as u64 >= length => return Ok(RangeRead { bytes: read.freeze(), etag: version }),
                Some(error) => {
                    retries += 1;
                    tracing::debug!(key, %error, retries, "answer broke off, asking for the rest");
                }
            }
        }
    }

    async fn get(&self, key: &str) -> StoreResult<Bytes> {
        let size_bytes = self.head(key).await?.size_bytes;
        Ok(self.get_range(key, 0, size_bytes).await?.bytes)
    }

    async fn put(&self, key: &str, body: Bytes) -> StoreResult<()> {
        let request = self.client.put_object().bucket(&self.bucket).key(self.key(key));
        let sent = request.body(body.into()).send().await;
        sent.map(drop).map_err(|error| self.failed("write", key, error))
    }

    async fn put_new(&self, key: &str, body: Bytes) -> StoreResult<PutNew> {
        let mut conflicts = 0;
        loop {
            let request = self.client.put_object().bucket(&self.bucket).key(self.key(key)).if_none_match("*");
            let sent = request.body(body.clone().into()).send().await;
            let Err(error) = sent else { return Ok(PutNew::Created) };
            match error.raw_response().and_then(HttpStatus::status) {
                Some(412) => return Ok(PutNew::Exists),
                // Two such puts met and neither has won yet.
                Some(409) if conflicts < CONFLICT_RETRIES_MAX => {
                    conflicts += 1;
                    tokio::time::sleep(Duration::from_millis(100 << conflicts)).await;
                }
                _ => return Err(self.failed("write", key, error)),
            }
        }
    }

    async fn put_file(&self, key: &str, file: &Path) -> StoreResult<()> {
        let size_bytes = tokio::fs::metadata(file).await.map_err(|error| file_failed(file, &error))?.len();
        if size_bytes <= PART_BYTES {
            let body = ByteStream::from_path(file).await.map_err(|error| file_failed(file, &error))?;
            let sent = self.client.put_object().bucket(&self.bucket).key(self.key(key)).body(body).send().await;
            return sent.map(drop).map_err(|error| self.failed("write", key, error));
        }
        let sent = self.client.create_multipart_upload().bucket(&self.bucket).key(self.key(key)).send().await;
        let begun = sent.map_err(|error| self.failed("begin the upload of", key, error))?;
        let upload = begun.upload_id.unwrap_or_default();
        let result = self.upload_parts(key, file, size_bytes, &upload).await;
        if result.is_err() {
            let request = self.client.abort_multipart_upload().bucket(&self.bucket).key(self.key(key));
            // What it leaves, the bucket's lifecycle rule removes.
            let _ = request.upload_id(upload).send().await;
        }
        result
    }

    /// A copy on the server. One request copies up to 5 GiB; the tables' files are far smaller.
    async fn publish(&self, from: &str, to: &str) -> StoreResult<()> {
        let source = copy_source(&self.bucket, &self.key(from));
        let sent = self.client.copy_object().bucket(&self.bucket).key(self.key(to)).copy_source(source).send().await;
        let Err(error) = sent else { return Ok(()) };
        let error = self.failed("publish", from, error);
        if error.kind == StoreErrorKind::NotFound && self.head(to).await.is_ok() {
            return Ok(());
        }
        Err(error)
    }

    async fn delete(&self, keys: &[String]) -> StoreResult<()> {
        let invalid = |error: aws_sdk_s3::error::BuildError| StoreError {
            kind: StoreErrorKind::Other,
            message: format!("failed to delete from s3://{}: {error}", self.bucket),
            hint: None,
        };
        for keys in keys.chunks(DELETE_KEYS_MAX) {
            let object = |key: &String| ObjectIdentifier::builder().key(self.key(key)).build();
            let objects = keys.iter().map(object).collect::<Result<_, _>>().map_err(invalid)?;
            let delete = Delete::builder().set_objects(Some(objects)).quiet(true).build().map_err(invalid)?;
            let sent = self.client.delete_objects().bucket(&self.bucket).delete(delete).send().await;
            let done = sent.map_err(|error| self.failed("delete", &keys[0], error))?;
            if let Some(first) = done.errors.unwrap_or_default().into_iter().find(|e| e.code() != Some("NoSuchKey")) {
                let (code, key) = (first.code().unwrap_or_default(), first.key().unwrap_or_default());
                let denied = code == "AccessDenied";
                let kind = if denied { StoreErrorKind::AccessDenied } else { StoreErrorKind::Other };
                let message = format!("failed to delete s3://{}/{key}: {code}", self.bucket);
                return Err(StoreError { kind, message, hint: None });
            }
        }
        Ok(())
    }
}

/// An answer's HTTP status, where there was an answer.
trait HttpStatus {
    fn status(&self) -> Option<u16>;
}

impl HttpStatus for aws_sdk_s3::config::http::HttpResponse {
    fn status(&self) -> Option<u16> {
        Some(self.status().as_u16())
    }
}

type Diagnosis = (StoreErrorKind, String, &'static str);

fn unreachable(at: &str) -> Diagnosis {
    (
        StoreErrorKind::Unreachable,
        format!("no answer{at}"),
        "check endpoint in [store], the network, and that the server runs",
    )
}

fn no_credentials() -> Diagnosis {
    let hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the machine a role";
    (StoreErrorKind::AccessDenied, "no credentials were found".to_owned(), hint)
}

fn file_failed(file: &Path, error: &dyn std::error::Error) -> StoreError {
    let message = format!("failed to read {} for an upload: {error}", file.display());
    StoreError { kind: StoreErrorKind::Other, message, hint: None }
}

/// An object of a listing; none for the markers that consoles make for folders.
fn listed(object: Object, prefix: &str) -> Option<ObjectMeta> {
    let key = object.key?.strip_prefix(prefix)?.to_owned();
    if key.is_empty() || key.ends_with('/') {
        return None;
    }
    let size_bytes = object.size.unwrap_or_default().max(0) as u64;
    Some(ObjectMeta { key, size_bytes, etag: bare(object.e_tag), last_modified: time(object.last_modified) })
}

fn bare(etag: Option<String>) -> String {
    etag.unwrap_or_default().trim_matches('"').to_owned()
}

/// To the second: listings and single answers do not agree on more.
fn time(time: Option<aws_sdk_s3::primitives::DateTime>) -> DateTime<Utc> {
    time.and_then(|time| DateTime::from_timestamp(time.secs(), 0)).unwrap_or_default()
}

/// Bucket and key as a header of CopyObject takes them: percent-encoded but for the slashes.
fn copy_source(bucket: &str, key: &str) -> String {
    let mut source = format!("{bucket}/");
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            source.push(char::from(byte));
        } else {
            source.push_str(&format!("%{byte:02X}"));
        }
    }
    source
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copys_source_is_percent_encoded() {
        assert_eq!(copy_source("b", "dt=2026/a b+ü.parquet"), "b/dt%3D2026/a%20b%2B%C3%BC.parquet");
    }
}
