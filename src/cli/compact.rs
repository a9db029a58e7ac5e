//! `vidindex compact`.

use chrono::Utc;
use clap::Args;

use super::args::IndexArgs;
use crate::error::Result;
use crate::{compact, console, store};

/// Merge the small files of finished runs into large ones.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  vidindex compact jobs/s3.toml --dry-run             what would be merged
  vidindex compact jobs/s3.toml

The current views show the same rows before and after. Nothing is removed: the merged files are no longer in use, and
`vidindex prune` removes them; until then the tables contain their rows twice. Runs that were not completely sealed a day ago are
left alone.")]
pub(super) struct Compact {
    #[command(flatten)]
    index: IndexArgs,
    /// Only print what would be merged.
    #[arg(long)]
    dry_run: bool,
}

impl Compact {
    pub(super) async fn run(self) -> Result<u8> {
        let job = self.index.job().await?;
        let output = store::open(&job.output.uri, &job.output_store()).await?;
        if !self.dry_run {
            compact::catch_up(&*output, Utc::now()).await?;
        }
        let compaction = compact::find(&*output, Utc::now(), compact::TARGET_BYTES).await?;
        if self.dry_run || compaction.is_empty() {
            console::print(&compaction)?;
        } else {
            console::print(compaction.run(&output, &job).await?)?;
            console::note("nothing is removed: `vidindex prune` shows the files that are no longer in use");
        }
        Ok(0)
    }
}
