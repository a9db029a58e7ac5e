//! The view `current_track_actions`: what each followed person does, from when to when.

use super::Dialect;
use super::moments::{SCORE_MIN, joined};
use super::tracks::followable;

/// The view as a query over `current_persons` and `current_actions`, for DuckDB or Spark. A score is the mean of those that the
/// track has for the label in the segment, the one before and the one after.
pub fn current_track_actions(dialect: Dialect) -> String {
    let persons = followable(dialect);
    let joined = joined("smoothed", "video_id, run_id, track_id, label", &format!("score >= {SCORE_MIN}"));
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
), {joined}
SELECT video_id, uri, track_id, label, min(start_seconds) AS start_seconds, max(end_seconds) AS end_seconds,
    max(score) AS peak_score, count(*) AS segments, run_id
FROM numbered
GROUP BY video_id, uri, run_id, track_id, label, moment"
    )
}
