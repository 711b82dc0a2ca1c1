//! The gateway, as a process, before a service that writes down what reaches it.

mod asked_once;
mod certificates;
mod command_line;
mod contract;
mod crash;
mod dispositions;
mod fleet;
mod frames;
mod grpc;
mod h2spec;
mod headers;
mod http2;
mod limits;
mod planted;
mod readme;
mod routes;
mod setup;
mod streams;
mod wire;
