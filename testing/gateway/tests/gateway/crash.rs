//! Kill -9 of the gateway and of the service at random, under load of clients that do not give up.
//!
//! On Cassandra, see the program of tests that has a node: `operate/serving.rs`.

use std::path::Path;

use keylatch::{postgres, redis, sqlite};
use testing_support::postgres::shared::database;
use testing_support::redis::{Config, Server as Redis};

use crate::load::{never_two_starts, one_effect};

/// What the gateway is told of a file in `directory`, and what opens it.
fn file(directory: &Path) -> (String, impl AsyncFnOnce() -> sqlite::Store) {
    let file = directory.join("keylatch.db");
    (format!("sqlite:{}", file.display()), async move || sqlite::Store::open(file).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_never_two_starts_in_at_most_once_when_either_is_killed_at_random() {
    let directory = tempfile::tempdir().unwrap();
    let (store, open) = file(directory.path());
    never_two_starts(directory.path(), &store, open).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_never_two_starts_on_postgresql_when_either_is_killed_at_random() {
    let (directory, url) = (tempfile::tempdir().unwrap(), database().await);
    never_two_starts(directory.path(), &url, async || postgres::Store::connect(&url).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_never_two_starts_on_redis_when_either_is_killed_at_random() {
    let (directory, server) = (tempfile::tempdir().unwrap(), Redis::start(Config::new()));
    let url = server.url();
    never_two_starts(directory.path(), &url, async || redis::Store::connect(&url).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_one_effect_in_fenced_where_the_service_honours_the_derived_key_when_either_is_killed_at_random() {
    let directory = tempfile::tempdir().unwrap();
    let (store, open) = file(directory.path());
    one_effect(directory.path(), &store, open).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_one_effect_in_fenced_on_postgresql_when_either_is_killed_at_random() {
    let (directory, url) = (tempfile::tempdir().unwrap(), database().await);
    one_effect(directory.path(), &url, async || postgres::Store::connect(&url).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_one_effect_in_fenced_on_redis_when_either_is_killed_at_random() {
    let (directory, server) = (tempfile::tempdir().unwrap(), Redis::start(Config::new()));
    let url = server.url();
    one_effect(directory.path(), &url, async || redis::Store::connect(&url).await.unwrap()).await;
}
