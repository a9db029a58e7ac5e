//! Finds the files that a compaction merges.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use super::Compaction;
use crate::error::Result;
use crate::in_use::{self, Row, Rows, place};
use crate::store::{ObjectMeta, Store};
use crate::tables::Table;
use crate::tables::current::{TableSet, copied_at};

/// Which of the compaction's runs copies a row: its position, from the latest, among the good rows of its video in use. They
/// are three at most: the latest, the latest with actions, the latest with persons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layer {
    First,
    Second,
    Third,
}

impl Layer {
    pub(super) const ALL: [Self; 3] = [Self::First, Self::Second, Self::Third];
}

const COLUMNS: [&str; 7] = {
    let [id, status, at, actions, persons, fingerprint] = in_use::COLUMNS;
    [id, status, at, actions, persons, fingerprint, "uri"]
};

/// Files of one partition that become one file of each table and model.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) layer: Layer,
    pub(super) partition: String,
    pub(super) sources: Vec<Source>,
    /// Rows to be copied.
    pub(super) videos: u64,
    /// Of the rows in use in each source's largest file.
    pub(super) bytes: u64,
}

/// The files of one shard of an earlier run in one partition.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// Position in [`Rows::files`].
    pub(super) file: u32,
    pub(super) files: Vec<(Table, ObjectMeta)>,
    /// Rows to be copied.
    pub(super) videos: u64,
    pub(super) bytes: u64,
    pub(super) alone: Alone,
}

/// What happens to a source that no other can be merged with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alone {
    /// It stays as it is.
    Kept,
    /// It is copied nevertheless: most of its rows are out of use, or another file has some of them too.
    Rewritten,
}

/// Finds what can be merged in the output at the time `now`, into files of about `target_bytes` at most.
///
/// # Errors
/// The output refused, or its `videos` table cannot be read.
pub async fn find(output: &dyn Store, now: DateTime<Utc>, target_bytes: u64) -> Result<Compaction> {
    let settled = in_use::settled_runs(output, now).await?;
    let rows = Rows::read(output, COLUMNS, "nothing was merged: repair the file or move it away").await?;
    let (layers, twice) = layers(&rows);
    let mut counts = vec![([(0_u64, TableSet::default()); Layer::ALL.len()], 0_u64); rows.files.len()];
    for (row, layer) in rows.rows.iter().zip(&layers) {
        let (of_layer, all) = &mut counts[row.file as usize];
        *all += 1;
        if let Some(layer) = layer {
            let (count, used) = &mut of_layer[*layer as usize];
            *count += 1;
            used.extend(row.used);
        }
    }

    let beside = in_use::files_beside(output).await?;
    let mut runs: [Vec<Group>; Layer::ALL.len()] = Default::default();
    for (layer, groups) in Layer::ALL.into_iter().zip(&mut runs) {
        let mut partitions: BTreeMap<&str, Vec<Source>> = BTreeMap::new();
        for (file, (videos, (of_layer, all))) in (0..).zip(rows.files.iter().zip(&counts)) {
            let (count, used) = of_layer[layer as usize];
            let Some((place, run)) = place(Table::Videos, &videos.object.key) else { continue };
            let Some((partition, _)) = place.rsplit_once('/') else { continue };
            if count == 0 || !settled.contains(&run) {
                continue;
            }
            let mut files = vec![(Table::Videos, videos.object.clone())];
            files.extend(beside.get(place).into_iter().flatten().cloned());
            // Somebody moved the rows into other files, where views find them by their run. A copy without them would hide
            // them.
            let has = |table: &Table| files.iter().any(|(of, _)| of == table);
            if [Table::Actions, Table::Persons].iter().any(|table| used.contains(*table) && !has(table)) {
                continue;
            }
            let largest = files.iter().map(|(_, file)| file.size_bytes).max().unwrap_or_default();
            let bytes = u64::try_from(u128::from(largest) * u128::from(count) / u128::from(*all)).unwrap_or(u64::MAX);
            let twice = twice.contains(&file);
            if bytes < target_bytes / 2 || twice {
                let alone = if twice || count * 2 < *all { Alone::Rewritten } else { Alone::Kept };
                let source = Source { file, files, videos: count, bytes, alone };
                partitions.entry(partition).or_default().push(source);
            }
        }
        for (partition, mut sources) in partitions {
            sources.sort_by_key(|source| &rows.files[source.file as usize].first_uri);
            let new = || Group { layer, partition: partition.to_owned(), sources: Vec::new(), videos: 0, bytes: 0 };
            groups.extend(group(sources, target_bytes, new));
        }
    }
    Ok(Compaction { rows, layers, runs })
}

