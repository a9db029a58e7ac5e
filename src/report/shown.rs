//! Which rows a page shows: all of a run, or those that are current in an index.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::in_use::{Row, Rows, VideoId, place};
use crate::tables::current::{Current, HistoryRow};
use crate::tables::{Table, VideoStatus};

/// Tables whose rows belong to a video.
const OF_VIDEOS: [Table; 3] = [Table::Actions, Table::Persons, Table::Thumbnails];

/// A selection of rows.
#[derive(Debug)]
pub(super) enum Shown<'a> {
    /// All rows of the files.
    All,
    /// What the views show, and the last failure of videos that are not indexed at all.
    Current {
        /// All rows of `videos`.
        rows: &'a Rows,
        /// If given, only videos that did not fail and whose URI contains this text.
        containing: Option<&'a str>,
    },
}

impl Shown<'_> {
    /// Whether the page shows a row of `videos` in this file.
    pub(super) fn shows(&self, id: VideoId, uri: &str, file: &str, status: VideoStatus) -> bool {
        let Self::Current { rows, containing } = self else { return true };
        if containing.is_some_and(|text| status == VideoStatus::Failed || !uri.contains(text)) {
            return false;
        }
        let Some((_, run)) = place(Table::Videos, file) else { return false };
        let history = history(rows, &rows.rows[rows.of_video(id)]);
        let is_of = |run_id: &str| run.as_str() == run_id;
        match Current::of(&history).run(Table::Videos) {
            Some(current) => is_of(current) && !matches!(status, VideoStatus::Failed | VideoStatus::Deleted),
            None => history
                .iter()
                .max_by_key(|row| row.age)
                .is_some_and(|last| last.is_failure() && status == VideoStatus::Failed && is_of(last.age.run_id)),
        }
    }

    /// The places of the files with the video's rows, by table. `file` has its row of `videos`.
    fn places(&self, id: VideoId, file: &str) -> Vec<(Table, String)> {
        let own = |table, key: &str| place(Table::Videos, key).map(|(place, _)| (table, place.to_owned()));
        let Self::Current { rows, .. } = self else {
            return OF_VIDEOS.into_iter().filter_map(|table| own(table, file)).collect();
        };
        let of_video = &rows.rows[rows.of_video(id)];
        let history = history(rows, of_video);
        let current = Current::of(&history);
        let row_of = |run: &str| {
            of_video
                .iter()
                .zip(&history)
                .find(|(_, row)| row.age.run_id == run && !row.is_failure())
                .map(|(row, _)| row)
        };
        let place_of = |table| {
            let row = row_of(current.run(table)?)?;
            own(table, &rows.files[row.file as usize].object.key)
        };
        OF_VIDEOS.into_iter().filter_map(place_of).collect()
    }
}

fn history<'a>(rows: &'a Rows, of_video: &[Row]) -> Vec<HistoryRow<'a>> {
    of_video.iter().map(|row| row.of_history(&rows.files)).collect()
}

/// The videos of a page with their numbers, by the files of the other tables that have their rows.
#[derive(Debug, Default)]
pub(super) struct Numbers(HashMap<(Table, String), HashMap<VideoId, usize>>);

impl Numbers {
    /// Adds a video whose row of `videos` is in `file`.
    pub(super) fn insert(&mut self, shown: &Shown<'_>, id: VideoId, file: &str, status: VideoStatus, number: usize) {
        for place in shown.places(id, file) {
            match self.0.entry(place).or_default().entry(id) {
                // A run of `compact` may contain a video's failure beside its successful row, which its segments belong to.
                Entry::Occupied(_) if status == VideoStatus::Failed => {}
                Entry::Occupied(mut entry) => *entry.get_mut() = number,
                Entry::Vacant(entry) => {
                    entry.insert(number);
                }
            }
        }
    }

    /// The videos with rows in this file of a table. `None` if there are none.
    pub(super) fn of(&self, table: Table, file: &str) -> Option<&HashMap<VideoId, usize>> {
        self.0.get(&(table, place(table, file)?.0.to_owned()))
    }
}
