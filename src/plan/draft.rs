//! The videos that a run takes, while they are collected: sorted on the scratch disk, divided into shards, sampled.

use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

use super::shard::{Load, ShardCutter};
use super::sort::Sorter;
use super::{Group, Why};
use crate::error::{Error, Result};
use crate::run::VideoObject;
use crate::run::plan_file::PlanWriter;
use crate::scratch::Scratch;
use crate::store::Store;

/// Number of videos to index that are kept as a sample.
const SAMPLE_MAX: usize = 64;

/// Listed videos that are not assigned to shards yet.
pub(super) struct Draft {
    scratch: Scratch,
    sorter: Sorter,
    shard_bytes: u64,
    load: Load,
    pub(super) videos: u64,
    pub(super) bytes: u64,
    pub(super) taken: BTreeMap<Why, Group>,
    /// Up to [`SAMPLE_MAX`] of the videos to read, those with the lowest hashes.
    sample: Vec<(u64, VideoObject)>,
    list: Option<BufWriter<File>>,
}

/// The videos of all shards, in a scratch file.
#[derive(Debug)]
pub(super) struct Arranged {
    pub(super) table: PathBuf,
    pub(super) shards: u32,
    pub(super) largest_shard_bytes: u64,
    /// Earliest and latest modification time of the videos.
    pub(super) modified: Option<(DateTime<Utc>, DateTime<Utc>)>,
    pub(super) sample: Vec<VideoObject>,
    /// A line for each video, if they are to be listed.
    pub(super) list: Option<PathBuf>,
    /// Contains `table`.
    _scratch: Scratch,
}

impl Draft {
    /// With `list`, every video gets a line in a scratch file.
    pub(super) fn new(shard_bytes: u64, list: bool) -> Result<Self> {
        let scratch = Scratch::new()?;
        let sorter = Sorter::new(scratch.path())?;
        let list = match list {
            true => Some(BufWriter::new(File::create(list_in(&scratch)).map_err(|error| cannot_list(&error))?)),
            false => None,
        };
        let (taken, sample) = (BTreeMap::new(), Vec::new());
        Ok(Self { scratch, sorter, shard_bytes, load: Load::default(), videos: 0, bytes: 0, taken, sample, list })
    }

    /// The place of temporary files.
    pub(super) fn scratch_dir(&self) -> &Path {
        self.scratch.path()
    }

    /// Adds a video that the run takes for this reason. `settings` are as in [`Why::reason`].
    pub(super) fn add(&mut self, video: &VideoObject, why: Why, settings: &[String]) -> Result<()> {
        self.load.add(video.bytes_to_read(), self.shard_bytes);
        self.videos += 1;
        self.bytes += video.bytes_to_read();
        self.taken.entry(why).or_default().add(&video.key, video.size_bytes);
        if let Some(list) = &mut self.list {
            writeln!(list, "{}\t{}\t{}", why.word(), video.key, why.reason(settings))
                .map_err(|error| cannot_list(&error))?;
        }
        if video.bytes_to_read() > 0 {
            let mut hasher = DefaultHasher::new();
            video.uri.hash(&mut hasher);
            let hash = hasher.finish();
            let at = self.sample.partition_point(|(other, _)| *other < hash);
            if at < SAMPLE_MAX {
                self.sample.insert(at, (hash, video.clone()));
                self.sample.truncate(SAMPLE_MAX);
            }
        }
        self.sorter.push(video)
    }

    /// Sorts the videos by partition and then by key, which is unique, and assigns them to shards. A shard covers few
    /// partitions, and so writes few files. The shards do not depend on the order of the listing.
    pub(super) fn arrange(self, input: &dyn Store) -> Result<Arranged> {
        let mut table = PlanWriter::new(self.scratch.path())?;
        let mut cutter = ShardCutter::new(self.load, self.shard_bytes);
        let mut modified: Option<(DateTime<Utc>, DateTime<Utc>)> = None;
        let too_many = |_| Error::usage("the plan has too many shards: increase run.shard_bytes");
        let mut sorted = self.sorter.finish()?;
        while let Some(video) = sorted.next(input)? {
            let at = video.last_modified;
            modified = modified.map(|(first, last)| (first.min(at), last.max(at))).or(Some((at, at)));
            // The table stores shard numbers as signed 32-bit integers.
            let shard = i32::try_from(cutter.place(video.bytes_to_read())).map_err(too_many)?;
            table.push(shard.unsigned_abs(), video)?;
        }
        let list = match self.list {
            Some(mut list) => {
                list.flush().map_err(|error| cannot_list(&error))?;
                Some(list_in(&self.scratch))
            }
            None => None,
        };
        Ok(Arranged {
            table: table.finish()?,
            shards: u32::try_from(cutter.shards()).map_err(too_many)?,
            largest_shard_bytes: cutter.largest(),
            modified,
            sample: self.sample.into_iter().map(|(_, video)| video).collect(),
            list,
            _scratch: self.scratch,
        })
    }
}

fn list_in(scratch: &Scratch) -> PathBuf {
    scratch.path().join("videos.tsv")
}

fn cannot_list(error: &io::Error) -> Error {
    Error::failed(format!("cannot list the videos on the scratch disk: {error}"))
        .with_hint("free some space, or set TMPDIR to another disk")
}
