-- Number of people in each minute of each video. Frames and minutes without people have no rows.
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
