-- Views over an index for DuckDB. `vidindex query` defines them. In other clients, set `index`, then read this file:
--
--     SET VARIABLE index = 'demo/index';          -- or 's3://bucket/prefix'
--     .read schemas/duckdb.sql
--     SELECT top_label, count(*) FROM current_actions GROUP BY ALL ORDER BY 2 DESC;
--
-- A video that was indexed more than once has rows of each run. The views `current_*` show the rows of each video's latest
-- successful indexing: a later failure does not hide them, and a run without a model keeps the earlier rows of that model.
-- Videos that were deleted from the input are not shown.
--
-- A table without files is empty: the job has only one model, or writes no thumbnails, or nothing is indexed yet.
-- After it gets its first files, read this file again.

SET VARIABLE videos_rows = (
    SELECT CASE WHEN count(*) > 0
        THEN 'FROM read_parquet(getvariable(''index'') || ''/videos/**/*.parquet'', hive_partitioning = true, union_by_name = true)'
        ELSE 'SELECT NULL::VARCHAR AS "video_id", NULL::VARCHAR AS "uri", NULL::VARCHAR AS "etag", NULL::VARCHAR AS "version_id", NULL::BIGINT AS "size_bytes", NULL::TIMESTAMP WITH TIME ZONE AS "last_modified", NULL::VARCHAR AS "status", NULL::VARCHAR AS "error_kind", NULL::VARCHAR AS "error_message", NULL::BIGINT AS "failures", NULL::VARCHAR AS "container", NULL::VARCHAR AS "codec", NULL::INTEGER AS "width", NULL::INTEGER AS "height", NULL::INTEGER AS "rotation", NULL::BOOLEAN AS "mirrored", NULL::DOUBLE AS "frames_per_second", NULL::DOUBLE AS "start_seconds", NULL::DOUBLE AS "duration_seconds", NULL::BIGINT AS "frames_decoded", NULL::BIGINT AS "frames_presented", NULL::VARCHAR AS "decode_mode", NULL::VARCHAR AS "full_decode_reason", NULL::BIGINT AS "segments", NULL::BIGINT AS "boxes", NULL::VARCHAR AS "actions_model", NULL::VARCHAR AS "persons_model", NULL::VARCHAR AS "precision", NULL::VARCHAR AS "fingerprint", NULL::VARCHAR AS "run_id", NULL::BIGINT AS "shard", NULL::TIMESTAMP WITH TIME ZONE AS "indexed_at", NULL::DOUBLE AS "decode_seconds", NULL::DOUBLE AS "inference_seconds", NULL::DATE AS "dt" WHERE false' END
    FROM (FROM glob(getvariable('index') || '/videos/**/*.parquet') LIMIT 1)
);
CREATE OR REPLACE VIEW videos AS FROM query(getvariable('videos_rows'));

SET VARIABLE actions_rows = (
    SELECT CASE WHEN count(*) > 0
        THEN 'FROM read_parquet(getvariable(''index'') || ''/actions/**/*.parquet'', hive_partitioning = true, union_by_name = true)'
        ELSE 'SELECT NULL::VARCHAR AS "video_id", NULL::VARCHAR AS "uri", NULL::BIGINT AS "segment", NULL::DOUBLE AS "start_seconds", NULL::DOUBLE AS "end_seconds", NULL::BIGINT AS "frames", NULL::VARCHAR AS "top_label", NULL::FLOAT AS "top_score", NULL::STRUCT(label_id INTEGER, label VARCHAR, score FLOAT)[] AS "top", NULL::FLOAT[] AS "scores", NULL::FLOAT[] AS "embedding", NULL::VARCHAR AS "run_id", NULL::VARCHAR AS "model", NULL::DATE AS "dt" WHERE false' END
    FROM (FROM glob(getvariable('index') || '/actions/**/*.parquet') LIMIT 1)
);
CREATE OR REPLACE VIEW actions AS FROM query(getvariable('actions_rows'));

SET VARIABLE persons_rows = (
    SELECT CASE WHEN count(*) > 0
        THEN 'FROM read_parquet(getvariable(''index'') || ''/persons/**/*.parquet'', hive_partitioning = true, union_by_name = true)'
        ELSE 'SELECT NULL::VARCHAR AS "video_id", NULL::VARCHAR AS "uri", NULL::BIGINT AS "segment", NULL::DOUBLE AS "time_seconds", NULL::BIGINT AS "frame", NULL::INTEGER AS "box", NULL::VARCHAR AS "label", NULL::FLOAT AS "x1", NULL::FLOAT AS "y1", NULL::FLOAT AS "x2", NULL::FLOAT AS "y2", NULL::FLOAT AS "confidence", NULL::STRUCT(label_id INTEGER, label VARCHAR, score FLOAT)[] AS "actions", NULL::BIGINT AS "track_id", NULL::VARCHAR AS "run_id", NULL::VARCHAR AS "model", NULL::DATE AS "dt" WHERE false' END
    FROM (FROM glob(getvariable('index') || '/persons/**/*.parquet') LIMIT 1)
);
CREATE OR REPLACE VIEW persons AS FROM query(getvariable('persons_rows'));