/// Fills one file after the other, and drops groups that are not worth it.
fn group(sources: Vec<Source>, target_bytes: u64, new: impl Fn() -> Group) -> impl Iterator<Item = Group> {
    let mut groups: Vec<Group> = Vec::new();
    for source in sources {
        let full = |group: &Group| group.bytes + source.bytes > target_bytes;
        if groups.last().is_none_or(full) {
            groups.push(new());
        }
        if let Some(group) = groups.last_mut() {
            group.videos += source.videos;
            group.bytes += source.bytes;
            group.sources.push(source);
        }
    }
    groups
        .into_iter()
        .filter(|group| group.sources.len() > 1 || group.sources.iter().any(|source| source.alone == Alone::Rewritten))
}

/// The layer of each row, and the files that hold rows which another file has too.
fn layers(rows: &Rows) -> (Vec<Option<Layer>>, BTreeSet<u32>) {
    let mut layers = Vec::with_capacity(rows.rows.len());
    let mut twice = BTreeSet::new();
    for video in rows.rows.chunk_by(|a, b| a.video_id == b.video_id) {
        let of_history = |row: &Row| (row.of_history(&rows.files), row.file);
        let in_use: Vec<_> = video.iter().filter(|row| row.used.contains(Table::Videos)).map(of_history).collect();
        for row in video {
            // A copy would be as old as a row that is to win over it.
            let taken = video.iter().any(|other| other.indexed_at == copied_at(row.indexed_at));
            if !row.used.contains(Table::Videos) || taken {
                layers.push(None);
                continue;
            }
            let (own, file) = of_history(row);
            let mut twins = in_use.iter().filter(|(other, _)| other.is_twin_of(&own)).collect::<Vec<_>>();
            if twins.len() > 1 {
                twice.insert(file);
            }
            // Of twins the one is copied that the views show. Only somebody else's copy of a file has the same age.
            twins.sort_unstable_by_key(|(other, file)| (other.age, &rows.files[*file as usize].object.key));
            layers.push(match twins.last() {
                Some((_, last)) if *last != file => None,
                _ if own.is_failure() => Some(Layer::First),
                _ => {
                    let good = in_use.iter().filter(|(other, _)| !other.is_failure());
                    let later = good.map(|(other, _)| other.age.indexed_at).filter(|at| *at > row.indexed_at);
                    Layer::ALL.get(later.collect::<BTreeSet<_>>().len()).copied()
                }
            });
        }
    }
    (layers, twice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_filled_one_after_the_other() {
        use Alone::{Kept, Rewritten};
        let source = |bytes, alone| Source { file: 0, files: Vec::new(), videos: 1, bytes, alone };
        let groups = |sources: &[(u64, Alone)]| {
            let (layer, partition) = (Layer::First, String::new());
            let new = || Group { layer, partition: partition.clone(), sources: Vec::new(), videos: 0, bytes: 0 };
            let sources = sources.iter().map(|(bytes, alone)| source(*bytes, *alone)).collect();
            group(sources, 100, new).map(|group| (group.sources.len(), group.bytes)).collect::<Vec<_>>()
        };
        assert_eq!(groups(&[]), []);
        assert_eq!(groups(&[(40, Kept), (40, Kept), (40, Kept)]), [(2, 80)], "the last stays as it is");
        assert_eq!(groups(&[(40, Kept), (40, Kept), (40, Rewritten)]), [(2, 80), (1, 40)], "unless it is mostly old");
        assert_eq!(groups(&[(10, Kept); 25]), [(10, 100), (10, 100), (5, 50)]);
    }
}
