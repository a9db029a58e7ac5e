//! The report: a self-contained HTML page about a run.
//!
//! The page contains its data compressed and in base64, which has no meaning in HTML. Whatever a URI or a message
//! contains, only the page's script sees it, and the script inserts it as text, never as markup. A content security
//! policy allows only the page's own script, style and pictures, by their hashes, and no network access.

mod pack;
mod page;
mod read;

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt};

use crate::error::Result;
use crate::run::commit::{CommittedPart, ShardTotals, read_commit};
use crate::run::{RunId, RunRecord, record};
use crate::store::Store;
use read::Contents;

/// Number of commit records that are read concurrently.
const READS_MAX: usize = 16;

/// Maximum number of videos in a page. The totals cover all videos.
const VIDEOS_MAX: usize = 50_000;

/// Limits on the content of a page, regardless of the size of the run.
#[derive(Debug, Clone, Copy)]
struct Limits {
    videos: usize,
    /// Maximum number of segments. If there are more, neighbouring segments are merged in groups of equal size.
    segments: u64,
    /// Maximum bytes of JPEG data. If there are more, only every n-th picture is included.
    picture_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { videos: VIDEOS_MAX, segments: 400_000, picture_bytes: 24 << 20 }
    }
}

/// The content of a run's commit records.
#[derive(Debug)]
struct Committed {
    totals: ShardTotals,
    parts: Vec<CommittedPart>,
    shards: u32,
    hosts: BTreeSet<String>,
    finished_at: Option<DateTime<Utc>>,
}

/// Renders the page of a run. It covers everything that is committed, published or not. Missing files are logged and
/// left out.
///
/// # Errors
/// If there is no such run, the output cannot be accessed, or a file of its tables cannot be read.
pub async fn page(output: &dyn Store, run: &RunId) -> Result<String> {
    let record = record::read_record(output, run).await?;
    let committed = committed(output, &record).await?;
    for model in [&record.actions_model, &record.persons_model].into_iter().flatten().filter(|model| model.random) {
        tracing::warn!(model = model.id, "{}", crate::zoo::descriptor::RANDOM);
    }
    let contents = Contents::read(output, &record, &committed.parts, Limits::default()).await?;
    if contents.lost_parts > 0 {
        tracing::warn!(
            files = contents.lost_parts,
            "files of this run are missing: its videos were indexed again, or pruned"
        );
    }
    page::render(&record, &committed, &contents)
}

async fn committed(output: &dyn Store, record: &RunRecord) -> Result<Committed> {
    let mut committed = Committed {
        totals: ShardTotals::default(),
        parts: Vec::new(),
        shards: 0,
        hosts: BTreeSet::new(),
        finished_at: None,
    };
    let reads = futures::stream::iter(0..record.shards).map(|shard| read_commit(output, record.run_id.as_str(), shard));
    let mut reads = std::pin::pin!(reads.buffered(READS_MAX));
    while let Some(commit) = reads.try_next().await? {
        let Some(commit) = commit else { continue };
        committed.totals.merge(&commit.totals);
        committed.parts.extend(commit.parts);
        committed.shards += 1;
        committed.hosts.extend(commit.host);
        committed.finished_at = committed.finished_at.max(Some(commit.committed_at));
    }
    Ok(committed)
}
