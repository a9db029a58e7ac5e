-- Segments in which an action is among the best labels, be it the best or not: DuckDB's way into `top`.
SELECT uri, segment, start_seconds, top_label, choice.score AS score
FROM (SELECT uri, segment, start_seconds, top_label, unnest(top) AS choice FROM current_actions)
WHERE choice.label = 'riding a bike'
ORDER BY score DESC, uri, segment;
