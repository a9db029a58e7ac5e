//! `vidindex clips`.

use std::path::PathBuf;

use clap::Args;

use super::args::IndexArgs;
use crate::clips::{self, Wanted, Way};
use crate::console;
use crate::error::{Error, Result};
use crate::query::Moments;

/// Cut the moments of an action out of the videos, as files to look at or to train with.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  vidindex clips jobs/local.toml wave                               the 20 strongest moments, in clips/
  vidindex clips s3://index/ \"riding a bike\" --min-score 0.8 --pad 1 -o bikes
  vidindex clips jobs/local.toml wave --annotate                    with boxes, tracks and labels
  vidindex clips jobs/local.toml --video cam-1/0930.mp4 --annotate  a whole video
  vidindex clips jobs/local.toml wave --edit-list > wave.ffconcat   nothing is cut

Moments are those of `vidindex find`. Packets are copied, which is fast and keeps their quality; then a clip begins at the key
frame before the moment. --encode begins and ends exactly, as H.264 in MP4; videos whose packets MP4 and Matroska cannot
hold, or that are rotated, are always encoded. Sound is kept. A file of the same name is replaced. Paths of clips go to
standard output. If a video cannot be cut, the others are, and the exit code is 3. Needs DuckDB, as `query` does.")]
pub(super) struct Clips {
    #[command(flatten)]
    index: IndexArgs,
    /// The label, in upper or lower case.
    #[arg(required_unless_present = "video", conflicts_with = "video")]
    label: Option<String>,
    /// Cut this video instead: its id, its URI, or the end of its URI.
    #[arg(long)]
    video: Option<String>,
    /// Beginning of the part of --video, seconds.
    #[arg(long, value_name = "SECONDS", requires = "video", default_value_t = 0.0)]
    from: f64,
    /// End of the part of --video, seconds. The default is the end of the video.
    #[arg(long, value_name = "SECONDS", requires = "video")]
    to: Option<f64>,
    /// Smallest score of a segment.
    #[arg(long, default_value_t = 0.5)]
    min_score: f64,
    /// Smallest length of a moment, seconds.
    #[arg(long, default_value_t = 0.0, value_name = "SECONDS")]
    min_seconds: f64,
    /// Number of moments, the strongest first.
    #[arg(long, default_value_t = 20, value_name = "NUMBER")]
    limit: usize,
    /// Seconds before and after each moment.
    #[arg(long, default_value_t = 0.0, value_name = "SECONDS")]
    pad: f64,
    /// The folder to write to.
    #[arg(short, long, default_value = "clips")]
    out: PathBuf,
    /// Encode clips, so that they begin and end exactly.
    #[arg(long)]
    encode: bool,
    /// Draw boxes, tracks and labels.
    #[arg(long)]
    annotate: bool,
    /// Cut nothing: print the moments as a list for FFmpeg's concat demuxer.
    #[arg(long, conflicts_with_all = ["encode", "annotate", "json"])]
    edit_list: bool,
    /// Print the clips as JSON.
    #[arg(long)]
    json: bool,
    /// The DuckDB command-line program, if it is not `duckdb` on the PATH.
    #[arg(long, value_name = "PROGRAM", env = "VIDINDEX_DUCKDB")]
    duckdb: Option<PathBuf>,
}

impl Clips {
    pub(super) async fn run(self) -> Result<u8> {
        let index = self.index.index()?;
        let duckdb = self.duckdb.as_deref();
        let wanted = match (self.video, self.label) {
            (Some(video), _) => {
                if self.to.is_some_and(|to| to <= self.from) {
                    return Err(Error::usage("--to must be after --from"));
                }
                Wanted::Video { video, from_seconds: self.from, to_seconds: self.to }
            }
            (None, label) => {
                let Self { min_score, min_seconds, .. } = self;
                let moments = Moments { label: label.unwrap_or_default(), min_score, min_seconds };
                Wanted::Moments { moments, limit: self.limit }
            }
        };
        let parts = clips::parts(&index, &wanted, self.pad.max(0.0), duckdb).await?;
        if self.edit_list {
            console::print(clips::edit_list(&parts).trim_end())?;
            return Ok(0);
        }
        if parts.is_empty() {
            tracing::warn!(
                min_score = self.min_score,
                min_seconds = self.min_seconds,
                "no moment is so strong and so long"
            );
        }
        let way = match (self.annotate, self.encode) {
            (true, _) => Way::Annotate,
            (false, true) => Way::Encode,
            (false, false) => Way::Copy,
        };
        let (mut written, mut failed) = (Vec::new(), 0);
        clips::cut(&index, parts, way, &self.out, duckdb, |outcome| {
            match outcome {
                Ok(clip) => {
                    if !self.json {
                        console::print(clip.file.display())?;
                    }
                    written.push(clip);
                }
                Err((part, error)) => {
                    failed += 1;
                    tracing::error!(uri = part.uri, seconds = part.start_seconds, kind = %error.kind, "{}", error.message);
                }
            }
            Ok(())
        })
        .await?;
        if self.json {
            console::print_json(&written)?;
        }
        Ok(if failed > 0 { 3 } else { 0 })
    }
}
