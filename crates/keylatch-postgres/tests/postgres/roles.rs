//! Rights: one role migrates, and another with few rights runs the service.

use futures_util::future::join_all;
use keylatch::postgres::sqlx::{self, AssertSqlSafe, Connection as _, PgConnection, PgPool};
use keylatch::postgres::{OpenError, Options, SCHEMA_VERSION, Store, grant, migrate};
use keylatch::store::{ErrorKind, Inspect as _, Store as _, Sweep as _};
use keylatch::{Key, RecordId, Scope};

use crate::support::{Service, cluster, database, fresh, items, records};

/// A role that may log in and use the user's own table.
pub(crate) async fn role(database: &str) -> String {
    let (role, database) = (fresh("role"), database.to_owned());
    let made = role.clone();
    tokio::task::spawn_blocking(move || {
        cluster().sql(&database, &format!("CREATE ROLE {made} LOGIN; GRANT SELECT, INSERT ON item TO {made}"));
    })
    .await
    .unwrap();
    role
}

pub(crate) fn url(database: &str, role: &str) -> String {
    cluster().url(database).replacen("postgres@", &format!("{role}@"), 1)
}

pub(crate) async fn owner(database: &str) -> PgPool {
    PgPool::connect(&cluster().url(database)).await.unwrap()
}

/// A database that its owner has migrated, in which PUBLIC has no rights; and a role without grants.
async fn migrated() -> (String, String, PgPool) {
    let database = database().await;
    let (role, owner) = (role(&database).await, owner(&database).await);
    sqlx::raw_sql("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC").execute(&owner).await.unwrap();
    migrate(&owner, &Options::default()).await.unwrap();
    (database, role, owner)
}

#[tokio::test]
async fn a_role_with_few_grants_is_enough() {
    let (database, role, owner) = migrated().await;
    grant(&owner, &Options::default(), &role).await.unwrap();
    grant(&owner, &Options::default(), &role).await.expect("it can be called again");

    for options in [Options::default(), Options::default().without_migration()] {
        let key = fresh("key");
        let service = Service::start(Store::connect_with(&url(&database, &role), options).await.unwrap()).await;
        assert_eq!(service.post("created", &key, 0).await.status, 201);
        assert!(service.post("created", &key, 0).await.replayed);
        assert_eq!(service.store.sweep(10).await.unwrap().total(), 0);
        assert!(service.store.count(Scope::new("user").unwrap(), 10).await.is_ok());
    }

    let mut conn = PgConnection::connect(&url(&database, &role)).await.unwrap();
    for forbidden in [
        "CREATE TABLE keylatch.other (n int)",
        "CREATE SCHEMA other",
        "ALTER TABLE keylatch.record ADD COLUMN n int",
        "DROP FUNCTION keylatch.clock()",
        "TRUNCATE keylatch.record",
        "UPDATE keylatch.schema_version SET version = 2",
        "INSERT INTO keylatch.schema_version (version, min_reader) VALUES (2, 2)",
    ] {
        let error = sqlx::raw_sql(forbidden).execute(&mut conn).await.unwrap_err();
        let code = error.as_database_error().and_then(|error| error.code()).unwrap().into_owned();
        assert_eq!(code, "42501", "{forbidden}: {error}");
    }
}

