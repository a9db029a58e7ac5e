//! `vidindex prune`.

use chrono::Utc;
use clap::Args;

use super::args::IndexArgs;
use crate::error::Result;
use crate::{console, prune, store};

/// Show the files that no current view of the tables uses, and remove them with --yes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  vidindex prune jobs/s3.toml                         what would be removed
  vidindex prune jobs/s3.toml --yes

A file is removed if newer rows replace all of its rows, and the state of a run if it has no file left. Runs that were not
completely sealed a day ago are kept, but not what their interrupted attempts left if nobody continues them for a week.")]
pub(super) struct Prune {
    #[command(flatten)]
    index: IndexArgs,
    /// Remove the files.
    #[arg(long)]
    yes: bool,
}

impl Prune {
    pub(super) async fn run(self) -> Result<u8> {
        let job = self.index.job().await?;
        let output = store::open(&job.output.uri, &job.output_store()).await?;
        let prunable = prune::find(&*output, Utc::now()).await?;
        console::print(&prunable)?;
        match (prunable.is_empty(), self.yes) {
            (false, true) => prunable.remove(&*output).await?,
            (false, false) => console::note("nothing is removed without --yes"),
            (true, _) => {}
        }
        Ok(0)
    }
}
