//! Listing: finds the objects below the input, filters them by the job's rules, and determines their partition columns.

use std::collections::BTreeSet;

use chrono::{DateTime, SubsecRound, Utc};
use futures::TryStreamExt;
use futures::stream::BoxStream;

use super::Skipped;
use super::sift::{LeftOut, Sift};
use crate::error::Result;
use crate::job::Input;
use crate::run::{Todo, VideoObject};
use crate::store::{ObjectMeta, Scanned, Store};

/// Maximum number of warnings about single files and folders that cannot be listed.
const WARNINGS_MAX: u64 = 20;

/// What was found below an input besides videos.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) skipped: Skipped,
    /// Number of objects. Folder markers (keys that end in `/`), hidden objects, and what could not be listed are not
    /// included.
    pub(super) objects_seen: u64,
    pub(super) gaps: Gaps,
}

/// An object below the input that vidindex did not write.
pub(super) enum ListedObject<'a> {
    /// An object that the job includes.
    Video(VideoObject),
    /// An object that the job skips.
    LeftOut {
        /// Key relative to the input.
        key: &'a str,
    },
}

/// Filters the objects in `scanned` and passes each one to `take`. An empty object is a video too; its row will say
/// what is wrong with it.
pub(super) async fn list(
    job: &Input,
    sift: &Sift,
    mut scanned: BoxStream<'static, Result<Scanned>>,
    input: &dyn Store,
    mut take: impl FnMut(ListedObject<'_>, &mut Skipped) -> Result<()>,
) -> Result<Listing> {
    let mut listing = Listing::default();
    while let Some(scanned) = scanned.try_next().await? {
        let Listing { skipped, objects_seen, gaps } = &mut listing;
        let (key, found) = match scanned {
            Scanned::Object(ObjectMeta { key, .. }) if key.ends_with('/') => continue,
            Scanned::Object(ObjectMeta { key, size_bytes, etag, version_id, last_modified, archived }) => {
                (key, Found::Object { size_bytes, etag, version_id, last_modified, archived })
            }
            Scanned::NotEntered(key) => (key, Found::Refused),
            Scanned::Unlisted { key, reason } => (key, Found::Unlisted { reason }),
        };
        let is_folder = key.ends_with('/');
        let left_out = if is_folder { sift.folder(&key) } else { sift.object(&key) };
        if matches!(found, Found::Object { .. }) && left_out != Some(LeftOut::Hidden) {
            *objects_seen += 1;
        }
        match (left_out, found) {
            (Some(why), found) => {
                let group = match why {
                    LeftOut::OwnOutput => &mut skipped.own_output,
                    LeftOut::Hidden => &mut skipped.hidden,
                    LeftOut::Excluded => &mut skipped.excluded,
                    LeftOut::NotIncluded => &mut skipped.not_included,
                };
                group.add(&key, if let Found::Object { size_bytes, .. } = found { size_bytes } else { 0 });
                if why == LeftOut::NotIncluded {
                    skipped.extensions.add(&key);
                }
                if !is_folder && why != LeftOut::OwnOutput {
                    take(ListedObject::LeftOut { key: &key }, skipped)?;
                }
            }
            (None, Found::Object { size_bytes, etag, version_id, last_modified, archived }) => {
                let video = VideoObject {
                    uri: input.uri(&key),
                    partition: job.partition_of(&key),
                    key,
                    size_bytes,
                    etag,
                    // Inventory reports may have ids that the job does not want.
                    version_id: version_id.filter(|_| job.versions),
                    last_modified: last_modified.trunc_subsecs(6),
                    todo: match archived {
                        Some(storage_class) => Todo::MarkArchived { storage_class },
                        None => Todo::default(),
                    },
                };
                take(ListedObject::Video(video), skipped)?;
            }
            (None, Found::Unlisted { reason }) => {
                if skipped.unlisted.total() < WARNINGS_MAX {
                    tracing::warn!("skipped: {reason}");
                }
                skipped.unlisted.add(&key, 0);
                gaps.add(key);
            }
            // The scan skips folders by the same rules.
            (None, Found::Refused) => {}
        }
    }
    tracing::debug!(objects = listing.objects_seen, "listed the input");
    Ok(listing)
}

/// What a scan found at a key.
enum Found {
    Object {
        size_bytes: u64,
        etag: String,
        version_id: Option<String>,
        last_modified: DateTime<Utc>,
        archived: Option<String>,
    },
    /// A folder that the job skips.
    Refused,
    Unlisted {
        reason: String,
    },
}

/// The parts of the input that could not be listed.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    /// Keys of objects and of folders; those of folders end in `/`.
    keys: BTreeSet<String>,
    /// Whether there are more than can be stored, so that any object may be affected.
    everywhere: bool,
}

