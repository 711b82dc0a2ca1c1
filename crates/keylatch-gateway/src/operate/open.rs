//! Opens the store of a command, and the operator of it.

use std::env;

use keylatch::Policy;
use keylatch_admin::{Actor, Audit, Operator, Role, Via};

use super::args::{Acting, Common};
use super::failure::Failure;
use crate::store::{Opened, StoreUrl, Ways};

/// A store in the memory of another process cannot be reached.
const IN_MEMORY: &str = "a store in memory belongs to the process that made it: ask its operator API, or use a store \
                         that processes share";

impl Common {
    /// The operator of the store, with audit events to the log.
    ///
    /// # Errors
    ///
    /// If the store cannot be opened.
    pub(super) async fn operator(&self) -> Result<Operator, Failure> {
        self.operator_with(None).await
    }

    /// The same, with a cache in front of it.
    ///
    /// # Errors
    ///
    /// If the store or the cache cannot be opened.
    pub(super) async fn operator_with(&self, cache: Option<&StoreUrl>) -> Result<Operator, Failure> {
        can_be_reached(&self.store)?;
        if let Some(cache) = cache {
            cache.check_cache(&self.store).map_err(Failure::Arguments)?;
        }
        let opened = self.open(cache, false).await?;
        Ok(opened.equip(Operator::new(opened.store.clone())))
    }

    /// The store; `migrates` says whether its schema may be made.
    ///
    /// # Errors
    ///
    /// If it cannot be opened.
    pub(super) async fn open(&self, cache: Option<&StoreUrl>, migrates: bool) -> Result<Opened, Failure> {
        let ways = Ways { schema: self.schema.as_deref(), prefix: self.prefix.as_deref(), migrates };
        self.check_names(cache.is_some())?;
        self.store.open_with(cache, ways).await.map_err(|error| Failure::Store(format!("{}: {error}", self.store)))
    }

    /// Refuses a schema or a prefix for a store that has none.
    ///
    /// # Errors
    ///
    /// Says what to leave out.
    pub(super) fn check_names(&self, has_cache: bool) -> Result<(), Failure> {
        let is_postgres = matches!(self.store, StoreUrl::Postgres(_));
        if self.schema.is_some() && !is_postgres {
            return Err(Failure::Arguments("--schema is for PostgreSQL; leave it out".to_owned()));
        }
        if self.prefix.is_some() && !self.store.has_prefix() && !has_cache {
            return Err(Failure::Arguments("--prefix is for Redis and Cassandra; leave it out".to_owned()));
        }
        Ok(())
    }
}

/// Refuses a store that this process cannot have, or would make.
///
/// # Errors
///
/// Says what to do instead.
pub(super) fn can_be_reached(store: &StoreUrl) -> Result<(), Failure> {
    match store {
        StoreUrl::Memory => Err(Failure::Arguments(IN_MEMORY.to_owned())),
        StoreUrl::Sqlite(path) if !path.exists() => Err(Failure::Store(format!(
            "{} is not there; if it should be made, run `keylatch migrate`",
            path.display()
        ))),
        _ => Ok(()),
    }
}

impl Acting {
    /// Who acts.
    pub(super) fn actor(&self) -> Actor {
        let of = |name: &str| env::var(name).ok().filter(|name| !name.is_empty());
        let name = self.who.clone().or_else(|| of("SUDO_USER")).or_else(|| of("USER")).or_else(|| of("LOGNAME"));
        Actor { name: name.unwrap_or_else(|| "unknown".to_owned()), role: Role::Operate, via: Via::CommandLine }
    }

    /// `operator`, with audit events to the file, if there is one.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub(super) fn audited(&self, operator: Operator) -> Result<Operator, Failure> {
        Ok(operator.with_audit(self.audit()?))
    }

    /// Where audit events go: to the file, if there is one, and to the log.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub(super) fn audit(&self) -> Result<Audit, Failure> {
        let Some(path) = &self.audit_log else { return Ok(Audit::default()) };
        Audit::to_file(path).map_err(|error| {
            Failure::Store(format!("nothing was done: the audit file {} cannot be written: {error}", path.display()))
        })
    }
}

/// How long answers are kept that an operator writes.
pub(super) fn policy(kept: super::args::Kept) -> Result<Policy, Failure> {
    let policy = Policy { retention: kept.retention.0, tombstone: kept.tombstone.0, ..Policy::default() };
    policy
        .check()
        .map_err(|error| Failure::Arguments(format!("--retention and --tombstone cannot be kept: {error}")))?;
    Ok(policy)
}
