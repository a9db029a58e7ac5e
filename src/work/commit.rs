//! Committing: a shard's files go up under a name of their attempt's own, then one record, which only the first
//! attempt can put, names the files that count.
//!
//! ```text
//! parts/<shard>/<attempt>/videos/dt=…/part-….parquet     any number of attempts; nobody reads them but the seal
//! shards/<shard>.json                                    put if absent: its attempt won, the others clear theirs
//! ```
//!
//! An attempt may die anywhere: before the record it leaves files that the seal clears, after it the shard is done.

use bytes::Bytes;
use chrono::Utc;
use futures::{StreamExt, TryStreamExt};

use super::encode::PartFile;
use crate::error::{Error, Result};
use crate::run::attempt::{AttemptId, attempt_prefix, host_name};
use crate::run::commit::{COMMIT_SCHEMA_VERSION, CommittedPart, ShardCommit, ShardTotals, commit_key, read_commit};
use crate::store::{PutNew, Store};

/// Files that go up at the same time; a large one goes up in parts of its own.
const UPLOADS_MAX: usize = 4;

/// Which attempt the shard's record names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// This one.
    Ours,
    /// Another, which was first: the shard is done, and this attempt's files are gone again.
    Theirs,
}

/// Uploads an attempt's files, and puts the record that makes them the shard's, unless another attempt's is there.
///
/// To be called again with the same arguments after an error (the record may or may not be there by then): it then
/// says which attempt won, or goes on.
///
/// # Cancel safety
/// Dropped anywhere, it leaves the shard committed or not, and at most files that the seal clears.
///
/// # Errors
/// The output refused, a scratch file is gone, or the record of another attempt cannot be read.
pub async fn commit(
    output: &dyn Store,
    run_id: &str,
    shard: u32,
    attempt: &AttemptId,
    parts: &[PartFile],
    totals: ShardTotals,
) -> Result<Committed> {
    let prefix = attempt_prefix(run_id, shard, attempt);
    let parts: Vec<(&PartFile, CommittedPart)> =
        parts.iter().map(|part| (part, committed_part(&prefix, part))).collect();
    // A worker that slept through another's attempt need not upload a thing.
    if let Some(record) = read_commit(output, run_id, shard).await? {
        return Ok(settle(output, attempt, &record, &parts).await);
    }

    let uploads: Vec<_> = parts.iter().map(|(file, part)| output.put_file(&part.from, &file.path)).collect();
    futures::stream::iter(uploads).buffer_unordered(UPLOADS_MAX).try_collect::<()>().await?;

    let record = ShardCommit {
        schema_version: COMMIT_SCHEMA_VERSION,
        run_id: run_id.to_owned(),
        shard,
        attempt: attempt.clone(),
        parts: parts.iter().map(|(_, part)| part.clone()).collect(),
        totals,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        host: host_name(),
        committed_at: Utc::now(),
    };
    let key = commit_key(run_id, shard);
    let body = serde_json::to_vec_pretty(&record)
        .map_err(|error| Error::failed(format!("cannot write {}: {error}", output.uri(&key))))?;
    if output.put_new(&key, Bytes::from(body)).await? == PutNew::Created {
        return Ok(Committed::Ours);
    }
    // "There is one" may mean our own: the store repeats a put whose answer was lost. To clear our files then would
    // lose the shard, so the record is asked, and never the put.
    match read_commit(output, run_id, shard).await? {
        Some(record) => Ok(settle(output, attempt, &record, &parts).await),
        None => Err(Error::failed(format!("{} was there a moment ago, and is gone", output.uri(&key)))
            .with_hint("nothing but vidindex may change what lies below _vidindex/")),
    }
}

fn committed_part(attempt_prefix: &str, part: &PartFile) -> CommittedPart {
    CommittedPart {
        table: part.table,
        from: format!("{attempt_prefix}{}", part.key),
        to: part.key.clone(),
        rows: part.rows,
        size_bytes: part.size_bytes,
    }
}

/// Says who won. Where it was another, our files go, at best effort: the seal clears what stays.
async fn settle(
    output: &dyn Store,
    attempt: &AttemptId,
    record: &ShardCommit,
    parts: &[(&PartFile, CommittedPart)],
) -> Committed {
    if record.attempt == *attempt {
        return Committed::Ours;
    }
    let keys: Vec<String> = parts.iter().map(|(_, part)| part.from.clone()).collect();
    if let Err(error) = output.delete(&keys).await {
        tracing::warn!(shard = record.shard, attempt = %attempt, %error, "could not clear the files of a late attempt");
    }
    Committed::Theirs
}

#[cfg(test)]
mod tests;