impl Gaps {
    /// Maximum number of stored keys, which take tens of megabytes.
    const KEYS_MAX: usize = 100_000;

    fn add(&mut self, key: String) {
        match self.keys.len() < Self::KEYS_MAX {
            true => drop(self.keys.insert(key)),
            false => self.everywhere = true,
        }
    }

    /// Whether the object may exist although it was not listed.
    pub(super) fn may_hold(&self, key: &str) -> bool {
        let folders = || key.match_indices('/').any(|(slash, _)| self.keys.contains(&key[..=slash]));
        self.everywhere || self.keys.contains(key) || (!self.keys.is_empty() && folders())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::job::Partition;
    use crate::plan::testing::{add, job};
    use crate::store::memory::MemoryStore;
    use futures::{StreamExt, stream};

    /// A listing and its videos.
    struct Listed {
        videos: Vec<VideoObject>,
        listing: Listing,
    }

    fn keys(listed: &Listed) -> Vec<&str> {
        let mut keys: Vec<_> = listed.videos.iter().map(|video| video.key.as_str()).collect();
        keys.sort_unstable();
        keys
    }

    async fn listed(input: &Input, objects: &[&str]) -> Listed {
        let store = MemoryStore::bucket("s3://archive/2026/");
        objects.iter().for_each(|key| add(&store, key, 10));
        list_all(input, &store, &MemoryStore::bucket("s3://index/")).await
    }

    async fn list_all(job: &Input, input: &MemoryStore, output: &MemoryStore) -> Listed {
        let scanned = input.list("").map_ok(Scanned::Object).collect::<Vec<_>>().await;
        list_scanned(job, input, output, scanned.into_iter().map(|scanned| scanned.unwrap()).collect()).await
    }

    async fn list_scanned(job: &Input, input: &MemoryStore, output: &MemoryStore, scanned: Vec<Scanned>) -> Listed {
        let mut videos = Vec::new();
        let take = |listed: ListedObject<'_>, _: &mut Skipped| {
            if let ListedObject::Video(video) = listed {
                videos.push(video);
            }
            Ok(())
        };
        let sift = Sift::new(job, input, output).unwrap();
        let scanned = stream::iter(scanned).map(Ok).boxed();
        let listing = list(job, &sift, scanned, input, take).await.unwrap();
        Listed { videos, listing }
    }

    #[tokio::test]
    async fn the_default_globs_take_video_extensions_in_any_case_at_any_depth() {
        let listed = listed(&job().input, &["a.mp4", "x/B.MKV", "x/y/c.MxF", "x/notes.txt", "x/", "mp4"]).await;
        assert_eq!(keys(&listed), ["a.mp4", "x/B.MKV", "x/y/c.MxF"]);
        assert_eq!(listed.listing.objects_seen, 5);
        assert_eq!(listed.listing.skipped.not_included.examples, ["mp4", "x/notes.txt"]);
    }

    #[tokio::test]
    async fn globs_follow_the_rules_of_ripgrep() {
        let globs = |include: &str, exclude: &str| Input {
            include: vec![include.to_owned()],
            exclude: vec![exclude.to_owned()],
            ..job().input
        };
        let objects = ["a.mp4", "x/a.mp4", "raw/a.mp4", "raw/y/a.mp4", "x/raw/a.mp4"];
        assert_eq!(keys(&listed(&globs("*.mp4", "raw/"), &objects).await), ["a.mp4", "x/a.mp4", "x/raw/a.mp4"]);
        assert_eq!(keys(&listed(&globs("/*.mp4", "none"), &objects).await), ["a.mp4"]);
        assert_eq!(keys(&listed(&globs("*/*.mp4", "/RAW/"), &objects).await), ["x/a.mp4"]);
        assert_eq!(
            keys(&listed(&globs("**/raw/**", "y"), &objects).await),
            ["raw/a.mp4", "raw/y/a.mp4", "x/raw/a.mp4"]
        );
    }

