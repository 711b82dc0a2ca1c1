//! The configuration of a layer.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::request::Parts;
use http::{HeaderName, Method};

use super::answer::Keeping;
use super::body::Pace;
use super::home::Regions;
use super::request::{KeyFrom, Taken};
use super::scope::ScopeFrom;
use super::unguarded::Unguarded;
use super::upstream::UpstreamKey;
use super::words::Words;
use crate::{Engine, Fingerprint};

#[derive(Debug, Clone)]
pub(super) struct Config {
    pub(super) engine: Engine,
    pub(super) scope: ScopeFrom,
    pub(super) methods: Methods,
    pub(super) key_from: KeyFrom,
    pub(super) taken: Taken,
    pub(super) counted_headers: Vec<HeaderName>,
    pub(super) fingerprint: Option<FingerprintBy>,
    /// How long a duplicate waits if the request does not say so.
    pub(super) wait: Duration,
    /// How long a handler may take to answer.
    pub(super) run_max: Option<Duration>,
    pub(super) key_required: bool,
    pub(super) body_bytes_max: usize,
    pub(super) body_pace: Pace,
    pub(super) keeping: Keeping,
    pub(super) fail_open: bool,
    pub(super) skip_if: Option<SkipIf>,
    pub(super) words: Option<Words>,
    /// What the service inside gets in request headers; `None` for nothing.
    pub(super) upstream: Option<UpstreamKey>,
    pub(super) observe: bool,
    /// The regions, if there are others.
    pub(super) regions: Option<Regions>,
}

impl Config {
    /// What the service inside gets in request headers. An observing layer does not change requests.
    pub(super) fn upstream(&self) -> Option<UpstreamKey> {
        self.upstream.filter(|_| !self.observe)
    }

    /// Why a request with this head passes unguarded; `None` if the head gives no reason to.
    pub(super) fn passes(&self, head: &Parts) -> Option<Unguarded> {
        if !self.methods.guards(&head.method) {
            if self.key_required {
                self.methods.name_unguarded(&head.method);
            }
            return Some(Unguarded::Method(head.method.clone()));
        }
        if self.skip_if.as_ref().is_some_and(|skip| skip.skips(head)) {
            return Some(Unguarded::Skipped);
        }
        let keyed = self.key_required || self.key_from.may_be_in(&head.headers);
        (!keyed).then_some(Unguarded::NoKey)
    }
}

/// The methods that are guarded.
#[derive(Debug, Clone)]
pub(super) struct Methods {
    guarded: Vec<Method>,
    /// Whether the log has already named a method that passes although a key is required. Set from the start if the
    /// methods were chosen.
    named: Arc<AtomicBool>,
}

impl Default for Methods {
    fn default() -> Self {
        Self { guarded: vec![Method::POST, Method::PATCH], named: Arc::default() }
    }
}

impl Methods {
    pub(super) fn chosen(guarded: Vec<Method>) -> Self {
        assert!(!guarded.is_empty(), "`with_methods` needs a method to guard");
        for method in &guarded {
            assert!(!method.is_safe(), "{method} has no effect to guard; leave it out of `with_methods`");
        }
        Self { guarded, named: Arc::new(AtomicBool::new(true)) }
    }

    pub(super) fn guards(&self, method: &Method) -> bool {
        self.guarded.contains(method)
    }

    /// Logs once that `method` passes although the layer requires a key. Only once, because it may be intended.
    pub(super) fn name_unguarded(&self, method: &Method) {
        if !method.is_safe() && !self.named.load(Ordering::Relaxed) && !self.named.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                %method,
                "a request passes unguarded and without a key, although the layer requires one: by default a layer \
                 guards POST and PATCH only; choose the methods with `with_methods`"
            );
        }
    }
}

/// What identifies a request.
#[derive(Clone)]
pub(super) struct FingerprintBy(pub(super) Arc<Sameness>);

pub(super) type Sameness = dyn Fn(&Parts, &[u8]) -> Fingerprint + Send + Sync;

impl FingerprintBy {
    pub(super) fn fingerprint(&self, head: &Parts, body: &[u8]) -> Fingerprint {
        (self.0)(head, body)
    }
}

impl fmt::Debug for FingerprintBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FingerprintBy")
    }
}

/// Which requests pass unguarded.
#[derive(Clone)]
pub(super) struct SkipIf(pub(super) Arc<dyn Fn(&Parts) -> bool + Send + Sync>);

impl SkipIf {
    pub(super) fn skips(&self, head: &Parts) -> bool {
        (self.0)(head)
    }
}

impl fmt::Debug for SkipIf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SkipIf")
    }
}

#[cfg(test)]
mod tests {
    use testing_support::logs::Logs;

    use super::*;
    use crate::http::IdempotencyLayer;

    /// What is logged while `work` runs.
    fn logged(work: impl FnOnce()) -> String {
        let log = Logs::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
        tracing::subscriber::with_default(subscriber, work);
        log.text()
    }

    #[test]
    fn a_method_that_passes_a_layer_that_requires_a_key_is_named_once() {
        let layer = || IdempotencyLayer::fenced(crate::memory::Store::new(), ScopeFrom::header("x-user-id"));
        let (post, put) = (Method::POST, Method::PUT);
        let pass = |layer: &IdempotencyLayer, methods: &[&Method]| {
            logged(|| {
                for method in methods {
                    let (head, ()) = http::Request::builder().method(*method).body(()).expect("a request").into_parts();
                    let _ = layer.config.passes(&head);
                }
            })
        };
        let required = layer().require_key();
        assert_eq!(pass(&required, &[&Method::GET, &post]), "");
        let log = pass(&required, &[&put, &put, &Method::DELETE]);
        assert!(log.contains("PUT") && log.contains("with_methods") && log.lines().count() == 1, "{log}");
        assert_eq!(pass(&layer(), &[&put]), "", "no key is required");
        assert_eq!(pass(&layer().require_key().with_methods([post]), &[&put]), "", "the methods were chosen");
    }
}
