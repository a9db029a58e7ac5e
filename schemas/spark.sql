-- Views over an index for Spark SQL, which discovers partitions itself. Set `index`, then read this file:
--
--     SET index = s3a://bucket/prefix;
--     SET spark.sql.session.timeZone = UTC;
--     SOURCE schemas/spark.sql;
--
-- A video that was indexed more than once has rows of each run. The views `current_*` show the rows of each video's latest
-- successful indexing: a later failure does not hide them, and a run without a model keeps the earlier rows of that model.
-- Videos that were deleted from the input are not shown.
--
-- Spark cannot create a view of a table without files: omit the statements of such a table, for example of
-- `actions` in the index of a job without an actions model.

CREATE OR REPLACE TEMPORARY VIEW videos (
    video_id string COMMENT 'Identifies the video in every table: a stable hash of its uri.',
    uri string COMMENT 'The video\'s full URI.',
    etag string COMMENT 'ETag of the listed version, without quotes.',
    version_id string COMMENT 'Id of the listed version, which was read.',
    size_bytes bigint COMMENT 'As listed.',
    last_modified timestamp COMMENT 'As listed.',
    status string COMMENT 'ok: indexed completely. partial: indexed as far as it could be read; pictures are missing or damaged. failed: not indexed; any rows of it in the other tables do not count. deleted: deleted from the input after it was indexed.',
    error_kind string COMMENT 'What stopped a partial or failed video: not_found, changed_during_read, access_denied, archived, unreadable, encrypted, not_a_video, no_video_stream, corrupt, unsupported, too_large, timeout, decoder_crashed or out_of_memory.',
    error_message string COMMENT 'The error message for humans.',
    failures bigint COMMENT 'Number of consecutive runs that failed to index this content with these settings, including this one. 0: an archived object that was not tried. The next runs retry an error that may pass (access_denied, archived, unreadable, timeout, out_of_memory, changed_during_read) until there are 5.',
    container string COMMENT 'FFmpeg\'s name of the container format.',
    codec string COMMENT 'FFmpeg\'s name of the video stream\'s codec.',
    width int COMMENT 'Width of the frame as displayed: rotated and mirrored.',
    height int COMMENT 'Likewise.',
    rotation int COMMENT 'Rotation of the first frame by a player, before mirroring: 0, 90, 180 or 270. Another angle, up to 359, tilts the picture in a frame of the same size, as the ffmpeg tool shows it.',
    mirrored boolean COMMENT 'Whether a player mirrors the first frame left to right, after its rotation. A frame that is flipped top to bottom has rotation 180 and mirrored true.',
    frames_per_second double COMMENT 'The stream\'s average frame rate.',
    start_seconds double COMMENT 'Presentation time of the first frame on the container\'s clock.',
    duration_seconds double COMMENT 'Time from the first frame\'s presentation to the end of the last, which lasts as long as the file states. Where recordings were joined, each continues at the end of the previous one.',
    frames_decoded bigint COMMENT 'Number of frames that the decoder returned.',
    frames_presented bigint COMMENT 'Number of frames that a player shows. Frames are numbered in this order, whether they are decoded or not.',
    decode_mode string COMMENT 'selective: only the frames that the job takes were decoded, and those that they refer to. full: all frames were. Both give the same rows.',
    full_decode_reason string COMMENT 'Why all frames were decoded: requested; or the file does not tell enough without decoding it: codec, interlaced, timestamps, clock_restart, start, hidden_frames, open_groups, damage, orientation or missing_frame.',
    segments bigint COMMENT 'Number of rows in the actions table; 0 without an actions model.',
    boxes bigint COMMENT 'Number of rows in the persons table; 0 without a persons model.',
    actions_model string COMMENT 'Id of the actions model, as in the path of the actions table.',
    persons_model string COMMENT 'Id of the persons model, as in the path of the persons table.',
    precision string COMMENT 'Number format in which the models computed: fp32, bf16 or fp16. What a quantised model does with integers does not depend on it.',
    fingerprint string COMMENT 'Hash of the models and of everything in the job that affects rows.',
    run_id string COMMENT 'The run that wrote the row. Run ids sort by time.',
    shard bigint COMMENT 'The run\'s shard, from 0.',
    indexed_at timestamp COMMENT 'When the row was created. Later than the rows that the plan of its run read, also if a clock was set back.',
    decode_seconds double COMMENT 'Time of decoding.',
    inference_seconds double COMMENT 'The video\'s share of its batches\' inference time.'
) USING parquet OPTIONS (path '${index}/videos');

