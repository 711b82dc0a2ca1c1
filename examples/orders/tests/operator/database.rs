//! A PostgreSQL server, and what has to be there before the service starts.

use std::path::Path;
use std::process::{Command, Output};

use reqwest::StatusCode;
use testing_support::postgres::free_port;
use tokio::task::JoinSet;

use crate::setup::Setup;
use crate::shop::{Shop, readme_order};
use crate::{clean, refused};

#[tokio::test]
async fn a_url_and_parts_that_differ_are_refused() {
    let stores = Setup::Postgres.stores();
    let same = stores.program().env("DATABASE_URL", stores.database_url());
    same.start().await.expect("both may say the same");
    let printed = refused(&same.env("DB_NAME", "other")).await;
    assert!(printed.contains("DB_NAME and DATABASE_URL differ"), "{printed}");
    assert!(!printed.contains("sentinel"), "{printed}");
}

#[tokio::test]
async fn stores_that_cannot_be_reached_are_told_without_the_password() {
    let nobody = free_port();
    for (name, url) in [("DATABASE_URL", "postgres://ann:sentinel"), ("REDIS_URL", "redis://:sentinel")] {
        let stores = Setup::Sqlite.stores();
        let printed = refused(&stores.program().env(name, format!("{url}@127.0.0.1:{nobody}/0"))).await;
        assert!(printed.contains("ERROR") && printed.contains("cannot"), "{printed}");
        assert!(!printed.contains("sentinel"), "{printed}");
    }
}

/// Of many that start at once on an empty database, one makes the tables, and the others wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn many_may_start_at_once() {
    const NODES: usize = 8;
    let stores = Setup::Postgres.stores();
    let mut starting = JoinSet::new();
    for _ in 0..NODES {
        let program = stores.program();
        starting.spawn(async move { program.start().await });
    }
    for started in starting.join_all().await {
        started.unwrap_or_else(|error| panic!("{error}"));
    }
    assert_eq!(stores.sql("SELECT count(*) FROM keylatch.schema_version"), "2");
}

/// A role that may only use what is there needs no right to make it.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_the_right_to_create_is_enough_once_the_tables_are_there() {
    let shop = Shop::open(Setup::Postgres).await;
    let Shop { server, stores, .. } = shop;
    server.terminate().await;
    stores.sql(
        "REVOKE CREATE ON SCHEMA public FROM public; CREATE ROLE clerk LOGIN; \
         GRANT USAGE ON SCHEMA keylatch TO clerk; \
         GRANT SELECT ON keylatch.schema_version TO clerk; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON keylatch.record TO clerk; \
         GRANT SELECT, INSERT, DELETE ON keylatch.event TO clerk; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON keylatch.event_stuck TO clerk; \
         GRANT SELECT, UPDATE ON keylatch.event_lane TO clerk; \
         GRANT SELECT, INSERT ON orders TO clerk; \
         GRANT SELECT, INSERT, UPDATE ON inventory, user_total TO clerk",
    );
    let shop = Shop::start(&stores.program().env("DB_USER", "clerk"), stores).await.expect("it starts");
    let (key, body) = readme_order();
    assert_eq!(shop.order(key, body).await.status, StatusCode::CREATED);
    assert!(shop.order(key, body).await.is_replay());
    assert_eq!(clean(&shop, None).await.status, StatusCode::OK);
    assert_eq!(shop.orders_of("user123").await.len(), 1);
}

/// Names and a password that need care.
const NEW: [(&str, &str); 3] =
    [("DB_NAME", "the \"shop\"'s"), ("DB_USER", "Its \"clerk\""), ("DB_PASSWORD", "sentinel'\\s \"$word")];

/// Runs `scripts/setup-db.sh` with [`NEW`] as the administrator of a server at `port`.
fn set_up(port: u16) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/setup-db.sh");
    let path = std::env::var_os("PATH").expect("there is a path");
    let port = port.to_string();
    let administrator = [("PGUSER", "postgres"), ("DB_HOST", "127.0.0.1"), ("DB_PORT", &port)];
    let mut script = Command::new(script);
    script.env_clear().env("PATH", path).envs(administrator).envs(NEW).output().expect("it can be run")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_script_makes_what_is_needed_and_can_be_run_again() {
    // Database and role are made by the script, on a server that nobody else uses.
    let stores = Setup::Postgres.stores_of_its_own();
    for _ in 0..2 {
        let Output { status, stdout, stderr } = set_up(stores.cluster().port());
        let (said, complained) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success(), "{said}{complained}");
        assert!(said.contains("are ready") && !said.contains("sentinel"), "{said}");
        assert_eq!(complained, "");
    }
    let program = NEW.into_iter().fold(stores.program(), |program, (name, value)| program.env(name, value));
    for started_before in [false, true] {
        let shop = Shop::start(&program, Setup::Sqlite.stores()).await.unwrap_or_else(|error| panic!("{error}"));
        let (key, body) = readme_order();
        let answer = shop.order(key, body).await;
        assert_eq!((answer.status, answer.is_replay()), (StatusCode::CREATED, started_before), "{answer:?}");
        assert_eq!(clean(&shop, None).await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn the_script_says_what_to_do_when_it_cannot() {
    let Output { status, stdout, stderr } = set_up(free_port());
    assert!(!status.success() && stdout.is_empty());
    let complained = String::from_utf8_lossy(&stderr);
    assert!(complained.contains("postgres cannot log in at 127.0.0.1"), "{complained}");
    assert!(!complained.contains("sentinel"), "{complained}");
}
