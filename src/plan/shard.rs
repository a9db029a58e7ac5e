//! Divides videos that come in a fixed order into shards of similar size.

/// Maximum number of videos in a shard, however small they are, so that a worker's memory per shard stays bounded.
const VIDEOS_MAX: u64 = 10_000;

/// The weight of a video in a shard: its bytes, but at least so much that [`VIDEOS_MAX`] videos fill a shard.
fn weight(size_bytes: u64, shard_bytes: u64) -> u64 {
    size_bytes.max(shard_bytes.max(1).div_ceil(VIDEOS_MAX))
}

/// The total of what is to be divided.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Load {
    weight: u128,
}

impl Load {
    /// Counts a video.
    pub(super) fn add(&mut self, size_bytes: u64, shard_bytes: u64) {
        self.weight += u128::from(weight(size_bytes, shard_bytes));
    }
}

/// Assigns videos one by one to shards of about `shard_bytes`.
///
/// The total weight determines the number of sections, and each section covers an equal part of the cumulative weight.
/// A video belongs to the section in which it starts, so a shard exceeds its goal by at most its last video. A section
/// in which no video starts produces no shard.
#[derive(Debug)]
pub(super) struct ShardCutter {
    shard_bytes: u64,
    total: u128,
    stretches: u128,
    before: u128,
    current: Option<u128>,
    shards: u64,
    shard_size: u64,
    largest: u64,
}

impl ShardCutter {
    pub(super) fn new(load: Load, shard_bytes: u64) -> Self {
        let stretches = load.weight.div_ceil(u128::from(shard_bytes.max(1))).max(1);
        let total = load.weight;
        Self { shard_bytes, total, stretches, before: 0, current: None, shards: 0, shard_size: 0, largest: 0 }
    }

    /// The shard of the next video, from 0 without gaps.
    pub(super) fn place(&mut self, size_bytes: u64) -> u64 {
        let stretch = (self.before * self.stretches).checked_div(self.total);
        self.before += u128::from(weight(size_bytes, self.shard_bytes));
        if self.current != stretch {
            self.current = stretch;
            self.shards += 1;
            self.shard_size = 0;
        }
        self.shard_size += size_bytes;
        self.largest = self.largest.max(self.shard_size);
        self.shards - 1
    }

    /// Number of shards so far.
    pub(super) fn shards(&self) -> u64 {
        self.shards
    }

    /// Bytes of the largest shard so far.
    pub(super) fn largest(&self) -> u64 {
        self.largest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The sizes of the videos in each shard.
    fn cut(sizes: &[u64], shard_bytes: u64) -> Vec<Vec<u64>> {
        let mut load = Load::default();
        sizes.iter().for_each(|size| load.add(*size, shard_bytes));
        let mut cutter = ShardCutter::new(load, shard_bytes);
        let mut shards: Vec<Vec<u64>> = Vec::new();
        for size in sizes {
            let shard = usize::try_from(cutter.place(*size)).unwrap_or(usize::MAX);
            assert!(shard == shards.len() || shard + 1 == shards.len(), "shards follow each other");
            if shard == shards.len() {
                shards.push(Vec::new());
            }
            shards[shard].push(*size);
        }
        assert_eq!(cutter.shards(), shards.len() as u64);
        assert_eq!(cutter.largest(), shards.iter().map(|shard| shard.iter().sum()).max().unwrap_or(0));
        shards
    }

    /// Sizes from 0 to more than a shard.
    fn sizes() -> impl Strategy<Value = Vec<u64>> {
        prop::collection::vec(prop_oneof![Just(0_u64), 1_u64..1000, 1000_u64..20_000], 0..120)
    }

    proptest! {
        #[test]
        fn every_video_is_in_exactly_one_shard_and_no_shard_is_empty(sizes in sizes(), goal in 1_u64..30_000) {
            let shards = cut(&sizes, goal);
            prop_assert_eq!(shards.concat(), sizes);
            prop_assert!(shards.iter().all(|shard| !shard.is_empty()));
        }

        #[test]
        fn no_shard_is_larger_than_its_goal_and_one_video(sizes in sizes(), goal in 1_u64..30_000) {
            let shards = cut(&sizes, goal);
            let weights: u64 = sizes.iter().map(|size| weight(*size, goal)).sum();
            prop_assert!(shards.len() as u64 <= weights.div_ceil(goal).max(1));
            for shard in shards {
                let last = shard.last().copied().unwrap_or(0);
                prop_assert!(shard.iter().sum::<u64>() - last <= goal);
            }
        }

        #[test]
        fn no_shard_has_more_videos_than_the_most(
            sizes in prop::collection::vec(0_u64..30, 0..40_000),
            goal in 1_u64..300_000,
        ) {
            prop_assert!(cut(&sizes, goal).iter().all(|shard| shard.len() as u64 <= VIDEOS_MAX));
        }

        #[test]
        fn small_videos_make_shards_of_like_size(count in 100_usize..400, shards in 2_u64..10) {
            let cut = cut(&vec![10; count], (count as u64 * 10).div_ceil(shards));
            let sizes = cut.iter().map(|shard| shard.iter().sum::<u64>());
            let (least, most) = (sizes.clone().min().unwrap_or(0), sizes.max().unwrap_or(0));
            prop_assert!(most - least <= 20, "{least} to {most}");
        }
    }

    #[test]
    fn many_tiny_files_are_divided_by_count() {
        let counts: Vec<_> = cut(&[0; 25_000], 4 << 30).iter().map(Vec::len).collect();
        assert_eq!(counts, [8334, 8333, 8333]);
    }

    #[test]
    fn without_videos_there_are_no_shards() {
        assert!(cut(&[], 1).is_empty());
    }

    #[test]
    fn a_video_larger_than_a_shard_ends_its_shard() {
        assert_eq!(cut(&[5, 10_000, 5], 10), [vec![5, 10_000], vec![5]]);
    }
}
