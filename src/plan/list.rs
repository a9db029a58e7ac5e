//! Listing: the objects below the input, sifted by the job's globs, each given its partition columns.

use chrono::SubsecRound;
use futures::TryStreamExt;
use futures::stream::BoxStream;

use super::{Skipped, Todo, VideoObject};
use crate::error::Result;
use crate::job::{Input, glob_set};
use crate::store::{ObjectMeta, Store};

/// What is below an input besides videos.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) skipped: Skipped,
    /// Folder markers (keys that end in `/`) are not counted.
    pub(super) objects_seen: u64,
}

/// An object below the input that is not our own.
pub(super) enum ListedObject<'a> {
    /// One that the job wants.
    Video(VideoObject),
    /// One that its globs leave out.
    LeftOut {
        /// Relative to the input.
        key: &'a str,
    },
}

/// Sifts the objects below `input`; gives each to `take`. An empty object is a video too: its row will say what is
/// wrong with it.
pub(super) async fn list(
    job: &Input,
    mut objects: BoxStream<'static, Result<ObjectMeta>>,
    input: &dyn Store,
    output: &dyn Store,
    mut take: impl FnMut(ListedObject<'_>, &mut Skipped) -> Result<()>,
) -> Result<Listing> {
    let include = glob_set(&job.include)?;
    let exclude = glob_set(&job.exclude)?;
    let own = OwnOutput::of(input, output);
    let mut listing = Listing::default();
    while let Some(object) = objects.try_next().await? {
        let ObjectMeta { key, size_bytes, etag, last_modified, archived } = object;
        if key.ends_with('/') {
            continue;
        }
        listing.objects_seen += 1;
        let skipped = &mut listing.skipped;
        if own.holds(&key) {
            skipped.own_output.add(&key, size_bytes);
        } else if !include.is_match(&key) {
            skipped.not_included.add(&key, size_bytes);
            take(ListedObject::LeftOut { key: &key }, skipped)?;
        } else if exclude.is_match(&key) {
            skipped.excluded.add(&key, size_bytes);
            take(ListedObject::LeftOut { key: &key }, skipped)?;
        } else {
            let video = VideoObject {
                uri: input.uri(&key),
                partition: job.partition_of(&key),
                key,
                size_bytes,
                etag,
                last_modified: last_modified.trunc_subsecs(6),
                todo: match archived {
                    Some(storage_class) => Todo::MarkArchived { storage_class },
                    None => Todo::default(),
                },
            };
            take(ListedObject::Video(video), skipped)?;
        }
    }
    tracing::debug!(objects = listing.objects_seen, "listed the input");
    Ok(listing)
}

/// Tells what vidindex wrote from what it is to read, where the output lies below the input or is the same place.
struct OwnOutput {
    /// The output's key prefix within the input, ending in `/`; empty where they are the same place.
    prefix: Option<String>,
}

impl OwnOutput {
    fn of(input: &dyn Store, output: &dyn Store) -> Self {
        let (input, output) = (input.uri(""), output.uri(""));
        let below = output.trim_end_matches('/').strip_prefix(input.trim_end_matches('/'));
        let prefix = match below {
            Some("") => Some(String::new()),
            Some(rest) => rest.strip_prefix('/').map(|rest| format!("{}/", rest.trim_start_matches('/'))),
            None => None,
        };
        Self { prefix }
    }

    fn holds(&self, key: &str) -> bool {
        // Whatever lies in `_vidindex/` is a run's state, this job's or another's.
        if key.split('/').any(|part| part == "_vidindex") {
            return true;
        }
        match self.prefix.as_deref() {
            None => false,
            // The archive's own objects lie here too: only the tables' files are ours.
            Some("") => {
                key.ends_with(".parquet")
                    && ["videos/", "actions/", "persons/"].iter().any(|table| key.starts_with(table))
            }
            Some(prefix) => key.starts_with(prefix),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::job::Partition;
    use crate::plan::testing::{MemoryStore, job};
    use futures::StreamExt;

    /// A listing together with its videos.
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
        let store = MemoryStore::new("s3://archive/2026/");
        objects.iter().for_each(|key| store.add(key, 10));
        list_all(input, &store, &MemoryStore::new("s3://index/")).await
    }

    async fn list_all(job: &Input, input: &MemoryStore, output: &MemoryStore) -> Listed {
        let objects = input.list("").map_err(Error::from).boxed();
        let mut videos = Vec::new();
        let take = |listed: ListedObject<'_>, _: &mut Skipped| {
            if let ListedObject::Video(video) = listed {
                videos.push(video);
            }
            Ok(())
        };
        let listing = list(job, objects, input, output, take).await.unwrap();
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
            let input = MemoryStore::new("s3://archive/2026/");
            for key in ["index/videos/a.mp4", "index/x", "old/_vidindex/runs/r/job.json", "videos/dt=1/p.parquet"] {
                input.add(key, 1);
            }
            let listed = list_all(&everything, &input, &MemoryStore::new(output)).await;
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
        let store = MemoryStore::new("s3://archive/2026/");
        store.add("empty.mp4", 0);
        let listed = list_all(&job().input, &store, &MemoryStore::new("s3://index/")).await;
        assert_eq!(keys(&listed), ["empty.mp4"]);
        assert_eq!(listed.videos[0].uri, "s3://archive/2026/empty.mp4");
    }
}
