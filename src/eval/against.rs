//! Compares the current rows of an index with those of another run, which are the truth: what changes if the archive is indexed
//! again with another model, precision or setting.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::boxes::{OVERLAP, PERSON};
use super::labels::{Item, Ranked, one, plain};
use super::metrics::{BoxImage, area_precision};
use super::report::{ActionsReport, Differences, EvalReport, PersonsReport};
use crate::error::{Error, Result};
use crate::query::{self, Index};
use crate::run::RunId;

/// A label of a segment in both runs.
#[derive(Debug, Deserialize)]
struct Entry {
    video_id: String,
    model: String,
    start_ms: i64,
    is_truth: bool,
    label: String,
    score: f64,
}

#[derive(Debug, Deserialize)]
struct Found {
    video_id: String,
    frame: i64,
    is_truth: bool,
    x1: f64,
    y1: f64,
    x2: f64,
    y2: f64,
    confidence: f64,
}

#[derive(Debug, Deserialize)]
struct Counts {
    videos: usize,
    shared: usize,
}

/// Compares the index with a run.
pub(super) async fn run(index: &Index, run: &RunId, duckdb: Option<&Path>) -> Result<EvalReport> {
    let run = query::quoted(run.as_str());
    // Rows of videos that both have.
    let videos = format!(
        "SELECT video_id FROM videos WHERE run_id = {run} AND status <> 'failed'
        INTERSECT SELECT video_id FROM current_videos WHERE run_id <> {run}"
    );
    let counts = format!(
        "SELECT count(*) AS videos, count(*) FILTER (video_id IN ({videos})) AS shared FROM videos WHERE run_id = {run}"
    );
    let counts: Vec<Counts> = query::rows(index, &counts, duckdb).await?;
    let Some(Counts { videos: all, shared }) = counts.into_iter().next() else {
        return Err(Error::failed("the index has no videos"));
    };
    if shared == 0 {
        return Err(Error::failed(format!("no video of {run} was indexed by another run, too")).with_hint(
            "give the older run: its rows are compared with the current ones (`vidindex status` lists the runs)",
        ));
    }
    let both = |columns: &str, table: &str| {
        format!(
            "SELECT {columns}, true AS is_truth FROM {table} WHERE run_id = {run} AND video_id IN ({videos})
UNION ALL
SELECT {columns}, false AS is_truth FROM current_{table} WHERE run_id <> {run} AND video_id IN ({videos})"
        )
    };
    let entries = format!(
        "SELECT video_id, model, start_ms, is_truth, entry.label AS label, entry.score AS score
FROM (SELECT video_id, model, start_ms, is_truth, unnest(top) AS entry FROM ({}))
ORDER BY video_id, start_ms, score DESC, entry.label_id",
        both("video_id, model, CAST(round(1000 * start_seconds) AS BIGINT) AS start_ms, top", "actions")
    );
    let found = format!(
        "SELECT * FROM ({}) WHERE label = {} ORDER BY video_id, frame",
        both("video_id, frame, label, x1, y1, x2, y2, confidence", "persons"),
        query::quoted(PERSON)
    );
    let entries: Vec<Entry> = query::rows(index, &entries, duckdb).await?;
    let found: Vec<Found> = query::rows(index, &found, duckdb).await?;
    Ok(EvalReport { videos: all, indexed: shared, actions: actions(&entries), persons: persons(&found) })
}

/// Compares the labels of the segments that both runs have.
fn actions(entries: &[Entry]) -> Option<ActionsReport> {
    let (mut items, mut differences) = (Vec::new(), Vec::new());
    let mut model = None;
    for segment in entries.chunk_by(|a, b| (&a.video_id, a.start_ms) == (&b.video_id, b.start_ms)) {
        let (truth, now): (Vec<&Entry>, Vec<&Entry>) = segment.iter().partition(|entry| entry.is_truth);
        let (Some(best), Some(first)) = (truth.first(), now.first()) else { continue };
        model.get_or_insert_with(|| first.model.clone());
        for entry in &truth {
            let same = now.iter().find(|other| other.label == entry.label);
            // A score that is not among the best is unknown.
            differences.extend(same.map(|other| (other.score - entry.score).abs()));
        }
        let ranked =
            |entry: &&Entry| Ranked { key: plain(&entry.label), label: entry.label.clone(), score: entry.score };
        items.push(Item { labels: vec![plain(&best.label)], ranked: now.iter().map(ranked).collect() });
    }
    let model = model?;
    differences.sort_by(f64::total_cmp);
    let report = one(model, &items, "segments", Vec::new());
    Some(ActionsReport { differences: Differences::of(&differences), ..report })
}

/// Compares the boxes of the frames in which either run has some.
fn persons(found: &[Found]) -> Option<PersonsReport> {
    let mut images = BTreeMap::<(&str, i64), BoxImage>::new();
    for row in found {
        let image = images.entry((&row.video_id, row.frame)).or_default();
        let corners = [row.x1, row.y1, row.x2, row.y2];
        match row.is_truth {
            true => image.truth.push(corners),
            false => image.found.push((corners, row.confidence)),
        }
    }
    let images: Vec<BoxImage> = images.into_values().collect();
    (!images.is_empty()).then(|| PersonsReport {
        frames: images.len(),
        boxes: images.iter().map(|image| image.truth.len()).sum(),
        // COCO's would count only 100 boxes of an image.
        ap50: area_precision(&images, OVERLAP),
        ap: None,
    })
}
