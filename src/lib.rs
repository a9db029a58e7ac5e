//! `vidindex` turns a video archive in object storage into tables: which action happens in which segment (SlowFast),
//! and where the people are (YOLOv5). It is a batch job: it lists, shards, decodes, infers, writes, and stops.
//!
//! ```text
//! list ──> shard ──> [engine runs one task per shard] ──> fetch ──> decode ──> batch ──> infer ──> encode ──> commit ──> seal
//! coordinator: `plan`                                     worker: `work`                                         coordinator
//! ```
//!
//! One type per stage, named for its state: `VideoObject → Shard → SampledFrame → ClipBatch/ImageBatch → VideoRows →
//! PartFile → ShardCommit → RunSummary`. It flows one way; no stage calls back.
//!
//! # Invariants
//!
//! 1. The object store is the only shared state. Coordinator and workers never talk to each other.
//! 2. Scheduling, retries of lost machines and GPU placement are the engine's work, never ours. On one machine `run` is
//!    the embedded engine: the same plan, work and seal in one process.
//! 3. A shard is processed by a pure function of (job, shard): any number of attempts, at the same time or in turn, leave
//!    the same rows once.
//! 4. A worker writes only below `_vidindex/`, under a name of its own attempt; the shard's commit record, put with
//!    `If-None-Match: *`, names the winning attempt's files. Only `seal` writes where readers look. So a zombie worker can
//!    harm nothing, after a crash at any point, doing the same again is enough, and a reader never sees half a shard or the
//!    same row twice.
//! 5. Video bytes are hostile. Demuxing, decoding and scaling happen in a child process (the same binary, re-executed)
//!    which has no network, no credentials and no files. A crash, a hang or a memory blow-up costs that one video, which
//!    gets a row that says so.
//! 6. Every queue is bounded; memory does not grow with a video's length or the archive's size (but for
//!    32 bytes that the planner keeps of each video that is indexed already).
//! 7. Only `store/` (and the engine of AWS Batch) names AWS, only `decode/` names FFmpeg, only `infer/` names ONNX Runtime.

// A reader who is gone must not be a panic: `console` prints.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod cli;
pub mod compact;
mod console;
mod current;
pub mod decode;
pub mod device;
mod doctor;
mod engine;
pub mod error;
pub mod hash;
pub mod infer;
pub mod job;
pub mod pipeline;
pub mod plan;
pub mod prune;
mod query;
pub mod report;
pub mod run;
mod scratch;
pub mod seal;
pub mod status;
pub mod store;
pub mod tables;
pub mod telemetry;
pub mod video_status;
pub mod work;
pub mod zoo;
