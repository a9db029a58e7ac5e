//! The rule of which rows are current, in Rust and in SQL. Whatever must agree with the `current_*` views calls it.
//!
//! A run adds rows and changes none, so a video that was indexed several times has rows of several runs. For each table a
//! view shows the rows of one of them:
//!
//! - The rows of `videos` are ordered by [`Age`].
//! - Each row decides the tables that its [`RowKind`] says: a failure none, a deletion all, an indexing those that it wrote.
//! - The latest row that decides a table names the run whose rows the view shows. If that row is a deletion, the view shows
//!   none.
//!
//! So a later failure hides nothing, and what an indexing without a model leaves out comes from the latest one with it.

use super::{Table, VideoStatus};

/// How rows of `videos` that are about one video are ordered: by time, then by run.
///
/// Two rows can have the same time: two compactions that run at once each copy a row, and Athena, which rounds timestamps
/// to milliseconds, sees the times of a row and its copy as one. Of these the later run's row wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age<'a> {
    /// The column `indexed_at`, in microseconds of the Unix epoch.
    pub indexed_at: i64,
    /// The column `run_id`.
    pub run_id: &'a str,
}

/// A set of tables.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TableSet(u8);

impl TableSet {
    /// Adds a table.
    pub fn insert(&mut self, table: Table) {
        self.0 |= 1 << table as u8;
    }

    /// Adds the tables of another set.
    pub fn extend(&mut self, tables: Self) {
        self.0 |= tables.0;
    }

    /// Whether the table is in the set.
    pub fn contains(self, table: Table) -> bool {
        self.0 & 1 << table as u8 != 0
    }

    /// Whether no table is in the set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Table> for TableSet {
    fn from_iter<T: IntoIterator<Item = Table>>(tables: T) -> Self {
        let mut set = Self::default();
        tables.into_iter().for_each(|table| set.insert(table));
        set
    }
}

/// What a row of `videos` says about the video.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowKind {
    /// It could not be indexed.
    Failed,
    /// It was indexed, and has rows in these tables.
    Indexed(TableSet),
    /// The input does not hold it any more.
    Deleted,
}

impl RowKind {
    /// From the columns `status`, `actions_model` and `persons_model`.
    pub fn of(status: &str, actions_model: Option<&str>, persons_model: Option<&str>) -> Self {
        if status == VideoStatus::Failed.as_str() {
            return Self::Failed;
        }
        if status == VideoStatus::Deleted.as_str() {
            return Self::Deleted;
        }
        let of_models = [(Table::Actions, actions_model), (Table::Persons, persons_model)];
        let of_models = of_models.into_iter().filter_map(|(table, model)| model.map(|_| table));
        Self::Indexed([Table::Videos, Table::Thumbnails].into_iter().chain(of_models).collect())
    }

    /// Whether the row, if it is the latest that does, decides what the view of this table shows.
    fn decides(self, table: Table) -> bool {
        match self {
            Self::Failed => false,
            Self::Indexed(tables) => tables.contains(table),
            Self::Deleted => true,
        }
    }

    /// [`Self::decides`] in SQL.
    fn decides_sql(table: Table) -> &'static str {
        match table {
            Table::Videos | Table::Thumbnails => "status <> 'failed'",
            Table::Actions => "status = 'deleted' OR (status <> 'failed' AND actions_model IS NOT NULL)",
            Table::Persons => "status = 'deleted' OR (status <> 'failed' AND persons_model IS NOT NULL)",
        }
    }

    /// Whether a plan of `fingerprint` goes by such a row, which has `row_fingerprint`. A plan ignores what other
    /// fingerprints indexed: jobs that share an output would otherwise index everything again in turn. A deletion is about
    /// the input, and counts for all.
    pub(crate) fn counts_for_plan(self, row_fingerprint: &str, fingerprint: &str) -> bool {
        self == Self::Deleted || row_fingerprint == fingerprint
    }
}

