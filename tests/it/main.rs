//! Tests of the real binary and of the library's public API, with one module per scenario. They are one program, so
//! that it is linked once and the modules run in parallel. They start in the order of their names: those that take minutes
//! (`accuracy`, `aws_stack`, `decoding`) are named so that they do not start last.
#![expect(clippy::unwrap_used, reason = "tests")]

mod accuracy;
mod aws_batch;
mod aws_stack;
mod bench;
mod cases;
mod ceph;
mod checker;
mod checkpoints;
mod compact;
mod console;
mod current;
mod decoding;
mod deploy;
mod docs;
mod duckdb;
mod engines;
mod eval;
mod faults;
mod golden;
mod gpu;
mod half;
mod heads;
mod install;
mod kinds;
mod kubernetes;
mod layout;
mod listing;
mod lowering;
mod man;
mod mirrors;
mod mistakes;
mod outages;
mod person_actions;
mod pull;
mod quantize;
mod query;
mod random_weights;
mod recovery;
mod replan;
mod report;
mod run;
mod s3_job;
mod schemas;
mod signals;
mod slowfast;
mod slurm;
mod status;
mod store;
mod support;
mod tidy;
mod tracks;
mod views;
mod workflows;
