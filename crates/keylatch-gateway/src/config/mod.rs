//! The file that says which requests are guarded, and how: `--config keylatch.toml`.
//!
//! All mistakes in a file are reported at once, each with its place and the fix. A file with a mistake is not used at
//! all.

mod admin;
mod jwt;
mod mistakes;
mod paths;
mod regions;
mod route;
mod table;
mod telemetry;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use keylatch::Policy;
use toml::de::{DeTable, DeValue};

pub(crate) use self::admin::Admin;
use self::jwt::Verifier;
use self::mistakes::Mistakes;
pub(crate) use self::paths::Paths;
pub(crate) use self::regions::Regions;
use self::route::Read;
pub(crate) use self::route::{Caller, KeySource, Route};
use self::table::Table;
use crate::args::Telemetry;

/// The contents of a file.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) routes: Vec<Route>,
    /// The listener for operators.
    pub(crate) admin: Admin,
    /// Finds the route of a request.
    pub(crate) paths: Paths,
    /// The regions, if there are others.
    pub(crate) regions: Option<Regions>,
    /// Where logs, spans and metrics go.
    pub(crate) telemetry: Telemetry,
}

impl Config {
    /// Reads the file, and the files that it names. `policy` applies to routes that do not set their own retention.
    ///
    /// # Errors
    ///
    /// All mistakes, one per line.
    pub(crate) fn read(file: &Path, policy: Policy) -> Result<Self, String> {
        let text =
            fs::read_to_string(file).map_err(|error| format!("{}: it cannot be read: {error}\n", file.display()))?;
        let directory = file.parent().unwrap_or(Path::new(""));
        let mut mistakes = Mistakes::default();
        let config = Self::parse(&text, directory, policy, &mut mistakes);
        if mistakes.is_empty() { Ok(config) } else { Err(mistakes.lines(file, &text)) }
    }

    fn parse(text: &str, directory: &Path, policy: Policy, mistakes: &mut Mistakes) -> Self {
        let (document, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let end = text.len()..text.len();
            mistakes.add(&error.span().unwrap_or(end), error.message(), "mend the TOML here");
        }
        let mut document = Table::new("the file", 0..0, document.get_ref());
        let admin = document.table("admin", "admin".to_owned(), mistakes);
        let admin = admin.map(|table| Admin::read(table, directory, mistakes)).unwrap_or_default();
        let mut verifiers = route::Verifiers::new();
        if let Some(mut tables) = document.table("jwt", "jwt".to_owned(), mistakes) {
            for (name, table) in tables.named(mistakes, "jwt") {
                verifiers.insert(name, Verifier::read(table, directory, mistakes).map(Arc::new));
            }
        }
        let regions = document.table("regions", "the regions".to_owned(), mistakes);
        let regions = regions.and_then(|table| Regions::read(table, directory, mistakes));
        let telemetry = document.table("telemetry", "telemetry".to_owned(), mistakes);
        let telemetry = telemetry.map(|table| telemetry::read(table, mistakes)).unwrap_or_default();
        let mut read = Vec::new();
        match document.get("route").map(|routes| (routes.get_ref(), routes.span())) {
            Some((DeValue::Array(routes), _)) if !routes.is_empty() => {
                for (nth, route) in routes.iter().enumerate() {
                    let DeValue::Table(entries) = route.get_ref() else {
                        mistakes.add(&route.span(), "a route is not a table", "write [[route]]");
                        continue;
                    };
                    let table = Table::new(format!("route {}", nth + 1), route.span(), entries);
                    read.push(Route::read(table, &verifiers, policy, mistakes));
                }
            }
            Some((_, at)) => mistakes.add(&at, "`route` is not a list of routes", "write each as a table: [[route]]"),
            None => mistakes.add(&(0..0), "the file has no route", "add one: [[route]]"),
        }
        document.end(mistakes);
        let paths = together(&read, mistakes);
        if regions.is_some() {
            for read in &read {
                read.check_regions(mistakes);
            }
        }
        Self { routes: read.into_iter().filter_map(|read| read.route).collect(), admin, paths, regions, telemetry }
    }
}

