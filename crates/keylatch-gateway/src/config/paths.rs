//! Finds the route of a request.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use http::Method;
use matchit::{InsertError, Router};

use super::mistakes::Mistakes;

/// The routes, by method and path.
#[derive(Debug, Default, Clone)]
pub(crate) struct Paths {
    /// One router for each method, so that a pattern for one method never hides a pattern for another.
    routers: HashMap<Method, Router<usize>>,
}

/// The form of a pattern.
const PATTERN: &str =
    "write a path that begins with `/`, with {name} for one segment, or {*rest} at its end for all that follow";

impl Paths {
    /// Adds the route with this number. `name_of` returns the name of a route that was added before.
    pub(crate) fn insert<'n>(
        &mut self,
        route: usize,
        methods: &[Method],
        path: (&str, &Range<usize>),
        name_of: impl Fn(usize) -> &'n str,
        mistakes: &mut Mistakes,
    ) {
        let (pattern, at) = path;
        if let Some(why) = refused(pattern) {
            mistakes.add(at, format!("`path` of {} is no pattern", name_of(route)), why);
            return;
        }
        let mut hidden_by = Vec::new();
        for method in methods {
            let router = self.routers.entry(method.clone()).or_default();
            match router.insert(pattern, route) {
                Ok(()) => {}
                Err(InsertError::Conflict { with }) => {
                    // It conflicts with the same pattern, or with one of another shape at the same place.
                    let other = router.at(&sample(&with)).map(|found| *found.value);
                    hidden_by.push((method, other.ok(), with));
                }
                Err(_) => unreachable!("a pattern that can stand alone was tried before"),
            }
        }
        let Some((_, other, with)) = hidden_by.first() else { return };
        let other = other.map_or_else(|| format!("`{with}`"), |other| format!("{} (`{with}`)", name_of(other)));
        let methods: Vec<_> = hidden_by.iter().map(|(method, ..)| method.as_str()).collect();
        mistakes.add(
            at,
            format!("{} (`{pattern}`) is hidden by {other} for {}", name_of(route), methods.join(", ")),
            "both match the same requests; remove one of them, or give them different methods",
        );
    }

    /// The route of a request.
    pub(crate) fn find(&self, method: &Method, path: &str) -> Option<usize> {
        let router = self.routers.get(method)?;
        router.at(&normal(path)).ok().map(|found| *found.value)
    }
}

/// Why this is not a valid pattern.
fn refused(pattern: &str) -> Option<&'static str> {
    if !pattern.starts_with('/') {
        return Some(PATTERN);
    }
    if Router::new().insert(pattern, ()).is_err() {
        return Some(PATTERN);
    }
    let literal = pattern.split('{').map(|part| part.split_once('}').map_or(part, |(_, after)| after));
    let literal = literal.collect::<Vec<_>>().join("x");
    if literal.contains(['?', '#']) {
        return Some("take out what follows the path: the query does not count for a route");
    }
    if normal(&literal) != literal {
        return Some(
            "write it in its plain form: without `//`, `/./`, `/../`, a slash at the end, or %-escapes of letters, digits and -._~",
        );
    }
    None
}

/// A path that the pattern matches.
fn sample(pattern: &str) -> String {
    pattern.replace("{*", "").replace(['{', '}'], "")
}

/// The normal form of a path ([RFC 3986, section 6.2.2](https://www.rfc-editor.org/rfc/rfc3986#section-6.2.2)), with
/// single slashes and none at its end. Routes are matched on it, so every path that a service may take for a guarded
/// one is guarded. The request itself is passed on unchanged.
pub(crate) fn normal(path: &str) -> Cow<'_, str> {
    let plain = !path.contains(['%', '.']) && !path.contains("//") && (path.len() == 1 || !path.ends_with('/'));
    if plain {
        return Cow::from(path);
    }
    let decoded = decoded(path);
    let mut segments: Vec<&str> = Vec::new();
    for segment in decoded.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    Cow::from(format!("/{}", segments.join("/")))
}

