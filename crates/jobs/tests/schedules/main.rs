//! Conformance tests of durable schedules on both databases. Tests name the issues of other engines that they
//! guard against.

mod clock;
mod commands;
mod declared;
mod nodes;
mod overlaps;
mod support;
