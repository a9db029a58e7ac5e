-- How many people there are in each minute of each video. A frame without people has no rows, nor has such a minute.
WITH frames AS (
    SELECT uri, CAST(floor(time_seconds / 60) AS BIGINT) AS minute, frame, count(*) AS people
    FROM current_persons
    WHERE label = 'person' AND confidence >= 0.5
    GROUP BY uri, CAST(floor(time_seconds / 60) AS BIGINT), frame
)
SELECT uri, minute, max(people) AS most_people, avg(people) AS mean_people, count(*) AS frames_with_people
FROM frames
GROUP BY uri, minute
ORDER BY uri, minute;
