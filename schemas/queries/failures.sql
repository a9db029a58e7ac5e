-- The errors of each run, with the first video of each kind.
SELECT run_id, status, error_kind, count(*) AS videos, min(uri) AS first_uri, min_by(error_message, uri) AS first_message
FROM videos
WHERE error_kind IS NOT NULL
GROUP BY run_id, status, error_kind
ORDER BY run_id, videos DESC, status, error_kind;
