//! Puts Kith together: the list of modules, the start and the stop of a server, and the command line.
//!
//! It decides no rule and answers no request; it is a library so that tests can run servers within their process.

pub mod cli;
mod control;
mod demo;
mod listen;
pub mod modules;
mod start;

pub use start::{Running, Seams, StartError, start};
