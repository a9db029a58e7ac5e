//! The views of objects that were followed through a video: `current_tracks` has one row for each of them, `filled_persons` has
//! boxes in the gaps, too.

use super::Dialect;

/// The longest gap in a track that `filled_persons` fills, seconds.
const FILLED_SECONDS_MAX: f64 = 2.0;

/// The view as a query over `current_persons`. A video has tracks if its job has `track = true` in `[persons]`.
pub fn current_tracks(dialect: Dialect) -> String {
    let persons = followable(dialect);
    let edges = [("first", "min_by"), ("last", "max_by")].map(|(edge, by)| {
        ["x1", "y1", "x2", "y2"].map(|side| format!("    {by}({side}, time_seconds) AS {edge}_{side},\n")).concat()
    });
    format!(
        "SELECT video_id, uri, track_id, label,\n    \
             min(time_seconds) AS first_seconds,\n    \
             max(time_seconds) AS last_seconds,\n    \
             count(*) AS boxes,\n    \
             avg(confidence) AS mean_confidence,\n\
             {}    \
             run_id\n\
         FROM {persons}\n\
         WHERE track_id IS NOT NULL\n\
         GROUP BY video_id, uri, run_id, track_id, label",
        edges.concat()
    )
}

/// The view `filled_persons` as a query over `current_persons`, for DuckDB or Spark: all boxes, and those in the gaps of tracks,
/// halfway and so on between the boxes before and after. These have no confidence.
pub fn filled_persons(dialect: Dialect) -> String {
    let pieces = match dialect {
        Dialect::DuckDb => "unnest(generate_series(1, pieces - 1))",
        Dialect::Hive => "explode(sequence(1, pieces - 1))",
    };
    let persons = followable(dialect);
    let next =
        ["time_seconds", "x1", "y1", "x2", "y2"].map(|column| format!("lead({column}) OVER track AS next_{column}"));
    let between = ["time_seconds", "x1", "y1", "x2", "y2"]
        .map(|column| format!("{column} + (next_{column} - {column}) * piece / pieces AS {column}"));
    format!(
        "WITH boxes AS (
    SELECT * FROM {persons}
), steps AS (
    SELECT video_id, run_id, min(step) AS step
    FROM (
        SELECT video_id, run_id, time_seconds - lag(time_seconds) OVER (
            PARTITION BY video_id, run_id ORDER BY time_seconds
        ) AS step
        FROM (SELECT DISTINCT video_id, run_id, time_seconds FROM boxes) AS times
    ) AS apart
    GROUP BY video_id, run_id
), followed AS (
    SELECT *, {}
    FROM boxes
    WHERE track_id IS NOT NULL
    WINDOW track AS (PARTITION BY video_id, run_id, track_id ORDER BY time_seconds)
), gaps AS (
    SELECT followed.*, CAST(round((next_time_seconds - time_seconds) / step) AS INTEGER) AS pieces
    FROM followed JOIN steps ON followed.video_id = steps.video_id AND followed.run_id = steps.run_id
    WHERE next_time_seconds - time_seconds > 1.5 * step AND next_time_seconds - time_seconds <= {FILLED_SECONDS_MAX}
), filled AS (
    SELECT *, {pieces} AS piece FROM gaps
)
SELECT video_id, uri, track_id, label, time_seconds, x1, y1, x2, y2, confidence, run_id FROM boxes
UNION ALL
SELECT video_id, uri, track_id, label, {}, NULL AS confidence, run_id FROM filled",
        next.join(", "),
        between.join(", ")
    )
}

/// The current boxes, with the column `track_id` in any index.
pub(super) fn followable(dialect: Dialect) -> &'static str {
    match dialect {
        // Without a declared schema, an index whose files are all older than the column does not have it.
        Dialect::DuckDb => "(FROM current_persons UNION ALL BY NAME SELECT NULL::BIGINT AS track_id WHERE false)",
        Dialect::Hive => "current_persons",
    }
}
