//! `vidindex` turns a video archive in object storage into tables: which action happens in which segment (SlowFast),
//! and where the people are (YOLOv5). It is a batch job: it lists objects, divides them into shards, decodes, infers,
//! writes, and stops.
//!
//! To run a job from Rust, start with [`job::Job::load`] and [`pipeline::Pipeline`]. To read the results, start with
//! [`tables`]. `ARCHITECTURE.md` describes the modules, the data flow and the invariants.

pub mod bench;
pub mod cli;
mod clips;
pub mod compact;
mod console;
pub mod decode;
pub mod device;
mod doctor;
mod engine;
pub mod error;
pub mod estimate;
mod eval;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod hash;
mod in_use;
pub mod infer;
pub mod job;
mod machine;
mod nearest;
mod palette;
pub mod pipeline;
pub mod plan;
pub mod prune;
pub mod quantize;
mod query;
pub mod report;
pub mod run;
mod scratch;
pub mod seal;
pub mod status;
pub mod store;
pub mod tables;
pub mod telemetry;
mod toml_text;
pub mod track;
pub mod video_status;
pub mod work;
pub mod zoo;
