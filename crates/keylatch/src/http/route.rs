//! The route of a request: the operation that is called.

use std::borrow::Cow;
use std::sync::Arc;

use http::request::Parts;

/// The route of a request, for a router that is not axum's. Such a router puts it into the request's extensions,
/// outside the layer, and it becomes part of the [`Scope`](crate::Scope), like axum's `MatchedPath`.
///
/// It is a pattern in the syntax of axum 0.8: `/orders/{id}/pay`, `/files/{*path}`, with `{{` and `}}` for the braces
/// themselves. The names of parameters are ignored: `/orders/{id}` and `/orders/{order_id}` are one route. A route that
/// is given this way takes precedence over axum's.
///
/// All requests of a caller without a route share one scope for each method. So the same key for two such paths is one
/// key for two requests, and the second gets 422.
///
/// ```
/// use keylatch::http::Route;
///
/// let mut request = http::Request::post("/orders/7/pay").body(())?;
/// request.extensions_mut().insert(Route::new("/orders/{id}/pay"));
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Route(Arc<str>);

impl Route {
    /// The route with this pattern. Take it from the routing table, and never from the request's own path.
    pub fn new(pattern: impl Into<Arc<str>>) -> Self {
        Self(pattern.into())
    }

    /// The pattern.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The operation of a request that has no route. Patterns begin with a slash, so no route has this name.
const NO_ROUTE: &str = "*";

/// The route of a request, without the names of its parameters. If there is none, the path must not replace it: a
/// caller could then create any number of scopes, each with its own quota.
pub(super) fn route(parts: &Parts) -> Cow<'_, str> {
    if let Some(route) = parts.extensions.get::<Route>() {
        return nameless(route.as_str());
    }
    #[cfg(feature = "axum")]
    if let Some(route) = parts.extensions.get::<axum::extract::MatchedPath>() {
        return nameless(route.as_str());
    }
    Cow::from(NO_ROUTE)
}

/// `pattern` with `{}` for every `{name}`, and `{*}` for every `{*name}`.
fn nameless(pattern: &str) -> Cow<'_, str> {
    if !pattern.contains('{') {
        return Cow::from(pattern);
    }
    let (mut text, mut rest) = (String::with_capacity(pattern.len()), pattern);
    while let Some(brace) = rest.find('{') {
        let (before, after) = (&rest[..=brace], &rest[brace + 1..]);
        text.push_str(before);
        if let Some(after) = after.strip_prefix('{') {
            // An escaped brace, not a parameter.
            text.push('{');
            rest = after;
            continue;
        }
        if after.starts_with('*') {
            text.push('*');
        }
        rest = after.find('}').map_or(after, |ends| &after[ends..]);
    }
    text.push_str(rest);
    Cow::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_and_kinds_stay() {
        let rows = [
            ("/orders", "/orders"),
            ("/orders/{id}/pay", "/orders/{}/pay"),
            ("/orders/{order_id}/pay", "/orders/{}/pay"),
            ("/{a}/{b}", "/{}/{}"),
            ("/files/{*path}", "/files/{*}"),
            ("/files/{path}", "/files/{}"),
            ("/{{id}}", "/{{id}}"),
            ("/{{}}", "/{{}}"),
            ("/{{{id}}}", "/{{{}}}"),
            ("/{id}.json", "/{}.json"),
            ("/é/{naïve}", "/é/{}"),
            // Not a pattern, and no reason to panic.
            ("/{id", "/{id"),
            ("/{", "/{"),
            ("*", "*"),
        ];
        for (pattern, expected) in rows {
            assert_eq!(nameless(pattern), expected, "{pattern}");
        }
    }

    #[test]
    fn a_route_that_is_left_counts_before_all_others() {
        let (mut parts, ()) = http::Request::post("/orders/7").body(()).expect("a request").into_parts();
        assert_eq!(route(&parts), NO_ROUTE);
        parts.extensions.insert(Route::new("/orders/{id}"));
        assert_eq!(route(&parts), "/orders/{}");
    }
}