SET VARIABLE thumbnails_rows = (
    SELECT CASE WHEN count(*) > 0
        THEN 'FROM read_parquet(getvariable(''index'') || ''/thumbnails/**/*.parquet'', hive_partitioning = true, union_by_name = true)'
        ELSE 'SELECT NULL::VARCHAR AS "video_id", NULL::VARCHAR AS "uri", NULL::BIGINT AS "segment", NULL::DOUBLE AS "time_seconds", NULL::BIGINT AS "frame", NULL::INTEGER AS "width", NULL::INTEGER AS "height", NULL::BLOB AS "jpeg", NULL::VARCHAR AS "run_id", NULL::DATE AS "dt" WHERE false' END
    FROM (FROM glob(getvariable('index') || '/thumbnails/**/*.parquet') LIMIT 1)
);
CREATE OR REPLACE VIEW thumbnails AS FROM query(getvariable('thumbnails_rows'));

CREATE OR REPLACE VIEW current_videos AS
SELECT videos.*
FROM videos
JOIN (
    SELECT video_id, max_by(run_id, (indexed_at, run_id)) AS run_id
    FROM videos
    WHERE status <> 'failed'
    GROUP BY video_id
) AS latest ON videos.video_id = latest.video_id AND videos.run_id = latest.run_id
WHERE videos.status NOT IN ('failed', 'deleted');

CREATE OR REPLACE VIEW current_actions AS
SELECT actions.*
FROM actions
JOIN (
    SELECT video_id, max_by(run_id, (indexed_at, run_id)) AS run_id
    FROM videos
    WHERE status = 'deleted' OR (status <> 'failed' AND actions_model IS NOT NULL)
    GROUP BY video_id
) AS latest ON actions.video_id = latest.video_id AND actions.run_id = latest.run_id;

CREATE OR REPLACE VIEW current_persons AS
SELECT persons.*
FROM persons
JOIN (
    SELECT video_id, max_by(run_id, (indexed_at, run_id)) AS run_id
    FROM videos
    WHERE status = 'deleted' OR (status <> 'failed' AND persons_model IS NOT NULL)
    GROUP BY video_id
) AS latest ON persons.video_id = latest.video_id AND persons.run_id = latest.run_id;

CREATE OR REPLACE VIEW current_thumbnails AS
SELECT thumbnails.*
FROM thumbnails
JOIN (
    SELECT video_id, max_by(run_id, (indexed_at, run_id)) AS run_id
    FROM videos
    WHERE status <> 'failed'
    GROUP BY video_id
) AS latest ON thumbnails.video_id = latest.video_id AND thumbnails.run_id = latest.run_id;

-- The objects of jobs with `track = true`.
CREATE OR REPLACE VIEW current_tracks AS
SELECT video_id, uri, track_id, label,
    min(time_seconds) AS first_seconds,
    max(time_seconds) AS last_seconds,
    count(*) AS boxes,
    avg(confidence) AS mean_confidence,
    min_by(x1, time_seconds) AS first_x1,
    min_by(y1, time_seconds) AS first_y1,
    min_by(x2, time_seconds) AS first_x2,
    min_by(y2, time_seconds) AS first_y2,
    max_by(x1, time_seconds) AS last_x1,
    max_by(y1, time_seconds) AS last_y1,
    max_by(x2, time_seconds) AS last_x2,
    max_by(y2, time_seconds) AS last_y2,
    run_id
FROM (FROM current_persons UNION ALL BY NAME SELECT NULL::BIGINT AS track_id WHERE false)
WHERE track_id IS NOT NULL
GROUP BY video_id, uri, run_id, track_id, label;

-- Segments that follow each other and have a label with a score of 0.5 or more, joined. `vidindex find` has other scores.
CREATE OR REPLACE VIEW current_moments AS
WITH entries AS (
    SELECT uri, video_id, model, run_id, start_seconds, end_seconds, unnest(top) AS entry FROM current_actions
), scored AS (
    SELECT uri, video_id, model, run_id, start_seconds, end_seconds, entry.label AS label, entry.score AS score FROM entries
), chosen AS (
    SELECT *, max(end_seconds) OVER (
        PARTITION BY video_id, model, label ORDER BY start_seconds ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) AS ended
    FROM scored
    WHERE score >= 0.5
), numbered AS (
    SELECT *, sum(CASE WHEN start_seconds < ended + 1 THEN 0 ELSE 1 END) OVER (
        PARTITION BY video_id, model, label ORDER BY start_seconds
    ) AS moment
    FROM chosen
), moments AS (
    SELECT uri, video_id, model, label, min(start_seconds) AS start_seconds, max(end_seconds) AS end_seconds,
        max_by((start_seconds + end_seconds) / 2, score) AS peak_seconds, max(score) AS peak_score,
        count(*) AS segments, run_id
    FROM numbered
    GROUP BY uri, video_id, model, label, moment, run_id
)
SELECT * FROM moments;

