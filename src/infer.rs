//! Inference: the model families, and the sessions that run them. Only files below here name ONNX Runtime.

pub mod boxes;
mod closing;
pub mod detector;
pub mod memory;
pub mod person_actions;
pub mod session;
pub mod slowfast;
mod streams;
mod turn;

pub use closing::close_sessions;
