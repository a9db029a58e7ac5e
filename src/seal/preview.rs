//! The output as it will be after [`super::catch_up`], for dry runs, which write nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use super::awaiting;
use crate::error::Result;
use crate::run::RunKind;
use crate::run::commit::read_commit;
use crate::store::{ObjectMeta, PutNew, RangeRead, Store, StoreErrorKind, StoreResult};
use crate::tables::Table;

/// Shows files of `videos` that unfinished runs committed as if they were published.
#[derive(Debug)]
pub struct Preview {
    inner: Arc<dyn Store>,
    /// Keys where the files will be, with the objects that they are now.
    moved: BTreeMap<String, ObjectMeta>,
}

impl Preview {
    /// Reads what runs of this kind committed and no seal has published.
    ///
    /// # Errors
    /// As for [`super::seal`].
    pub async fn of(output: Arc<dyn Store>, kind: RunKind<'_>) -> Result<Self> {
        let mut moved = BTreeMap::new();
        for (record, committed) in awaiting(&*output, |record| record.kind() == kind).await? {
            let run_id = record.run_id.as_str();
            let mut shards = 0;
            for shard in committed {
                let Some(commit) = read_commit(&*output, run_id, shard).await? else { continue };
                for part in commit.parts.into_iter().filter(|part| part.table == Table::Videos) {
                    if is_there(&*output, &part.to).await?.is_none()
                        && let Some(object) = is_there(&*output, &part.from).await?
                    {
                        moved.insert(part.to, object);
                        shards += 1;
                    }
                }
            }
            if shards > 0 {
                tracing::info!(run_id, shards, "a run would first publish what this one committed");
            }
        }
        Ok(Self { inner: output, moved })
    }

    fn place<'a>(&'a self, key: &'a str) -> &'a str {
        self.moved.get(key).map_or(key, |object| &object.key)
    }
}

async fn is_there(output: &dyn Store, key: &str) -> StoreResult<Option<ObjectMeta>> {
    match output.head(key).await {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.kind == StoreErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[async_trait::async_trait]
impl Store for Preview {
    fn uri(&self, key: &str) -> String {
        self.inner.uri(key)
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        let moved = self.moved.iter().filter(|(key, _)| key.starts_with(prefix));
        let moved: Vec<_> = moved.map(|(key, object)| Ok(ObjectMeta { key: key.clone(), ..object.clone() })).collect();
        self.inner.list(prefix).chain(stream::iter(moved)).boxed()
    }

    async fn folders(&self, prefix: &str) -> StoreResult<Vec<String>> {
        let mut folders = self.inner.folders(prefix).await?;
        let below = self.moved.keys().filter_map(|key| Some(key.strip_prefix(prefix)?.split_once('/')?.0.to_owned()));
        folders.extend(below);
        folders.sort_unstable();
        folders.dedup();
        Ok(folders)
    }

    async fn head(&self, key: &str) -> StoreResult<ObjectMeta> {
        self.inner.head(self.place(key)).await
    }

    async fn get_range(&self, key: &str, offset: u64, length: u64) -> StoreResult<RangeRead> {
        self.inner.get_range(self.place(key), offset, length).await
    }

    async fn get(&self, key: &str) -> StoreResult<Bytes> {
        self.inner.get(self.place(key)).await
    }

    async fn put(&self, key: &str, body: Bytes) -> StoreResult<()> {
        self.inner.put(key, body).await
    }

    async fn put_new(&self, key: &str, body: Bytes) -> StoreResult<PutNew> {
        self.inner.put_new(key, body).await
    }

    async fn put_file(&self, key: &str, file: &Path) -> StoreResult<()> {
        self.inner.put_file(key, file).await
    }

    async fn publish(&self, from: &str, to: &str) -> StoreResult<()> {
        self.inner.publish(from, to).await
    }

    async fn delete(&self, keys: &[String]) -> StoreResult<()> {
        self.inner.delete(keys).await
    }
}
