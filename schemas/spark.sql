-- Views over an index for Spark SQL, which finds the partitions by itself. Say where it is, then read this file:
--
--     SET index = s3a://bucket/prefix;
--     SET spark.sql.session.timeZone = UTC;
--     SOURCE schemas/spark.sql;
--
-- A video that was indexed more than once has rows of each run. `current_*` shows, of each video, the rows of its latest
-- good indexing: a later one that failed does not hide an earlier one that did not. What an indexing without a model
-- leaves out is taken from the latest with one. A video that has gone from the source is not shown.
--
-- Spark makes no view of a table without files: leave out the statements of a table that has none, such as
-- `actions` in the index of a job without an actions model.

CREATE OR REPLACE TEMPORARY VIEW videos (
    video_id string COMMENT 'Names the video in every table: a stable hash of its uri.',
    uri string COMMENT 'The video\'s full address.',
    etag string COMMENT 'Of the version that was listed, without quotes.',
    size_bytes bigint COMMENT 'As listed.',
    last_modified timestamp COMMENT 'As listed.',
    status string COMMENT 'ok: indexed from beginning to end. partial: indexed as far as it could be read; pictures are missing or damaged. failed: not indexed; the other tables may hold rows of it, which do not count. deleted: gone from the source since it was indexed.',
    error_kind string COMMENT 'What stopped a partial or failed video: not_found, changed_during_read, access_denied, archived, unreadable, encrypted, not_a_video, no_video_stream, corrupt, unsupported, too_large, timeout, decoder_crashed or out_of_memory.',
    error_message string COMMENT 'The same for a person.',
    failures bigint COMMENT 'How many runs in a row failed to index this content with these settings, this one included. 0: an archived object that was not tried. The next runs retry an error that may pass (access_denied, archived, unreadable, timeout, out_of_memory, changed_during_read) until there are 5.',
    container string COMMENT 'FFmpeg\'s name of the container format.',
    codec string COMMENT 'FFmpeg\'s name of the video stream\'s codec.',
    width int COMMENT 'Of the frame as displayed: turned and mirrored.',
    height int COMMENT 'Likewise.',
    rotation int COMMENT 'How far a player turns the stored frame, before it mirrors it: 0, 90, 180 or 270. Another angle, up to 359, tilts the picture in a frame of the same size, as the ffmpeg tool shows it. Of the first frame.',
    mirrored boolean COMMENT 'Whether a player mirrors the frame left to right, after turning it by rotation: a frame that is flipped top to bottom has rotation 180 and mirrored true. Of the first frame.',
    frames_per_second double COMMENT 'The stream\'s average.',
    start_seconds double COMMENT 'Presentation time of the first frame on the container\'s clock.',
    duration_seconds double COMMENT 'From the first frame\'s presentation to the end of the last, which lasts as long as the file says. Where recordings were joined, each goes on from the end of the one before.',
    frames_decoded bigint COMMENT 'Frames that came out of the decoder.',
    segments bigint COMMENT 'Rows in the actions table; 0 without an actions model.',
    boxes bigint COMMENT 'Rows in the persons table; 0 without a persons model.',
    actions_model string COMMENT 'The actions model\'s id, as in the path of the actions table.',
    persons_model string COMMENT 'Likewise of the persons table.',
    fingerprint string COMMENT 'Hash of the models and of everything in the job that changes rows.',
    run_id string COMMENT 'The run that made the row. Run ids sort by time.',
    shard bigint COMMENT 'The run\'s shard, from 0.',
    indexed_at timestamp COMMENT 'When the row was made.',
    decode_seconds double COMMENT 'What the decoder process took.',
    inference_seconds double COMMENT 'The video\'s share of what its batches took on the device.'
) USING parquet OPTIONS (path '${index}/videos');

CREATE OR REPLACE TEMPORARY VIEW actions (
    video_id string COMMENT 'As in the videos table.',
    uri string COMMENT 'As in the videos table.',
    segment bigint COMMENT 'Which segment of the video, from 0.',
    start_seconds double COMMENT 'Where it begins, from the first frame presented.',
    end_seconds double COMMENT 'Where it ends, that instant not included; the last one\'s ends with the video.',
    frames bigint COMMENT 'Frames presented in it, of which the model saw a sample. 1 where the video\'s last frame stands still.',
    top_label string COMMENT 'The label with the highest score.',
    top_score float COMMENT 'Its score.',
    top array<struct<label_id:int,label:string,score:float>> COMMENT 'The highest scores, descending; as many as the job\'s top_k. Empty where there were no persons to score.',
    scores array<float> COMMENT 'Every score, in the order of the model\'s labels.',
    embedding array<float> COMMENT 'Pooled features before the classifier.',
    run_id string COMMENT 'The run that made the row.'
) USING parquet OPTIONS (path '${index}/actions');

CREATE OR REPLACE TEMPORARY VIEW persons (
    video_id string COMMENT 'As in the videos table.',
    uri string COMMENT 'As in the videos table.',
    segment bigint COMMENT 'The segment of the same run that the frame lies in.',
    time_seconds double COMMENT 'Presentation time, from the first frame presented.',
    frame bigint COMMENT 'Which frame of the video in presentation order, from 0.',
    box int COMMENT 'Which box of the frame by descending confidence, from 0.',
    label string COMMENT 'The detector\'s class: person, or another that the job names.',
    x1 float COMMENT 'Left edge, from the left of the frame as displayed (turned and mirrored).',
    y1 float COMMENT 'Upper edge, from its top.',
    x2 float COMMENT 'Right edge.',
    y2 float COMMENT 'Lower edge.',
    confidence float COMMENT 'The class\'s score, times objectness where the detector has one.',
    actions array<struct<label_id:int,label:string,score:float>> COMMENT 'What the person does: the highest scores, descending, as many as the job\'s top_k.',
    run_id string COMMENT 'The run that made the row.'
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
