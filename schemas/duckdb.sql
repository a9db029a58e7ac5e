-- Views over an index for DuckDB. Say where it is, then read this file:
--
--     SET VARIABLE index = 'demo/index';          -- or 's3://bucket/prefix'
--     .read schemas/duckdb.sql
--     SELECT top_label, count(*) FROM current_actions GROUP BY ALL ORDER BY 2 DESC;
--
-- A video that was indexed more than once has rows of each run. `current_*` shows, of each video, the rows of its latest
-- good indexing: a later one that failed does not hide an earlier one that did not. What an indexing without a model
-- leaves out is taken from the latest with one. A video that a later run found gone from the input has no current rows;
-- `videos` tells of it by a row of the status `deleted`.

CREATE OR REPLACE VIEW videos AS
FROM read_parquet(getvariable('index') || '/videos/**/*.parquet', hive_partitioning = true, union_by_name = true);

CREATE OR REPLACE VIEW actions AS
FROM read_parquet(getvariable('index') || '/actions/**/*.parquet', hive_partitioning = true, union_by_name = true);

CREATE OR REPLACE VIEW persons AS
FROM read_parquet(getvariable('index') || '/persons/**/*.parquet', hive_partitioning = true, union_by_name = true);

CREATE OR REPLACE VIEW current_videos AS
FROM videos
WHERE status <> 'failed'
QUALIFY row_number() OVER (PARTITION BY video_id ORDER BY indexed_at DESC) = 1 AND status <> 'deleted';

CREATE OR REPLACE VIEW current_actions AS
FROM actions
SEMI JOIN (
    SELECT video_id, run_id
    FROM videos
    WHERE status = 'deleted' OR (status <> 'failed' AND actions_model IS NOT NULL)
    QUALIFY row_number() OVER (PARTITION BY video_id ORDER BY indexed_at DESC) = 1 AND status <> 'deleted'
) AS latest USING (video_id, run_id);

CREATE OR REPLACE VIEW current_persons AS
FROM persons
SEMI JOIN (
    SELECT video_id, run_id
    FROM videos
    WHERE status = 'deleted' OR (status <> 'failed' AND persons_model IS NOT NULL)
    QUALIFY row_number() OVER (PARTITION BY video_id ORDER BY indexed_at DESC) = 1 AND status <> 'deleted'
) AS latest USING (video_id, run_id);
