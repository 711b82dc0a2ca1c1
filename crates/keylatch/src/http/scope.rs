//! Who calls.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use http::HeaderName;
use http::request::Parts;
use sha2::{Digest, Sha256};

use super::route::route;
use crate::{SCOPE_FIELD_BYTES_MAX, Scope};

/// Where a layer gets the caller from. The layer adds the operation itself: the method, and the route without the names
/// of its parameters, from axum or from a [`Route`](super::Route) in the request's extensions. Requests without a
/// route, such as those of a service without a router, are one operation for each method.
///
/// There is no default: only the service knows who its callers are. Two callers with one scope would get each
/// other's answers.
#[derive(Clone)]
pub struct ScopeFrom(Arc<Caller>);

type Caller = dyn for<'r> Fn(&'r Parts) -> Option<Cow<'r, str>> + Send + Sync;

impl ScopeFrom {
    /// From the value of a request header, which something in front of the layer must have verified: a client could
    /// write any name into it. If the header occurs more than once, the caller cannot be determined.
    ///
    /// # Panics
    ///
    /// If `name` is not the name of a header.
    pub fn header<N: TryInto<HeaderName>>(name: N) -> Self {
        let name = named_header(name);
        Self(Arc::new(move |parts| {
            let mut lines = parts.headers.get_all(&name).iter();
            let caller = lines.next()?.to_str().ok()?;
            lines.next().is_none().then_some(Cow::from(caller))
        }))
    }

    /// From an extension that an authentication layer in front has put into the request.
    pub fn extension<T>(caller: impl Fn(&T) -> String + Send + Sync + 'static) -> Self
    where
        T: Send + Sync + 'static,
    {
        Self(Arc::new(move |parts| parts.extensions.get().map(|extension| Cow::from(caller(extension)))))
    }

    /// From anything in the head of the request; `None` refuses it with 400.
    pub fn with(caller: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(move |parts| caller(parts).map(Cow::from)))
    }

    /// One scope with this name for all callers. Anyone who knows another caller's key and request gets that caller's
    /// answer. Use it only for a service with one caller, or if every key is a secret.
    pub fn shared(name: impl Into<String>) -> Self {
        let name = name.into();
        Self(Arc::new(move |_| Some(Cow::from(name.clone()))))
    }

    /// The scope of a request; `None` if the caller cannot be determined.
    pub(super) fn scope(&self, parts: &Parts) -> Option<Scope> {
        let caller = (self.0)(parts)?;
        let (method, route) = (parts.method.as_str(), route(parts));
        if method.len() + 1 + route.len() <= SCOPE_FIELD_BYTES_MAX {
            return Scope::of_parts(&caller, &[method, " ", &route]).ok();
        }
        Scope::of_parts(&caller, &[method, " sha-256:", &format!("{:x}", Sha256::digest(route.as_bytes()))]).ok()
    }
}

/// A header that the program itself names.
pub(super) fn named_header<N: TryInto<HeaderName>>(name: N) -> HeaderName {
    name.try_into().unwrap_or_else(|_| panic!("the name of a header has letters, digits and hyphens"))
}

impl fmt::Debug for ScopeFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScopeFrom")
    }
}
