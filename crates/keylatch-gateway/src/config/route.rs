//! A route of the file: which requests it matches, and how they are guarded.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use http::{HeaderName, Method};
use keylatch::Policy;

use super::jwt::Verifier;
use super::mistakes::Mistakes;
use super::table::{At, Table, nearest};
use crate::args::{Bytes, Guarantee, Span};

/// How the requests of a route are guarded.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    /// Its name in logs and metrics.
    pub(crate) name: String,
    pub(crate) methods: Vec<Method>,
    pub(crate) path: String,
    pub(crate) key: KeySource,
    pub(crate) require_key: bool,
    pub(crate) scope: Caller,
    pub(crate) guarantee: Guarantee,
    /// With the retention and tombstone of this route.
    pub(crate) policy: Policy,
    pub(crate) request_body_max: Option<Bytes>,
    pub(crate) response_body_max: Option<Bytes>,
    pub(crate) wait: Option<Span>,
    /// Whether requests pass unguarded while the store is unavailable.
    pub(crate) open: bool,
    pub(crate) canonical_json: bool,
    pub(crate) observe_only: bool,
}

/// The parts of a route that could be read.
pub(super) struct Read {
    /// Its name in a mistake.
    pub(super) called: String,
    pub(super) name: Option<At<String>>,
    pub(super) methods: Vec<Method>,
    pub(super) path: Option<At<String>>,
    /// The whole route, if it has no mistake.
    pub(super) route: Option<Route>,
    /// Its place in the file.
    at: Range<usize>,
}

/// Where a request's key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeySource {
    /// In `Idempotency-Key`.
    Standard,
    /// In this header.
    Header(HeaderName),
    /// At this pointer in the JSON body.
    Json(String),
}

/// How a request's caller is found.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    /// The value of this header.
    Header(HeaderName),
    /// This claim of a verified token.
    Claim { verifier: Arc<Verifier>, claim: String },
    /// The subject of the client's certificate, which TLS has verified.
    Subject,
    /// All callers share one scope, with this name.
    Shared(String),
}

/// The file's verifiers by name; `None` if one cannot be used.
pub(super) type Verifiers<'t> = BTreeMap<&'t str, Option<Arc<Verifier>>>;

const SCOPES: &str = "say who calls: scope = { header = \"X-User-Id\" } if something in front has verified it, \
                      scope = { jwt = \"NAME\", claim = \"sub\" } with a table [jwt.NAME], \
                      scope = { mtls = \"subject\" } for certificates of clients, or scope = { shared = \"everyone\" } \
                      if all callers may see each other's answers";

impl Route {
    /// Reads a route from `table`. What it does not set comes from the command line.
    pub(super) fn read(
        mut table: Table<'_>,
        verifiers: &Verifiers<'_>,
        policy: Policy,
        mistakes: &mut Mistakes,
    ) -> Read {
        let name = table.string("name", mistakes).filter(|name| check_name(name.value, &name.at, mistakes));
        if table.get("name").is_none() {
            table.misses("name", "give it one, for logs and metrics: name = \"orders\"", mistakes);
        }
        if let Some(name) = &name {
            table.name = format!("route `{}`", name.value);
        }
        let methods = methods(&mut table, mistakes);
        let path = table.string("path", mistakes);
        if table.get("path").is_none() {
            table.misses("path", "say which paths it takes: path = \"/orders/{id}\"", mistakes);
        }
        let key = key(&mut table, mistakes);
        let require_key = table.boolean("require-key", mistakes);
        let scope = scope(&mut table, verifiers, mistakes);
        let guarantee = table.parsed("guarantee", mistakes);
        if table.get("guarantee").is_none() {
            table.misses("guarantee", "choose one: guarantee = \"fenced\" or guarantee = \"at-most-once\"", mistakes);
        }
        let policy = kept(&mut table, policy, mistakes);
        let request_body_max = table.parsed("request-body-max", mistakes);
        let response_body_max = table.parsed("response-body-max", mistakes);
        let wait = table.parsed("wait", mistakes);
        let open = table.parsed_by("when-store-fails", mistakes, |when| match when {
            "refuse" => Ok(false),
            "pass" => Ok(true),
            _ => Err("write \"refuse\" (503, nothing runs) or \"pass\" (it runs unguarded, perhaps twice)".to_owned()),
        });
        let canonical_json = table.boolean("canonical-json", mistakes);
        let observe_only = table.boolean("observe-only", mistakes);
        let (called, place) = (table.name.clone(), table.at.clone());
        table.end(mistakes);
        let route = || {
            Some(Self {
                name: name.as_ref()?.value.to_owned(),
                methods: methods.clone()?,
                path: path.as_ref()?.value.to_owned(),
                key: key?,
                require_key,
                scope: scope?,
                guarantee: guarantee?,
                policy,
                request_body_max,
                response_body_max,
                wait,
                open: open.unwrap_or(false),
                canonical_json,
                observe_only,
            })
        };
        let route = route();
        let owned = |text: At<&str>| At { value: text.value.to_owned(), at: text.at };
        let (name, methods, path) = (name.map(owned), methods.unwrap_or_default(), path.map(owned));
        Read { called, name, methods, path, route, at: place }
    }
}

