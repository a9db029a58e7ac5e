-- Segments in which an action is among the best labels, be it the best or not: Athena's way into `top`.
SELECT uri, segment, start_seconds, top_label, score
FROM current_actions
CROSS JOIN UNNEST(top) AS choice (label_id, label, score)
WHERE label = 'riding a bike'
ORDER BY score DESC, uri, segment;
