//! Walks a directory tree in the order of names. Follows links, does not open folders that the caller refuses, and does not
//! stop at files that cannot be read.

use std::ffi::OsString;
use std::fs::{self, FileType, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::TEMPORARY;
use super::failure::{absent, failure};
use super::files::describe;
use crate::store::{ObjectMeta, StoreError, StoreResult};

/// What a walk finds. The key of a folder ends in `/`.
pub(super) enum Met {
    Object(ObjectMeta),
    /// A folder that the caller refused.
    NotEntered(String),
    /// A folder that could not be read to its end, or a file whose metadata could not be read.
    Unlisted {
        key: String,
        error: StoreError,
    },
    /// A file or folder whose name is not UTF-8. Its key has replacement characters. A folder is not walked.
    NotUtf8 {
        key: String,
        path: PathBuf,
    },
}

/// A folder whose entries are being visited.
struct Level {
    folder: PathBuf,
    /// Empty, or ends in `/`.
    key: String,
    entries: std::vec::IntoIter<Entry>,
}

struct Entry {
    name: OsString,
    /// Of the entry itself, which can be a link. None if the file system does not know it.
    file_type: Option<FileType>,
}

/// Passes everything below `folder`, whose key is `key` (empty, or ending in `/`), to `visit` until that returns false.
///
/// # Errors
/// `folder` itself cannot be read.
pub(super) fn walk(
    folder: PathBuf,
    key: &str,
    enter: &dyn Fn(&str) -> bool,
    visit: &mut dyn FnMut(Met) -> bool,
) -> StoreResult<()> {
    let (first, broken) = open(folder.clone(), key.to_owned()).map_err(|error| failure("list", &folder, &error))?;
    if let Some(error) = broken {
        return Err(failure("list", &folder, &error));
    }
    let mut levels = vec![first];
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.entries.next() else {
            levels.pop();
            continue;
        };
        let met = meet(&mut levels, entry, enter);
        if met.is_some_and(|met| !visit(met)) {
            break;
        }
    }
    Ok(())
}

/// What an entry of the last level is. None if there is nothing to report. A folder that can be opened becomes the next level.
fn meet(levels: &mut Vec<Level>, Entry { name, file_type }: Entry, enter: &dyn Fn(&str) -> bool) -> Option<Met> {
    if name.as_encoded_bytes().starts_with(TEMPORARY.as_bytes()) {
        return None;
    }
    let level = levels.last()?;
    let path = level.folder.join(&name);
    let key = format!("{}{}", level.key, name.to_string_lossy());
    let is_utf8 = name.to_str().is_some();
    // A folder is not accessed before `enter` accepts it.
    let target = match file_type.is_some_and(|file_type| file_type.is_dir()) {
        true => None,
        false => match fs::metadata(&path) {
            Ok(target) => Some(target),
            Err(error) if leads_nowhere(&error) => {
                // If it is not a link, it was deleted since its folder was read.
                if path.is_symlink() {
                    tracing::warn!(path = %path.display(), "skipped a link that leads nowhere");
                }
                return None;
            }
            Err(error) => return Some(Met::Unlisted { key, error: failure("list", &path, &error) }),
        },
    };
    if let Some(file) = target.as_ref().filter(|target| !target.is_dir()) {
        return match is_utf8 {
            _ if !file.is_file() => None,
            true => Some(Met::Object(describe(key, file))),
            false => Some(Met::NotUtf8 { key, path }),
        };
    }
    let key = format!("{key}/");
    if !enter(&key) {
        return Some(Met::NotEntered(key));
    }
    if !is_utf8 {
        return Some(Met::NotUtf8 { key, path });
    }
    if target.is_some_and(|folder| is_among(&folder, levels)) {
        tracing::warn!(path = %path.display(), "skipped a link to a directory that contains it");
        return None;
    }
    let unlisted = |key, error: &io::Error| Some(Met::Unlisted { key, error: failure("list", &path, error) });
    match open(path.clone(), key.clone()) {
        Ok((level, broken)) => {
            levels.push(level);
            broken.and_then(|error| unlisted(key, &error))
        }
        Err(error) if absent(&error) => None,
        Err(error) => unlisted(key, &error),
    }
}

/// Reads a folder's entries. If reading fails in the middle, returns the error together with the entries so far.
fn open(folder: PathBuf, key: String) -> io::Result<(Level, Option<io::Error>)> {
    let (mut entries, mut broken) = (Vec::new(), None);
    for entry in fs::read_dir(&folder)? {
        match entry {
            Ok(entry) => entries.push(Entry { name: entry.file_name(), file_type: entry.file_type().ok() }),
            Err(error) => broken = Some(error),
        }
    }
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok((Level { folder, key, entries: entries.into_iter() }, broken))
}

/// Whether the walk is inside this folder. A link to it would be followed forever.
fn is_among(folder: &Metadata, levels: &[Level]) -> bool {
    levels.iter().any(|level| {
        fs::metadata(&level.folder).is_ok_and(|above| (above.dev(), above.ino()) == (folder.dev(), folder.ino()))
    })
}

fn leads_nowhere(error: &io::Error) -> bool {
    absent(error) || error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}
