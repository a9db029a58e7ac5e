//! Listings: pages, folders, and scans of several folders at once.

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::{OptionalObjectAttributes, RestoreStatus};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

use super::failure::Action;
use super::retry::retry;
use super::{S3Store, time, unquoted};
use crate::store::{FolderFilter, ObjectMeta, Scanned, Store, StoreResult, is_archive};

/// Folders listed at the same time.
const LISTS_MAX: usize = 16;

impl S3Store {
    /// See [`Store::list`].
    pub(super) fn list_pages(&self, prefix: &str) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        let first = Some(None);
        stream::try_unfold((self.clone(), prefix.to_owned(), first), async |(store, prefix, token)| {
            let Some(token) = token else { return Ok(None) };
            let page = store.page(Listed::Objects(&prefix), Option::<String>::as_deref(&token)).await?;
            let next = next_page(&page).map(Some);
            let objects = page.contents.unwrap_or_default();
            let objects: Vec<_> = objects.into_iter().filter_map(|object| store.describe(object)).map(Ok).collect();
            Ok(Some((stream::iter(objects), (store, prefix, next))))
        })
        .try_flatten()
        .boxed()
    }

    /// See [`Store::scan`]. The pages of a listing can only be requested one after the other, so this lists several folders at
    /// once: those of the first folder that has more than one, unless they are more than a page holds. `enter` is not asked
    /// about folders below these.
    pub(super) fn scan_folders(&self, enter: FolderFilter) -> BoxStream<'static, StoreResult<Scanned>> {
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

    /// See [`Store::folders`].
    pub(super) async fn list_folders(&self, prefix: &str) -> StoreResult<Vec<String>> {
        let below = self.full_key(prefix);
        let mut names = Vec::new();
        let mut token = None;
        loop {
            let page = self.page(Listed::Level(prefix), token.as_deref()).await?;
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

    /// Requests a page of a listing. The first has no token.
    async fn page(&self, listed: Listed<'_>, token: Option<&str>) -> StoreResult<ListObjectsV2Output> {
        let prefix = Some(self.full_key(listed.prefix())).filter(|prefix| !prefix.is_empty());
        let page = self
            .quick
            .list_objects_v2()
            .bucket(&self.bucket)
            .set_prefix(prefix)
            .optional_object_attributes(OptionalObjectAttributes::RestoreStatus)
            .set_delimiter(matches!(listed, Listed::Level(_)).then(|| "/".to_owned()))
            .set_continuation_token(token.map(ToOwned::to_owned));
        retry!(
            self.retry,
            page.clone().send().await.map_err(|error| self.failure(Action::List, listed.prefix(), &error))
        )
    }

    /// The objects and folders directly below a folder. None if they are more than a page holds.
    async fn level(&self, folder: &str) -> StoreResult<Option<(Vec<ObjectMeta>, Vec<String>)>> {
        let page = self.page(Listed::Level(folder), None).await?;
        if page.is_truncated() == Some(true) {
            return Ok(None);
        }
        let key =
            |folder: &aws_sdk_s3::types::CommonPrefix| folder.prefix()?.strip_prefix(&self.prefix).map(str::to_owned);
        let folders = page.common_prefixes().iter().filter_map(key).collect();
        let objects = page.contents.unwrap_or_default();
        Ok(Some((objects.into_iter().filter_map(|object| self.describe(object)).collect(), folders)))
    }

    /// None for the empty objects that consoles create to show folders.
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

/// What a listing lists.
#[derive(Debug, Clone, Copy)]
enum Listed<'a> {
    /// All objects below a prefix, which is relative to the store's root.
    Objects(&'a str),
    /// The objects and folders directly below it.
    Level(&'a str),
}

impl<'a> Listed<'a> {
    fn prefix(self) -> &'a str {
        match self {
            Self::Objects(prefix) | Self::Level(prefix) => prefix,
        }
    }
}

/// The token of the next page. None for the last page.
fn next_page(page: &ListObjectsV2Output) -> Option<String> {
    page.next_continuation_token().filter(|_| page.is_truncated() == Some(true)).map(ToOwned::to_owned)
}

/// The storage class, if the object must be restored before a read. GLACIER_IR can be read. A listing does not say which
/// objects of INTELLIGENT_TIERING are archived.
pub(super) fn archived(storage_class: Option<&str>, is_restored: bool) -> Option<String> {
    storage_class.filter(|class| is_archive(class) && !is_restored).map(str::to_owned)
}

fn is_restored(status: &RestoreStatus) -> bool {
    status.is_restore_in_progress() != Some(true) && status.restore_expiry_date().is_some()
}

fn size(length: Option<i64>) -> u64 {
    length.and_then(|length| u64::try_from(length).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::primitives::DateTime as SdkDateTime;

    use super::*;

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
}
