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
        ELSE 'SELECT NULL::VARCHAR AS "video_id", NULL::VARCHAR AS "uri", NULL::VARCHAR AS "etag", NULL::BIGINT AS "size_bytes", NULL::TIMESTAMP WITH TIME ZONE AS "last_modified", NULL::VARCHAR AS "status", NULL::VARCHAR AS "error_kind", NULL::VARCHAR AS "error_message", NULL::BIGINT AS "failures", NULL::VARCHAR AS "container", NULL::VARCHAR AS "codec", NULL::INTEGER AS "width", NULL::INTEGER AS "height", NULL::INTEGER AS "rotation", NULL::BOOLEAN AS "mirrored", NULL::DOUBLE AS "frames_per_second", NULL::DOUBLE AS "start_seconds", NULL::DOUBLE AS "duration_seconds", NULL::BIGINT AS "frames_decoded", NULL::BIGINT AS "frames_presented", NULL::VARCHAR AS "decode_mode", NULL::VARCHAR AS "full_decode_reason", NULL::BIGINT AS "segments", NULL::BIGINT AS "boxes", NULL::VARCHAR AS "actions_model", NULL::VARCHAR AS "persons_model", NULL::VARCHAR AS "precision", NULL::VARCHAR AS "fingerprint", NULL::VARCHAR AS "run_id", NULL::BIGINT AS "shard", NULL::TIMESTAMP WITH TIME ZONE AS "indexed_at", NULL::DOUBLE AS "decode_seconds", NULL::DOUBLE AS "inference_seconds", NULL::DATE AS "dt" WHERE false' END
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