/// A row of `videos`, as far as the rule looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryRow<'a> {
    /// How old it is.
    pub age: Age<'a>,
    /// What it says.
    pub kind: RowKind,
    /// A hash of the column `fingerprint`.
    pub fingerprint: u32,
}

impl HistoryRow<'_> {
    /// Whether both rows, which are in use, are copies of one.
    pub(crate) fn is_twin_of(&self, other: &Self) -> bool {
        self.age.indexed_at == other.age.indexed_at && self.is_failure() == other.is_failure()
    }

    pub(crate) fn is_failure(&self) -> bool {
        self.kind == RowKind::Failed
    }
}

/// For each table, the row that decides what its view shows of one video.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Current<'a>([Option<HistoryRow<'a>>; Table::ALL.len()]);

impl<'a> Current<'a> {
    /// From all rows of the video, in any order.
    pub fn of(history: &[HistoryRow<'a>]) -> Self {
        let deciding = |table| history.iter().filter(move |row| row.kind.decides(table)).max_by_key(|row| row.age);
        Self(Table::ALL.map(|table| deciding(table).copied()))
    }

    /// The run whose rows of the video `current_<table>` shows. None if it shows none.
    pub fn run(&self, table: Table) -> Option<&'a str> {
        let row = self.0[table as usize]?;
        (row.kind != RowKind::Deleted).then_some(row.age.run_id)
    }

    fn indexed_at(&self, table: Table) -> Option<i64> {
        self.0[table as usize].map(|row| row.age.indexed_at)
    }
}

/// For each row of a video's history, the tables whose rows of the video and the row's run are in use. The row itself is one
/// of [`Table::Videos`]. Files without rows in use can be removed.
///
/// In use is what a view shows, and what else must stay in `videos`: deletions while they hide rows, and the last failure of
/// each fingerprint since the latest good row, by which plans know not to retry. Of rows with the same time all are in use,
/// until a compaction replaces them by one.
pub fn in_use(history: &[HistoryRow<'_>]) -> impl Iterator<Item = TableSet> {
    let current = Current::of(history);
    history.iter().map(move |row| {
        let at = row.age.indexed_at;
        let decided = Table::ALL.into_iter();
        let decided = decided.filter(|table| row.kind.decides(*table) && current.indexed_at(*table) == Some(at));
        let mut tables: TableSet = decided.collect();
        match row.kind {
            RowKind::Indexed(_) if tables.is_empty() => {}
            RowKind::Indexed(_) => tables.insert(Table::Videos),
            // The rows that it hides go first.
            RowKind::Deleted if history.len() > 1 && !tables.is_empty() => {
                tables = TableSet::from_iter([Table::Videos]);
            }
            RowKind::Deleted => tables = TableSet::default(),
            RowKind::Failed => {
                let is_later = |other: &HistoryRow<'_>| {
                    other.is_failure() && other.fingerprint == row.fingerprint && other.age.indexed_at > at
                };
                if Some(at) >= current.indexed_at(Table::Videos) && !history.iter().any(is_later) {
                    tables.insert(Table::Videos);
                }
            }
        }
        tables
    })
}

/// The `indexed_at` of a compaction's copy of a row: the least that makes the copy win over its original. Whatever another
/// run indexed later still wins over both.
pub(crate) fn copied_at(indexed_at: i64) -> i64 {
    indexed_at.saturating_add(1)
}

