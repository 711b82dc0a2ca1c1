//! The commands for operators, on SQLite, PostgreSQL, Redis and Cassandra: the program itself, its output and its exit codes.

mod arguments;
mod audit;
mod consumers;
mod keys;
mod migrate;
mod rest;
mod secrets;
mod setup;
mod terminal;