/// `path` without needless escapes. The hexadecimal digits of the other escapes are in upper case.
fn decoded(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(percent) = rest.find('%') {
        text.push_str(&rest[..percent]);
        let escape = rest.get(percent + 1..percent + 3);
        let byte = escape.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let (Some(digits), Some(byte)) = (escape, byte) else {
            text.push('%');
            rest = &rest[percent + 1..];
            continue;
        };
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(byte.into());
        } else {
            text.push('%');
            text.push_str(&digits.to_ascii_uppercase());
        }
        rest = &rest[percent + 3..];
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(routes: &[(&str, &str)]) -> (Paths, String) {
        let (mut paths, mut mistakes) = (Paths::default(), Mistakes::default());
        let names: Vec<String> = (0..routes.len()).map(|at| format!("route `r{at}`")).collect();
        for (at, (methods, pattern)) in routes.iter().enumerate() {
            let methods: Vec<Method> = methods.split(',').map(|method| method.parse().unwrap()).collect();
            paths.insert(at, &methods, (pattern, &(0..0)), |at| &names[at], &mut mistakes);
        }
        let lines = mistakes.lines(std::path::Path::new("f"), "");
        (paths, lines)
    }

    #[test]
    fn the_nearest_pattern_of_the_method_is_taken() {
        let (paths, mistakes) = paths(&[
            ("POST", "/orders"),
            ("POST,PATCH", "/orders/{id}"),
            ("POST", "/orders/new"),
            ("PATCH", "/files/{*rest}"),
            ("POST", "/"),
        ]);
        assert_eq!(mistakes, "");
        let rows = [
            ("POST", "/orders", Some(0)),
            ("POST", "/orders/7", Some(1)),
            ("PATCH", "/orders/7", Some(1)),
            ("POST", "/orders/new", Some(2)),
            ("PATCH", "/orders/new", Some(1)),
            ("PATCH", "/files/a/b", Some(3)),
            ("POST", "/files/a/b", None),
            ("GET", "/orders", None),
            ("POST", "/", Some(4)),
            ("POST", "/orders/7/pay", None),
        ];
        for (method, path, route) in rows {
            assert_eq!(paths.find(&method.parse().unwrap(), path), route, "{method} {path}");
        }
    }

    #[test]
    fn a_path_that_is_spelt_otherwise_is_the_same_path() {
        let (paths, _) = paths(&[("POST", "/orders"), ("POST", "/orders/{id}")]);
        for path in ["/%6Frders", "/orders/", "//orders", "/a/../orders", "/./orders", "/a/%2e%2E/orders", "/../orders"]
        {
            assert_eq!(paths.find(&Method::POST, path), Some(0), "{path}");
        }
        for path in ["/orders/a%2Fb", "/orders/%zz", "/orders/%", "/orders/é", "/orders/a.b"] {
            assert_eq!(paths.find(&Method::POST, path), Some(1), "{path}");
        }
        assert_eq!(paths.find(&Method::POST, "/Orders"), None);
        assert_eq!(normal("/a%2fb"), "/a%2Fb");
        assert_eq!(normal("/"), "/");
        assert_eq!(normal("*"), "*");
    }

    #[test]
    fn patterns_that_hide_each_other_are_named() {
        for (first, second) in [
            (("POST", "/orders/{id}"), ("POST", "/orders/{order}")),
            (("POST,PATCH", "/a"), ("PUT,PATCH", "/a")),
            (("POST", "/files/{*a}"), ("POST", "/files/{*b}")),
        ] {
            let (_, mistakes) = paths(&[first, second]);
            assert!(mistakes.contains("route `r1`") && mistakes.contains("is hidden by route `r0`"), "{mistakes}");
            assert_eq!(mistakes.lines().count(), 1);
        }
        let (_, mistakes) = paths(&[("POST", "/a"), ("PATCH", "/a")]);
        assert_eq!(mistakes, "");
    }

    #[test]
    fn what_is_no_pattern_is_named() {
        for pattern in ["", "orders", "/{}", "/{id", "/a?b", "/{*all}/more", "/a//b", "/a/", "/%61", "/a/../b"] {
            let (_, mistakes) = paths(&[("POST,PATCH", pattern)]);
            assert_eq!(mistakes.lines().count(), 1, "{pattern}: {mistakes}");
        }
    }
}