impl Read {
    /// Checks that another region can do what this one does with a request.
    pub(super) fn check_regions(&self, mistakes: &mut Mistakes) {
        let Some(route) = &self.route else { return };
        if matches!(route.scope, Caller::Subject) {
            let fix =
                "a certificate does not go to another region with a request: take the caller from a header or a token";
            mistakes.add(&self.at, format!("{} cannot be used with regions", self.called), fix);
        }
    }
}

/// A route's name appears in metrics and logs.
fn check_name(name: &str, at: &Range<usize>, mistakes: &mut Mistakes) -> bool {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    let good = (1..=64).contains(&name.len()) && name.chars().all(fits) && name != "none";
    if !good {
        let fix = "use 1 to 64 letters, digits, `-`, `_` and `.`; `none` is what takes no route";
        mistakes.add(at, "the name of a route cannot be this", fix);
    }
    good
}

fn methods(table: &mut Table<'_>, mistakes: &mut Mistakes) -> Option<Vec<Method>> {
    let Some(listed) = table.strings("methods", mistakes) else {
        return table.get("methods").is_none().then(|| vec![Method::POST, Method::PATCH]);
    };
    if listed.is_empty() {
        let fix = "name one, or leave `methods` out for POST and PATCH";
        mistakes.add(&table.place("methods"), format!("{} has no method", table.name), fix);
        return None;
    }
    let mut methods = Vec::new();
    let mut good = true;
    for text in listed {
        let wrong = match text.value.parse::<Method>() {
            Ok(method) if method.is_safe() => Some("it has no effect to guard; leave it out, and it passes".to_owned()),
            Ok(method) if methods.contains(&method) => Some("it is named twice; take one out".to_owned()),
            Ok(method) if text.value.bytes().all(|letter| letter.is_ascii_uppercase() || letter == b'-') => {
                methods.push(method);
                None
            }
            _ => {
                let upper = text.value.to_uppercase();
                let near = nearest(&upper.to_lowercase(), &["post", "patch", "put", "delete"]).unwrap_or("post");
                Some(format!("methods are in capitals, such as {}", near.to_uppercase()))
            }
        };
        if let Some(fix) = wrong {
            mistakes.add(&text.at, format!("{} cannot guard `{}`", table.name, text.value), fix);
            good = false;
        }
    }
    good.then_some(methods)
}

