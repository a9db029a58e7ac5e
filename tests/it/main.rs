//! Tests of the real binary and of the library as its users call it: a module per scenario, in one program, so that it is
//! linked once and modules run beside each other.
#![expect(clippy::unwrap_used, reason = "tests")]

mod aws_batch;
mod cases;
mod ceph;
mod checker;
mod checkpoints;
mod compact;
mod console;
mod docs;
mod duckdb;
mod engines;
mod faults;
mod golden;
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
mod terraform;
mod tidy;
mod truth;
mod workflows;
