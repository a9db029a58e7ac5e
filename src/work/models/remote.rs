//! Models in a bucket. A version of a file is fetched once per machine and kept in the cache.
//!
//! Below the cache, `models/<hash of address and ETags>/` contains the model, its descriptor if there is one, and
//! `SHA256SUMS` (in the format of `sha256sum`), which the files are compared with whenever they are used.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::hash::hex;
use crate::store::{self, Store, StoreConfig, StoreErrorKind};
use crate::zoo::descriptor::Descriptor;
use crate::zoo::pull;

const SUMS: &str = "SHA256SUMS";

/// The path of a model's file. A model with the address of a bucket is fetched, unless this version of it is in the cache.
///
/// # Errors
/// If the bucket cannot be read, has no such file, or the cache cannot be written.
pub(super) async fn local(model: &Path, config: &StoreConfig) -> Result<PathBuf> {
    let text = model.to_string_lossy();
    if !text.contains("://") {
        return Ok(model.to_owned());
    }
    let parts = text.rsplit_once('/').filter(|(folder, name)| folder.starts_with("s3://") && !name.is_empty());
    let Some((folder, name)) = parts else {
        return Err(Error::usage(format!("`{text}` is not the address of a model"))
            .with_hint("give a path, or s3://bucket/folder/name.onnx"));
    };
    let store = store::open(&format!("{folder}/"), config).await?;
    fetch(&*store, name, &pull::cache()?.join("models")).await
}

/// Returns the path of `name` in the cache.
async fn fetch(store: &dyn Store, name: &str, cache: &Path) -> Result<PathBuf> {
    let described = Descriptor::path(Path::new(name)).to_string_lossy().into_owned();
    let model = store.head(name).await.map_err(|error| match error.kind {
        StoreErrorKind::NotFound => {
            Error::usage(error.to_string()).with_hint("upload it, with its .toml file if it has one")
        }
        _ => error.into(),
    })?;
    let descriptor = match store.head(&described).await {
        Ok(found) => Some(found),
        Err(error) if error.kind == StoreErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    let files: Vec<_> = std::iter::once(model).chain(descriptor).collect();
    let mut version = Sha256::new();
    version.update(store.uri(name));
    for file in &files {
        version.update(format!("\n{} {}", file.key, file.etag));
    }
    let folder = cache.join(&hex(&version.finalize())[..16]);
    if is_intact(&folder) {
        return Ok(folder.join(name));
    }
    let unwritable = |error: io::Error| {
        Error::failed(format!("{}: failed to write: {error}", folder.display()))
            .with_hint("set XDG_CACHE_HOME to a directory with free space")
    };
    std::fs::create_dir_all(cache).map_err(unwritable)?;
    let unfinished = tempfile::Builder::new().prefix(".fetching-").tempdir_in(cache).map_err(unwritable)?;
    let mut sums = String::new();
    for file in &files {
        let uri = store.uri(&file.key);
        let content = store.get_range(&file.key, 0, file.size_bytes).await?;
        if content.etag != file.etag || content.bytes.len() as u64 != file.size_bytes {
            return Err(Error::failed(format!("{uri} changed while it was read")).with_hint("run the command again"));
        }
        sums += &format!("{}  {}\n", hex(&Sha256::digest(&content.bytes)), file.key);
        write(unfinished.path().join(&file.key), content.bytes).await.map_err(unwritable)?;
        tracing::info!(model = uri, bytes = file.size_bytes, "model fetched");
    }
    write(unfinished.path().join(SUMS), sums.into()).await.map_err(unwritable)?;
    // What is left of a damaged version. It is not there in most cases.
    let _ = std::fs::remove_dir_all(&folder);
    match std::fs::rename(unfinished.path(), &folder) {
        Ok(()) => _ = unfinished.keep(),
        // Another process was faster.
        Err(_) if is_intact(&folder) => {}
        Err(error) => return Err(unwritable(error)),
    }
    Ok(folder.join(name))
}

async fn write(path: PathBuf, content: Bytes) -> io::Result<()> {
    tokio::task::spawn_blocking(move || std::fs::write(path, content)).await?
}

/// Whether the files have the sums that were recorded when they were fetched.
fn is_intact(folder: &Path) -> bool {
    let Ok(sums) = std::fs::read_to_string(folder.join(SUMS)) else { return false };
    let intact = sums.lines().all(|line| {
        let Some((sum, name)) = line.split_once("  ") else { return false };
        std::fs::read(folder.join(name)).is_ok_and(|content| hex(&Sha256::digest(content)) == sum)
    });
    if !intact {
        tracing::warn!("{}: the model differs from what was fetched, fetching it again", folder.display());
    }
    intact
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn a_version_is_fetched_once_and_again_if_its_copy_is_damaged() {
        let store = MemoryStore::bucket("s3://models/zoo/");
        store.insert("m.onnx", "weights");
        let cache = tempfile::tempdir().unwrap();
        let fetched = async || fetch(&store, "m.onnx", cache.path()).await.unwrap();
        let content = |path: &Path| std::fs::read_to_string(path).unwrap();

        let first = fetched().await;
        assert_eq!(content(&first), "weights");
        assert!(!first.with_extension("toml").exists());
        let read = store.fetched_bytes();
        assert_eq!(fetched().await, first);
        assert_eq!(store.fetched_bytes(), read, "nothing is fetched again");

        std::fs::write(&first, "w3ights").unwrap();
        assert_eq!(content(&fetched().await), "weights", "the damaged copy is replaced");

        store.insert("m.toml", "kind = 'slowfast'");
        let described = fetched().await;
        assert_ne!(described, first, "another version");
        assert_eq!(content(&described.with_extension("toml")), "kind = 'slowfast'");
        store.insert("m.onnx", "other weights");
        assert_eq!(content(&fetched().await), "other weights");
        let left: Vec<_> = std::fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 3, "no unfinished folder: {left:?}");
    }

    #[tokio::test]
    async fn what_is_no_address_of_a_model_is_refused() {
        for wrong in ["https://models.example/m.onnx", "s3://models/zoo/"] {
            let error = local(Path::new(wrong), &StoreConfig::default()).await.unwrap_err();
            assert_eq!(error.exit_code(), 2, "{error}");
        }
        let store = MemoryStore::bucket("s3://models/");
        let missing = fetch(&store, "m.onnx", Path::new("unused")).await.unwrap_err();
        assert_eq!(missing.exit_code(), 2, "{missing}");
        assert_eq!(
            local(Path::new("models/m.onnx"), &StoreConfig::default()).await.unwrap(),
            Path::new("models/m.onnx")
        );
    }
}
