//! Local paths in a job file are relative to the file.

use std::path::{Component, Path, PathBuf};

/// A path of a job file, for a process that runs in the current directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    /// The path: relative to the current directory if it is below it, otherwise absolute.
    pub(super) path: String,
    /// What to tell the user about the way in which versions before 0.2 read it, if that makes a difference.
    pub(super) warning: Option<String>,
}

/// Resolves `text`, an address of a store or a path, in a job file in `folder`.
pub(super) fn resolve(folder: &Path, text: &str) -> Resolved {
    let unchanged = || Resolved { path: text.to_owned(), warning: None };
    if text.contains("://") || Path::new(text).is_absolute() {
        return unchanged();
    }
    let here = std::env::current_dir().and_then(|here| here.canonicalize());
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let (Ok(here), Ok(folder)) = (here, folder.canonicalize()) else { return unchanged() };
    if here == folder {
        return unchanged();
    }
    let new = joined(&folder, text);
    let new = new.strip_prefix(&here).unwrap_or(&new);
    let new = if new.as_os_str().is_empty() { Path::new(".") } else { new };
    let [old_place, new_place] = [Path::new(text), new].map(|path| path.canonicalize().ok());
    let Some(new) = new.to_str() else { return unchanged() };
    if old_place.is_none() || old_place == new_place {
        return Resolved { path: new.to_owned(), warning: None };
    }
    if new_place.is_some() {
        let warning = format!(
            "`{text}` is {new}, relative to the job file; up to version 0.1 it was relative to the working directory"
        );
        return Resolved { path: new.to_owned(), warning: Some(warning) };
    }
    let old = from(&folder, &joined(&here, text));
    let warning = format!(
        "there is no {new}, so `{text}` is relative to the working directory, as up to version 0.1; later versions will not \
         look there: write \"{}\"",
        old.display()
    );
    Resolved { path: text.to_owned(), warning: Some(warning) }
}

/// Joins a path to a directory that has no symbolic links, without `.` and `..` where possible.
fn joined(folder: &Path, text: &str) -> PathBuf {
    let mut path = folder.to_owned();
    for component in Path::new(text).components() {
        match component {
            Component::CurDir => {}
            // Only components of the directory are removed: others may be symbolic links.
            Component::ParentDir if folder.starts_with(&path) => _ = path.pop(),
            component => path.push(component),
        }
    }
    path
}

/// The shortest way from a directory to a path: relative, unless they only have the root in common.
fn from(folder: &Path, path: &Path) -> PathBuf {
    let common = folder.components().zip(path.components()).take_while(|(a, b)| a == b).count();
    if common <= 1 {
        return path.to_owned();
    }
    let up = folder.components().skip(common).map(|_| Component::ParentDir);
    let way: PathBuf = up.chain(path.components().skip(common)).collect();
    if way.as_os_str().is_empty() { ".".into() } else { way }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_and_shortened() {
        for (folder, text, path) in [
            ("/a/b", "c", "/a/b/c"),
            ("/a/b", "../c", "/a/c"),
            ("/a/b", "../../../c", "/c"),
            ("/a/b", "./c/../d", "/a/b/c/../d"),
        ] {
            assert_eq!(joined(Path::new(folder), text), Path::new(path), "{folder} {text}");
        }
        for (folder, path, way) in [
            ("/a/b", "/a/b/c", "c"),
            ("/a/b", "/a/c", "../c"),
            ("/a/b", "/a/b", "."),
            ("/a/b", "/a", ".."),
            ("/a/b", "/c/d", "/c/d"),
        ] {
            assert_eq!(from(Path::new(folder), Path::new(path)), Path::new(way), "{folder} {path}");
        }
    }
}
