//! The report: a self-contained HTML page about a run, or about what is current in an index.
//!
//! The page contains its data compressed and in base64, which has no meaning in HTML. Whatever a URI or a message
//! contains, only the page's script sees it, and the script inserts it as text, never as markup. A content security
//! policy allows only the page's own script, style and pictures, by their hashes, and no network access.

mod pack;
mod page;
mod read;
mod sheet;
mod shown;

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt};

use crate::error::Result;
use crate::in_use::{self, Rows};
use crate::run::commit::{CommittedPart, ShardTotals, read_commit};
use crate::run::{RunId, RunRecord, record};
use crate::store::{ObjectMeta, Store};
use crate::tables::Table;
use read::Contents;
use shown::Shown;

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

/// A contact sheet.
#[derive(Debug)]
pub struct Sheet {
    /// The picture.
    pub svg: String,
    /// Number of videos in it.
    pub videos: usize,
    /// Whether the videos have thumbnails.
    pub pictures: bool,
}

/// What a page is about.
#[derive(Debug)]
enum Subject {
    /// A run: its record, and what it committed.
    Run(Box<RunRecord>, Committed),
    /// An index, at a time.
    Index {
        /// The newest run; one that indexed videos, if it is still known.
        newest: Box<RunRecord>,
        /// When the index was read.
        read_at: DateTime<Utc>,
    },
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
    let contents =
        Contents::read(output, &committed.parts, &Shown::All, bin_seconds(&record), Limits::default()).await?;
    if contents.lost_parts > 0 {
        tracing::warn!(
            files = contents.lost_parts,
            "files of this run are missing: its videos were indexed again, or pruned"
        );
    }
    render(&Subject::Run(Box::new(record), committed), &contents)
}

/// Renders the page of an index: the rows that its views show, whichever run they come from, and the failures of videos that
/// have none. `None` if nothing was indexed.
///
/// # Errors
/// If the output cannot be accessed, or a file of its tables cannot be read.
pub async fn page_of_index(output: &dyn Store) -> Result<Option<String>> {
    let Some((newest, contents)) = current(output, None, Limits::default()).await? else { return Ok(None) };
    render(&Subject::Index { newest: Box::new(newest), read_at: Utc::now() }, &contents).map(Some)
}

/// Draws a contact sheet of up to `videos` videos of an index that did not fail, those whose URI contains a text. `None` if
/// nothing was indexed.
///
/// # Errors
/// As [`page_of_index`].
pub async fn sheet(output: &dyn Store, videos: usize, containing: &str) -> Result<Option<Sheet>> {
    let limits = Limits { videos, ..Limits::default() };
    let Some((_, contents)) = current(output, Some(containing), limits).await? else { return Ok(None) };
    let pictures = contents.pictures > 0;
    Ok(Some(Sheet { svg: sheet::draw(&contents), videos: contents.videos.len(), pictures }))
}

fn render(subject: &Subject, contents: &Contents) -> Result<String> {
    let (Subject::Run(record, _) | Subject::Index { newest: record, .. }) = subject;
    for model in [&record.actions_model, &record.persons_model].into_iter().flatten().filter(|model| model.random) {
        tracing::warn!(model = model.id, "{}", crate::zoo::descriptor::RANDOM);
    }
    page::render(subject, contents)
}

/// The time between two frames in which persons are detected.
fn bin_seconds(run: &RunRecord) -> Option<f64> {
    run.job.persons.as_ref().map(|persons| 1.0 / persons.frames_per_second)
}

/// Reads what is current in an index, and the record of its newest run. With `containing`, only videos that
/// did not fail and whose URI contains this text.
async fn current(
    output: &dyn Store,
    containing: Option<&str>,
    limits: Limits,
) -> Result<Option<(RunRecord, Contents)>> {
    let Some(newest) = record::newest(output).await? else { return Ok(None) };
    let newest = record::read_record(output, &newest).await?;
    let rows = Rows::read(output, in_use::COLUMNS, "no report was written: repair the file or move it away").await?;
    let part = |table, object: &ObjectMeta| CommittedPart {
        table,
        from: object.key.clone(),
        to: object.key.clone(),
        // Unknown, but not none.
        rows: 1,
        size_bytes: object.size_bytes,
    };
    let mut parts: Vec<_> = rows.files.iter().map(|file| part(Table::Videos, &file.object)).collect();
    for files in in_use::files_beside(output).await?.into_values() {
        parts.extend(files.iter().map(|(table, object)| part(*table, object)));
    }
    parts.sort_by(|a, b| a.to.cmp(&b.to));
    let contents =
        Contents::read(output, &parts, &Shown::Current { rows: &rows, containing }, bin_seconds(&newest), limits)
            .await?;
    Ok(Some((newest, contents)))
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
