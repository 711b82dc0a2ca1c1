//! The listener for operators and monitoring: the routes of `keylatch_admin`, and what they are made from.

use std::net::SocketAddr;
use std::path::PathBuf;

use keylatch_admin::{Access, Admin, Audit, Operator, Tokens};
use metrics_exporter_prometheus::PrometheusHandle;

use crate::args::Gateway;
use crate::config;
use crate::layers::Engines;

/// Who may do what on the listener: from the command line, and from the table `[admin]` of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) listen: Option<SocketAddr>,
    tokens: Option<PathBuf>,
    audit_log: Option<PathBuf>,
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
        };
        if settings.listen.is_none() && (settings.tokens.is_some() || settings.audit_log.is_some()) {
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

    /// What operators can do, on a listener that is bound to `bound`.
    ///
    /// # Errors
    ///
    /// If a file cannot be used.
    pub(crate) fn admin(
        &self,
        engines: &Engines,
        metrics: PrometheusHandle,
        bound: SocketAddr,
    ) -> Result<Admin, String> {
        let operator = Operator::of(&engines.fenced).with_audit(self.audit()?);
        let mut operator = engines.opened.equip(operator);
        if let Some(recent) = engines.fenced.recent() {
            operator = operator.with_recent(recent.clone());
        }
        Ok(Admin::with_metrics(operator, Access::new(self.tokens()?, bound.ip()), metrics))
    }
}
