-- Two models on the same segments: for each label of the first, how often the second agrees, and both confidences.
WITH latest AS (
    SELECT video_id, actions_model, max_by(run_id, (indexed_at, run_id)) AS run_id
    FROM videos
    WHERE status IN ('ok', 'partial') AND actions_model IS NOT NULL
    GROUP BY video_id, actions_model
), scored AS (
    SELECT actions.*
    FROM actions
    JOIN latest ON latest.video_id = actions.video_id AND latest.run_id = actions.run_id
)
SELECT one.top_label AS label, count(*) AS segments,
       avg(CASE WHEN other.top_label = one.top_label THEN 1.0E0 ELSE 0.0E0 END) AS agreement,
       avg(one.top_score) AS score, avg(other.top_score) AS other_score,
       avg(other.top_score) - avg(one.top_score) AS drift
FROM scored AS one
JOIN scored AS other
  ON other.video_id = one.video_id AND other.segment = one.segment AND other.start_seconds = one.start_seconds
WHERE one.model = 'slowfast-r50-8x8-1f3c9a2e' AND other.model = 'slowfast-r101-8x8-77ab03d1'
GROUP BY one.top_label
ORDER BY segments DESC, label;
