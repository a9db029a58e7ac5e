//! The cheapest assignment of rows to columns, in which a pair may stay apart.

use std::collections::BTreeMap;

use pathfinding::kuhn_munkres::kuhn_munkres_min;
use pathfinding::matrix::Matrix;

/// Costs are compared to nine digits.
const SCALE: f64 = 1e9;

/// The pairs, and what is left.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Assigned {
    /// Row and column of each pair.
    pub(super) pairs: Vec<(usize, usize)>,
    /// Rows without a column, ascending.
    pub(super) rows: Vec<usize>,
    /// Columns without a row, ascending.
    pub(super) columns: Vec<usize>,
}

/// Pairs rows with columns so that the sum of the costs is lowest, where a row or column that is left costs half of
/// `cost_max`. So a pair costs at most `cost_max`.
pub(super) fn assign(rows: usize, columns: usize, cost: impl Fn(usize, usize) -> f64, cost_max: f64) -> Assigned {
    let scaled = |cost: f64| (cost * SCALE).round() as i64;
    let mut costs = BTreeMap::new();
    for row in 0..rows {
        for column in 0..columns {
            let cost = cost(row, column);
            if cost < cost_max {
                costs.insert((row, column), scaled(cost));
            }
        }
    }
    let mut found = Assigned::default();
    for group in groups(rows, costs.keys().copied()) {
        // A square matrix: on the right and below are the costs of leaving a row or column.
        let (n, m) = (group.rows.len(), group.columns.len());
        let cell = |(row, column): (usize, usize)| match (row < n, column < m) {
            // Forbidden pairs cost more than leaving both.
            (true, true) => costs.get(&(group.rows[row], group.columns[column])).copied().unwrap_or(scaled(4.0)),
            (false, false) => 0,
            _ => scaled(cost_max / 2.0),
        };
        let (_, chosen) = kuhn_munkres_min(&Matrix::from_fn(n + m, n + m, cell));
        let pairs = chosen.into_iter().take(n).enumerate().filter(|(_, column)| *column < m);
        found.pairs.extend(pairs.map(|(row, column)| (group.rows[row], group.columns[column])));
    }
    found.pairs.sort_unstable();
    found.rows = (0..rows).filter(|row| found.pairs.iter().all(|(paired, _)| paired != row)).collect();
    found.columns = (0..columns).filter(|column| found.pairs.iter().all(|(_, paired)| paired != column)).collect();
    found
}

/// Rows and columns that depend on each other.
#[derive(Default)]
struct Group {
    rows: Vec<usize>,
    columns: Vec<usize>,
}

/// Groups of rows that share columns, directly or through others. Most boxes overlap few others, and a group's time grows
/// with the cube of its size.
fn groups(rows: usize, pairs: impl Iterator<Item = (usize, usize)>) -> Vec<Group> {
    let mut group_of_column: BTreeMap<usize, usize> = BTreeMap::new();
    let mut groups: Vec<Group> = (0..rows).map(|row| Group { rows: vec![row], columns: vec![] }).collect();
    let mut group_of_row: Vec<usize> = (0..rows).collect();
    for (row, column) in pairs {
        let (own, other) = (group_of_row[row], group_of_column.get(&column).copied());
        let Some(other) = other else {
            group_of_column.insert(column, own);
            groups[own].columns.push(column);
            continue;
        };
        if own != other {
            let moved = std::mem::take(&mut groups[own]);
            moved.rows.iter().for_each(|row| group_of_row[*row] = other);
            group_of_column.extend(moved.columns.iter().map(|column| (*column, other)));
            groups[other].rows.extend(moved.rows);
            groups[other].columns.extend(moved.columns);
        }
    }
    groups.retain(|group| !group.columns.is_empty());
    groups
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The lowest cost over all assignments, by trying them all.
    fn cheapest(costs: &[Vec<f64>], row: usize, used: &mut Vec<bool>, cost_max: f64) -> f64 {
        let Some(costs_of_row) = costs.get(row) else {
            return used.iter().filter(|used| !**used).count() as f64 * cost_max / 2.0;
        };
        let mut best = cost_max / 2.0 + cheapest(costs, row + 1, used, cost_max);
        for column in 0..used.len() {
            if !used[column] {
                used[column] = true;
                best = best.min(costs_of_row[column] + cheapest(costs, row + 1, used, cost_max));
                used[column] = false;
            }
        }
        best
    }

    proptest! {
        #[test]
        fn no_assignment_is_cheaper(
            costs in (0..5usize).prop_flat_map(|columns| {
                prop::collection::vec(prop::collection::vec(0.0..1.2f64, columns), 0..5)
            }),
            cost_max in 0.1..1.0f64,
        ) {
            let columns = costs.first().map_or(0, Vec::len);
            let found = assign(costs.len(), columns, |row, column| costs[row][column], cost_max);
            let paired: f64 = found.pairs.iter().map(|(row, column)| costs[*row][*column]).sum();
            let cost = paired + (found.rows.len() + found.columns.len()) as f64 * cost_max / 2.0;
            let best = cheapest(&costs, 0, &mut vec![false; columns], cost_max);
            prop_assert!((cost - best).abs() < 1e-6, "{cost} instead of {best}: {found:?}");
            prop_assert_eq!(found.pairs.len() * 2 + found.rows.len() + found.columns.len(), costs.len() + columns);
            prop_assert!(found.pairs.iter().all(|(row, column)| costs[*row][*column] < cost_max));
        }
    }

    #[test]
    fn of_two_good_pairs_and_a_best_one_the_two_win() {
        let costs = [[0.1, 0.2], [0.2, 0.9]];
        let found = assign(2, 2, |row, column| costs[row][column], 0.8);
        assert_eq!(found.pairs, [(0, 1), (1, 0)]);
    }
}
