//! Consumers and producers on a real broker, which all of these tests share; those that break brokers start their own.

mod batches;
mod consuming;
mod crash;
mod dead_letters;
mod flow;
mod http;
mod lanes;
mod lanes_crash;
mod log;
mod members;
mod orders;
mod outage;
mod planted;
mod poison;
mod produce;
mod replay;
mod setup;
mod standby;
mod start;
mod trace;
