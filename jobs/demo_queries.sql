-- Queries over the tables as files on disk, without a server or an import. `vidindex query jobs/demo.toml` opens them in DuckDB's shell.

.print 'When does anyone fall?'
WITH numbered AS (
    SELECT *, segment - row_number() OVER (PARTITION BY video_id ORDER BY segment) AS moment
    FROM current_actions
    WHERE top_label = 'fall' AND top_score >= 0.5
)
SELECT camera, parse_filename(uri) AS video, round(min(start_seconds), 1) AS "from", round(max(end_seconds), 1) AS "to",
       round(max(top_score), 2) AS score
FROM numbered
GROUP BY camera, uri, moment
ORDER BY camera, video, "from";

.print 'How many people per minute does camera 2 show? Average and maximum at the same time, and in how much video.'
WITH frames AS (
    SELECT v.uri, p.frame, floor(p.time_seconds / 60)::INTEGER AS minute, count(*) AS people
    FROM current_videos v
    JOIN current_persons p USING (video_id)
    WHERE v.camera = 'cam-2' AND p.label = 'person' AND p.confidence >= 0.5
    GROUP BY ALL
)
SELECT parse_filename(uri) AS video, minute, round(avg(people), 1) AS people, max(people) AS at_most,
       count(*) / 2 AS seconds_with_people
FROM frames
GROUP BY uri, minute
ORDER BY video, minute;

.print 'Clips with waving but without walking.'
SELECT camera, parse_filename(uri) AS video, string_agg(DISTINCT top_label, ', ' ORDER BY top_label) AS actions
FROM current_actions
WHERE top_score >= 0.5
GROUP BY camera, uri
HAVING bool_or(top_label = 'wave') AND NOT bool_or(top_label LIKE 'walk%')
ORDER BY video;
