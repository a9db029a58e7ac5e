-- Views for Athena, and for Spark with Glue as its catalogue, over the tables that `terraform/` creates. Athena
-- runs one statement at a time.
--
-- A video that was indexed more than once has rows of each run. The views `current_*` show the rows of each video's latest
-- successful indexing: a later failure does not hide them, and a run without a model keeps the earlier rows of that model.
-- Videos that were deleted from the input are not shown.

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
FROM current_persons
WHERE track_id IS NOT NULL
GROUP BY video_id, uri, run_id, track_id, label;
