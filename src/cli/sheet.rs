//! `vidindex sheet`.

use std::path::PathBuf;

use clap::Args;

use super::args::IndexArgs;
use super::write_file;
use crate::console;
use crate::error::{Error, Result};
use crate::{report, store};

/// Draw a contact sheet of an index: what was seen in a few videos, and when.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  vidindex sheet jobs/local.toml                      twelve videos, as sheet.svg
  vidindex sheet s3://index/ --containing cam-07 --videos 30 -o cam-07.svg

Each video has pictures with the boxes that were detected in them, a bar with its actions, the number of boxes over time, and a
time axis on which triangles show where the pictures are. Browsers, Inkscape and LibreOffice open the file. The pictures are the
thumbnails of the index: set `thumbnails = true` in [report] of the job file.")]
pub(super) struct Sheet {
    #[command(flatten)]
    index: IndexArgs,
    /// Largest number of videos.
    #[arg(long, value_name = "N", default_value_t = 12)]
    videos: usize,
    /// Only videos whose address contains this text.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    containing: String,
    /// The file to write; an existing one is replaced.
    #[arg(short, long, value_name = "FILE", default_value = "sheet.svg")]
    output: PathBuf,
}

impl Sheet {
    pub(super) async fn run(self) -> Result<u8> {
        let (index, file) = (self.index.index()?, self.output);
        let output = store::open(&index.uri, &index.store).await?;
        let sheet = report::sheet(&*output, self.videos, &self.containing).await?;
        let Some(sheet) = sheet.filter(|sheet| sheet.videos > 0) else {
            return Err(Error::usage(format!("there are no such videos in {}", index.uri))
                .with_hint("check output.uri and --containing, or create an index with `vidindex run JOB.toml`"));
        };
        if !sheet.pictures {
            tracing::warn!("these videos have no thumbnails: set `thumbnails = true` in [report] and index them again");
        }
        write_file(&file, &sheet.svg)?;
        tracing::info!(videos = sheet.videos, "sheet written");
        console::print(file.display())?;
        Ok(0)
    }
}
