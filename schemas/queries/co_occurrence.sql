-- Co-occurring actions: pairs of labels that are the best labels of segments in the same minute of a video.
WITH seen AS (
    SELECT DISTINCT video_id, CAST(floor(start_seconds / 60) AS BIGINT) AS minute, top_label
    FROM current_actions
    WHERE top_score >= 0.5
)
SELECT one.top_label AS label, other.top_label AS other_label, count(*) AS minutes,
       count(DISTINCT one.video_id) AS videos
FROM seen AS one
JOIN seen AS other
  ON other.video_id = one.video_id AND other.minute = one.minute AND other.top_label > one.top_label
GROUP BY one.top_label, other.top_label
ORDER BY minutes DESC, label, other_label;
