//! The gateway, as a process, in front of a service that records what reaches it.

mod asked_once;
mod certificates;
mod command_line;
mod contract;
mod copies;
mod crash;
mod dispositions;
mod evacuation;
mod fleet;
mod frames;
mod grpc;
mod h2spec;
mod headers;
mod http2;
mod killed_operators;
mod limits;
mod load;
mod operators;
mod planted;
mod readme;
mod regions;
mod routes;
mod setup;
mod streams;
mod telemetry;
mod wire;
