//! How well tracks follow objects: MOTA (Bernardin and Stiefelhagen, 2008) and IDF1 (Ristani et al., arXiv 1609.01775), as
//! motmetrics computes them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use pathfinding::kuhn_munkres::kuhn_munkres;
use pathfinding::matrix::Matrix;

/// A box and the number of its object or track.
pub(crate) type Numbered = (i64, [f64; 4]);

/// Boxes belong together if they overlap by at least this (IoU).
const OVERLAP_MIN: f64 = 0.5;

/// The figures of a video or of several.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Figures {
    pub(crate) mota: f64,
    pub(crate) idf1: f64,
}

/// Sums over videos.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    truth: usize,
    found: usize,
    errors: usize,
    same: usize,
}

fn overlap(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    let shared = |low: usize, high: usize| (a[high].min(b[high]) - a[low].max(b[low])).max(0.0);
    let area = |of: &[f64; 4]| (of[2] - of[0]) * (of[3] - of[1]);
    let both = shared(0, 2) * shared(1, 3);
    both / (area(a) + area(b) - both)
}

/// Pairs of rows and columns with the largest sum of weights. Pairs without a weight are left out.
fn best_pairs(rows: usize, columns: usize, weight: impl Fn(usize, usize) -> i64) -> Vec<(usize, usize)> {
    if rows == 0 || columns == 0 {
        return Vec::new();
    }
    let cell = |(row, column): (usize, usize)| if row < rows && column < columns { weight(row, column) } else { 0 };
    let weights = Matrix::from_fn(rows, columns.max(rows), cell);
    let chosen = kuhn_munkres(&weights).1.into_iter().enumerate();
    chosen.filter(|&(row, column)| column < columns && weight(row, column) > 0).collect()
}

impl Comparison {
    /// Adds a video: its objects and tracks in each frame.
    pub(crate) fn add(&mut self, truth: &[Vec<Numbered>], found: &[Vec<Numbered>]) {
        assert_eq!(truth.len(), found.len());
        let mut last: HashMap<i64, i64> = HashMap::new();
        let mut together: BTreeMap<(i64, i64), i64> = BTreeMap::new();
        for (truth, found) in truth.iter().zip(found) {
            let fits = |a: &Numbered, b: &Numbered| Some(overlap(&a.1, &b.1)).filter(|share| *share >= OVERLAP_MIN);
            for object in truth {
                for track in found.iter().filter(|track| fits(object, track).is_some()) {
                    *together.entry((object.0, track.0)).or_default() += 1;
                }
            }
            // An object keeps its track as long as that fits.
            let (mut objects, mut tracks): (Vec<&Numbered>, Vec<&Numbered>) =
                (truth.iter().collect(), found.iter().collect());
            objects.retain(|object| {
                let same = last.get(&object.0).and_then(|number| tracks.iter().position(|track| track.0 == *number));
                let kept = same.filter(|&at| fits(object, tracks[at]).is_some());
                kept.map(|at| tracks.remove(at)).is_none()
            });
            let weight =
                |a: usize, b: usize| fits(objects[a], tracks[b]).map_or(0, |share| (share * 1e6) as i64 + 1_000_000);
            let pairs = best_pairs(objects.len(), tracks.len(), weight);
            for &(object, track) in &pairs {
                let before = last.insert(objects[object].0, tracks[track].0);
                self.errors += usize::from(before.is_some());
            }
            self.errors += objects.len() + tracks.len() - 2 * pairs.len();
            self.truth += truth.len();
            self.found += found.len();
        }
        let objects: Vec<i64> = together.keys().map(|pair| pair.0).collect::<BTreeSet<_>>().into_iter().collect();
        let tracks: Vec<i64> = together.keys().map(|pair| pair.1).collect::<BTreeSet<_>>().into_iter().collect();
        let frames =
            |object: usize, track: usize| together.get(&(objects[object], tracks[track])).copied().unwrap_or(0);
        let pairs = best_pairs(objects.len(), tracks.len(), frames);
        self.same += pairs.into_iter().map(|(object, track)| frames(object, track) as usize).sum::<usize>();
    }

    pub(crate) fn figures(&self) -> Figures {
        Figures {
            mota: 1.0 - self.errors as f64 / self.truth as f64,
            idf1: 2.0 * self.same as f64 / (self.truth + self.found) as f64,
        }
    }
}
