//! The records that a run keeps in the output below `_vidindex/runs/<run>/`: their types and keys, and how they are
//! read and written. Planning, working and sealing are implemented elsewhere.
//!
//! | key | content |
//! |---|---|
//! | `job.json` | [`RunRecord`]: the run exists once this is written |
//! | `plan.parquet` | [`PlanFile`]: the videos of every shard |
//! | `submission.json` | the engine that the run was submitted to |
//! | `parts/<shard>/<attempt>/...` | the files of an attempt, and its [`AttemptRecord`](attempt::AttemptRecord) |
//! | `parts/<shard>/<attempt>/pieces/...` | finished videos of an unfinished shard, and their [`PieceRecord`](piece::PieceRecord) |
//! | `shards/<shard>.json` | [`ShardCommit`](commit::ShardCommit): the attempt that won, and its files |
//! | `summary.json` | [`RunSummary`]: what was published |

pub mod attempt;
pub mod commit;
mod id;
pub mod piece;
pub mod plan_file;
pub mod record;
mod shard;
pub mod summary;
mod task;
mod video;

pub use id::RunId;
pub use plan_file::PlanFile;
pub use record::{ModelRef, PlanModels, RunKind, RunRecord};
pub use shard::Shard;
pub use summary::RunSummary;
pub use task::Task;
pub use video::{Todo, VideoObject};

/// Prefix of the state of all runs in the output.
pub const RUNS_PREFIX: &str = "_vidindex/runs/";
