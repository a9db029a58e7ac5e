//! Saves the finished videos of a shard in pieces (`run/piece.rs`) while the shard is being processed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::encode::{PartFile, ShardEncoder};
use super::rows::{Content, VideoRows};
use crate::error::{Error, Result};
use crate::run::attempt::AttemptId;
use crate::run::piece::{self, PieceRecord, piece_root};
use crate::store::Store;
use crate::tables::Provenance;

/// The pieces of one attempt.
pub(super) struct Pieces {
    output: Arc<dyn Store>,
    attempt: AttemptId,
    provenance: Provenance,
    scratch_dir: PathBuf,
    interval: Duration,
    /// When the last piece was saved, or the attempt began.
    saved_at: Instant,
    /// Number of the next piece.
    number: u32,
    open: Option<Piece>,
    upload: Option<JoinHandle<()>>,
}

/// A piece that videos are added to.
struct Piece {
    directory: PathBuf,
    encoder: ShardEncoder,
    record: PieceRecord,
}

impl Pieces {
    /// A piece is due after each `interval`.
    pub(super) fn new(
        output: Arc<dyn Store>,
        attempt: AttemptId,
        provenance: Provenance,
        scratch_dir: &Path,
        interval: Duration,
    ) -> Self {
        let (scratch_dir, saved_at) = (scratch_dir.to_owned(), Instant::now());
        Self { output, attempt, provenance, scratch_dir, interval, saved_at, number: 0, open: None, upload: None }
    }

    /// Adds the video at this position of the shard, which is behind the piece's other ones. Copies of another run's rows are
    /// left out: they can be copied again. Blocks.
    ///
    /// # Errors
    /// If the scratch disk is full or fails.
    pub(super) fn add(&mut self, position: usize, partition_path: &str, rows: &VideoRows) -> Result<()> {
        if matches!(rows.content, Content::Copied(_)) {
            return Ok(());
        }
        let piece = match &mut self.open {
            Some(piece) => piece,
            None => {
                let directory = self.scratch_dir.join(format!("piece-{}", self.number));
                std::fs::create_dir(&directory)
                    .map_err(|error| Error::failed(format!("cannot create {}: {error}", directory.display())))?;
                let encoder = ShardEncoder::new(&directory, self.provenance.clone());
                self.open.insert(Piece { directory, encoder, record: PieceRecord { videos: Vec::new() } })
            }
        };
        rows.encode(partition_path, &mut piece.encoder)?;
        piece.record.videos.push(position);
        Ok(())
    }

    /// Whether it is time to save a piece, and the one before is saved.
    pub(super) fn is_due(&self) -> bool {
        self.saved_at.elapsed() >= self.interval && self.upload.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Starts to upload the open piece, if there is one. An error of the output only means that these videos are not saved.
    ///
    /// # Errors
    /// If the scratch disk is full or fails.
    pub(super) fn save(&mut self) -> Result<()> {
        self.saved_at = Instant::now();
        let Some(Piece { directory, encoder, record }) = self.open.take() else { return Ok(()) };
        let parts = tokio::task::block_in_place(|| encoder.finish())?;
        let Provenance { run_id, shard, .. } = &self.provenance;
        let root = piece_root(run_id, *shard, &self.attempt, self.number);
        self.number += 1;
        let output = self.output.clone();
        self.upload = Some(tokio::spawn(async move {
            let videos = record.videos.len();
            match upload(&*output, &root, &parts, &record).await {
                Ok(()) => tracing::debug!(videos, root, "saved finished videos"),
                Err(error) => tracing::warn!(videos, %error, "could not save finished videos; the shard goes on"),
            }
            // It is removed with the scratch directory, at the latest.
            let _ = std::fs::remove_dir_all(directory);
        }));
        Ok(())
    }

    /// Waits for the upload that [`Pieces::save`] started.
    pub(super) async fn saved(&mut self) {
        if let Some(upload) = self.upload.take() {
            // It does not panic.
            let _ = upload.await;
        }
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        // The shard is committed or given up: a piece would be of no use, or its files are being removed.
        if let Some(upload) = &self.upload {
            upload.abort();
        }
    }
}

async fn upload(output: &dyn Store, root: &str, parts: &[PartFile], record: &PieceRecord) -> Result<()> {
    for part in parts {
        output.put_file(&format!("{root}{}", part.key), &part.path).await?;
    }
    piece::write(output, root, record).await
}
