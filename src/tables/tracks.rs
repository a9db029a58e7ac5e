//! The view `current_tracks`: one row per object that was followed through a video.

/// The view as a query over `current_persons` that DuckDB, Spark and Athena all understand. A video has tracks if its job has
/// `track = true` in `[persons]`.
pub fn current_tracks() -> String {
    let edges = ["first", "last"].map(|edge| {
        let by = if edge == "first" { "min_by" } else { "max_by" };
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
         FROM current_persons\n\
         WHERE track_id IS NOT NULL\n\
         GROUP BY video_id, uri, run_id, track_id, label",
        edges.concat()
    )
}