impl Table {
    /// The view `current_<table>` as a query over the tables that DuckDB, Spark and Athena all understand.
    ///
    /// It joins on a grouped column instead of using a window, so that engines can push a filter on `video_id` down to the
    /// files.
    pub fn current_rows(self) -> String {
        // The run of a deletion has no rows in the other tables. A compaction can have a failure beside a good row.
        let hidden = match self {
            Self::Videos => "\nWHERE videos.status NOT IN ('failed', 'deleted')",
            Self::Actions | Self::Persons | Self::Thumbnails => "",
        };
        format!(
            "SELECT {self}.*\n\
             FROM {self}\n\
             JOIN (\n    \
                 SELECT video_id, max_by(run_id, (indexed_at, run_id)) AS run_id\n    \
                 FROM videos\n    \
                 WHERE {}\n    \
                 GROUP BY video_id\n\
             ) AS latest ON {self}.video_id = latest.video_id AND {self}.run_id = latest.run_id{hidden}",
            RowKind::decides_sql(self)
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RUNS: [&str; 6] = ["r0", "r1", "r2", "r3", "r4", "r5"];

    fn kind() -> impl Strategy<Value = RowKind> {
        let models = (prop::option::of(Just("a")), prop::option::of(Just("p")));
        (prop::sample::select(vec!["ok", "partial", "failed", "deleted"]), models)
            .prop_map(|(status, (actions, persons))| RowKind::of(status, actions, persons))
    }

    /// A row for each of some runs, some of the same time.
    fn history() -> impl Strategy<Value = Vec<HistoryRow<'static>>> {
        prop::collection::btree_map(0..RUNS.len(), (0_i64..4, kind(), 0_u32..2), 0..RUNS.len()).prop_map(|rows| {
            let row = |(run, (indexed_at, kind, fingerprint)): (usize, _)| HistoryRow {
                age: Age { indexed_at, run_id: RUNS[run] },
                kind,
                fingerprint,
            };
            rows.into_iter().map(row).collect()
        })
    }

    fn shown(history: &[HistoryRow<'static>]) -> [Option<&'static str>; Table::ALL.len()] {
        Table::ALL.map(|table| Current::of(history).run(table))
    }

    proptest! {
        #[test]
        fn rows_that_are_not_in_use_can_go_without_a_change_of_what_is_shown(history in history()) {
            let used: Vec<_> = history.iter().copied().zip(in_use(&history)).collect();
            for (table, run) in Table::ALL.into_iter().zip(shown(&history)) {
                let row = used.iter().find(|(row, _)| Some(row.age.run_id) == run);
                prop_assert!(row.is_none_or(|(_, tables)| tables.contains(table) && tables.contains(Table::Videos)));
            }
            let kept: Vec<_> = used.iter().filter(|(_, tables)| !tables.is_empty()).map(|(row, _)| *row).collect();
            prop_assert_eq!(shown(&kept), shown(&history));
        }

        #[test]
        fn a_copy_of_a_current_row_replaces_it_unless_another_run_was_later(history in history(), at in any::<prop::sample::Index>()) {
            prop_assume!(!history.is_empty());
            let original = *at.get(&history);
            let age = Age { indexed_at: copied_at(original.age.indexed_at), run_id: "r9" };
            let mut copied = history.clone();
            copied.push(HistoryRow { age, ..original });
            for table in Table::ALL {
                let (before, after) = (Current::of(&history).run(table), Current::of(&copied).run(table));
                if before == Some(original.age.run_id) {
                    prop_assert_eq!(after, Some("r9"));
                }
            }
        }
    }

    #[test]
    fn a_failure_hides_nothing_and_a_deletion_hides_all_until_the_next_indexing() {
        let row = |indexed_at, status, actions: Option<&str>| HistoryRow {
            age: Age { indexed_at, run_id: RUNS[usize::try_from(indexed_at).unwrap_or_default()] },
            kind: RowKind::of(status, actions, Some("p")),
            fingerprint: 0,
        };
        // Videos, actions, persons, thumbnails.
        let mut history = vec![row(0, "ok", Some("a")), row(1, "partial", None), row(2, "failed", Some("a"))];
        assert_eq!(shown(&history), [Some("r1"), Some("r0"), Some("r1"), Some("r1")]);
        history.push(row(3, "deleted", None));
        assert_eq!(shown(&history), [None; 4]);
        history.push(row(4, "ok", None));
        assert_eq!(shown(&history), [Some("r4"), None, Some("r4"), Some("r4")]);
    }
}