/// No grant is superfluous: without any one of them something fails, and the error says why.
#[tokio::test]
async fn each_grant_is_needed() {
    let (database, role, owner) = migrated().await;
    for missing in [
        "USAGE ON SCHEMA keylatch",
        "SELECT ON keylatch.schema_version",
        "SELECT ON keylatch.record",
        "INSERT ON keylatch.record",
        "UPDATE ON keylatch.record",
        "DELETE ON keylatch.record",
        "SELECT ON keylatch.event",
        "INSERT ON keylatch.event",
        "DELETE ON keylatch.event",
        "SELECT ON keylatch.event_stuck",
        "INSERT ON keylatch.event_stuck",
        "UPDATE ON keylatch.event_stuck",
        "DELETE ON keylatch.event_stuck",
        "SELECT ON keylatch.place",
        "INSERT ON keylatch.place",
        "UPDATE ON keylatch.place",
        "DELETE ON keylatch.place",
        "SELECT ON keylatch.dead_letter",
        "INSERT ON keylatch.dead_letter",
        "UPDATE ON keylatch.dead_letter",
        "DELETE ON keylatch.dead_letter",
        "SELECT ON keylatch.event_lane",
        "UPDATE ON keylatch.event_lane",
        "EXECUTE ON ALL FUNCTIONS IN SCHEMA keylatch",
    ] {
        grant(&owner, &Options::default(), &role).await.unwrap();
        let revoke = format!("REVOKE {missing} FROM {role}");
        sqlx::raw_sql(AssertSqlSafe(revoke)).execute(&owner).await.unwrap();
        // What the one before has left half-way.
        sqlx::raw_sql("TRUNCATE keylatch.event, keylatch.event_stuck").execute(&owner).await.unwrap();
        let said = match Store::connect(&url(&database, &role)).await {
            Err(error) => error.to_string(),
            Ok(store) => {
                let id = RecordId::of(&Scope::new("user").unwrap(), &Key::new("absent").unwrap());
                let all = async {
                    store.read(id).await?;
                    let claim = crate::plans::claim(&Scope::new("user").unwrap(), std::time::Duration::from_secs(1));
                    let keylatch::machine::Claimed::Won(record) = store.claim(claim).await?.value else {
                        panic!("it is free")
                    };
                    crate::inbox::bury_discard_and_remove(&store).await?;
                    crate::outbox::refuse_and_discard(&store, record.lease()).await?;
                    let _ = store.release(record.lease(), keylatch::machine::End::Unknown).await?;
                    store.sweep(1).await
                };
                let error = all.await.expect_err(missing);
                assert_eq!(error.kind(), ErrorKind::Refused, "{missing}: {error}");
                error.to_string()
            }
        };
        assert!(said.contains("permission denied") && said.contains("grant"), "{missing}: {said}");
    }
}

/// A role that may not migrate is told what to do, and changes nothing.
#[tokio::test]
async fn a_role_without_the_right_does_not_migrate() {
    let database = database().await;
    let (role, owner) = (role(&database).await, owner(&database).await);
    let refused = async |expected: i32| {
        let error = Store::connect(&url(&database, &role)).await.expect_err("it may not");
        assert!(matches!(error, OpenError::NotMigrated { found, .. } if found == expected), "{error}");
        assert!(error.to_string().contains("keylatch::postgres::migrate"), "{error}");
    };
    refused(0).await;
    // Nor does a role that may, if it was told not to.
    let options = Options::default().without_migration();
    let error = Store::connect_with(&cluster().url(&database), options).await.expect_err("it was told not to");
    assert!(matches!(error, OpenError::NotMigrated { found: 0, .. }), "{error}");
    let exists: bool =
        sqlx::query_scalar("SELECT to_regnamespace('keylatch') IS NOT NULL").fetch_one(&owner).await.unwrap();
    assert!(!exists);

    migrate(&owner, &Options::default()).await.unwrap();
    grant(&owner, &Options::default(), &role).await.unwrap();
    assert!(Store::connect(&url(&database, &role)).await.is_ok());
    // As left by a release before the first.
    sqlx::raw_sql("DELETE FROM keylatch.schema_version").execute(&owner).await.unwrap();
    refused(0).await;
    // And as left by a later release, which does not concern this one.
    let later = SCHEMA_VERSION + 1;
    let later = format!("INSERT INTO keylatch.schema_version (version, min_reader) VALUES ({later}, {later})");
    sqlx::raw_sql(AssertSqlSafe(later)).execute(&owner).await.unwrap();
    for who in [role.as_str(), "postgres"] {
        let error = Store::connect(&url(&database, who)).await.expect_err("it is newer");
        assert!(matches!(error, OpenError::NewerSchema { .. }), "{error}");
    }
}

/// Many nodes start at once on an empty database: one migrates, and all of them open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_nodes_migrate_once() {
    const NODES: usize = 24;
    for isolation in ["read committed", "repeatable read", "serializable"] {
        let database = database().await;
        let setting = format!("ALTER DATABASE {database} SET default_transaction_isolation = '{isolation}'");
        sqlx::raw_sql(AssertSqlSafe(setting)).execute(&owner(&database).await).await.unwrap();
        let url = cluster().url(&database);
        let options = || Options::default().with_connections_max(2);
        let opened = join_all((0..NODES).map(|_| Store::connect_with(&url, options()))).await;
        let stores: Vec<_> = opened.into_iter().map(|store| store.expect(isolation)).collect();
        let pool = stores[0].pool();
        let versions: Vec<i32> =
            sqlx::query_scalar("SELECT version FROM keylatch.schema_version").fetch_all(pool).await.unwrap();
        assert_eq!(versions, (1..=SCHEMA_VERSION).collect::<Vec<_>>());
        let service = Service::start(stores[NODES - 1].clone()).await;
        assert_eq!(service.post("created", "a", 0).await.status, 201);
        assert_eq!((items(&stores[0]).await.len(), records(&stores[0]).await), (1, 1));
    }
}
