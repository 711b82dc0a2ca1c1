//! The schema, and the rights of roles.

use testing_support::cassandra::shared_keyspace;
use testing_support::postgres::shared::{cluster, database};

use crate::setup::{ARGUMENTS, DONE, FAILED, Kind, World, run};

#[tokio::test]
async fn a_file_is_made_and_made_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let url = format!("sqlite:{}", dir.path().join("records/keylatch.db").display());
    let variables = [("KEYLATCH_STORE", url.as_str())];
    run(&["keys", "list"], &variables, "").await.ends(FAILED).says(&["keylatch migrate"]);
    for _ in 0..2 {
        let migrated = run(&["migrate", "--json"], &variables, "").await.ends(DONE).json();
        assert_eq!((&migrated["store"], &migrated["version"]), (&"sqlite".into(), &2.into()));
    }
    run(&["migrate"], &variables, "").await.ends(DONE).says(&["version 2"]);
    run(&["keys", "list"], &variables, "").await.ends(DONE).says(&["There is no such record."]);
}

#[tokio::test]
async fn redis_needs_none() {
    let world = World::new(Kind::Redis).await;
    world.run(&["migrate"]).await.ends(DONE).says(&["needs no schema"]);
    world.run(&["migrate", "--print"]).await.ends(ARGUMENTS).says(&["leave"]);
}

#[tokio::test]
async fn cassandra_gets_its_tables_once() {
    let url = shared_keyspace().await;
    let variables = [("KEYLATCH_STORE", url.as_str())];
    run(&["keys", "list"], &variables, "").await.ends(FAILED).says(&["keylatch migrate"]);
    for _ in 0..2 {
        let migrated = run(&["migrate", "--json"], &variables, "").await.ends(DONE).json();
        assert_eq!((&migrated["store"], &migrated["version"]), (&"cassandra".into(), &1.into()));
    }
    run(&["keys", "list"], &variables, "").await.ends(DONE).says(&["There is no such record."]);
    run(&["sweep"], &variables, "").await.ends(DONE).says(&["nothing is left to clean"]);
    run(&["migrate", "--print"], &variables, "").await.ends(DONE).says(&["CREATE TABLE IF NOT EXISTS record"]);
    // What a service asks of a keyspace by default, this one cannot give.
    let strict = url.split('?').next().expect("an address");
    let strict = run(&["stats"], &[("KEYLATCH_STORE", strict)], "").await;
    strict.ends(FAILED).says(&["one node", "three replicas"]);
}

/// A command that looks makes no schema; `migrate` does, and a role gets what a service needs and no more.
#[tokio::test]
async fn postgresql_gets_its_schema_and_a_role_its_rights() {
    let url = database().await;
    let variables = [("KEYLATCH_STORE", url.as_str())];
    run(&["stats"], &variables, "").await.ends(FAILED).says(&["PostgreSQL", "migrate"]);
    let name = url.split('?').next().and_then(|url| url.rsplit('/').next()).expect("a database").to_owned();
    let role = format!("service_{name}");
    let sql = async |sql: String| {
        let name = name.clone();
        tokio::task::spawn_blocking(move || cluster().sql(&name, &sql)).await.expect("no panic")
    };
    sql(format!("CREATE ROLE {role} LOGIN")).await;
    run(&["migrate", "--grants", "nobody_at_all"], &variables, "").await.ends(FAILED).says(&["nobody_at_all"]);
    let migrated = run(&["migrate", "--grants", &role, "--json"], &variables, "").await.ends(DONE).json();
    assert_eq!((&migrated["version"], &migrated["granted"]), (&2.into(), &role.as_str().into()));
    run(&["migrate", "--grants", &role], &variables, "").await.ends(DONE).says(&["version 2", &role]);
    run(&["stats"], &variables, "").await.ends(DONE);
    let may = |what: &str| format!("SELECT has_table_privilege('{role}', 'keylatch.record', '{what}')");
    assert_eq!(sql(may("UPDATE")).await.trim(), "t");
    assert_eq!(sql(may("TRUNCATE")).await.trim(), "f");
}

#[tokio::test]
async fn sql_is_printed_for_those_who_run_it_by_hand() {
    // Nobody is asked: there is no such server.
    let variables = [("KEYLATCH_STORE", "postgres://u:hunter2@127.0.0.1:1/d")];
    let schema = run(&["migrate", "--print", "--schema", "mine"], &variables, "").await.ends(DONE);
    assert!(schema.out.contains("CREATE TABLE mine.record") && !schema.out.contains("keylatch."), "{}", schema.out);
    let grants = run(&["migrate", "--print", "--grants", "service"], &variables, "").await.ends(DONE);
    let grants = grants.says(&["GRANT SELECT, INSERT, UPDATE, DELETE ON keylatch.record TO \"service\";"]);
    assert!(!grants.out.contains("CREATE"), "{grants:?}");
    run(&["migrate", "--print", "--schema", "a b"], &variables, "").await.ends(ARGUMENTS);
}
