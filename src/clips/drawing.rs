//! What is drawn on clips: the rows of the index as boxes that move, and lines of text.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::Part;
use crate::decode::{Caption, Drawing, DrawnBox};
use crate::error::Result;
use crate::palette;
use crate::query::{self, Index, quoted};

/// Boxes this long before and after a part are read, because a track may cross its ends.
const MARGIN_SECONDS: f64 = 2.0;

/// A box is shown this long if its video has no other frame with boxes.
const ALONE_SECONDS: f64 = 1.0;

/// The two boxes of a track are joined if there are at most so many frames of detection from one to the next.
const JOINED_FRAMES: f64 = 2.5;

/// The colour of a box without a track.
const UNTRACKED: i64 = 2;

/// A row of `persons`.
#[derive(Debug, Clone, Deserialize)]
struct Row {
    part: usize,
    time_seconds: f64,
    x1: f32,
    y1: f32,
    x2: f32,
    y2: f32,
    label: String,
    confidence: f64,
    track_id: Option<i64>,
    /// The person's best action.
    action: Option<String>,
    action_score: Option<f64>,
}

/// A segment of `actions`.
#[derive(Debug, Deserialize)]
struct Segment {
    part: usize,
    start_seconds: f64,
    end_seconds: f64,
    top_label: String,
    top_score: f64,
}

/// What is drawn on each part.
///
/// # Errors
/// As for [`query::rows`].
pub(super) async fn drawings(index: &Index, parts: &[Part], duckdb: Option<&Path>) -> Result<Vec<Drawing>> {
    if parts.is_empty() {
        return Ok(Vec::new());
    }
    let named = |(number, part): (usize, &Part)| {
        format!("({number}, {}, {}::DOUBLE, {}::DOUBLE)", quoted(&part.uri), part.start_seconds, part.end_seconds)
    };
    let values: Vec<String> = parts.iter().enumerate().map(named).collect();
    let parts_sql = format!("(VALUES {}) AS parts(part, uri, from_seconds, to_seconds)", values.join(", "));
    let boxes = format!(
        "SELECT part, time_seconds, x1, y1, x2, y2, label, confidence, track_id,
    actions[1].label AS action, actions[1].score AS action_score
FROM {parts_sql} JOIN current_persons USING (uri)
WHERE time_seconds BETWEEN from_seconds - {MARGIN_SECONDS} AND to_seconds + {MARGIN_SECONDS}
ORDER BY part, time_seconds, box;"
    );
    let segments = format!(
        "SELECT part, start_seconds, end_seconds, top_label, top_score
FROM {parts_sql} JOIN current_actions USING (uri)
WHERE start_seconds < to_seconds AND end_seconds > from_seconds AND top_label IS NOT NULL
ORDER BY part, start_seconds;"
    );
    let mut drawings = vec![Drawing::default(); parts.len()];
    for rows in query::rows::<Row>(index, &boxes, duckdb).await?.chunk_by(|a, b| a.part == b.part) {
        drawings[rows[0].part].boxes = moving(rows);
    }
    for segment in query::rows::<Segment>(index, &segments, duckdb).await? {
        drawings[segment.part].captions.push(Caption {
            from_seconds: segment.start_seconds,
            to_seconds: segment.end_seconds,
            text: format!("{} {:.2}", segment.top_label, segment.top_score),
        });
    }
    Ok(drawings)
}

/// Joins the boxes of a video, by time: those of a track move from one to the next, the others stay until the next frame.
fn moving(rows: &[Row]) -> Vec<DrawnBox> {
    let mut times: Vec<f64> = rows.iter().map(|row| row.time_seconds).collect();
    times.dedup();
    let steps = times.windows(2).map(|pair| pair[1] - pair[0]);
    let step = steps.fold(f64::INFINITY, f64::min);
    let step = if step.is_finite() { step } else { ALONE_SECONDS };
    let mut next: HashMap<i64, &Row> = HashMap::new();
    let mut boxes = Vec::with_capacity(rows.len());
    for row in rows.iter().rev() {
        let later = row.track_id.and_then(|track| next.insert(track, row));
        let joined = later.filter(|later| later.time_seconds - row.time_seconds <= JOINED_FRAMES * step);
        let [from, to] = [row, joined.unwrap_or(row)].map(|row| [row.x1, row.y1, row.x2, row.y2]);
        boxes.push(DrawnBox {
            from_seconds: row.time_seconds,
            to_seconds: joined.map_or(row.time_seconds + step, |later| later.time_seconds),
            from,
            to,
            colour: palette::colour(row.track_id.unwrap_or(UNTRACKED)),
            text: row.text(),
        });
    }
    boxes.reverse();
    boxes
}

impl Row {
    fn text(&self) -> String {
        let what = match (&self.action, self.action_score) {
            (Some(action), Some(score)) => format!("{action} {score:.2}"),
            _ => format!("{} {:.2}", self.label, self.confidence),
        };
        match self.track_id {
            Some(track) => format!("#{track} {what}"),
            None => what,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(time_seconds: f64, x1: f32, track_id: Option<i64>) -> Row {
        Row {
            part: 0,
            time_seconds,
            x1,
            y1: 0.0,
            x2: x1 + 10.0,
            y2: 10.0,
            label: "person".to_owned(),
            confidence: 0.875,
            track_id,
            action: None,
            action_score: None,
        }
    }

    #[test]
    fn boxes_of_a_track_move_and_others_stay_until_the_next_frame() {
        let rows = [row(0.0, 0.0, Some(1)), row(0.0, 50.0, None), row(0.2, 4.0, Some(1)), row(0.4, 8.0, Some(2))];
        let boxes = moving(&rows);
        let milliseconds = |seconds: f64| (seconds * 1e3).round() as i64;
        let times = boxes.iter().map(|drawn| (milliseconds(drawn.from_seconds), milliseconds(drawn.to_seconds)));
        assert_eq!(times.collect::<Vec<_>>(), [(0, 200), (0, 200), (200, 400), (400, 600)]);
        assert_eq!((boxes[0].from[0], boxes[0].to[0], boxes[1].to[0]), (0.0, 4.0, 50.0));
        assert_eq!((boxes[0].text.as_str(), boxes[1].text.as_str()), ("#1 person 0.88", "person 0.88"));
        assert_ne!(boxes[0].colour, boxes[3].colour);
    }

    #[test]
    fn a_track_that_was_lost_for_long_does_not_slide_through_the_picture() {
        let boxes = moving(&[row(0.0, 0.0, Some(1)), row(0.2, 0.0, None), row(5.0, 90.0, Some(1))]);
        assert_eq!((boxes[0].to_seconds, boxes[0].to[0]), (0.2, 0.0));
    }
}
