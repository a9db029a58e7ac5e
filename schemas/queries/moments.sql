-- The moments of an action: sequences of segments with this best label. Those less than a second apart are joined.
WITH found AS (
    SELECT video_id, uri, start_seconds, end_seconds, top_score,
           max(end_seconds) OVER (
               PARTITION BY video_id ORDER BY start_seconds ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
           ) AS ended
    FROM current_actions
    WHERE top_label = 'riding a bike' AND top_score >= 0.5
), numbered AS (
    SELECT *, sum(CASE WHEN start_seconds < ended + 1 THEN 0 ELSE 1 END) OVER (
               PARTITION BY video_id ORDER BY start_seconds
           ) AS moment
    FROM found
)
SELECT uri, min(start_seconds) AS start_seconds, max(end_seconds) AS end_seconds, count(*) AS segments,
       max(top_score) AS best_score
FROM numbered
GROUP BY uri, video_id, moment
ORDER BY uri, start_seconds;
