//! Deletions: many objects in a request, or one by one where the store has no such request.

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use futures::{StreamExt, TryStreamExt, stream};

use super::S3Store;
use super::failure::{self, Action};
use super::retry::retry;
use crate::store::{Store, StoreResult};

/// Keys in one `DeleteObjects`: S3's own limit.
const DELETE_KEYS_MAX: usize = 1000;

/// Single deletions at the same time.
const DELETES_AT_ONCE: usize = 16;

/// What became of a request that deletes many objects.
enum Together {
    Deleted,
    /// The store does not have the request.
    Unsupported,
}

impl S3Store {
    /// See [`Store::delete`].
    pub(super) async fn delete_all(&self, keys: &[String]) -> StoreResult<()> {
        for keys in keys.chunks(DELETE_KEYS_MAX) {
            match retry!(self.retry, self.delete_together(keys).await)? {
                Together::Deleted => {}
                Together::Unsupported => self.delete_each(keys).await?,
            }
        }
        Ok(())
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

    async fn delete_together(&self, keys: &[String]) -> StoreResult<Together> {
        let first = keys.first().map_or("", String::as_str);
        let objects = keys
            .iter()
            .map(|key| ObjectIdentifier::builder().key(self.full_key(key)).build())
            .collect::<Result<Vec<_>, _>>()
            .and_then(|objects| Delete::builder().set_objects(Some(objects)).quiet(true).build())
            .map_err(|error| self.place(&self.uri(first)).permanent(&error.to_string()))?;
        let reply = match self.quick.delete_objects().bucket(&self.bucket).delete(objects).send().await {
            Ok(reply) => reply,
            // Older compatibles require an MD5 header here, and some do not have the request.
            Err(error)
                if matches!(failure::status(&error), Some(405 | 501))
                    || matches!(error.code(), Some("MissingContentMD5" | "InvalidRequest" | "NotImplemented")) =>
            {
                tracing::debug!(
                    code = error.code(),
                    "the store cannot delete many objects at once, deleting one by one"
                );
                return Ok(Together::Unsupported);
            }
            Err(error) => return Err(self.failure(Action::Delete, first, &error)),
        };
        match reply.errors().iter().find(|error| error.code() != Some("NoSuchKey")) {
            None => Ok(Together::Deleted),
            Some(error) => {
                let uri = format!("s3://{}/{}", self.bucket, error.key().unwrap_or_default());
                let code = error.code().unwrap_or("no code");
                Err(self.place(&uri).refused(Action::Delete, code, None, error.message()))
            }
        }
    }
}
