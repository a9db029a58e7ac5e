//! `vidindex eval`: compares the current rows of an index with the ground truth of a data set, as papers do, or with the rows of
//! another run.

mod against;
mod ava;
mod boxes;
mod labels;
mod matching;
mod metrics;
mod report;
mod truth;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;
use tempfile::NamedTempFile;

pub(crate) use report::EvalReport;
pub(crate) use truth::TruthFormat;

use crate::error::{Error, Result};
use crate::job::{ActionView, Job, Persons};
use crate::query::{self, Index};
use crate::run::RunId;
use matching::matched;
use truth::VideoTruth;

/// The videos of the index that were not deleted, those that failed, too.
const PRESENT: &str = "SELECT uri FROM videos
GROUP BY uri HAVING max_by(status, (indexed_at, run_id)) <> 'deleted' ORDER BY uri";

/// What an index is compared with.
#[derive(Debug)]
pub(crate) enum With {
    /// Ground truth.
    Truth {
        /// The file, or a folder of files.
        path: PathBuf,
        /// Its format.
        format: TruthFormat,
        /// Which segments count.
        views: Option<Views>,
        /// AVA's list of key frames that do not count.
        excluded: Option<PathBuf>,
    },
    /// The rows of another run.
    Run(RunId),
}

/// Clips per video and crops per clip, such as `10x3`: as many clips are spread evenly over a video.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Views {
    clips: usize,
    crops: usize,
}

impl FromStr for Views {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('x').and_then(|(clips, crops)| Some((clips.parse().ok()?, crops.parse().ok()?)));
        match numbers {
            Some((clips @ 1.., crops @ (1 | 3))) => Ok(Self { clips, crops }),
            _ => Err("give CLIPSxCROPS with 1 or 3 crops, such as 10x3".to_owned()),
        }
    }
}

impl Views {
    /// Checks that a job scores so many crops.
    fn check(self, job: &Job) -> Result<()> {
        let view = job.actions.as_ref().map(|actions| actions.view);
        let (needed, name) =
            if self.crops == 3 { (ActionView::ThreeCrops, "three-crops") } else { (ActionView::Center, "center") };
        if view.is_none_or(|view| view == needed) {
            return Ok(());
        }
        Err(Error::usage(format!("{} crops of a clip were not scored", self.crops))
            .with_hint(format!("index with `view = \"{name}\"` in [actions]")))
    }
}

#[derive(Debug, Deserialize)]
struct Uri {
    uri: String,
}

/// Compares the job's index.
///
/// # Errors
/// If the truth cannot be read, the index cannot be queried, none of the videos is in the index, or it is not clear which
/// one is meant.
pub(crate) async fn run(job: &Job, with: &With, duckdb: Option<&Path>) -> Result<EvalReport> {
    match with {
        With::Truth { path, format, views, excluded } => {
            let truth = truth::read(path, *format)?;
            let excluded = match excluded {
                Some(file) => truth::excluded(file)?,
                None => ava::Excluded::default(),
            };
            views.map(|views| views.check(job)).transpose()?;
            with_truth(job, &truth, path, *format, *views, &excluded, duckdb).await
        }
        With::Run(run) => against::run(&Index::of(job), run, duckdb).await,
    }
}

async fn with_truth(
    job: &Job,
    truth: &[VideoTruth],
    path: &Path,
    format: TruthFormat,
    views: Option<Views>,
    excluded: &ava::Excluded,
    duckdb: Option<&Path>,
) -> Result<EvalReport> {
    let index = Index::of(job);
    let uris: Vec<Uri> = query::rows(&index, PRESENT, duckdb).await?;
    let videos = matched(truth, &uris)?;
    if videos.is_empty() {
        let (named, indexed) = (&truth[0].paths, uris.first().map_or("none", |row| &row.uri));
        return Err(Error::failed(format!("none of the {} videos of {} is in the index", truth.len(), path.display()))
            .with_hint(format!(
                "files are matched by name: the truth has {}, the index {indexed}",
                named.join(" or ")
            )));
    }
    let eval = Eval { index: &index, duckdb, format, views, chosen: chosen(&videos)?, videos: &videos };
    let actions = match (&job.actions, format) {
        (Some(_), TruthFormat::Ava) => Some(eval.ava(excluded).await?),
        (Some(_), format) if format != TruthFormat::Coco => Some(eval.actions().await?),
        _ => None,
    };
    let has_boxes = matches!(format, TruthFormat::Scenes | TruthFormat::Coco);
    let has_persons = |persons: &Persons| persons.classes.iter().any(|class| class == boxes::PERSON);
    let persons = match job.persons.as_ref().filter(|persons| has_boxes && has_persons(persons)) {
        Some(persons) => Some(eval.persons(persons.frames_per_second).await?),
        None => None,
    };
    if actions.is_none() && persons.is_none() {
        let section = if format == TruthFormat::Coco { "[persons]" } else { "[actions]" };
        return Err(Error::usage(format!("the job has no {section}, which this truth is about")));
    }
    Ok(EvalReport { videos: truth.len(), indexed: videos.len(), actions, persons })
}

/// A file with the URIs of the videos, for a query.
fn chosen(videos: &[(&str, &VideoTruth)]) -> Result<NamedTempFile> {
    let failed = |error: std::io::Error| Error::failed(format!("failed to write a temporary file: {error}"));
    let mut file = tempfile::Builder::new().suffix(".json").tempfile().map_err(failed)?;
    for (uri, _) in videos {
        writeln!(file, "{}", serde_json::json!({ "uri": uri })).map_err(failed)?;
    }
    file.flush().map_err(failed)?;
    Ok(file)
}

/// A comparison with ground truth.
struct Eval<'a> {
    index: &'a Index,
    duckdb: Option<&'a Path>,
    format: TruthFormat,
    views: Option<Views>,
    chosen: NamedTempFile,
    videos: &'a [(&'a str, &'a VideoTruth)],
}

impl Eval<'_> {
    /// SQL that chooses the rows of the videos.
    fn condition(&self) -> String {
        let file = query::quoted(&self.chosen.path().to_string_lossy());
        format!(
            "uri IN (SELECT uri FROM read_json({file}, format = 'newline_delimited', columns = {{uri: 'VARCHAR'}}))"
        )
    }
}
