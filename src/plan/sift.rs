//! Decides which objects and folders of the input a job includes, and why it skips the others.

use globset::GlobSet;

use crate::error::Result;
use crate::job::{Input, folder_glob_set, glob_set};
use crate::store::Store;
use crate::tables::Table;

/// Folders that operating systems and storage devices create, ignoring case. Names that begin with a dot are hidden as
/// well.
const SYSTEM_NAMES: [&str; 7] =
    ["#recycle", "#snapshot", "$RECYCLE.BIN", "@eaDir", "@Recycle", "lost+found", "System Volume Information"];

/// Why an object or a folder is skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeftOut {
    /// vidindex wrote it.
    OwnOutput,
    /// Its name, or that of a folder above it, begins with a dot or is in [`SYSTEM_NAMES`].
    Hidden,
    /// An `exclude` glob matches.
    Excluded,
    /// No `include` glob matches. Applies only to objects.
    NotIncluded,
}

/// The job's rules for its input.
#[derive(Debug)]
pub(super) struct Sift {
    include: GlobSet,
    exclude: GlobSet,
    /// Globs that match folders in which `exclude` matches everything.
    excluded_folders: GlobSet,
    hidden: bool,
    /// The output's key prefix within the input, ending in `/`. Empty if both are the same location.
    output_prefix: Option<String>,
}

impl Sift {
    pub(super) fn new(job: &Input, input: &dyn Store, output: &dyn Store) -> Result<Self> {
        let (input, output) = (input.uri(""), output.uri(""));
        let below = output.trim_end_matches('/').strip_prefix(input.trim_end_matches('/'));
        let output_prefix = match below {
            Some("") => Some(String::new()),
            Some(rest) => rest.strip_prefix('/').map(|rest| format!("{}/", rest.trim_start_matches('/'))),
            None => None,
        };
        Ok(Self {
            include: glob_set(&job.include)?,
            exclude: glob_set(&job.exclude)?,
            excluded_folders: folder_glob_set(&job.exclude)?,
            hidden: job.hidden,
            output_prefix,
        })
    }

    /// Why the object is skipped. `None` if the job includes it.
    pub(super) fn object(&self, key: &str) -> Option<LeftOut> {
        self.by_name(key).or_else(|| {
            if self.exclude.is_match(key) {
                Some(LeftOut::Excluded)
            } else if !self.include.is_match(key) {
                Some(LeftOut::NotIncluded)
            } else {
                None
            }
        })
    }

    /// Why everything in the folder is skipped, given its key, which ends in `/`. `None` if something in it may be
    /// included.
    pub(super) fn folder(&self, key: &str) -> Option<LeftOut> {
        let excluded = || self.excluded_folders.is_match(key.trim_end_matches('/')).then_some(LeftOut::Excluded);
        self.by_name(key).or_else(excluded)
    }

    /// Whether the object is in a folder that is skipped, which a scan need not list.
    pub(super) fn lies_left_out(&self, key: &str) -> bool {
        key.match_indices('/').any(|(slash, _)| self.folder(&key[..=slash]).is_some())
    }

    /// The reasons that apply to both objects and folders.
    fn by_name(&self, key: &str) -> Option<LeftOut> {
        if self.is_own(key) {
            Some(LeftOut::OwnOutput)
        } else if !self.hidden && key.split('/').any(is_hidden) {
            Some(LeftOut::Hidden)
        } else {
            None
        }
    }

    fn is_own(&self, key: &str) -> bool {
        // Everything below `_vidindex/` is the state of a run, of this job or another.
        if key.split('/').any(|part| part == "_vidindex") {
            return true;
        }
        match self.output_prefix.as_deref() {
            None => false,
            // The archive's own objects are in the same location, so only the files of the tables are ours.
            Some("") => {
                let table = key.split('/').next().unwrap_or_default();
                key.ends_with(".parquet") && Table::ALL.into_iter().any(|own| own.directory() == table)
            }
            Some(prefix) => key.starts_with(prefix),
        }
    }
}