    #[tokio::test]
    async fn excluded_objects_are_counted_with_their_reason() {
        let input = Input { exclude: vec!["**/proxy/**".to_owned()], ..job().input };
        let listed = listed(&input, &["proxy/a.mp4", "b.mp4"]).await;
        assert_eq!(keys(&listed), ["b.mp4"]);
        assert_eq!((listed.listing.skipped.excluded.count, listed.listing.skipped.excluded.bytes), (1, 10));
    }

    #[tokio::test]
    async fn an_output_below_the_input_is_not_taken_for_videos() {
        let everything = Input { include: vec!["**".to_owned()], ..job().input };
        for (output, own) in [("s3://archive/2026/index/", 3), ("s3://archive/2026", 2), ("s3://archive/2026/in", 1)] {
            let input = MemoryStore::bucket("s3://archive/2026/");
            for key in ["index/videos/a.mp4", "index/x", "old/_vidindex/runs/r/job.json", "videos/dt=1/p.parquet"] {
                add(&input, key, 1);
            }
            let listed = list_all(&everything, &input, &MemoryStore::bucket(output)).await;
            assert_eq!(listed.listing.skipped.own_output.count, own, "{output}");
            assert_eq!(listed.videos.len() as u64 + own, 4, "{output}");
        }
    }

    #[tokio::test]
    async fn named_groups_become_partition_columns_and_null_where_they_do_not_match() {
        let partition = Partition::new("(?<camera>cam-[^/]+)/(?:hour-(?<hour>\\d+)/)?").unwrap();
        let input = Input { partition: Some(partition), ..job().input };
        let listed = listed(&input, &["site/cam-1/hour-07/a.mp4", "cam-2/b.mp4", "c.mp4"]).await;
        let mut paths: Vec<_> = listed.videos.iter().map(VideoObject::partition_path).collect();
        paths.sort_unstable();
        let null = "__HIVE_DEFAULT_PARTITION__";
        assert_eq!(
            paths,
            [
                format!("camera={null}/hour={null}/dt=2026-11-01"),
                "camera=cam-1/hour=07/dt=2026-11-01".to_owned(),
                format!("camera=cam-2/hour={null}/dt=2026-11-01"),
            ]
        );
    }

    #[tokio::test]
    async fn an_empty_object_is_a_video_too() {
        let store = MemoryStore::bucket("s3://archive/2026/");
        add(&store, "empty.mp4", 0);
        let listed = list_all(&job().input, &store, &MemoryStore::bucket("s3://index/")).await;
        assert_eq!(keys(&listed), ["empty.mp4"]);
        assert_eq!(listed.videos[0].uri, "s3://archive/2026/empty.mp4");
    }

    #[tokio::test]
    async fn what_cannot_be_listed_is_counted_unless_the_job_skips_it_anyway() {
        let unlisted = |key: &str| Scanned::Unlisted { key: key.to_owned(), reason: "no".to_owned() };
        let (input, output) = (MemoryStore::bucket("s3://archive/2026/"), MemoryStore::bucket("s3://index/"));
        let scanned = [
            unlisted("locked/"),
            unlisted("bad.mp4"),
            unlisted("notes.txt"),
            unlisted("lost+found/"),
            Scanned::NotEntered(".git/".to_owned()),
        ];
        let Listing { skipped, objects_seen, gaps } =
            list_scanned(&job().input, &input, &output, scanned.to_vec()).await.listing;
        assert_eq!((skipped.unlisted.folders, skipped.unlisted.count), (1, 1));
        assert_eq!(skipped.unlisted.examples, ["bad.mp4", "locked/"]);
        assert_eq!((skipped.hidden.folders, skipped.not_included.count, objects_seen), (2, 1, 0));
        for key in ["bad.mp4", "locked/a.mp4", "locked/b/c.mp4"] {
            assert!(gaps.may_hold(key), "{key}");
        }
        for key in ["good.mp4", "lock/a.mp4", "x/locked/a.mp4", "bad.mp4/x", "notes.txt"] {
            assert!(!gaps.may_hold(key), "{key}");
        }
    }

    #[test]
    fn too_many_gaps_cover_the_whole_input() {
        let mut gaps = Gaps::default();
        (0..=Gaps::KEYS_MAX).for_each(|n| gaps.add(format!("{n}/")));
        assert!(gaps.may_hold("elsewhere.mp4") && gaps.keys.len() == Gaps::KEYS_MAX);
    }
}
