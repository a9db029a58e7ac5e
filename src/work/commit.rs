//! Commits a shard: uploads the attempt's files below the attempt's own prefix, and then puts one record, which only the
//! first attempt can create. The record names the files that count.
//!
//! ```text
//! parts/<shard>/<attempt>/videos/dt=…/part-….parquet     any number of attempts; only the seal reads them
//! shards/<shard>.json                                    put if absent: its attempt wins, the others delete their files
//! ```
//!
//! An attempt may crash at any point: before the record exists, it leaves files that the seal deletes; after that, the
//! shard is done.

use bytes::Bytes;
use chrono::Utc;
use futures::{StreamExt, TryStreamExt};

use super::encode::PartFile;
use crate::error::{Error, Result};
use crate::machine::host_name;
use crate::run::attempt::{AttemptId, attempt_prefix};
use crate::run::commit::{
    COMMIT_SCHEMA_VERSION, CommittedPart, Computed, ShardCommit, ShardTotals, commit_key, read_commit,
};
use crate::store::{PutNew, Store};

/// Files that are uploaded at the same time. Each large file is uploaded in several parts.
const UPLOADS_MAX: usize = 4;

/// The attempt that the shard's record names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// This attempt.
    Ours,
    /// Another attempt, which was first. The shard is done, and this attempt's files are deleted.
    Theirs,
}

/// What an attempt at a shard made.
#[derive(Debug)]
pub struct ShardRows<'a> {
    /// Its files.
    pub parts: &'a [PartFile],
    /// Sums over its videos.
    pub totals: ShardTotals,
    /// How its models ran.
    pub computed: Option<Computed>,
}

impl<'a> ShardRows<'a> {
    /// Rows that no model computed, because they are those of earlier runs.
    pub fn merged(parts: &'a [PartFile], totals: ShardTotals) -> Self {
        Self { parts, totals, computed: None }
    }
}

/// Uploads an attempt's files, and puts the record that makes them the shard's, unless another attempt's record exists.
///
/// After an error, call it again with the same arguments, whether or not the record exists by then: it resumes, or returns
/// which attempt won.
///
/// # Cancel safety
/// If it is dropped at any point, the shard is committed or not, and only files that the seal deletes may remain.
///
/// # Errors
/// If the output rejects a request, a scratch file is missing, or the record of another attempt cannot be read.
pub async fn commit(
    output: &dyn Store,
    run_id: &str,
    shard: u32,
    attempt: &AttemptId,
    rows: ShardRows<'_>,
) -> Result<Committed> {
    let ShardRows { parts, totals, computed } = rows;
    let prefix = attempt_prefix(run_id, shard, attempt);
    let parts: Vec<(&PartFile, CommittedPart)> =
        parts.iter().map(|part| (part, committed_part(&prefix, part))).collect();
    // Nothing needs to be uploaded if another attempt has committed the shard meanwhile.
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
        computed,
        committed_at: Utc::now(),
    };
    let key = commit_key(run_id, shard);
    let body = serde_json::to_vec_pretty(&record)
        .map_err(|error| Error::failed(format!("cannot write {}: {error}", output.uri(&key))))?;
    if output.put_new(&key, Bytes::from(body)).await? == PutNew::Created {
        return Ok(Committed::Ours);
    }
    // The record that exists may be our own, because the store repeats a put whose answer was lost. Deleting our files
    // would then lose the shard. Therefore the record decides, never the result of the put.
    match read_commit(output, run_id, shard).await? {
        Some(record) => Ok(settle(output, attempt, &record, &parts).await),
        None => Err(Error::failed(format!("{} existed a moment ago and is gone", output.uri(&key)))
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

/// Returns the winner. If it is another attempt, deletes our files, best effort: the seal deletes the rest.
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
        tracing::warn!(shard = record.shard, attempt = %attempt, %error, "could not delete the files of a late attempt");
    }
    Committed::Theirs
}

#[cfg(test)]
mod tests;
