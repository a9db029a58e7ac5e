-- The moments of an action as a list for ffmpeg's concat demuxer, which plays them one after another (see README.md).
-- Times are on the container's clock, where the first frame need not be at 0.
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
    SELECT video_id, uri, min(start_seconds) AS start_seconds, max(end_seconds) AS end_seconds
    FROM numbered
    GROUP BY uri, video_id, moment
), clips AS (
    SELECT moments.uri, moments.start_seconds, round(videos.start_seconds + moments.start_seconds, 3) AS inpoint,
           round(videos.start_seconds + moments.end_seconds, 3) AS outpoint
    FROM moments
    JOIN current_videos AS videos ON videos.video_id = moments.video_id
)
SELECT CASE part.n
           WHEN 1 THEN 'file ' || chr(39) || replace(uri, chr(39), chr(39) || chr(92) || chr(39) || chr(39)) || chr(39)
           WHEN 2 THEN 'inpoint ' || CAST(inpoint AS VARCHAR(20))
           ELSE 'outpoint ' || CAST(outpoint AS VARCHAR(20))
       END AS line
FROM clips
CROSS JOIN (VALUES (1), (2), (3)) AS part (n)
ORDER BY uri, start_seconds, part.n;
