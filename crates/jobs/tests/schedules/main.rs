//! Conformance tests of durable schedules on both databases. Regression tests name the issue of the other
//! engine in which the fault was reported.

mod clock;
mod commands;
mod declared;
mod nodes;
mod overlaps;
mod support;
