-- Views over an index for DuckDB; `vidindex query` has them in place. Elsewhere, say where it is, then read this file:
--
--     SET VARIABLE index = 'demo/index';          -- or 's3://bucket/prefix'
--     .read schemas/duckdb.sql
--     SELECT top_label, count(*) FROM current_actions GROUP BY ALL ORDER BY 2 DESC;
--
-- A video that was indexed more than once has rows of each run. `current_*` shows, of each video, the rows of its latest
-- good indexing: a later one that failed does not hide an earlier one that did not. What an indexing without a model
-- leaves out is taken from the latest with one. A video that has gone from the source is not shown.

CREATE OR REPLACE VIEW videos AS
FROM read_parquet(getvariable('index') || '/videos/**/*.parquet', hive_partitioning = true, union_by_name = true);

CREATE OR REPLACE VIEW actions AS
FROM read_parquet(getvariable('index') || '/actions/**/*.parquet', hive_partitioning = true, union_by_name = true);

CREATE OR REPLACE VIEW persons AS
FROM read_parquet(getvariable('index') || '/persons/**/*.parquet', hive_partitioning = true, union_by_name = true);

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
