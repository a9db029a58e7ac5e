//! `vidindex clips`: cuts moments out of the videos of an index.

mod drawing;
mod naming;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::decode::{self, ByteSource, CutInfo, CutRequest, Decoders, Drawing, needs_encoding};
use crate::error::{Error, Result, VideoError, WorkError};
use crate::query::{self, Index, Moments, quoted};
use crate::run::{Todo, VideoObject};
use crate::store;
use crate::work::fetch::Fetch;
use crate::work::video::DECODER_MEMORY_BYTES;

/// Threads of each decoder and encoder.
const THREADS: usize = 2;

/// Longest that a clip may take, without the time that the disk needs.
const TIMEOUT: Duration = Duration::from_secs(3600);

/// Which parts of which videos to cut.
#[derive(Debug)]
pub(crate) enum Wanted {
    /// The strongest moments of an action.
    Moments {
        /// Which moments.
        moments: Moments,
        /// Number of them, at most.
        limit: usize,
    },
    /// A part of one video.
    Video {
        /// The video's id, its URI, or the part of its URI after a `/`.
        video: String,
        /// Beginning, seconds from the first frame.
        from_seconds: f64,
        /// End; `None` for the video's end.
        to_seconds: Option<f64>,
    },
}

/// How to cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Copy packets if possible, and encode otherwise.
    Copy,
    /// Encode, so that clips begin and end exactly.
    Encode,
    /// Draw boxes, tracks and labels, and encode.
    Annotate,
}

/// A part to cut.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Part {
    pub(crate) uri: String,
    pub(crate) start_seconds: f64,
    pub(crate) end_seconds: f64,
    /// The highest score of a segment; of a part of a video that the user named, null.
    peak_score: Option<f64>,
    etag: String,
    version_id: Option<String>,
    size_bytes: u64,
    /// The container's clock at the first frame.
    video_start: Option<f64>,
}

/// A clip that was written.
#[derive(Debug, Serialize)]
pub(crate) struct Clip {
    pub(crate) file: PathBuf,
    uri: String,
    /// The part that was asked for, seconds from the video's first frame.
    start_seconds: f64,
    end_seconds: f64,
    /// The clip's first frame: before the part if packets were copied.
    first_seconds: f64,
    peak_score: Option<f64>,
    is_encoded: bool,
}

/// What became of a part.
pub(crate) type Outcome = std::result::Result<Clip, (Part, VideoError)>;

impl Wanted {
    /// SQL for the parts, with `pad` seconds before and after each.
    fn sql(&self, pad: f64) -> String {
        let (found, limit) = match self {
            Self::Moments { moments, limit } => (moments.select(), *limit),
            Self::Video { video, from_seconds, to_seconds } => {
                let absent = quoted(&format!("the index has no video {video}"));
                let named = query::is_video(video);
                let to = to_seconds.map_or("duration_seconds".to_owned(), |to| to.to_string());
                let rows = format!(
                    "SELECT uri, {from_seconds}::DOUBLE AS start_seconds, {to}::DOUBLE AS end_seconds, NULL::DOUBLE AS peak_score
FROM current_videos WHERE {named} ORDER BY uri LIMIT 1"
                );
                let checked = format!(
                    "SELECT * FROM named UNION ALL SELECT error({absent}), 0, 0, 0 WHERE NOT EXISTS (FROM named)"
                );
                (format!("WITH named AS ({rows}) {checked}"), 1)
            }
        };
        // An index that version 0.1 wrote has no column `version_id`.
        format!(
            "SELECT found.uri AS uri, greatest(found.start_seconds - {pad}, 0) AS start_seconds,
    least(found.end_seconds + {pad}, coalesce(v.duration_seconds, found.end_seconds)) AS end_seconds, peak_score,
    v.etag AS etag, to_json(v) ->> 'version_id' AS version_id, v.size_bytes AS size_bytes, v.start_seconds AS video_start
FROM ({found}) AS found JOIN current_videos AS v ON v.uri = found.uri
ORDER BY peak_score DESC, uri, start_seconds
LIMIT {limit};"
        )
    }
}

/// The parts that are wanted, the strongest first. Each begins and ends `pad` seconds earlier and later.
///
/// # Errors
/// As for [`query::rows`]: no segment has the label, or there is no such video.
pub(crate) async fn parts(index: &Index, wanted: &Wanted, pad: f64, duckdb: Option<&Path>) -> Result<Vec<Part>> {
    query::rows(index, &wanted.sql(pad), duckdb).await
}

/// A list of parts in FFmpeg's format for its `concat` demuxer.
pub(crate) fn edit_list(parts: &[Part]) -> String {
    let entry = |part: &Part| {
        let start = part.video_start.unwrap_or(0.0);
        let file = part.uri.replace('\'', "'\\''");
        format!("file '{file}'\ninpoint {:.3}\noutpoint {:.3}\n", start + part.start_seconds, start + part.end_seconds)
    };
    format!("ffconcat version 1.0\n{}", parts.iter().map(entry).collect::<String>())
}

