//! The view `current_tracks`: one row per object that was followed through a video.

use super::Dialect;

/// The view as a query over `current_persons`. A video has tracks if its job has `track = true` in `[persons]`.
pub fn current_tracks(dialect: Dialect) -> String {
    let persons = match dialect {
        // Without a declared schema, an index whose files are all older than the column does not have it.
        Dialect::DuckDb => "(FROM current_persons UNION ALL BY NAME SELECT NULL::BIGINT AS track_id WHERE false)",
        Dialect::Hive => "current_persons",
    };
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
