//! `vidindex` turns a video archive into tables.

pub mod error;
pub mod store;
