-- Segments with an action among their best labels, not only as the best one. Unnests `top` in Spark's syntax.
SELECT uri, segment, start_seconds, top_label, choice.score AS score
FROM current_actions
LATERAL VIEW explode(top) AS choice
WHERE choice.label = 'riding a bike'
ORDER BY score DESC, uri, segment;
