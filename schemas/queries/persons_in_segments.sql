-- The persons in each segment of an action. Segment numbers only match within the same run.
SELECT actions.uri, actions.segment, actions.start_seconds, actions.end_seconds, count(*) AS boxes,
       count(DISTINCT persons.frame) AS frames, max(persons.confidence) AS best_confidence
FROM current_actions AS actions
JOIN current_persons AS persons
  ON persons.video_id = actions.video_id AND persons.run_id = actions.run_id AND persons.segment = actions.segment
WHERE actions.top_label = 'riding a bike' AND persons.label = 'person' AND persons.confidence >= 0.5
GROUP BY actions.uri, actions.segment, actions.start_seconds, actions.end_seconds
ORDER BY actions.uri, actions.segment;
