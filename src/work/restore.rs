//! Copies rows instead of indexing a video: those that an earlier run wrote for a video that was deleted and came back
//! unchanged, and those that an interrupted attempt saved.
//!
//! These rows may be missing: `prune` or a seal may have deleted files, in some tables or in all. Only complete rows are
//! copied; otherwise the video is indexed again.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowPredicateFn, ParquetRecordBatchReaderBuilder, RowFilter};
use tokio::sync::Mutex;

use crate::error::VideoErrorKind;
use crate::run::piece;
use crate::store::{Store, StoreErrorKind, StoreResult};
use crate::tables::copy::{check_version, conform, of_run, replace};
use crate::tables::read::{text_column, time_column, value};
use crate::tables::{Row, Table, VideoRow, VideoStatus, escape_into};

/// Bytes of earlier runs' files that are kept for the next videos of the shard. One more file may exceed it.
const CACHE_BYTES: usize = 256 << 20;

/// Columns of `videos` that a copy takes from this run. The others describe how the earlier run indexed the video.
const THIS_RUNS: [&str; 12] = [
    "etag",
    "version_id",
    "size_bytes",
    "last_modified",
    "actions_model",
    "persons_model",
    "fingerprint",
    "run_id",
    "shard",
    "indexed_at",
    "decode_seconds",
    "inference_seconds",
];

/// Copies of a video's rows in every table.
#[derive(Debug, Clone)]
pub struct Copies {
    /// The row of `videos`, with the columns that totals and progress need.
    pub video: VideoRow,
    /// The rows to write, by table. The row of `videos` comes first.
    pub tables: Vec<(Table, RecordBatch)>,
}

/// Reads rows of earlier runs.
#[derive(Debug)]
pub struct Restorer {
    output: Arc<dyn Store>,
    files: Mutex<HashMap<String, Option<Bytes>>>,
}

impl Restorer {
    /// A restorer that reads the tables in `output`.
    pub fn new(output: Arc<dyn Store>) -> Self {
        Self { output, files: Mutex::default() }
    }

    /// Copies the rows of a video from `from`, a file of `videos`: its path below `videos/` if it was published, and its key if
    /// it belongs to a piece of a shard. The other tables' files lie beside it. Returns `None` if rows are missing. `row` is the
    /// video's row in this run, before anything was read.
    ///
    /// # Errors
    /// If the output rejects a request.
    pub async fn copies(&self, row: &VideoRow, from: &str) -> StoreResult<Option<Copies>> {
        let piece = piece::root_of_videos(from);
        let root = piece.unwrap_or_default();
        let place = piece.map_or(from, |root| &from[root.len() + "videos/".len()..]);
        // A published row of a failed video does not count: the video is back, and its rows were current before.
        let statuses: &[_] = match piece {
            Some(_) => &[VideoStatus::Ok, VideoStatus::Partial, VideoStatus::Failed],
            None => &[VideoStatus::Ok, VideoStatus::Partial],
        };
        let Some(file) = self.file(format!("{root}{}/{place}", Table::Videos)).await? else { return Ok(None) };
        let read = rows_of(file, Table::Videos, row).and_then(|videos| latest(&videos, row, statuses));
        let Some(video) = self.usable(place, read).flatten() else { return Ok(None) };
        let mut copies = Copies { video: video.row, tables: vec![(Table::Videos, video.batch)] };
        let (segments, boxes) = (copies.video.segments, copies.video.boxes);
        let models = [(Table::Actions, video.actions_model, segments), (Table::Persons, video.persons_model, boxes)];
        for (table, model, expected) in models {
            let Some(model) = model else { continue };
            let mut key = format!("{root}{table}/model=");
            escape_into(&mut key, &model);
            let Some(file) = self.file(format!("{key}/{place}")).await? else { return Ok(None) };
            let Some(rows) = self.usable(place, rows_of(file, table, row)) else { return Ok(None) };
            if i64::try_from(rows.num_rows()) != Ok(expected) {
                return Ok(None);
            }
            copies.tables.push((table, rows));
        }
        if let Some(file) = self.file(format!("{root}{}/{place}", Table::Thumbnails)).await? {
            let Some(rows) = self.usable(place, rows_of(file, Table::Thumbnails, row)) else { return Ok(None) };
            if rows.num_rows() > 0 {
                copies.tables.push((Table::Thumbnails, rows));
            }
        }
        Ok(Some(copies))
    }

