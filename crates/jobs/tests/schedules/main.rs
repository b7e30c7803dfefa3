//! The contract of durable schedules, on both databases. Complaints of other engines' users that it ends are named.

mod clock;
mod commands;
mod declared;
mod nodes;
mod overlaps;
mod support;
