-- The moments of an action as a list of clips to cut. Times count from the first frame of the video (see README.md).
WITH found AS (
    SELECT video_id, uri, start_seconds, end_seconds,
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
), moments AS (
    SELECT uri, min(start_seconds) AS start_seconds, max(end_seconds) AS end_seconds
    FROM numbered
    GROUP BY uri, video_id, moment
)
SELECT 'clip-' || lpad(CAST(row_number() OVER (ORDER BY uri, start_seconds) AS VARCHAR(10)), 4, '0') || '.mp4' AS clip,
       round(start_seconds, 3) AS start_seconds, round(end_seconds - start_seconds, 3) AS duration_seconds, uri
FROM moments
ORDER BY clip;