CREATE OR REPLACE TEMPORARY VIEW actions (
    video_id string COMMENT 'As in the videos table.',
    uri string COMMENT 'As in the videos table.',
    segment bigint COMMENT 'Number of the segment in the video, from 0.',
    start_seconds double COMMENT 'Start of the segment, from the first frame presented.',
    end_seconds double COMMENT 'End of the segment, exclusive. The last segment ends with the video.',
    frames bigint COMMENT 'Number of frames presented in the segment, of which the model received a sample. 1 if only the video\'s still last frame is in it.',
    top_label string COMMENT 'The label with the highest score.',
    top_score float COMMENT 'The score of top_label.',
    top array<struct<label_id:int,label:string,score:float>> COMMENT 'The highest scores, descending; as many as the job\'s top_k. Empty if there were no persons to score.',
    scores array<float> COMMENT 'Every score, in the order of the model\'s labels.',
    embedding array<float> COMMENT 'Pooled features before the classifier.',
    run_id string COMMENT 'The run that wrote the row.'
) USING parquet OPTIONS (path '${index}/actions');

CREATE OR REPLACE TEMPORARY VIEW persons (
    video_id string COMMENT 'As in the videos table.',
    uri string COMMENT 'As in the videos table.',
    segment bigint COMMENT 'The segment of the same run that contains the frame.',
    time_seconds double COMMENT 'Presentation time, from the first frame presented.',
    frame bigint COMMENT 'Number of the frame in presentation order, from 0.',
    box int COMMENT 'Number of the box in its frame by descending confidence, from 0.',
    label string COMMENT 'The detector\'s class: person, or another class that the job names.',
    x1 float COMMENT 'Left edge, from the left of the frame as displayed (rotated and mirrored).',
    y1 float COMMENT 'Upper edge, from the top of the frame.',
    x2 float COMMENT 'Right edge.',
    y2 float COMMENT 'Lower edge.',
    confidence float COMMENT 'The score of the class, multiplied by objectness if the detector has it.',
    actions array<struct<label_id:int,label:string,score:float>> COMMENT 'The person\'s actions with the highest scores, descending; as many as the job\'s top_k.',
    track_id bigint COMMENT 'The object, numbered within the video and run from 1.',
    run_id string COMMENT 'The run that wrote the row.'
) USING parquet OPTIONS (path '${index}/persons');

CREATE OR REPLACE TEMPORARY VIEW current_videos AS
SELECT videos.*
FROM videos
JOIN (
    SELECT video_id, max_by(run_id, (indexed_at, run_id)) AS run_id
    FROM videos
    WHERE status <> 'failed'
    GROUP BY video_id
) AS latest ON videos.video_id = latest.video_id AND videos.run_id = latest.run_id
WHERE videos.status NOT IN ('failed', 'deleted');

CREATE OR REPLACE TEMPORARY VIEW current_actions AS
SELECT actions.*
FROM actions
JOIN (
    SELECT video_id, max_by(run_id, (indexed_at, run_id)) AS run_id
    FROM videos
    WHERE status = 'deleted' OR (status <> 'failed' AND actions_model IS NOT NULL)
    GROUP BY video_id
) AS latest ON actions.video_id = latest.video_id AND actions.run_id = latest.run_id;

CREATE OR REPLACE TEMPORARY VIEW current_persons AS
SELECT persons.*
FROM persons
JOIN (
    SELECT video_id, max_by(run_id, (indexed_at, run_id)) AS run_id
    FROM videos
    WHERE status = 'deleted' OR (status <> 'failed' AND persons_model IS NOT NULL)
    GROUP BY video_id
) AS latest ON persons.video_id = latest.video_id AND persons.run_id = latest.run_id;

-- The objects of jobs with `track = true`.
CREATE OR REPLACE TEMPORARY VIEW current_tracks AS
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

-- Segments that follow each other and have a label with a score of 0.5 or more, joined. `vidindex find` has other scores.
CREATE OR REPLACE TEMPORARY VIEW current_moments AS
WITH entries AS (
    SELECT uri, video_id, model, run_id, start_seconds, end_seconds, explode(top) AS entry FROM current_actions
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
CREATE OR REPLACE TEMPORARY VIEW current_track_actions AS
WITH entries AS (
    SELECT persons.video_id, persons.uri, persons.run_id, persons.track_id, persons.segment,
        spans.start_seconds, spans.end_seconds, explode(persons.actions) AS entry
    FROM current_persons AS persons JOIN current_actions AS spans
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
CREATE OR REPLACE TEMPORARY VIEW filled_persons AS
WITH boxes AS (
    SELECT * FROM current_persons
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
    SELECT *, explode(sequence(1, pieces - 1)) AS piece FROM gaps
)
SELECT video_id, uri, track_id, label, time_seconds, x1, y1, x2, y2, confidence, run_id FROM boxes
UNION ALL
SELECT video_id, uri, track_id, label, time_seconds + (next_time_seconds - time_seconds) * piece / pieces AS time_seconds, x1 + (next_x1 - x1) * piece / pieces AS x1, y1 + (next_y1 - y1) * piece / pieces AS y1, x2 + (next_x2 - x2) * piece / pieces AS x2, y2 + (next_y2 - y2) * piece / pieces AS y2, NULL AS confidence, run_id FROM filled;
