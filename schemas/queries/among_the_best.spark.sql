-- Segments in which an action is among the best labels, be it the best or not: Spark's way into `top`.
SELECT uri, segment, start_seconds, top_label, choice.score AS score
FROM current_actions
LATERAL VIEW explode(top) AS choice
WHERE choice.label = 'riding a bike'
ORDER BY score DESC, uri, segment;
