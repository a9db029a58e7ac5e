-- The three tables, as files on disk: no server, no import. `vidindex query jobs/demo.toml` opens them in DuckDB's shell.

-- Every video, failed ones too.
SELECT camera, parse_filename(uri) AS video, status, codec, width, height, rotation,
       round(frames_per_second, 2) AS fps, round(duration_seconds, 2) AS seconds, segments, boxes
FROM videos
ORDER BY uri LIMIT 8;

-- What happens in each segment, best label first.
SELECT camera, parse_filename(uri) AS video, segment, round(start_seconds, 2) AS "from", round(end_seconds, 2) AS "to",
       frames, top_label, round(top_score, 4) AS score
FROM current_actions
ORDER BY uri, start_seconds LIMIT 8;

-- Where the people are, in pixels of the frame as displayed.
SELECT camera, parse_filename(uri) AS video, segment, round(time_seconds, 2) AS "time", box,
       round(x1) AS x1, round(y1) AS y1, round(x2) AS x2, round(y2) AS y2, round(confidence, 6) AS confidence
FROM current_persons
ORDER BY uri, time_seconds, box LIMIT 8;

-- Both models together: the segments of each camera with the most people in one frame.
WITH seen AS (
    SELECT video_id, segment, time_seconds, count(*) AS people
    FROM current_persons
    GROUP BY ALL
)
SELECT camera, parse_filename(uri) AS video, segment, top_label, max(people) AS people
FROM current_actions
JOIN seen USING (video_id, segment)
GROUP BY ALL ORDER BY people DESC, video, segment LIMIT 8;
