//! Pieces of a shard: the rows of videos that an attempt finished and saved before the shard was complete, so that they are not
//! lost if the attempt is. Readers of the index never see them.
//!
//! ```text
//! parts/<shard>/<attempt>/pieces/<n>/videos/dt=…/part-….parquet     the rows, as in the index
//! parts/<shard>/<attempt>/pieces/<n>.json                           put last: the rows are complete
//! ```

use bytes::Bytes;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};

use super::attempt::{AttemptId, attempt_prefix, parts_prefix};
use crate::error::Result;
use crate::store::{Store, get_record};
use crate::tables::{Table, part_key, shard_id};

/// `pieces/<n>.json`: which videos have their rows in the piece.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PieceRecord {
    /// Positions of the videos in the shard, from 0, ascending.
    pub videos: Vec<usize>,
}

/// The prefix of a piece's files, below which they have the same keys as in the index.
pub(crate) fn piece_root(run_id: &str, shard: u32, attempt: &AttemptId, number: u32) -> String {
    format!("{}pieces/{number:06}/", attempt_prefix(run_id, shard, attempt))
}

/// The key of the record of the piece with this root.
pub(crate) fn record_key(root: &str) -> String {
    format!("{}.json", root.trim_end_matches('/'))
}

/// The root of the piece whose record has this key. `None` for any other key.
pub(crate) fn root_of_record(key: &str) -> Option<String> {
    let root = key.strip_suffix(".json")?;
    let (folder, number) = root.rsplit_once('/')?;
    (folder.ends_with("/pieces") && number.parse::<u32>().is_ok()).then(|| format!("{root}/"))
}

/// The root of the piece to which this file of `videos` belongs. `None` for any other key.
pub(crate) fn root_of_videos(key: &str) -> Option<&str> {
    let at = key.find("/videos/")?;
    let root = &key[..=at];
    (root_of_record(&record_key(root)).is_some() && key.ends_with(".parquet")).then_some(root)
}

/// The key of the file of `videos` in the piece that has the rows of this partition.
pub(crate) fn videos_key(root: &str, partition_path: &str, run_id: &str, shard: u32) -> String {
    format!("{root}{}", part_key(Table::Videos, None, partition_path, run_id, shard))
}

/// Writes the record of a piece, whose files must exist.
pub(crate) async fn write(output: &dyn Store, root: &str, record: &PieceRecord) -> Result<()> {
    // A record of plain values can always be written as JSON.
    let body = serde_json::to_vec(record).unwrap_or_default();
    Ok(output.put(&record_key(root), Bytes::from(body)).await?)
}

/// The pieces of all attempts at a shard, as their roots and records. A record that cannot be parsed is ignored.
pub(crate) async fn of_shard(output: &dyn Store, run_id: &str, shard: u32) -> Result<Vec<(String, PieceRecord)>> {
    let mut keys = output.list(&format!("{}{}/", parts_prefix(run_id), shard_id(shard)));
    let mut pieces = Vec::new();
    while let Some(object) = keys.try_next().await? {
        let Some(root) = root_of_record(&object.key) else { continue };
        let Some(body) = get_record(output, &object.key).await? else { continue };
        match serde_json::from_slice(&body) {
            Ok(record) => pieces.push((root, record)),
            Err(error) => tracing::warn!(key = object.key, %error, "not the record of a piece"),
        }
    }
    Ok(pieces)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    const RUN: &str = "20261123T073712123Z-ab12cd";

    #[test]
    fn files_of_a_piece_lead_to_its_record_and_other_files_to_none() {
        let attempt = AttemptId::unique();
        let root = piece_root(RUN, 7, &attempt, 3);
        assert_eq!(root_of_record(&record_key(&root)).as_ref(), Some(&root));
        let videos = videos_key(&root, "camera=videos/dt=2026-11-01", RUN, 7);
        assert_eq!(root_of_videos(&videos), Some(root.as_str()));
        let attempt = attempt_prefix(RUN, 7, &attempt);
        for other in ["attempt.json", "pieces/x.json", "pieces/000001/videos/dt=2026-11-01/.tmp", "a/000001.json"] {
            assert_eq!(root_of_record(&format!("{attempt}{other}")), None, "{other}");
        }
        for other in ["videos/dt=2026-11-01/part.parquet", "pieces/000003/actions/dt=2026-11-01/part.parquet"] {
            assert_eq!(root_of_videos(&format!("{attempt}{other}")), None, "{other}");
        }
    }

    #[tokio::test]
    async fn the_pieces_of_all_attempts_at_a_shard_are_found_by_their_records() {
        let output = MemoryStore::bucket("s3://index/");
        let [first, second, other] =
            [(7, 0), (7, 1), (8, 0)].map(|(shard, n)| piece_root(RUN, shard, &AttemptId::unique(), n));
        for (root, videos) in [(&first, vec![0, 2]), (&second, vec![1]), (&other, vec![5])] {
            write(&output, root, &PieceRecord { videos }).await.unwrap();
        }
        // An upload that was interrupted before its record.
        let unfinished = piece_root(RUN, 7, &AttemptId::unique(), 0);
        output.insert(&videos_key(&unfinished, "dt=2026-11-01", RUN, 7), "rows");
        let mut found = of_shard(&output, RUN, 7).await.unwrap();
        found.sort_by_key(|(_, record)| record.videos[0]);
        let expected = [(first, PieceRecord { videos: vec![0, 2] }), (second, PieceRecord { videos: vec![1] })];
        assert_eq!(found, expected);
    }
}