/// Cuts the parts into files of a folder, and passes each to `done`, in order.
///
/// # Errors
/// If the folder cannot be written, or the store of the videos is not available. A video that cannot be cut is an outcome.
pub(crate) async fn cut(
    index: &Index,
    parts: Vec<Part>,
    way: Way,
    folder: &Path,
    duckdb: Option<&Path>,
    mut done: impl FnMut(Outcome) -> Result<()>,
) -> Result<()> {
    let unwritable = |error: std::io::Error| Error::failed(format!("{}: failed to write: {error}", folder.display()));
    std::fs::create_dir_all(folder).map_err(unwritable)?;
    let drawings = match way {
        Way::Copy => vec![None; parts.len()],
        Way::Encode => vec![Some(Drawing::default()); parts.len()],
        Way::Annotate => drawing::drawings(index, &parts, duckdb).await?.into_iter().map(Some).collect(),
    };
    let decoders = Arc::new(Decoders::new(decode::own_program()?));
    let digits = parts.len().to_string().len().max(3);
    let one = |(number, (part, drawing)): (usize, (Part, Option<Drawing>))| {
        let decoders = decoders.clone();
        let stem = naming::stem(number + 1, digits, &part.uri, part.start_seconds);
        async move {
            let file = NamedTempFile::new_in(folder).map_err(unwritable)?;
            match cut_one(index, &decoders, &part, drawing, file.as_file()).await {
                Ok((info, is_encoded)) => {
                    let path = folder.join(format!("{stem}.{}", naming::extension(&info.container)));
                    publish(file, &path).map_err(unwritable)?;
                    let Part { uri, start_seconds, end_seconds, peak_score, .. } = part;
                    let first_seconds = info.from_seconds;
                    Ok(Ok(Clip { file: path, uri, start_seconds, end_seconds, first_seconds, peak_score, is_encoded }))
                }
                Err(WorkError::Video(error)) => Ok(Err((part, error))),
                Err(WorkError::Transient(error)) => Err(Error::from(error)),
                Err(WorkError::Fatal(error)) => Err(error),
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let all = parts.into_iter().zip(drawings).enumerate();
    let mut outcomes = futures::stream::iter(all.map(one)).buffered(cores.div_ceil(THREADS));
    while let Some(outcome) = outcomes.try_next().await? {
        done(outcome)?;
    }
    Ok(())
}

/// Cuts a part. Returns whether it was encoded, too.
async fn cut_one(
    index: &Index,
    decoders: &Decoders,
    part: &Part,
    drawing: Option<Drawing>,
    file: &File,
) -> std::result::Result<(CutInfo, bool), WorkError> {
    let (folder, key) = naming::place(&part.uri);
    let store = store::open(folder, &index.videos).await.map_err(|error| WorkError::Fatal(error.into()))?;
    let object = VideoObject {
        key: key.to_owned(),
        uri: part.uri.clone(),
        size_bytes: part.size_bytes,
        etag: part.etag.clone(),
        version_id: part.version_id.clone(),
        last_modified: DateTime::UNIX_EPOCH,
        partition: Vec::new(),
        todo: Todo::default(),
    };
    let source: Arc<dyn ByteSource> = Arc::new(Fetch::new(store, &object));
    let request = CutRequest {
        size_bytes: part.size_bytes,
        start_seconds: part.video_start,
        from_seconds: part.start_seconds,
        to_seconds: part.end_seconds,
        drawing,
        threads: THREADS,
        memory_bytes: DECODER_MEMORY_BYTES,
    };
    let is_encoded = request.drawing.is_some();
    match decode::cut(decoders, request.clone(), source.clone(), TIMEOUT, file).await {
        Err(WorkError::Video(error)) if !is_encoded && needs_encoding(&error) => {
            tracing::info!(uri = part.uri, reason = error.message, "encoding");
            file.set_len(0).map_err(|error| WorkError::Fatal(Error::failed(format!("failed to write: {error}"))))?;
            let encoded = CutRequest { drawing: Some(Drawing::default()), ..request };
            Ok((decode::cut(decoders, encoded, source, TIMEOUT, file).await?, true))
        }
        cut => Ok((cut?, is_encoded)),
    }
}

/// Gives a finished file its name. It gets the permissions of any new file, not those of a temporary one.
fn publish(file: NamedTempFile, path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.persist(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_list_has_times_of_the_containers_clock_and_quotes_names() {
        let part = Part {
            uri: "/v/it's.ts".to_owned(),
            start_seconds: 2.0,
            end_seconds: 4.5,
            peak_score: None,
            etag: String::new(),
            version_id: None,
            size_bytes: 1,
            video_start: Some(1.4),
        };
        let list = edit_list(&[part]);
        assert_eq!(list, "ffconcat version 1.0\nfile '/v/it'\\''s.ts'\ninpoint 3.400\noutpoint 5.900\n");
    }
}