    fn usable<T>(&self, place: &str, read: Result<T, String>) -> Option<T> {
        read.inspect_err(|problem| tracing::warn!(place, problem, "cannot copy earlier rows, indexing the video again"))
            .ok()
    }

    /// Reads a whole file. `None` if it does not exist.
    async fn file(&self, key: String) -> StoreResult<Option<Bytes>> {
        let mut files = self.files.lock().await;
        if let Some(known) = files.get(&key) {
            return Ok(known.clone());
        }
        let file = match self.output.get(&key).await {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind == StoreErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if files.values().flatten().map(Bytes::len).sum::<usize>() > CACHE_BYTES {
            files.clear();
        }
        files.insert(key, file.clone());
        Ok(file)
    }
}

/// The row to copy.
struct Video {
    row: VideoRow,
    batch: RecordBatch,
    actions_model: Option<String>,
    persons_model: Option<String>,
}

/// The latest row of a video with one of these statuses, and the same content and settings as `row`.
fn latest(videos: &RecordBatch, row: &VideoRow, wanted: &[VideoStatus]) -> Result<Option<Video>, String> {
    let text = |name| text_column(videos, name);
    let (etags, statuses, fingerprints) = (text("etag")?, text("status")?, text("fingerprint")?);
    let (kinds, messages) = (text("error_kind")?, text("error_message")?);
    let times = time_column(videos, "indexed_at")?;
    let status = |at: usize| wanted.iter().copied().find(|wanted| wanted.as_str() == value(&statuses, at));
    let is_same = |at: usize| value(&etags, at) == row.etag && value(&fingerprints, at) == row.fingerprint;
    let usable = (0..videos.num_rows()).filter(|at| is_same(*at)).filter_map(|at| Some((at, status(at)?)));
    let Some((at, status)) = usable.max_by_key(|(at, _)| times.value(*at)) else { return Ok(None) };
    let earlier = videos.slice(at, 1);
    let model =
        |name| Ok::<_, String>(Some(text(name)?).filter(|ids| ids.is_valid(at)).map(|ids| ids.value(at).to_owned()));
    let number = |name: &str| earlier.column_by_name(name).map_or(0, |n| n.as_primitive::<Int64Type>().value(0));
    let counted = VideoRow {
        status,
        error_kind: VideoErrorKind::named(value(&kinds, at)),
        error_message: messages.is_valid(at).then(|| messages.value(at).to_owned()),
        segments: number("segments"),
        boxes: number("boxes"),
        ..row.clone()
    };
    let new = VideoRow::to_batch(std::slice::from_ref(row)).map_err(|error| error.to_string())?;
    let batch = replace(&earlier, |name| new.column_by_name(name).filter(|_| THIS_RUNS.contains(&name)).cloned());
    Ok(Some(Video {
        row: counted,
        batch: batch.map_err(|error| error.to_string())?,
        actions_model: model("actions_model")?,
        persons_model: model("persons_model")?,
    }))
}

/// Copies the video's rows in a file, with the ID of this run.
fn rows_of(file: Bytes, table: Table, row: &VideoRow) -> Result<RecordBatch, String> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| error.to_string())?;
    check_version(builder.metadata())?;
    let id = row.video_id.clone();
    let is_its = move |batch: RecordBatch| {
        let ids = text_column(&batch, "video_id").map_err(arrow::error::ArrowError::ParquetError)?;
        Ok(BooleanArray::from_iter((0..ids.len()).map(|at| Some(value(&ids, at) == &*id))))
    };
    let mask = ProjectionMask::columns(builder.parquet_schema(), ["video_id"]);
    let filter = RowFilter::new(vec![Box::new(ArrowPredicateFn::new(mask, is_its))]);
    let schema = table.schema();
    let mut batches = Vec::new();
    for batch in builder.with_row_filter(filter).build().map_err(|error| error.to_string())? {
        batches.push(conform(&batch.map_err(|error| error.to_string())?, &schema)?);
    }
    let rows = concat_batches(&schema, &batches).map_err(|error| error.to_string())?;
    of_run(table, &rows, &row.run_id, row.shard).map_err(|error| error.to_string())
}
