-- Segments with an action among their best labels, not only as the best one. Unnests `top` in DuckDB's syntax.
SELECT uri, segment, start_seconds, top_label, choice.score AS score
FROM (SELECT uri, segment, start_seconds, top_label, unnest(top) AS choice FROM current_actions)
WHERE choice.label = 'riding a bike'
ORDER BY score DESC, uri, segment;
