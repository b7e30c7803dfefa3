//! Tests of real servers over HTTP: on SQLite, on PostgreSQL, and on two nodes that share one PostgreSQL.
//!
//! A scenario is a function over a [`support::TestApp`]. `on_every_engine!` at the top of its file runs it on
//! each engine. No test sleeps, and the clock moves only when a scenario advances it.

mod support;

mod account_deletion;
mod accounts;
mod administration;
mod api_keys;
mod audit;
mod authorization;
mod block_matrix;
mod bond_histories;
mod bond_model;
mod bond_races;
mod bonds;
mod breakups;
mod callbacks;
mod checklist_lint;
mod checklists;
mod commands;
mod config;
mod decision_races;
mod demo;
mod development;
mod docs;
mod edge;
mod idempotency;
mod invites;
mod job_examples;
mod job_queues;
mod jobs;
mod lockout;
mod logs;
mod memory;
mod metrics;
mod old_paths;
mod openapi_tools;
mod operators;
mod outages;
mod partner_tiers;
mod preconditions;
mod presets;
mod process;
mod profile;
mod rejections;
mod requests;
mod resealing;
mod reserved_jobs;
mod restorations;
mod revocation;
mod rotation;
mod schedules;
mod schema;
mod space_archives;
mod space_dates;
mod space_limits;
mod space_lists;
mod spaces;
mod tokens;
mod traces;
mod twins;
mod verify;
