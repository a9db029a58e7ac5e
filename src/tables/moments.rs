//! The view `current_moments`: segments that follow each other and have the same label among their best ones, joined.

use super::Dialect;

/// Segments that are less apart belong to one moment, seconds.
const GAP_SECONDS: f64 = 1.0;

/// The smallest score of a segment of a view.
pub(super) const SCORE_MIN: f64 = 0.5;

/// The view as a query over `current_actions`, for DuckDB or Spark.
pub fn current_moments(dialect: Dialect) -> String {
    format!("{}\nSELECT * FROM moments", moments(dialect, "", &format!("score >= {SCORE_MIN}")))
}

/// The beginning of a query (`WITH`) that defines `scored`, the labels of all segments, and `moments`, made of those that fulfil a
/// condition. `more` defines what the condition refers to, each followed by a comma.
pub(crate) fn moments(dialect: Dialect, more: &str, condition: &str) -> String {
    let entries = match dialect {
        Dialect::DuckDb => "unnest(top)",
        Dialect::Hive => "explode(top)",
    };
    let joined = joined("scored", "video_id, model, label", condition);
    format!(
        "WITH entries AS (
    SELECT uri, video_id, model, run_id, start_seconds, end_seconds, {entries} AS entry FROM current_actions
), scored AS (
    SELECT uri, video_id, model, run_id, start_seconds, end_seconds, entry.label AS label, entry.score AS score FROM entries
), {more}{joined}, moments AS (
    SELECT uri, video_id, model, label, min(start_seconds) AS start_seconds, max(end_seconds) AS end_seconds,
        max_by((start_seconds + end_seconds) / 2, score) AS peak_seconds, max(score) AS peak_score,
        count(*) AS segments, run_id
    FROM numbered
    GROUP BY uri, video_id, model, label, moment, run_id
)"
    )
}

/// Common table expressions that take the segments of `table` that fulfil a condition, and number the moments that they belong to:
/// `numbered`, with the column `moment`. Those with the same values of `columns` are joined.
pub(super) fn joined(table: &str, columns: &str, condition: &str) -> String {
    format!(
        "chosen AS (
    SELECT *, max(end_seconds) OVER (
        PARTITION BY {columns} ORDER BY start_seconds ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) AS ended
    FROM {table}
    WHERE {condition}
), numbered AS (
    SELECT *, sum(CASE WHEN start_seconds < ended + {GAP_SECONDS} THEN 0 ELSE 1 END) OVER (
        PARTITION BY {columns} ORDER BY start_seconds
    ) AS moment
    FROM chosen
)"
    )
}
