//! Downloads official checkpoints into a cache. Interrupted downloads are resumed. The SHA-256 of the first download is
//! recorded and later downloads are checked against it.
//!
//! Beside a checkpoint `NAME`, the cache contains `NAME.sha256` (in the format of `sha256sum`) and, while the download
//! is incomplete, `NAME.part` and `NAME.part.from`, which records the source of the part.

mod http;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use reqwest::Url;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::hash::hex;
use crate::telemetry::Transfer;
use crate::zoo::registry::Official;

/// The directory of checkpoints: `vidindex` in `$XDG_CACHE_HOME`, or in `~/.cache` by default.
///
/// # Errors
/// If neither `XDG_CACHE_HOME` nor `HOME` is set.
pub fn cache() -> Result<PathBuf> {
    let folder = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    caches
        .map(|caches| caches.join("vidindex"))
        .ok_or_else(|| Error::usage("no directory for checkpoints: neither XDG_CACHE_HOME nor HOME is set"))
}

/// A source that replaces the publishers' servers. It has files of the same names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mirror {
    /// A URL that begins with `http://` or `https://`.
    Url(String),
    /// A directory, or the directory of a `file://` URL.
    Directory(PathBuf),
}

impl std::str::FromStr for Mirror {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong =
            || Error::usage(format!("`{text}` is not a mirror: give http(s)://..., file:///... or a directory"));
        if !text.contains("://") {
            return if text.is_empty() { Err(wrong()) } else { Ok(Self::Directory(text.into())) };
        }
        let url = Url::parse(text).map_err(|_| wrong())?;
        match url.scheme() {
            "http" | "https" => Ok(Self::Url(format!("{}/", text.trim_end_matches('/')))),
            "file" => url.to_file_path().map(Self::Directory).map_err(|()| wrong()),
            _ => Err(wrong()),
        }
    }
}

/// Returns the checkpoint's path in the cache. Downloads the checkpoint first if it is not there.
///
/// # Errors
/// If the download fails, or if the file differs from the first download; then nothing is replaced.
pub async fn pull(
    official: &Official,
    mirror: Option<&Mirror>,
    cache: &Path,
    transfer: &mut Transfer,
) -> Result<PathBuf> {
    std::fs::create_dir_all(cache).map_err(|error| unwritable(cache, &error))?;
    let file = cache.join(official.file);
    if file.exists() {
        let sha256 = sha256(&file).await?;
        verify(&file, &sha256, "the file")?;
        return Ok(file);
    }
    let part = Part::open(&file)?;
    let source = match mirror {
        Some(Mirror::Directory(directory)) => {
            let source = directory.join(official.file);
            copy(&source, &part).await?;
            source.display().to_string()
        }
        Some(Mirror::Url(base)) => http::download(&format!("{base}{}", official.file), &part, transfer).await?,
        None => http::download(&format!("{}{}", official.base, official.file), &part, transfer).await?,
    };
    let sha256 = sha256(&part.path).await?;
    if let Err(error) = verify(&file, &sha256, &format!("the file from {source}")) {
        part.delete();
        return Err(error);
    }
    std::fs::rename(&part.path, &file).map_err(|error| unwritable(&file, &error))?;
    // A leftover file does no harm.
    let _ = std::fs::remove_file(&part.from);
    tracing::info!(file = %file.display(), sha256, "checkpoint downloaded");
    Ok(file)
}

/// An incomplete file that this process has locked.
struct Part {
    path: PathBuf,
    /// Path of the file that records the source.
    from: PathBuf,
    /// The open file, which holds the lock.
    file: File,
}

impl Part {
    fn open(whole: &Path) -> Result<Self> {
        let beside = |ending: &str| PathBuf::from(format!("{}{ending}", whole.display()));
        let (path, from) = (beside(".part"), beside(".part.from"));
        let open = || File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = open().map_err(|error| unwritable(&path, &error))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path, from, file }),
            Err(std::fs::TryLockError::WouldBlock) => {
                Err(Error::failed(format!("{}: another process is downloading it", path.display())))
            }
            Err(std::fs::TryLockError::Error(error)) => Err(unwritable(&path, &error)),
        }
    }

    /// Deletes the incomplete file and its source record.
    fn delete(&self) {
        for path in [&self.path, &self.from] {
            // A download without a source record is not resumed, and a missing file needs no deletion.
            let _ = std::fs::remove_file(path);
        }
    }
}

async fn copy(source: &Path, part: &Part) -> Result<()> {
    let copied = tokio::fs::copy(source, &part.path).await;
    copied.map(drop).map_err(|error| Error::failed(format!("{}: failed to copy: {error}", source.display())))
}

/// Compares the SHA-256 of `what` with the recorded one, or records it if there is no record yet.
fn verify(file: &Path, sha256: &str, what: &str) -> Result<()> {
    let record = PathBuf::from(format!("{}.sha256", file.display()));
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    match std::fs::read_to_string(&record) {
        Ok(text) => match text.split_whitespace().next() {
            Some(recorded) if recorded == sha256 => Ok(()),
            recorded => Err(Error::failed(format!(
                "{}: {what} has the SHA-256 {sha256}, but {} was recorded at the first download",
                file.display(),
                recorded.unwrap_or("nothing")
            ))
            .with_hint(format!("if the new file is right, delete {} (and {name}, if it exists)", record.display()))),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            super::write_whole(&record, format!("{sha256}  {name}\n").as_bytes())
        }
        Err(error) => Err(Error::failed(format!("{}: failed to read: {error}", record.display()))),
    }
}

/// The SHA-256 of a file, in hex.
async fn sha256(path: &Path) -> Result<String> {
    let owned = path.to_owned();
    let digest = tokio::task::spawn_blocking(move || -> io::Result<String> {
        let mut hash = Sha256::new();
        let mut file = File::open(owned)?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hex(&hash.finalize())),
                length => hash.update(&buffer[..length]),
            }
        }
    });
    let read = digest.await.map_err(io::Error::other).flatten();
    read.map_err(|error| Error::failed(format!("{}: failed to read: {error}", path.display())))
}

fn unwritable(path: &Path, error: &io::Error) -> Error {
    Error::failed(format!("{}: failed to write: {error}", path.display()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_a_url_or_a_directory() {
        let parse = |text: &str| text.parse::<Mirror>();
        assert_eq!(parse("https://m.example/zoo").unwrap(), Mirror::Url("https://m.example/zoo/".into()));
        assert_eq!(parse("http://m.example/zoo/").unwrap(), Mirror::Url("http://m.example/zoo/".into()));
        assert_eq!(parse("file:///srv/my%20zoo").unwrap(), Mirror::Directory("/srv/my zoo".into()));
        assert_eq!(parse("../zoo").unwrap(), Mirror::Directory("../zoo".into()));
        for wrong in ["", "ftp://m.example/", "https://"] {
            assert_eq!(parse(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }
}
