//! Cutting: the videos in a fixed order, cut where the bytes run full.

use super::{Shard, VideoObject};

/// No shard holds more videos than this, however small they are: what a worker keeps for a shard stays bounded.
const VIDEOS_MAX: usize = 10_000;

/// Cuts `videos` into shards of about `shard_bytes`, the same ones in whatever order the videos come.
///
/// There are as many as the bytes need, and each gets an equal stretch of the bytes laid end to end: a video belongs
/// to the stretch that it starts in, so no shard is larger than that stretch and its last video. A stretch in which
/// none starts makes no shard.
pub(super) fn cut(mut videos: Vec<VideoObject>, shard_bytes: u64) -> Vec<Shard> {
    // Videos of one partition lie together, so that a shard writes few files. The key decides last: it is unique.
    videos.sort_by_cached_key(|video| (video.partition_path(), video.key.clone()));
    let total: u128 = videos.iter().map(|video| u128::from(video.size_bytes)).sum();
    let stretches = total.div_ceil(u128::from(shard_bytes.max(1))).max(1);

    let mut runs: Vec<Vec<VideoObject>> = Vec::new();
    let mut current = None;
    let mut before: u128 = 0;
    for video in videos {
        // Empty videos at the very end start at `total`: they go with the last stretch.
        let stretch = (before * stretches).checked_div(total).unwrap_or(0).min(stretches - 1);
        before += u128::from(video.size_bytes);
        match runs.last_mut() {
            Some(run) if current == Some(stretch) => run.push(video),
            _ => runs.push(vec![video]),
        }
        current = Some(stretch);
    }
    runs.into_iter().flat_map(split_evenly).zip(0..).map(|(videos, index)| Shard { index, videos }).collect()
}

/// Keeps to [`VIDEOS_MAX`], in pieces of like count.
fn split_evenly(videos: Vec<VideoObject>) -> Vec<Vec<VideoObject>> {
    let pieces = videos.len().div_ceil(VIDEOS_MAX);
    if pieces <= 1 {
        return vec![videos];
    }
    let each = videos.len().div_ceil(pieces);
    let mut videos = videos.into_iter();
    (0..pieces).map(|_| videos.by_ref().take(each).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::video;
    use proptest::prelude::*;

    /// Distinct keys over a few days and cameras, sizes from nothing to more than a shard.
    fn archive() -> impl Strategy<Value = Vec<VideoObject>> {
        let size = prop_oneof![Just(0_u64), 1_u64..1000, 1000_u64..20_000];
        prop::collection::vec((size, 0_u32..3, 0_u32..3), 0..120).prop_map(|videos| {
            videos
                .into_iter()
                .enumerate()
                .map(|(n, (size_bytes, camera, day))| VideoObject {
                    last_modified: chrono::DateTime::UNIX_EPOCH + chrono::Duration::days(i64::from(day)),
                    partition: vec![("camera".to_owned(), camera.to_string())],
                    ..video(&format!("{camera}/{n}.mp4"), size_bytes)
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn every_video_is_in_exactly_one_shard_and_no_shard_is_empty(videos in archive(), size in 1_u64..30_000) {
            let shards = cut(videos.clone(), size);
            let mut cut_keys: Vec<_> = shards.iter().flat_map(|s| &s.videos).map(|v| v.key.clone()).collect();
            let mut keys: Vec<_> = videos.iter().map(|v| v.key.clone()).collect();
            cut_keys.sort_unstable();
            keys.sort_unstable();
            prop_assert_eq!(cut_keys, keys);
            prop_assert!(shards.iter().all(|shard| !shard.videos.is_empty()));
            prop_assert!(shards.iter().zip(0..).all(|(shard, index)| shard.index == index));
        }

        #[test]
        fn the_order_of_the_listing_does_not_matter(
            (videos, shuffled) in archive().prop_flat_map(|v| (Just(v.clone()), Just(v).prop_shuffle())),
            size in 1_u64..30_000,
        ) {
            prop_assert_eq!(cut(videos, size), cut(shuffled, size));
        }

        #[test]
        fn no_shard_is_larger_than_its_goal_and_one_video(videos in archive(), size in 1_u64..30_000) {
            let total: u64 = videos.iter().map(|v| v.size_bytes).sum();
            let shards = cut(videos, size);
            prop_assert!(shards.len() as u64 <= total.div_ceil(size).max(1));
            for shard in shards {
                let last = shard.videos.last().map_or(0, |v| v.size_bytes);
                prop_assert!(shard.size_bytes() - last <= size);
            }
        }

        #[test]
        fn small_videos_make_shards_of_like_size(count in 100_usize..400, shards in 2_u64..10) {
            let videos = (0..count).map(|n| video(&n.to_string(), 10)).collect();
            let cut = cut(videos, (count as u64 * 10).div_ceil(shards));
            let sizes = cut.iter().map(Shard::size_bytes);
            let (least, most) = (sizes.clone().min().unwrap_or(0), sizes.max().unwrap_or(0));
            prop_assert!(most - least <= 20, "{least} to {most}");
        }

        #[test]
        fn rows_of_a_shard_are_in_the_order_of_partition_and_key(videos in archive(), size in 1_u64..30_000) {
            let order: Vec<_> = cut(videos, size)
                .into_iter()
                .flat_map(|shard| shard.videos)
                .map(|video| (video.partition_path(), video.key))
                .collect();
            prop_assert!(order.is_sorted());
        }
    }

    #[test]
    fn a_multitude_of_tiny_files_is_cut_by_count() {
        let videos = (0..25_000).map(|n| video(&format!("{n:05}"), 0)).collect();
        let counts: Vec<_> = cut(videos, 4 << 30).iter().map(|shard| shard.videos.len()).collect();
        assert_eq!(counts, [8334, 8334, 8332]);
    }

    #[test]
    fn no_videos_make_no_shards() {
        assert!(cut(Vec::new(), 1).is_empty());
    }

    #[test]
    fn a_video_larger_than_a_shard_ends_its_shard() {
        let videos = vec![video("a", 5), video("b", 10_000), video("c", 5)];
        let ids: Vec<_> = cut(videos, 10).iter().map(|s| (s.id(), s.videos.len())).collect();
        assert_eq!(ids, [("000000".to_owned(), 2), ("000001".to_owned(), 1)]);
    }
}