fn key(table: &mut Table<'_>, mistakes: &mut Mistakes) -> Option<KeySource> {
    const FIX: &str =
        "write key = { header = \"X-Request-Id\" } or key = { json = \"/id\" }, or leave it out for Idempotency-Key";
    if table.get("key").is_none() {
        return Some(KeySource::Standard);
    }
    let name = format!("`key` of {}", table.name);
    let mut key = table.table("key", name, mistakes)?;
    let header = key.parsed_by("header", mistakes, header_name).map(KeySource::Header);
    let json = key.parsed_by("json", mistakes, |pointer| match pointer.starts_with('/') {
        true => Ok(KeySource::Json(pointer.to_owned())),
        false => Err("write a JSON pointer, such as json = \"/id\" or json = \"/event/id\"".to_owned()),
    });
    let chosen = [key.get("header"), key.get("json")].into_iter().flatten().count();
    if chosen != 1 {
        mistakes.add(&key.at, format!("{} is not in one place", key.name), FIX);
    }
    key.end(mistakes);
    header.or(json).filter(|_| chosen == 1)
}

fn scope(table: &mut Table<'_>, verifiers: &Verifiers<'_>, mistakes: &mut Mistakes) -> Option<Caller> {
    if table.get("scope").is_none() {
        table.misses("scope", SCOPES, mistakes);
        return None;
    }
    let name = format!("`scope` of {}", table.name);
    let mut scope = table.table("scope", name, mistakes)?;
    let header = scope.parsed_by("header", mistakes, header_name).map(Caller::Header);
    let verifier = scope.parsed_by("jwt", mistakes, |name| {
        let known: Vec<&str> = verifiers.keys().copied().collect();
        verifiers.get(name).cloned().ok_or_else(|| match nearest(name, &known) {
            Some(near) => format!("there is no table [jwt.{name}]; did you mean `{near}`?"),
            None => format!("there is no table [jwt.{name}]; add it, with the key that verifies the tokens"),
        })
    });
    let claim = scope.string("claim", mistakes).map(|claim| claim.value.to_owned());
    let shared = scope.parsed_by("shared", mistakes, |name| match keylatch::Scope::new(name) {
        Ok(_) if !name.is_empty() => Ok(Caller::Shared(name.to_owned())),
        _ => Err("write a name of your choice, such as shared = \"everyone\"".to_owned()),
    });
    let subject = scope.parsed_by("mtls", mistakes, |of| match of {
        "subject" => Ok(Caller::Subject),
        _ => Err("write mtls = \"subject\": the caller is the subject of the client's certificate".to_owned()),
    });
    let (by_token, claimed) = (scope.get("jwt").is_some(), scope.get("claim").is_some());
    if by_token != claimed {
        let fix = "a token needs both: scope = { jwt = \"NAME\", claim = \"sub\" }";
        mistakes.add(&scope.at, format!("{} has one of `jwt` and `claim`", scope.name), fix);
    }
    let (by_header, by_subject) = (scope.get("header").is_some(), scope.get("mtls").is_some());
    let chosen = [by_header, by_token || claimed, by_subject, scope.get("shared").is_some()];
    let chosen = chosen.into_iter().filter(|chosen| *chosen).count();
    if chosen != 1 {
        mistakes.add(&scope.at, format!("{} does not name one caller", scope.name), SCOPES);
    }
    scope.end(mistakes);
    let token = match (verifier.flatten(), claim) {
        (Some(verifier), Some(claim)) => Some(Caller::Claim { verifier, claim }),
        _ => None,
    };
    header.or(token).or(subject).or(shared).filter(|_| chosen == 1)
}

/// How long the answers of a route are kept.
fn kept(table: &mut Table<'_>, policy: Policy, mistakes: &mut Mistakes) -> Policy {
    let retention = table.parsed::<Span>("retention", mistakes).map_or(policy.retention, |span| span.0);
    let tombstone = table.parsed::<Span>("tombstone", mistakes).map_or(policy.tombstone, |span| span.0);
    let own = Policy { retention, tombstone, ..policy };
    if let Err(error) = own.check() {
        let key = if retention == policy.retention { "tombstone" } else { "retention" };
        let what = format!("`{key}` of {} cannot be kept: {error}", table.name);
        mistakes.add(&table.place(key), what, "write a time such as \"24h\", under ten years");
    }
    own
}

fn header_name(text: &str) -> Result<HeaderName, String> {
    text.parse().map_err(|_| "write the name of a header, such as \"X-User-Id\"".to_owned())
}
