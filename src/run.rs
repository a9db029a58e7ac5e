//! What a run keeps in the output, below `_vidindex/runs/<run>/`: the types, their keys, and how they are read and written.
//! No logic of planning, working or sealing.
//!
//! | key | what |
//! |---|---|
//! | `job.json` | [`RunRecord`]: the run exists from when it is there |
//! | `plan.parquet` | [`PlanFile`]: the videos of every shard |
//! | `submission.json` | which engine has the run |
//! | `parts/<shard>/<attempt>/...` | the files of an attempt, and its [`AttemptRecord`](attempt::AttemptRecord) |
//! | `shards/<shard>.json` | [`ShardCommit`](commit::ShardCommit): the attempt whose files count |
//! | `summary.json` | [`RunSummary`]: what is published |

pub mod attempt;
pub mod commit;
mod id;
pub mod plan_file;
pub mod record;
mod shard;
pub mod summary;
mod video;

pub use id::RunId;
pub use plan_file::PlanFile;
pub use record::{ModelRef, PlanModels, RunKind, RunRecord};
pub use shard::Shard;
pub use summary::RunSummary;
pub use video::{Todo, VideoObject};

/// Where the state of every run lies in the output.
pub const RUNS_PREFIX: &str = "_vidindex/runs/";
