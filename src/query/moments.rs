//! The moments of a label: segments that have it among their best labels, joined where they follow each other.

use super::quoted;
use crate::tables::{Dialect, moments};

/// Which moments to find.
#[derive(Debug)]
pub(crate) struct Moments {
    /// The label, in upper or lower case.
    pub(crate) label: String,
    /// The smallest score of a segment.
    pub(crate) min_score: f64,
    /// The smallest length of a moment.
    pub(crate) min_seconds: f64,
}

impl Moments {
    /// SQL for DuckDB, strongest moments first. It fails if no segment has the label, with the most similar ones.
    pub(crate) fn sql(&self) -> String {
        format!("{};", self.select())
    }

    /// The same, as a part of a query.
    pub(crate) fn select(&self) -> String {
        let Self { label, min_score, min_seconds } = self;
        let absent = quoted(&format!("no segment has the label {label:?} among its best. Similar labels: "));
        let label = quoted(label);
        let asked = format!("label = (SELECT label FROM asked) AND score >= {min_score}");
        let defined = format!(
            "similar_labels AS (
    SELECT DISTINCT label, jaro_winkler_similarity(lower(label), lower({label})) AS likeness
    FROM scored
    ORDER BY likeness DESC, label
    LIMIT 5
), asked AS (
    SELECT coalesce(
        (SELECT min(label) FROM scored WHERE lower(label) = lower({label})),
        error({absent} || coalesce((SELECT string_agg(label, ', ' ORDER BY likeness DESC) FROM similar_labels), 'none'))
    ) AS label
), "
        );
        format!(
            "{}
SELECT uri, round(start_seconds, 3) AS start_seconds, round(end_seconds, 3) AS end_seconds,
    round(peak_seconds, 3) AS peak_seconds, round(peak_score, 4) AS peak_score, segments
FROM moments
WHERE end_seconds - start_seconds >= {min_seconds}
ORDER BY peak_score DESC, uri, start_seconds",
            moments(Dialect::DuckDb, &defined, &asked)
        )
    }
}
