//! The view `current_track_actions`: what each followed person does, from when to when.

use super::Dialect;
use super::tracks::followable;

/// The smallest score of a segment.
const SCORE_MIN: f64 = 0.5;

/// Segments that are less apart belong to one event, seconds.
const GAP_SECONDS: f64 = 1.0;

/// The view as a query over `current_persons` and `current_actions`, for DuckDB or Spark. A score is the mean of those that the
/// track has for the label in the segment, the one before and the one after.
pub fn current_track_actions(dialect: Dialect) -> String {
    let persons = followable(dialect);
    let entries = match dialect {
        Dialect::DuckDb => "unnest(persons.actions)",
        Dialect::Hive => "explode(persons.actions)",
    };
    format!(
        "WITH entries AS (
    SELECT persons.video_id, persons.uri, persons.run_id, persons.track_id, persons.segment,
        spans.start_seconds, spans.end_seconds, {entries} AS entry
    FROM {persons} AS persons JOIN current_actions AS spans
        ON persons.video_id = spans.video_id AND persons.run_id = spans.run_id AND persons.segment = spans.segment
    WHERE persons.track_id IS NOT NULL
), scored AS (
    SELECT video_id, uri, run_id, track_id, segment, start_seconds, end_seconds, entry.label AS label, entry.score AS score
    FROM entries
), smoothed AS (
    SELECT video_id, uri, run_id, track_id, segment, start_seconds, end_seconds, label, avg(score) OVER (
        PARTITION BY video_id, run_id, track_id, label ORDER BY segment RANGE BETWEEN 1 PRECEDING AND 1 FOLLOWING
    ) AS score
    FROM scored
), chosen AS (
    SELECT *, max(end_seconds) OVER (
        PARTITION BY video_id, run_id, track_id, label ORDER BY segment
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) AS ended
    FROM smoothed
    WHERE score >= {SCORE_MIN}
), numbered AS (
    SELECT *, sum(CASE WHEN start_seconds < ended + {GAP_SECONDS} THEN 0 ELSE 1 END) OVER (
        PARTITION BY video_id, run_id, track_id, label ORDER BY segment
    ) AS event
    FROM chosen
)
SELECT video_id, uri, track_id, label, min(start_seconds) AS start_seconds, max(end_seconds) AS end_seconds,
    max(score) AS peak_score, count(*) AS segments, run_id
FROM numbered
GROUP BY video_id, uri, run_id, track_id, label, event"
    )
}
