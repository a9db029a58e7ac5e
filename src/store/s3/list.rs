//! Listings: pages, folders, and scans of several folders at once.

use aws_sdk_s3::types::{CommonPrefix, Object, ObjectVersion, OptionalObjectAttributes, RestoreStatus};
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
        stream::try_unfold((self.clone(), prefix.to_owned(), first), async |(store, prefix, from)| {
            let Some(from) = from else { return Ok(None) };
            let page = store.page(Listed::Objects(&prefix), from).await?;
            let objects = stream::iter(page.objects.into_iter().map(Ok));
            Ok(Some((objects, (store, prefix, page.next.map(Some)))))
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
                let page = store.page(Listed::Level(&folder), None).await?;
                if page.next.is_some() {
                    let list = store.list(&folder).map_ok(Scanned::Object);
                    return Ok(stream::iter(beside).map(Ok).chain(list).boxed());
                }
                let (mut folders, refused): (Vec<_>, Vec<_>) =
                    page.folders.into_iter().partition(|folder| enter(folder));
                beside.extend(page.objects.into_iter().map(Scanned::Object));
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
        let mut names = Vec::new();
        let mut from = None;
        loop {
            let page = self.page(Listed::Level(prefix), from).await?;
            let name = |folder: &String| Some(folder.strip_prefix(prefix)?.trim_end_matches('/').to_owned());
            names.extend(page.folders.iter().filter_map(name));
            from = page.next;
            if from.is_none() {
                return Ok(names);
            }
        }
    }

    /// Requests a page of a listing, the first if `from` is `None`.
    async fn page(&self, listed: Listed<'_>, from: Option<Next>) -> StoreResult<Page> {
        let prefix = Some(self.full_key(listed.prefix())).filter(|prefix| !prefix.is_empty());
        let delimiter = matches!(listed, Listed::Level(_)).then(|| "/".to_owned());
        let attributes = OptionalObjectAttributes::RestoreStatus;
        let next = from.unwrap_or_default();
        if self.versions {
            let request = self.quick.list_object_versions().bucket(&self.bucket).set_prefix(prefix);
            let request = request.optional_object_attributes(attributes).set_delimiter(delimiter);
            let request = request.set_key_marker(next.key).set_version_id_marker(next.version_id);
            let page = retry!(
                self.retry,
                request.clone().send().await.map_err(|error| self.failure(Action::List, listed.prefix(), &error))
            )?;
            let is_truncated = page.is_truncated() == Some(true);
            return Ok(Page {
                next: is_truncated.then(|| Next {
                    key: page.next_key_marker().map(str::to_owned),
                    version_id: page.next_version_id_marker().map(str::to_owned),
                }),
                folders: page.common_prefixes().iter().filter_map(|folder| self.folder(folder)).collect(),
                objects: page.versions().iter().filter_map(|version| self.describe_version(version)).collect(),
            });
        }
        let request = self.quick.list_objects_v2().bucket(&self.bucket).set_prefix(prefix);
        let request = request.optional_object_attributes(attributes).set_delimiter(delimiter);
        let request = request.set_continuation_token(next.key);
        let page = retry!(
            self.retry,
            request.clone().send().await.map_err(|error| self.failure(Action::List, listed.prefix(), &error))
        )?;
        let next = page.next_continuation_token().filter(|_| page.is_truncated() == Some(true));
        Ok(Page {
            next: next.map(|token| Next { key: Some(token.to_owned()), version_id: None }),
            folders: page.common_prefixes().iter().filter_map(|folder| self.folder(folder)).collect(),
            objects: page.contents().iter().filter_map(|object| self.describe(object)).collect(),
        })
    }

    fn folder(&self, folder: &CommonPrefix) -> Option<String> {
        folder.prefix()?.strip_prefix(&self.prefix).map(str::to_owned)
    }

    /// The key relative to the store's root. None for the empty objects that consoles create to show folders.
    fn key(&self, key: Option<&str>) -> Option<String> {
        let key = key?.strip_prefix(self.prefix.as_str())?;
        (!key.is_empty() && !key.ends_with('/')).then(|| key.to_owned())
    }

    fn describe(&self, object: &Object) -> Option<ObjectMeta> {
        Some(ObjectMeta {
            key: self.key(object.key())?,
            size_bytes: size(object.size()),
            etag: unquoted(object.e_tag()),
            version_id: None,
            last_modified: time(object.last_modified()),
            archived: archived(
                object.storage_class().map(|class| class.as_str()),
                object.restore_status().is_some_and(is_restored),
            ),
        })
    }

    /// None for versions that are not the newest. If the newest is a delete marker, none of the versions is.
    fn describe_version(&self, version: &ObjectVersion) -> Option<ObjectMeta> {
        if version.is_latest() != Some(true) {
            return None;
        }
        Some(ObjectMeta {
            key: self.key(version.key())?,
            size_bytes: size(version.size()),
            etag: unquoted(version.e_tag()),
            version_id: version.version_id().map(str::to_owned),
            last_modified: time(version.last_modified()),
            archived: archived(
                version.storage_class().map(|class| class.as_str()),
                version.restore_status().is_some_and(is_restored),
            ),
        })
    }
}

/// A page of a listing.
struct Page {
    objects: Vec<ObjectMeta>,
    /// The folders of [`Listed::Level`], relative to the store's root, ending in `/`.
    folders: Vec<String>,
    /// Where the next page begins. None for the last page.
    next: Option<Next>,
}

/// Where a page begins: a token, or a key and a version.
#[derive(Default)]
struct Next {
    key: Option<String>,
    version_id: Option<String>,
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
