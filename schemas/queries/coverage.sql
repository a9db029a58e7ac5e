-- The work of each run: videos by status, hours of video, rows, and seconds of processing.
SELECT run_id, min(indexed_at) AS first_at, max(indexed_at) AS last_at, count(*) AS videos,
       sum(CASE WHEN status = 'ok' THEN 1 ELSE 0 END) AS ok,
       sum(CASE WHEN status = 'partial' THEN 1 ELSE 0 END) AS partial,
       sum(CASE WHEN status = 'failed' THEN 1 ELSE 0 END) AS failed,
       sum(CASE WHEN status = 'deleted' THEN 1 ELSE 0 END) AS deleted,
       sum(duration_seconds) / 3600 AS video_hours, sum(segments) AS segments, sum(boxes) AS boxes,
       sum(decode_seconds) AS decode_seconds, sum(inference_seconds) AS inference_seconds
FROM videos
GROUP BY run_id
ORDER BY run_id;
