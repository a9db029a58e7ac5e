//! Uploads of files: small ones in one request, large ones in parallel parts.

use std::path::Path;

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::{ByteStream, Length};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use futures::{StreamExt, TryStreamExt, stream};

use super::S3Store;
use super::failure::{self, Action};
use super::retry::retry;
use crate::store::{Store, StoreError, StoreErrorKind, StoreResult};

/// The largest file that is uploaded in one request, and the minimum size of a part.
const PART_BYTES: u64 = 16 << 20;

/// S3's limit on the parts of an upload.
const PARTS_MAX: u64 = 10_000;

/// Parts uploaded at the same time. They are streamed from the disk and not held in memory.
const PARTS_AT_ONCE: usize = 4;

impl S3Store {
    /// See [`Store::put_file`]. If the process is killed, the parts of its upload stay until the bucket's lifecycle rule for
    /// incomplete uploads removes them.
    pub(super) async fn upload(&self, key: &str, file: &Path) -> StoreResult<()> {
        let size =
            tokio::fs::metadata(file).await.map_err(|error| self.unreadable(key, file, &error.to_string()))?.len();
        if size <= PART_BYTES {
            return retry!(self.retry, self.put_small(key, file).await);
        }
        let begin = self.quick.create_multipart_upload().bucket(&self.bucket).key(self.full_key(key));
        let begun =
            retry!(self.retry, begin.clone().send().await.map_err(|error| self.failure(Action::Write, key, &error)))?;
        let upload_id = begun.upload_id().unwrap_or_default();
        let done = match self.upload_parts(key, file, size, upload_id).await {
            Ok(parts) => self.complete(key, size, upload_id, parts).await,
            Err(error) => Err(error),
        };
        if done.is_err() {
            let abort = self.quick.abort_multipart_upload().bucket(&self.bucket).key(self.full_key(key));
            if let Err(error) = abort.upload_id(upload_id).send().await {
                let error = self.failure(Action::Write, key, &error);
                tracing::warn!(uri = self.uri(key), %error, "failed to abort an upload, its parts stay");
            }
        }
        done
    }

    async fn put_small(&self, key: &str, file: &Path) -> StoreResult<()> {
        let body = ByteStream::from_path(file).await.map_err(|error| self.unreadable(key, file, &error.to_string()))?;
        let put = self.slow.put_object().bucket(&self.bucket).key(self.full_key(key)).body(body);
        put.send().await.map(drop).map_err(|error| self.failure(Action::Write, key, &error))
    }

    async fn upload_parts(
        &self,
        key: &str,
        file: &Path,
        size: u64,
        upload_id: &str,
    ) -> StoreResult<Vec<CompletedPart>> {
        let part_bytes = size.div_ceil(PARTS_MAX).max(PART_BYTES);
        let mut parts: Vec<CompletedPart> = stream::iter((1..).zip(0..size.div_ceil(part_bytes)))
            .map(|(number, index)| async move {
                let offset = index * part_bytes;
                let length = part_bytes.min(size - offset);
                retry!(self.retry, self.upload_part(key, file, (offset, length), upload_id, number).await)
            })
            .buffer_unordered(PARTS_AT_ONCE)
            .try_collect()
            .await?;
        parts.sort_by_key(CompletedPart::part_number);
        Ok(parts)
    }

    async fn upload_part(
        &self,
        key: &str,
        file: &Path,
        (offset, length): (u64, u64),
        upload_id: &str,
        number: i32,
    ) -> StoreResult<CompletedPart> {
        let body = ByteStream::read_from().path(file).offset(offset).length(Length::Exact(length)).build().await;
        let body = body.map_err(|error| self.unreadable(key, file, &error.to_string()))?;
        let part = self.slow.upload_part().bucket(&self.bucket).key(self.full_key(key)).upload_id(upload_id);
        let part = part.part_number(number).body(body).send().await;
        let part = part.map_err(|error| self.failure(Action::Write, key, &error))?;
        Ok(CompletedPart::builder().part_number(number).set_e_tag(part.e_tag).build())
    }

    async fn complete(&self, key: &str, size: u64, upload_id: &str, parts: Vec<CompletedPart>) -> StoreResult<()> {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let complete = self.slow.complete_multipart_upload().bucket(&self.bucket).key(self.full_key(key));
        let complete = complete.upload_id(upload_id).multipart_upload(parts);
        let completed = retry!(
            self.retry,
            match complete.clone().send().await {
                Ok(_) => Ok(Completed::Confirmed),
                // Either the answer to an earlier attempt was lost, or a compatible confirms in a way that the SDK does not
                // understand.
                Err(error)
                    if error.code() == Some("NoSuchUpload")
                        || (error.code().is_none() && failure::status(&error) == Some(200)) =>
                {
                    Ok(Completed::Unclear(self.failure(Action::Write, key, &error)))
                }
                Err(error) => Err(self.failure(Action::Write, key, &error)),
            }
        )?;
        match completed {
            Completed::Unclear(error) if !self.head(key).await.is_ok_and(|object| object.size_bytes == size) => {
                Err(error)
            }
            _ => Ok(()),
        }
    }

    fn unreadable(&self, key: &str, file: &Path, said: &str) -> StoreError {
        StoreError {
            kind: StoreErrorKind::Refused,
            message: format!("failed to write {}: {} cannot be read: {said}", self.uri(key), file.display()),
            hint: None,
        }
    }
}

/// The answer to the completion of an upload.
enum Completed {
    Confirmed,
    /// The size of the object decides.
    Unclear(StoreError),
}
