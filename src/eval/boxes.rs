//! Compares boxes of persons.

use std::collections::HashMap;

use serde::Deserialize;

use super::Eval;
use super::metrics::{BoxImage, box_average_precision, mean_box_average_precision};
use super::report::PersonsReport;
use crate::error::Result;
use crate::query;

/// Times of frames that differ less are equal.
const NEAR_SECONDS: f64 = 1e-3;
/// The overlap at which a box is found.
pub(super) const OVERLAP: f64 = 0.5;
/// The class of the boxes that are compared.
pub(super) const PERSON: &str = "person";

#[derive(Debug, Deserialize)]
struct Found {
    uri: String,
    time_seconds: f64,
    x1: f64,
    y1: f64,
    x2: f64,
    y2: f64,
    confidence: f64,
}

impl Eval<'_> {
    /// Compares the boxes of the frames that the job examined.
    pub(super) async fn persons(&self, frames_per_second: f64) -> Result<PersonsReport> {
        let sql = format!(
            "SELECT uri, time_seconds, x1, y1, x2, y2, confidence FROM current_persons
WHERE label = {} AND {} ORDER BY uri, time_seconds, box",
            query::quoted(PERSON),
            self.condition()
        );
        let mut by_video = HashMap::<String, Vec<Found>>::new();
        for row in query::rows::<Found>(self.index, &sql, self.duckdb).await? {
            by_video.entry(row.uri.clone()).or_default().push(row);
        }
        let mut images = Vec::new();
        for (uri, video) in self.videos {
            let found = by_video.remove(*uri).unwrap_or_default();
            let mut due = 0.0;
            for frame in &video.frames {
                let interval = frame.time_seconds * frames_per_second;
                if interval < due - NEAR_SECONDS {
                    continue;
                }
                due = (interval + NEAR_SECONDS).floor() + 1.0;
                let here = found.iter().filter(|row| (row.time_seconds - frame.time_seconds).abs() < NEAR_SECONDS);
                let found = here.map(|row| ([row.x1, row.y1, row.x2, row.y2], row.confidence)).collect();
                images.push(BoxImage { truth: frame.persons.clone(), ignored: frame.hidden.clone(), found });
            }
        }
        Ok(PersonsReport {
            frames: images.len(),
            boxes: images.iter().map(|image| image.truth.len()).sum(),
            ap50: box_average_precision(&images, OVERLAP),
            ap: mean_box_average_precision(&images),
        })
    }
}
