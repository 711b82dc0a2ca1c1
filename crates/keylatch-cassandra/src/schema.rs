//! The tables, their version, and what the keyspace survives.

use std::collections::BTreeMap;

use scylla::client::session::Session;
use scylla::errors::ExecutionError;
use scylla::response::query_result::QueryResult;

use super::address::Address;
use super::error::ConnectError;
use super::link;
use super::options::{Options, Survives};

/// The version of the tables that this version of Keylatch reads and writes.
pub const SCHEMA_VERSION: i32 = 1;
/// The tables, as an operator can read them and run them: `cqlsh -k KEYSPACE -f schema.cql`.
pub const SCHEMA_CQL: &str = include_str!("schema.cql");

/// Makes the tables in the keyspace of `url`, and returns their version. It changes nothing where they exist.
///
/// Cassandra does not order changes of a schema that are made at once: run it once, from one place.
///
/// # Errors
///
/// See [`ConnectError`]; each says what to do.
pub async fn migrate(url: &str, options: &Options) -> Result<i32, ConnectError> {
    let address = Address::parse(url)?;
    let session = link::session(&address, options).await?;
    check_replication(&session, &address, options).await?;
    migrate_on(&session, &address.keyspace).await?;
    Ok(SCHEMA_VERSION)
}

pub(super) async fn migrate_on(session: &Session, keyspace: &str) -> Result<(), ConnectError> {
    match version(session, keyspace).await {
        Err(ConnectError::NotMigrated { .. }) => {}
        known => return known,
    }
    let without_comments = SCHEMA_CQL.lines().filter(|line| !line.trim_start().starts_with("--"));
    let statements = without_comments.collect::<Vec<_>>().join("\n");
    let statements = statements.split(';').map(str::trim).filter(|statement| !statement.is_empty());
    for statement in statements {
        query(session, statement, ()).await?;
    }
    Ok(())
}

/// Refuses a keyspace without the tables, or with those of another version.
pub(super) async fn version(session: &Session, keyspace: &str) -> Result<(), ConnectError> {
    let not_migrated = || ConnectError::NotMigrated { keyspace: keyspace.to_owned() };
    let tables =
        "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ? AND table_name = 'keylatch_schema'";
    let tables = query(session, tables, (keyspace,)).await?;
    if text_rows(tables).is_empty() {
        return Err(not_migrated());
    }
    let version = query(session, "SELECT version FROM keylatch_schema WHERE name = 'tables'", ()).await?;
    let version =
        version.into_rows_result().ok().and_then(|rows| rows.maybe_first_row::<(Option<i32>,)>().ok().flatten());
    match version.and_then(|(version,)| version) {
        None => Err(not_migrated()),
        Some(SCHEMA_VERSION) => Ok(()),
        Some(found) => Err(ConnectError::Version { found, known: SCHEMA_VERSION }),
    }
}

/// Refuses a keyspace that has no majority left after the loss that the caller names.
pub(super) async fn check_replication(
    session: &Session,
    address: &Address,
    options: &Options,
) -> Result<(), ConnectError> {
    let (keyspace, survives) = (&*address.keyspace, address.survives.unwrap_or(options.survives));
    let replication = "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = ?";
    let result = query(session, replication, (keyspace,)).await?;
    let rows = result.into_rows_result().ok();
    let row = rows.and_then(|rows| rows.maybe_first_row::<(BTreeMap<String, String>,)>().ok().flatten());
    let Some((replication,)) = row else { return Err(ConnectError::NoKeyspace { keyspace: keyspace.to_owned() }) };
    judge(keyspace, &replication, survives)
}

fn judge(keyspace: &str, replication: &BTreeMap<String, String>, survives: Survives) -> Result<(), ConnectError> {
    let text = || {
        let parts: Vec<_> = replication.iter().map(|(name, value)| format!("'{name}': '{value}'")).collect();
        format!("{{{}}}", parts.join(", "))
    };
    let unknown = || ConnectError::UnknownReplication { keyspace: keyspace.to_owned(), replication: text() };
    let class = replication.get("class");
    let class = class.and_then(|class| class.rsplit('.').next());
    if !matches!(class, Some("NetworkTopologyStrategy" | "SimpleStrategy")) {
        return Err(unknown());
    }
    let mut centres = Vec::new();
    for (_, factor) in replication.iter().filter(|(name, _)| *name != "class") {
        centres.push(factor.parse::<u32>().map_err(|_| unknown())?);
    }
    let all: u32 = centres.iter().sum();
    let majority = all / 2 + 1;
    let largest = centres.iter().copied().max().unwrap_or(0);
    let (lost, advice) = match survives {
        Survives::Nothing => (0, "give it a replica"),
        Survives::Node => (1, "give it three replicas at least"),
        Survives::DataCentre => {
            (largest, "spread the replicas over three data centres at least, so that none has half of them")
        }
    };
    if all >= majority + lost {
        return Ok(());
    }
    Err(ConnectError::Replication {
        keyspace: keyspace.to_owned(),
        replication: text(),
        survives,
        advice: format!("{advice}, with ALTER KEYSPACE {keyspace} WITH replication"),
    })
}

async fn query(
    session: &Session,
    statement: &str,
    values: impl scylla::serialize::row::SerializeRow,
) -> Result<QueryResult, ConnectError> {
    let result = session.query_unpaged(statement, values).await;
    result.map_err(|error: ExecutionError| ConnectError::SetUp(Box::new(error)))
}

fn text_rows(result: QueryResult) -> Vec<String> {
    let Ok(rows) = result.into_rows_result() else { return Vec::new() };
    let Ok(rows) = rows.rows::<(String,)>() else { return Vec::new() };
    rows.filter_map(|row| row.ok().map(|(text,)| text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(replication: &[(&str, &str)], survives: Survives) -> Result<(), String> {
        let class = "org.apache.cassandra.locator.NetworkTopologyStrategy";
        let mut all = BTreeMap::from([("class".to_owned(), class.to_owned())]);
        all.extend(replication.iter().map(|(name, factor)| ((*name).to_owned(), (*factor).to_owned())));
        judge("keys", &all, survives).map_err(|error| error.to_string())
    }

    #[test]
    fn the_file_says_its_version() {
        assert!(SCHEMA_CQL.contains(&format!("VALUES ('tables', {SCHEMA_VERSION});")));
    }

    #[test]
    fn a_majority_must_be_left() {
        for (replication, node, centre) in [
            (&[("a", "1")][..], false, false),
            (&[("a", "2")], false, false),
            (&[("a", "3")], true, false),
            (&[("a", "1"), ("b", "1")], false, false),
            (&[("a", "3"), ("b", "3")], true, false),
            (&[("a", "1"), ("b", "1"), ("c", "1")], true, true),
            (&[("a", "3"), ("b", "3"), ("c", "1")], true, true),
            (&[("a", "5"), ("b", "1"), ("c", "1")], true, false),
        ] {
            assert_eq!(judged(replication, Survives::Nothing), Ok(()), "{replication:?}");
            assert_eq!(judged(replication, Survives::Node).is_ok(), node, "{replication:?}");
            assert_eq!(judged(replication, Survives::DataCentre).is_ok(), centre, "{replication:?}");
        }
    }

    #[test]
    fn the_error_says_what_to_change() {
        let error = judged(&[("dc1", "2")], Survives::Node).unwrap_err();
        for part in ["'dc1': '2'", "one node", "three replicas", "ALTER KEYSPACE keys"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(judged(&[("dc1", "3/1")], Survives::Node).unwrap_err().contains("transient"));
    }
}
