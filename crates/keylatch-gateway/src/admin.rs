//! The listener for operators and monitoring: the routes of `keylatch_admin`, and what they are made from.

use std::net::SocketAddr;
use std::path::PathBuf;

use keylatch_admin::regions::Regions;
use keylatch_admin::{Access, Admin, Audit, Operator, Tokens};
use metrics_exporter_prometheus::PrometheusHandle;

use crate::args::Gateway;
use crate::config;
use crate::layers::Engines;
use crate::store::RegionStore;

/// Who may do what on the listener: from the command line, and from the table `[admin]` of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) listen: Option<SocketAddr>,
    tokens: Option<PathBuf>,
    audit_log: Option<PathBuf>,
    region_stores: Vec<RegionStore>,
}

impl Settings {
    /// Puts both together.
    ///
    /// # Errors
    ///
    /// If something is set in both, or without a listener.
    pub(crate) fn new(args: &Gateway, file: &config::Admin) -> Result<Self, String> {
        let both = [
            ("--admin-listen", "listen", args.admin_listen.is_some() && file.listen.is_some()),
            ("--admin-tokens", "tokens", args.admin_tokens.is_some() && file.tokens.is_some()),
            ("--audit-log", "audit-log", args.audit_log.is_some() && file.audit_log.is_some()),
        ];
        if let Some((option, key, _)) = both.into_iter().find(|(.., both)| *both) {
            return Err(format!("{option} and `{key}` in [admin] of the file are both set: take one of them out"));
        }
        let settings = Self {
            listen: args.admin_listen.or(file.listen),
            tokens: args.admin_tokens.clone().or_else(|| file.tokens.clone()),
            audit_log: args.audit_log.clone().or_else(|| file.audit_log.clone()),
            region_stores: args.region_stores.clone(),
        };
        let is_set_up = settings.tokens.is_some() || settings.audit_log.is_some() || !settings.region_stores.is_empty();
        if settings.listen.is_none() && is_set_up {
            return Err("there is no listener for operators: choose its address by --admin-listen".to_owned());
        }
        Ok(settings)
    }

    /// Whether it names a file that can be read again.
    pub(crate) const fn has_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    /// Reads the tokens, if there is a file of them.
    ///
    /// # Errors
    ///
    /// All mistakes in the file.
    pub(crate) fn tokens(&self) -> Result<Option<Tokens>, String> {
        self.tokens.as_ref().map(Tokens::read).transpose().map_err(|wrong| wrong.to_string())
    }

    /// Where audit events go.
    fn audit(&self) -> Result<Audit, String> {
        let Some(path) = &self.audit_log else { return Ok(Audit::default()) };
        Audit::to_file(path).map_err(|error| {
            format!("the audit log {} cannot be written: {error}; choose another file by --audit-log", path.display())
        })
    }

    /// The map of `regions`, with the stores by which operators can change it.
    fn map(&self, engines: &Engines, regions: Option<&config::Regions>) -> Result<Option<Regions>, String> {
        let Some(config::Regions { homes, lease, key_ahead_max, .. }) = regions else {
            let fix = "--region-store is for a gateway with a table [regions] in its file: leave it out";
            return if self.region_stores.is_empty() { Ok(None) } else { Err(fix.to_owned()) };
        };
        let mut map = Regions::new(homes.clone(), *lease, *key_ahead_max);
        for (nth, store) in self.region_stores.iter().enumerate() {
            let name = &store.region;
            let Some(region) = homes.region(name) else {
                return Err(format!("--region-store {name}=…: it is not one of the regions in the file"));
            };
            if self.region_stores[..nth].iter().any(|other| other.region == *name) {
                return Err(format!("--region-store {name}=… is given twice: name each region once"));
            }
            let store = store.clone();
            map = map.with_store_by(region.clone(), move || {
                let store = store.clone();
                Box::pin(async move { store.open().await })
            });
        }
        // Its own is open already, whatever the list says.
        Ok(Some(map.with_store(homes.this().clone(), engines.opened.store.clone())))
    }

    /// What operators can do, on a listener that is bound to `bound`.
    ///
    /// # Errors
    ///
    /// If a file cannot be used.
    pub(crate) fn admin(
        &self,
        engines: &Engines,
        regions: Option<&config::Regions>,
        metrics: PrometheusHandle,
        bound: SocketAddr,
    ) -> Result<Admin, String> {
        let operator = Operator::of(&engines.fenced).with_audit(self.audit()?);
        let mut operator = engines.opened.equip(operator);
        if let Some(recent) = engines.fenced.recent() {
            operator = operator.with_recent(recent.clone());
        }
        if let Some(map) = self.map(engines, regions)? {
            operator = operator.with_regions(map);
        }
        Ok(Admin::with_metrics(operator, Access::new(self.tokens()?, bound.ip()), metrics))
    }
}
