//! Which video of the index a video of the truth is.

use std::collections::{BTreeMap, HashMap};

use super::Uri;
use super::truth::{self, VideoTruth};
use crate::error::{Error, Result};

/// The videos that are in the index. They are matched by the names of their files, and by their folders if several files have
/// the same name.
pub(super) fn matched<'a>(truth: &'a [VideoTruth], uris: &'a [Uri]) -> Result<Vec<(&'a str, &'a VideoTruth)>> {
    let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let mut by_name = HashMap::<String, Vec<(String, &str)>>::new();
    for Uri { uri } in uris {
        let path = truth::plain_path(uri);
        by_name.entry(name(&path)).or_default().push((path, uri));
    }
    let mut found = BTreeMap::<&str, &VideoTruth>::new();
    for video in truth {
        for path in &video.paths {
            let Some(same_name) = by_name.get(&name(path)) else { continue };
            let in_folder: Vec<_> = same_name.iter().filter(|(of, _)| of.ends_with(&format!("/{path}"))).collect();
            let uri = match (&in_folder[..], &same_name[..]) {
                ([(_, uri)], _) | ([], [(_, uri)]) => *uri,
                ([], several) => return Err(ambiguous(path, several.iter())),
                (several, _) => return Err(ambiguous(path, several.iter().copied())),
            };
            if let Some(other) = found.insert(uri, video)
                && !std::ptr::eq(other, video)
            {
                let paths = format!("{} and {}", other.paths.join(" or "), video.paths.join(" or "));
                return Err(Error::usage(format!("the truth has two videos that {uri} can be: {paths}")));
            }
        }
    }
    Ok(found.into_iter().collect())
}

fn ambiguous<'a>(path: &str, several: impl Iterator<Item = &'a (String, &'a str)>) -> Error {
    let uris: Vec<&str> = several.take(2).map(|(_, uri)| *uri).collect();
    Error::usage(format!("{path} can be two videos of the index: {}", uris.join(" and ")))
        .with_hint("write more of their paths into the truth")
}
