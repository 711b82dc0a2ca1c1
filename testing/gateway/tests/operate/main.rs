//! The commands for operators, on SQLite, PostgreSQL, Redis and Cassandra: the program itself, its output and its exit codes.
//! And the gateway on Cassandra, because these tests have a node.

mod arguments;
mod audit;
mod consumers;
mod keys;
mod migrate;
mod rest;
mod secrets;
mod serving;
mod setup;
mod terminal;