fn is_hidden(name: &str) -> bool {
    // In a bucket, `.` and `..` are ordinary parts of a key.
    let dotted = name.starts_with('.') && !matches!(name, "." | "..");
    dotted || SYSTEM_NAMES.iter().any(|system| system.eq_ignore_ascii_case(name))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::plan::testing::job;
    use crate::store::memory::MemoryStore;
    use proptest::prelude::*;

    fn sift(change: impl FnOnce(&mut Input)) -> Sift {
        let mut input = job().input;
        change(&mut input);
        Sift::new(&input, &MemoryStore::bucket("s3://archive/"), &MemoryStore::bucket("s3://index/")).unwrap()
    }

    #[test]
    fn hidden_and_system_names_are_skipped_anywhere_unless_requested() {
        let usual = sift(|_| {});
        for key in [
            ".Trashes/501/a.mp4",
            "cam-1/._a.mp4",
            "cam-1/@eaDir/a.mp4/SYNOVIDEO_TEXT.mp4",
            "lost+found/#1234.mp4",
            "LOST+FOUND/a.mp4",
            "$Recycle.Bin/S-1-5/a.mp4",
        ] {
            assert_eq!(usual.object(key), Some(LeftOut::Hidden), "{key}");
            assert_eq!(sift(|input| input.hidden = true).object(key), None, "{key}");
        }
        assert_eq!(usual.folder("a/.git/"), Some(LeftOut::Hidden));
        assert!(usual.lies_left_out("a/.git/b/c.mp4") && !usual.lies_left_out("a/.hidden.mp4"));
        for key in ["./a.mp4", "a/../b.mp4", "a.b/c.d.mp4", "found/a.mp4", "my lost+found/a.mp4"] {
            assert_eq!(usual.object(key), None, "{key}");
        }
    }

    #[test]
    fn only_folders_with_all_objects_excluded_are_refused() {
        for (glob, refused, entered) in [
            ("raw/", &["raw/", "RAW/", "raw/x/"][..], &["x/raw/", "raws/"][..]),
            ("/raw/", &["raw/"], &["x/raw/"]),
            ("**/proxy/**", &["proxy/", "a/b/proxy/"], &["proxies/"]),
            ("*/tmp/**/*", &["a/tmp/"], &["tmp/", "a/b/tmp/"]),
            ("{a,b}/", &["a/", "b/"], &["c/"]),
            ("**", &["a/", "a/b/"], &[]),
            ("raw", &[], &["raw/"]),
            ("raw/*", &[], &["raw/"]),
            ("*.mp4", &[], &["a.mp4/"]),
            ("**//", &[], &["a/", "a/b/"]),
        ] {
            let sift = sift(|input| input.exclude = vec![glob.to_owned()]);
            let is_refused =
                |folder: &&&str| sift.folder(folder) == Some(LeftOut::Excluded) || sift.lies_left_out(folder);
            assert_eq!(refused.iter().find(|folder| !is_refused(folder)), None, "{glob}");
            assert_eq!(entered.iter().find(is_refused), None, "{glob}");
        }
    }

    proptest! {
        #[test]
        fn nothing_in_a_refused_folder_would_be_included(
            globs in prop::collection::vec("(/|\\*\\*/)?[ab*?{},./]{1,6}(/|/\\*\\*|/\\*\\*/\\*)?", 1..3),
            folder in "([ab.]{1,2}/){1,3}",
            rest in "([ab.]{1,2}/){0,2}[ab]{1,2}\\.mp4",
        ) {
            let input = Input { exclude: globs, include: vec!["**".to_owned()], ..job().input };
            let stores = (MemoryStore::bucket("s3://archive/"), MemoryStore::bucket("s3://index/"));
            let Ok(sift) = Sift::new(&input, &stores.0, &stores.1) else { return Ok(()) };
            if sift.folder(&folder).is_some() {
                let key = format!("{folder}{rest}");
                prop_assert!(sift.object(&key).is_some());
            }
        }
    }
}
