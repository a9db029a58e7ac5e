//! The moments of a label: segments that have it among their best labels, joined where they follow each other.

use super::quoted;

/// Segments that are less apart belong to one moment.
const GAP_SECONDS: f64 = 1.0;

/// Which moments to find.
#[derive(Debug)]
pub(crate) struct Moments {
    /// The label, in upper or lower case.
    pub(crate) label: String,
    /// The smallest score of a segment.
    pub(crate) min_score: f64,
    /// The smallest length of a moment.
    pub(crate) min_seconds: f64,
}

impl Moments {
    /// SQL for DuckDB, strongest moments first. It fails if no segment has the label, with the most similar ones.
    pub(crate) fn sql(&self) -> String {
        let Self { label, min_score, min_seconds } = self;
        let absent = quoted(&format!("no segment has the label {label:?} among its best. Similar labels: "));
        let label = quoted(label);
        format!(
            "WITH scored AS (
    SELECT uri, video_id, model, start_seconds, end_seconds, unnest(top) AS entry FROM current_actions
), similar_labels AS (
    SELECT DISTINCT entry.label AS label, jaro_winkler_similarity(lower(entry.label), lower({label})) AS likeness
    FROM scored
    ORDER BY likeness DESC, label
    LIMIT 5
), asked AS (
    SELECT coalesce(
        (SELECT min(entry.label) FROM scored WHERE lower(entry.label) = lower({label})),
        error({absent} || coalesce((SELECT string_agg(label, ', ' ORDER BY likeness DESC) FROM similar_labels), 'none'))
    ) AS label
), found AS (
    SELECT *, entry.score AS score, max(end_seconds) OVER (
        PARTITION BY video_id, model ORDER BY start_seconds ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) AS ended
    FROM scored
    WHERE entry.label = (SELECT label FROM asked) AND entry.score >= {min_score}
), numbered AS (
    SELECT *, sum(CASE WHEN start_seconds < ended + {GAP_SECONDS} THEN 0 ELSE 1 END) OVER (
        PARTITION BY video_id, model ORDER BY start_seconds
    ) AS moment
    FROM found
)
SELECT uri, round(min(start_seconds), 3) AS start_seconds, round(max(end_seconds), 3) AS end_seconds,
    round(arg_max((start_seconds + end_seconds) / 2, score), 3) AS peak_seconds, round(max(score), 4) AS peak_score,
    count(*) AS segments
FROM numbered
GROUP BY uri, video_id, model, moment
HAVING max(end_seconds) - min(start_seconds) >= {min_seconds}
ORDER BY peak_score DESC, uri, start_seconds;"
        )
    }
}
