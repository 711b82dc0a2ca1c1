//! The HTTP contract, row by row, over a real socket.

mod common;

#[path = "http/answers.rs"]
mod answers;
#[path = "http/app.rs"]
mod app;
#[path = "http/choices.rs"]
mod choices;
#[path = "http/clients.rs"]
mod clients;
#[path = "http/extractors.rs"]
mod extractors;
#[path = "http/fingerprint.rs"]
mod fingerprint;
#[path = "http/key.rs"]
mod key;
#[path = "http/layers.rs"]
mod layers;
#[path = "http/observe.rs"]
mod observe;
#[path = "http/planted.rs"]
mod planted;
#[path = "http/problems.rs"]
mod problems;
#[path = "http/recent.rs"]
mod recent;
#[path = "http/recorded.rs"]
mod recorded;
#[path = "http/refusals.rs"]
mod refusals;
#[path = "http/regions.rs"]
mod regions;
#[path = "http/retained.rs"]
mod retained;
#[path = "http/routes.rs"]
mod routes;
#[path = "http/run_max.rs"]
mod run_max;
#[path = "http/slow.rs"]
mod slow;
#[path = "http/tower_service.rs"]
mod tower_service;
#[path = "http/twice.rs"]
mod twice;
#[path = "http/upstream.rs"]
mod upstream;

use testing_contract::wire;

/// The cases that a client sees alike, whatever Keylatch is part of.
mod layer {
    testing_contract::cases!(crate::app::Layer::AS_IT_IS);
}