/// Checks what concerns several routes: whether two have the same name, or match the same requests.
fn together(read: &[Read], mistakes: &mut Mistakes) -> Paths {
    let mut paths = Paths::default();
    for (nth, route) in read.iter().enumerate() {
        if let Some(name) = &route.name
            && read[..nth].iter().any(|other| other.name.as_ref().is_some_and(|other| other.value == name.value))
        {
            mistakes.add(&name.at, format!("two routes have the name `{}`", name.value), "give this one another name");
        }
        if let Some(path) = &route.path {
            paths.insert(nth, &route.methods, (&path.value, &path.at), |nth| &read[nth].called, mistakes);
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    /// Parses `text`, and returns its mistakes.
    fn read(text: &str) -> (Config, Vec<String>) {
        let mut mistakes = Mistakes::default();
        let config = Config::parse(text, Path::new("/nowhere"), Policy::default(), &mut mistakes);
        (config, mistakes.lines(Path::new("k.toml"), text).lines().map(str::to_owned).collect())
    }

    #[test]
    fn a_whole_file_is_read() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("secret"), "0123456789abcdef0123456789abcdef\n").unwrap();
        let file = directory.path().join("keylatch.toml");
        let text = r#"
            [jwt.customers]
            secret-file = "secret"
            issuer = "https://login.example"
            audience = ["orders", "payments"]
            leeway = "5s"

            [[route]]
            name = "pay"
            methods = ["POST", "PUT"]
            path = "/orders/{id}/pay"
            key = { header = "X-Request-Id" }
            require-key = true
            scope = { jwt = "customers", claim = "sub" }
            guarantee = "at-most-once"
            retention = "48h"
            tombstone = "0s"
            request-body-max = "64KiB"
            response-body-max = "1MiB"
            wait = "5s"
            when-store-fails = "pass"
            canonical-json = true
            observe-only = true

            [[route]]
            name = "webhooks"
            path = "/hooks/{*rest}"
            key.json = "/event/id"
            scope.shared = "everyone"
            guarantee = "fenced"
        "#;
        fs::write(&file, text).unwrap();
        let config = Config::read(&file, Policy::default()).unwrap();
        let [pay, webhooks] = &config.routes[..] else { panic!("{config:?}") };
        assert_eq!((pay.name.as_str(), pay.path.as_str()), ("pay", "/orders/{id}/pay"));
        assert_eq!(pay.methods, [Method::POST, Method::PUT]);
        assert_eq!(pay.key, KeySource::Header("x-request-id".parse().unwrap()));
        assert!(matches!(&pay.scope, Caller::Claim { claim, .. } if claim == "sub"));
        assert_eq!(pay.policy.retention.as_secs(), 48 * 60 * 60);
        assert!(pay.policy.tombstone.is_zero());
        assert!(pay.require_key && pay.open && pay.canonical_json && pay.observe_only);
        assert_eq!((pay.request_body_max.unwrap().0, pay.wait.unwrap().0.as_secs()), (64 << 10, 5));
        assert_eq!(webhooks.methods, [Method::POST, Method::PATCH]);
        assert_eq!(webhooks.key, KeySource::Json("/event/id".to_owned()));
        assert!(matches!(&webhooks.scope, Caller::Shared(name) if name == "everyone"));
        assert!(!webhooks.require_key && !webhooks.open && !webhooks.canonical_json && !webhooks.observe_only);
        assert_eq!(webhooks.policy, Policy::default());
        assert_eq!(config.paths.find(&Method::POST, "/hooks/a/b"), Some(1));
    }

    /// All mistakes of one file, each with its line, its column and the fix.
    #[test]
    fn every_mistake_is_found_at_once() {
        let text = r#"colour = "red"

[jwt.customers]
jwks = "absent.json"
isuer = "us"

[jwt.partners]
issuer = 7

[[route]]
name = "orders"
methods = ["post", "GET", "PUT", "PUT"]
path = "/orders/{id"
scope = { jwt = "custmers", claim = "sub" }
guarantee = "atomic"
retention = "soon"
require_key = true

[[route]]
name = "orders two"
path = "/pay"
key = { header = "X-Id", json = "/id" }
scope = { header = "X-User-Id", shared = "all" }
guarantee = "fenced"
canonical-json = "yes"
when-store-fails = "open"

[[route]]
"#;
        let (_, lines) = read(text);
        let expected = [
            ("1:1", "unknown key `colour` in the file", "known are admin, jwt, regions, telemetry, route"),
            ("4:8", "`jwks` of jwt `customers` cannot be used", "absent.json cannot be read"),
            ("5:1", "unknown key `isuer` in jwt `customers`", "did you mean `issuer`?"),
            ("7:6", "jwt `partners` has no key to verify with", "name one: jwks"),
            ("8:10", "`issuer` of jwt `partners` is not a list of texts", "write issuer = [\"…\", \"…\"]"),
            ("12:12", "route `orders` cannot guard `post`", "methods are in capitals, such as POST"),
            ("12:20", "route `orders` cannot guard `GET`", "it has no effect to guard"),
            ("12:34", "route `orders` cannot guard `PUT`", "it is named twice"),
            ("13:8", "`path` of route `orders` is no pattern", "write a path that begins with `/`"),
            ("14:17", "`jwt` of `scope` of route `orders` cannot be used", "did you mean `customers`?"),
            ("15:13", "`guarantee` of route `orders` cannot be used", "cannot be had through a proxy"),
            ("16:13", "`retention` of route `orders` cannot be used", "500ms, 30s, 10m or 24h"),
            ("17:1", "unknown key `require_key` in route `orders`", "did you mean `require-key`?"),
            ("20:8", "the name of a route cannot be this", "letters, digits"),
            ("22:7", "`key` of route 2 is not in one place", "write key = { header"),
            ("23:9", "`scope` of route 2 does not name one caller", "say who calls"),
            ("25:18", "`canonical-json` of route 2 is not yes or no", "write true or false"),
            ("26:20", "`when-store-fails` of route 2 cannot be used", "write \"refuse\""),
            ("28:1", "route 3 has no `name`", "give it one"),
            ("28:1", "route 3 has no `path`", "say which paths"),
            ("28:1", "route 3 has no `scope`", "say who calls"),
            ("28:1", "route 3 has no `guarantee`", "choose one"),
        ];
        for (line, (place, what, fix)) in lines.iter().zip(expected) {
            assert!(line.starts_with(&format!("k.toml:{place}: {what}: ")), "{line}\nand not {place} {what}");
            assert!(line.contains(fix), "{line}\nhas no {fix}");
        }
        assert_eq!(lines.len(), expected.len(), "{}", lines.join("\n"));
    }

    #[test]
    fn where_telemetry_goes_is_read_or_its_mistakes_are_found() {
        let route = "[[route]]\nname = \"a\"\npath = \"/\"\nscope.shared = \"all\"\nguarantee = \"fenced\"\n";
        let read = |telemetry: &str| read(&format!("{route}[telemetry]\n{telemetry}"));
        let (config, lines) = read("otlp-endpoint = \"http://c:4318\"\notlp-share = \"0.5\"\nlog-format = \"json\"\n");
        assert!(lines.is_empty(), "{lines:?}");
        assert_eq!(config.telemetry.otlp_endpoint.unwrap().to_string(), "http://c:4318/");
        assert!(config.telemetry.otlp_share.is_some());
        assert_eq!(config.telemetry.log_format, Some(crate::args::LogFormat::Json));
        let (_, lines) =
            read("otlp-endpoint = \"c:4318\"\notlp-share = \"2\"\nlog-format = \"xml\"\nlogformat = \"json\"\n");
        let expected = [
            "k.toml:7:17: `otlp-endpoint` of telemetry cannot be used: write the URL of a collector",
            "k.toml:8:14: `otlp-share` of telemetry cannot be used: the share of traces is a number from 0 to 1",
            "k.toml:9:14: `log-format` of telemetry cannot be used: it is text or json",
            "k.toml:10:1: unknown key `logformat` in telemetry: did you mean `log-format`?",
        ];
        assert_eq!(lines.len(), expected.len(), "{lines:?}");
        for (line, expected) in lines.iter().zip(expected) {
            assert!(line.starts_with(expected), "{line}\nand not {expected}");
        }
    }

    #[test]
    fn regions_are_read_or_their_mistakes_are_found() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("secret"), "0123456789abcdef0123456789abcdef\n").unwrap();
        fs::write(directory.path().join("short"), "0123456789abcdef\n").unwrap();
        let route = |scope: &str| {
            format!("[[route]]\nname = \"a\"\npath = \"/\"\nscope.{scope}\nguarantee = \"fenced\"\n[regions]\n")
        };
        let read = |scope: &str, regions: &str| {
            let file = directory.path().join("k.toml");
            fs::write(&file, route(scope) + regions).unwrap();
            Config::read(&file, Policy::default())
        };
        let good = "this = \"eu\"\nepoch = 3\nrule = \"scope\"\nsecret-file = \"secret\"\n\
                    peers = { eu = \"https://eu\", us = \"https://us:8443\", local = \"http://127.0.0.1:1\" }\n";
        let regions = read("shared = \"all\"", good).unwrap().regions.unwrap();
        let names: Vec<_> = regions.homes.regions().iter().map(ToString::to_string).collect();
        assert_eq!((names.join(" ").as_str(), regions.homes.epoch()), ("eu local us", 3));
        let urls: Vec<_> = regions.peers.iter().map(|(name, url)| format!("{name} {url}")).collect();
        assert_eq!(urls, ["local http://127.0.0.1:1", "us https://us:8443"], "this one needs no URL");
        let rows: [(&str, &[&str]); 5] = [
            (
                "ca_file = \"x\"\n",
                &[
                    "the regions has no `this`",
                    "no `epoch`",
                    "no `rule`",
                    "no `secret-file`",
                    "no `peers`",
                    "`ca-file`",
                ],
            ),
            (
                "this = \"EU\"\nepoch = \"1\"\nrule = \"key\"\nsecret-file = \"short\"\npeers = { us = \"http://us\", ap = 1 }\n",
                &[
                    "`epoch` of the regions is not a number",
                    "write \"scope\"",
                    "less than 32 bytes",
                    "write https://HOST:PORT: requests to another machine go over TLS",
                    "`ap` of `peers` of the regions is not text",
                ],
            ),
            (
                "this = \"EU\"\nepoch = 1\nrule = \"scope\"\nsecret-file = \"secret\"\npeers.us = \"https://us\"\n",
                &["`EU`"],
            ),
            (
                "this = \"eu\"\nepoch = 0\nrule = \"scope\"\nsecret-file = \"secret\"\npeers.us = \"https://us\"\n",
                &["from 1"],
            ),
            (
                "this = \"eu\"\nepoch = 1\nrule = \"scope\"\nsecret-file = \"none\"\npeers.eu = \"https://eu\"\n",
                &["cannot be read", "no other region"],
            ),
        ];
        for (regions, expected) in rows {
            let mistakes = read("shared = \"all\"", regions).unwrap_err();
            for expected in expected {
                assert!(mistakes.contains(expected), "{regions}\n{mistakes}\nhas no {expected}");
            }
            assert_eq!(mistakes.lines().count(), expected.len(), "{mistakes}");
        }
        let mistakes = read("mtls = \"subject\"", good).unwrap_err();
        assert!(mistakes.contains("k.toml:1:1: route `a` cannot be used with regions"), "{mistakes}");
    }

    #[test]
    fn routes_that_hide_each_other_or_share_a_name_are_named() {
        let route = |name: &str, path: &str| {
            format!("[[route]]\nname = \"{name}\"\npath = \"{path}\"\nscope.shared = \"all\"\nguarantee = \"fenced\"\n")
        };
        let (_, lines) =
            read(&[route("a", "/orders/{id}"), route("b", "/orders/{order}"), route("a", "/pay")].concat());
        let hidden = "k.toml:8:8: route `b` (`/orders/{order}`) is hidden by route `a` (`/orders/{id}`) for POST, PATCH: both match";
        assert!(lines[0].starts_with(hidden), "{lines:?}");
        assert!(lines[1].starts_with("k.toml:12:8: two routes have the name `a`: "), "{lines:?}");
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn mistakes_of_the_syntax_are_found_with_the_others() {
        let (_, lines) = read("[[route]\nname = \"a\"\ncolour = \n");
        assert!(lines.len() >= 2 && lines.iter().all(|line| line.starts_with("k.toml:")), "{lines:?}");
        assert!(lines.iter().any(|line| line.contains("mend the TOML here")), "{lines:?}");
        let (_, lines) = read("");
        assert_eq!(lines, ["k.toml:1:1: the file has no route: add one: [[route]]"]);
        let (_, lines) = read("route = 7");
        assert_eq!(lines, ["k.toml:1:9: `route` is not a list of routes: write each as a table: [[route]]"]);
    }

    #[test]
    fn keys_for_signatures_are_found_in_a_set() {
        let directory = tempfile::tempdir().unwrap();
        let verified_by = |set: &str| {
            fs::write(directory.path().join("jwks.json"), set).unwrap();
            let text = "[jwt.a]\njwks = \"jwks.json\"\n[[route]]\nname = \"a\"\npath = \"/\"\n\
                        scope = { jwt = \"a\", claim = \"sub\" }\nguarantee = \"fenced\"\n";
            let file = directory.path().join("k.toml");
            fs::write(&file, text).unwrap();
            Config::read(&file, Policy::default()).map(|config| config.routes.len())
        };
        let ed = |kid: &str| {
            format!(
                r#"{{"kty":"OKP","crv":"Ed25519","kid":"{kid}","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}}"#
            )
        };
        assert_eq!(verified_by(&format!(r#"{{"keys":[{},{}]}}"#, ed("1"), ed("2"))), Ok(1));
        for (set, why) in [
            ("{}".to_owned(), "this is no JWK set"),
            (r#"{"keys":[]}"#.to_owned(), "has no key for signatures"),
            (format!(r#"{{"keys":[{},{}]}}"#, ed("1"), ed("1")), "cannot be told apart"),
            (r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#.to_owned(), "has no secret in it"),
            (
                format!(r#"{{"keys":[{}]}}"#, ed("1").replace("{\"kty", "{\"alg\":\"RS256\",\"kty")),
                "another kind of key",
            ),
        ] {
            let refused = verified_by(&set).unwrap_err();
            assert!(refused.contains("k.toml:2:8: ") && refused.contains(why), "{set}: {refused}");
        }
    }

    #[test]
    fn the_listener_for_operators_is_checked_with_the_rest() {
        let directory = tempfile::tempdir().unwrap();
        let token = "0123456789abcdef0123456789abcdef";
        fs::write(directory.path().join("good"), format!("view:grafana:{token}\n")).unwrap();
        fs::write(directory.path().join("bad"), format!("admin:a:{token}\nview:b:short\n")).unwrap();
        let route = "[[route]]\nname = \"a\"\npath = \"/\"\nscope.shared = \"all\"\nguarantee = \"fenced\"\n";
        let file = directory.path().join("k.toml");
        let read = |table: &str| {
            fs::write(&file, format!("[admin]\n{table}\n{route}")).unwrap();
            Config::read(&file, Policy::default())
        };
        let config = read("listen = \"127.0.0.1:9090\"\ntokens = \"good\"\naudit-log = \"audit.jsonl\"").unwrap();
        assert_eq!(config.admin.listen, Some("127.0.0.1:9090".parse().unwrap()));
        assert_eq!(config.admin.tokens, Some(directory.path().join("good")));
        let mistakes = read("listen = \"here\"\ntokens = \"bad\"\naudit-log = \"no/where\"\ntoken = 1").unwrap_err();
        let expected = [
            "k.toml:2:10: `listen` of admin cannot be used: write an address",
            "k.toml:3:10: `tokens` of admin cannot be used: ",
            "k.toml:4:13: `audit-log` of admin cannot be used: ",
            "k.toml:5:1: unknown key `token` in admin: did you mean `tokens`?",
        ];
        for (line, expected) in mistakes.lines().zip(expected) {
            assert!(line.contains(expected), "{line}\nis not {expected}");
        }
        assert_eq!(mistakes.lines().count(), expected.len(), "{mistakes}");
        assert!(mistakes.contains("line 1: unknown role") && mistakes.contains("line 2: a token has"), "{mistakes}");
        assert!(!mistakes.contains(token));
    }
}
