-- Segments with an action among their best labels, not only as the best one. Unnests `top` in Athena's syntax.
SELECT uri, segment, start_seconds, top_label, score
FROM current_actions
CROSS JOIN UNNEST(top) AS choice (label_id, label, score)
WHERE label = 'riding a bike'
ORDER BY score DESC, uri, segment;