-- What each followed person does, if the action model scores persons. Scores are smoothed over three segments.
CREATE OR REPLACE VIEW current_track_actions AS
WITH entries AS (
    SELECT persons.video_id, persons.uri, persons.run_id, persons.track_id, persons.segment,
        spans.start_seconds, spans.end_seconds, unnest(persons.actions) AS entry
    FROM (FROM current_persons UNION ALL BY NAME SELECT NULL::BIGINT AS track_id WHERE false) AS persons JOIN current_actions AS spans
        ON persons.video_id = spans.video_id AND persons.run_id = spans.run_id AND persons.segment = spans.segment
    WHERE persons.track_id IS NOT NULL
), scored AS (
    SELECT video_id, uri, run_id, track_id, segment, start_seconds, end_seconds, entry.label AS label, entry.score AS score
    FROM entries
), smoothed AS (
    SELECT video_id, uri, run_id, track_id, segment, start_seconds, end_seconds, label, avg(score) OVER (
        PARTITION BY video_id, run_id, track_id, label ORDER BY segment RANGE BETWEEN 1 PRECEDING AND 1 FOLLOWING
    ) AS score
    FROM scored
), chosen AS (
    SELECT *, max(end_seconds) OVER (
        PARTITION BY video_id, run_id, track_id, label ORDER BY start_seconds ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) AS ended
    FROM smoothed
    WHERE score >= 0.5
), numbered AS (
    SELECT *, sum(CASE WHEN start_seconds < ended + 1 THEN 0 ELSE 1 END) OVER (
        PARTITION BY video_id, run_id, track_id, label ORDER BY start_seconds
    ) AS moment
    FROM chosen
)
SELECT video_id, uri, track_id, label, min(start_seconds) AS start_seconds, max(end_seconds) AS end_seconds,
    max(score) AS peak_score, count(*) AS segments, run_id
FROM numbered
GROUP BY video_id, uri, run_id, track_id, label, moment;

-- The boxes of persons, and those in gaps of tracks of up to two seconds, which are interpolated and have no confidence.
CREATE OR REPLACE VIEW filled_persons AS
WITH boxes AS (
    SELECT * FROM (FROM current_persons UNION ALL BY NAME SELECT NULL::BIGINT AS track_id WHERE false)
), steps AS (
    SELECT video_id, run_id, min(step) AS step
    FROM (
        SELECT video_id, run_id, time_seconds - lag(time_seconds) OVER (
            PARTITION BY video_id, run_id ORDER BY time_seconds
        ) AS step
        FROM (SELECT DISTINCT video_id, run_id, time_seconds FROM boxes) AS times
    ) AS apart
    GROUP BY video_id, run_id
), followed AS (
    SELECT *, lead(time_seconds) OVER track AS next_time_seconds, lead(x1) OVER track AS next_x1, lead(y1) OVER track AS next_y1, lead(x2) OVER track AS next_x2, lead(y2) OVER track AS next_y2
    FROM boxes
    WHERE track_id IS NOT NULL
    WINDOW track AS (PARTITION BY video_id, run_id, track_id ORDER BY time_seconds)
), gaps AS (
    SELECT followed.*, CAST(round((next_time_seconds - time_seconds) / step) AS INTEGER) AS pieces
    FROM followed JOIN steps ON followed.video_id = steps.video_id AND followed.run_id = steps.run_id
    WHERE next_time_seconds - time_seconds > 1.5 * step AND next_time_seconds - time_seconds <= 2
), filled AS (
    SELECT *, unnest(generate_series(1, pieces - 1)) AS piece FROM gaps
)
SELECT video_id, uri, track_id, label, time_seconds, x1, y1, x2, y2, confidence, run_id FROM boxes
UNION ALL
SELECT video_id, uri, track_id, label, time_seconds + (next_time_seconds - time_seconds) * piece / pieces AS time_seconds, x1 + (next_x1 - x1) * piece / pieces AS x1, y1 + (next_y1 - y1) * piece / pieces AS y1, x2 + (next_x2 - x2) * piece / pieces AS x2, y2 + (next_y2 - y2) * piece / pieces AS y2, NULL AS confidence, run_id FROM filled;
