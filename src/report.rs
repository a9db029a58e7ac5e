//! The report: one HTML page of a run to look at, which needs nothing but itself.
//!
//! Its data lies in it compressed, as text that means nothing to HTML: whatever a uri or a message holds, only the page's
//! script sees it, and that script makes text of it and never markup. A content security policy allows the page its own
//! script, style and pictures, by their hashes, and nothing else, least of all the network.

mod pack;
mod page;
mod read;

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt};

use crate::error::Result;
use crate::run::commit::{CommittedPart, ShardTotals, read_commit};
use crate::run::{RunId, RunKind, RunRecord, record};
use crate::store::Store;
use read::Contents;

/// Commit records read at the same time.
const READS_MAX: usize = 16;

/// Videos in a page. The totals are of all.
const VIDEOS_MAX: usize = 50_000;

/// What a page may hold at most, of a run however large.
#[derive(Debug, Clone, Copy)]
struct Limits {
    videos: usize,
    /// Where there are more, so many neighbours become one that all have as few.
    segments: u64,
    /// Of JPEG. Where there are more, every n-th is taken.
    picture_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { videos: VIDEOS_MAX, segments: 400_000, picture_bytes: 24 << 20 }
    }
}

/// What the commit records say of a run.
#[derive(Debug)]
struct Committed {
    totals: ShardTotals,
    parts: Vec<CommittedPart>,
    shards: u32,
    hosts: BTreeSet<String>,
    finished_at: Option<DateTime<Utc>>,
}

/// The page of a run: of all that is committed, sealed or not.
///
/// # Errors
/// There is no such run, the output refused, or a file of its tables cannot be read. A file that is gone is none.
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
            "files of this run are gone: its videos were indexed anew, or pruned"
        );
    }
    page::render(&record, &committed, &contents)
}

/// The newest run of the output whose plan is whole: one that indexed, where there is one. None where it has none.
///
/// # Errors
/// The output refused.
pub async fn newest(output: &dyn Store) -> Result<Option<RunId>> {
    let mut merging = None;
    for run in record::runs(output).await?.into_iter().rev() {
        match record::find_record(output, &run).await? {
            Some(record) if record.kind() == RunKind::Merge => merging = merging.or(Some(run)),
            Some(_) => return Ok(Some(run)),
            None => {}
        }
    }
    Ok(merging)
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
