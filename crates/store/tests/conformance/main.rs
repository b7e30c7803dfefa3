//! Conformance tests of the store. Both engines must pass all tests, except those for one engine.

mod audit;
mod audit_chain;
mod database_facts;
mod facts;
mod failover;
mod faults;
mod locks;
mod migrations;
mod pipelining;
mod postgres;
mod processes;
mod queues;
mod reads;
mod restores;
mod sequencer;
mod sqlite;
mod support;
mod transactions;
mod types;
