//! Assembles Kith. Contains the list of modules, the start and stop of a server, and the command line.
//!
//! The crate contains no rules of features. It is a library, so that tests can run servers in their own
//! process.

pub mod cli;
mod control;
mod demo;
mod listen;
pub mod modules;
mod start;

pub use start::{Running, StartError, TestOverrides, start};
