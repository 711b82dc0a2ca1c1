//! `keylatch migrate`: the schema, and the rights of roles.

use std::error::Error;

use keylatch::cassandra;
use keylatch::postgres::{self, SCHEMA, SCHEMA_VERSION, grant_sql, schema_sql};
use serde::Serialize;

use super::args::Migrate;
use super::failure::Failure;
use super::output::Output;
use crate::store::{StoreUrl, Ways};

/// What was done.
#[derive(Debug, Serialize)]
struct Migrated {
    /// `postgresql`, `sqlite`, `redis` or `cassandra`.
    store: &'static str,
    /// The version of the schema; `null` for a store without one.
    version: Option<i64>,
    /// The role that may use it from now on.
    granted: Option<String>,
}

/// The SQL that a person runs.
#[derive(Debug, Serialize)]
struct Sql {
    sql: String,
}

pub(super) async fn run(args: Migrate, output: Output) -> Result<(), Failure> {
    let is_cassandra = matches!(args.common.store, StoreUrl::Cassandra(_));
    if !matches!(args.common.store, StoreUrl::Postgres(_)) && (args.grants.is_some() || args.print && !is_cassandra) {
        let why = "--grants is for PostgreSQL, and --print for PostgreSQL and Cassandra: other stores have no roles and \
                   make their own tables; leave them out";
        return Err(Failure::Arguments(why.to_owned()));
    }
    if args.print && is_cassandra {
        return print_text(cassandra::SCHEMA_CQL.to_owned(), output);
    }
    if args.print {
        return print(&args, output);
    }
    let (store, version) = match &args.common.store {
        StoreUrl::Postgres(url) => {
            in_postgres(url, &args).await.map_err(|error| Failure::Store(format!("PostgreSQL: {error}")))?;
            ("postgresql", Some(i64::from(SCHEMA_VERSION)))
        }
        StoreUrl::Sqlite(_) => {
            args.common.open(None, true).await?;
            ("sqlite", Some(keylatch::sqlite::SCHEMA_VERSION))
        }
        StoreUrl::Cassandra(url) => {
            args.common.check_names(false)?;
            let version = cassandra::migrate(url, &cassandra::Options::default()).await;
            ("cassandra", Some(version.map_err(|error| Failure::Store(format!("Cassandra: {error}")))?.into()))
        }
        StoreUrl::Memory => return Err(Failure::Arguments("a store in memory has no schema".to_owned())),
        _ => {
            args.common.open(None, true).await?;
            ("redis", None)
        }
    };
    let migrated = Migrated { store, version, granted: args.grants };
    if output.json {
        return Ok(output.object(&migrated)?);
    }
    output.line(&match migrated.version {
        Some(version) => format!("The schema is version {version}."),
        None => "Redis needs no schema; this server can be used.".to_owned(),
    })?;
    match migrated.granted {
        Some(role) => Ok(output.line(&format!("The role {} has what a service needs.", super::table::shown(&role)))?),
        None => Ok(()),
    }
}

fn print(args: &Migrate, output: Output) -> Result<(), Failure> {
    let schema = args.common.schema.as_deref().unwrap_or(SCHEMA);
    let sql = match &args.grants {
        Some(role) => grant_sql(schema, role),
        None => schema_sql(schema),
    };
    let sql = sql.map_err(|error| Failure::Arguments(error.to_string()))?;
    print_text(sql, output)
}

fn print_text(sql: String, output: Output) -> Result<(), Failure> {
    if output.json { Ok(output.object(&Sql { sql })?) } else { Ok(output.line(sql.trim_end())?) }
}

async fn in_postgres(url: &str, args: &Migrate) -> Result<(), Box<dyn Error>> {
    let ways = Ways { schema: args.common.schema.as_deref(), prefix: None, migrates: true };
    let store = postgres::Store::connect_with(url, ways.in_postgres()).await?;
    if let Some(role) = &args.grants {
        postgres::grant(store.pool(), &ways.in_postgres(), role).await?;
    }
    Ok(())
}
