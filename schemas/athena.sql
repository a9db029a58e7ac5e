-- Views for Athena, and for Spark with Glue as its catalogue, over the tables that `terraform/` makes. Athena takes one
-- statement at a time.
--
-- A video that was indexed more than once has rows of each run. `current_*` shows, of each video, the rows of its latest
-- good indexing: a later one that failed does not hide an earlier one that did not. What an indexing without a model
-- leaves out is taken from the latest with one. A video that has gone from the source is not shown.

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
