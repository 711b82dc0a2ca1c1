//! Who gets what: every route of the table, with no token, a wrong one, and one too weak.

use std::collections::BTreeMap;
use std::net::IpAddr;

use http::{Method, StatusCode};
use keylatch_admin::Access;
use serde_json::{Value, json};

use crate::setup::{OPERATOR, VIEWER, World, request};

/// The role that each route needs. A route that is not here fails the tests, and so does one that is gone.
const ROLES: [(&str, &str, &str); 24] = [
    ("GET", "/api/v1/dead-letters", "view"),
    ("POST", "/api/v1/dead-letters/discard", "operate"),
    ("POST", "/api/v1/dead-letters/keep", "operate"),
    ("POST", "/api/v1/dead-letters/replay", "operate"),
    ("GET", "/api/v1/live", "view"),
    ("GET", "/api/v1/me", "view"),
    ("GET", "/api/v1/openapi.json", "view"),
    ("GET", "/api/v1/outbox", "view"),
    ("POST", "/api/v1/outbox/discard", "operate"),
    ("POST", "/api/v1/outbox/retry", "operate"),
    ("GET", "/api/v1/places", "view"),
    ("POST", "/api/v1/places/reset", "operate"),
    ("GET", "/api/v1/records", "view"),
    ("POST", "/api/v1/records/find", "view"),
    ("GET", "/api/v1/records/lapsed", "view"),
    ("GET", "/api/v1/records/{id}", "view"),
    ("POST", "/api/v1/records/{id}/forget", "operate"),
    ("POST", "/api/v1/records/{id}/release", "operate"),
    ("POST", "/api/v1/records/{id}/resolve", "operate"),
    ("GET", "/api/v1/regions", "view"),
    ("POST", "/api/v1/regions/bring-back", "operate"),
    ("POST", "/api/v1/regions/lose", "operate"),
    ("GET", "/api/v1/stats", "view"),
    ("POST", "/api/v1/sweep", "operate"),
];

/// The route table: every route, and the role in the description of the API.
fn table() -> BTreeMap<(String, String), String> {
    let description = serde_json::to_value(keylatch_admin::router::openapi()).unwrap();
    let mut table = BTreeMap::new();
    for (path, operations) in description["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let role = operation["security"][0]["token"][0].as_str().expect("a role").to_owned();
            table.insert((method.to_uppercase(), path.clone()), role);
        }
    }
    table
}

/// A request to a route of the table, which is good except for its token.
fn sample((method, path): &(String, String), token: Option<&str>) -> http::Request<axum::body::Body> {
    let path = path.replace("{id}", &"0".repeat(64));
    let body = json!({});
    request(method.parse().unwrap(), &path, token, (method == "POST").then_some(&body))
}

#[test]
fn every_route_has_the_role_that_it_should_have() {
    let expected = ROLES.map(|(method, path, role)| ((method.to_owned(), path.to_owned()), role.to_owned()));
    assert_eq!(table(), BTreeMap::from(expected));
    for ((method, path), role) in table() {
        let reads = method == "GET" || path.ends_with("/find");
        assert_eq!(role, if reads { "view" } else { "operate" }, "{method} {path}");
    }
}

#[tokio::test]
async fn no_route_answers_without_a_token_or_with_a_wrong_one() {
    let world = World::new();
    let near = format!("{}0", &OPERATOR[..OPERATOR.len() - 1]);
    for route in table().keys() {
        for token in [None, Some(""), Some("wrong"), Some(&near), Some(&OPERATOR.to_uppercase())] {
            let answer = world.send(sample(route, token)).await;
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (StatusCode::UNAUTHORIZED, "ADMIN_TOKEN_REQUIRED"),
                "{route:?}"
            );
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
        }
        let mut two = sample(route, Some(OPERATOR));
        two.headers_mut().append("authorization", format!("Bearer {OPERATOR}").parse().unwrap());
        assert_eq!(world.send(two).await.status, StatusCode::UNAUTHORIZED, "{route:?}");
    }
}

#[tokio::test]
async fn a_viewer_gets_only_what_viewers_may_see() {
    let world = World::new();
    for (route, role) in table() {
        if route.1.ends_with("/live") {
            // It has no end; its own test reads it.
            continue;
        }
        let answer = world.send(sample(&route, Some(VIEWER))).await;
        if role == "operate" {
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (StatusCode::FORBIDDEN, "ADMIN_ROLE_TOO_WEAK"),
                "{route:?}"
            );
        } else {
            assert!(![401, 403].contains(&answer.status.as_u16()), "{route:?}: {answer:?}");
        }
        let answer = world.send(sample(&route, Some(OPERATOR))).await;
        assert!(![401, 403].contains(&answer.status.as_u16()), "{route:?}: {answer:?}");
    }
}

#[tokio::test]
async fn what_is_no_route_says_so_only_to_those_who_are_let_in() {
    let world = World::new();
    let answer = world.send(request(Method::GET, "/api/v1/nothing", None, None)).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    let answer = world.get(VIEWER, "/api/v1/nothing").await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::NOT_FOUND, "ADMIN_NOT_FOUND"));
    let answer = world.send(request(Method::DELETE, "/api/v1/me", Some(VIEWER), None)).await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::METHOD_NOT_ALLOWED, "ADMIN_METHOD_NOT_ALLOWED"));
}

#[tokio::test]
async fn without_tokens_another_address_than_loopback_is_closed() {
    let world = World::with(Access::new(None, IpAddr::from([0, 0, 0, 0])));
    for route in table().keys() {
        for token in [None, Some(OPERATOR)] {
            let answer = world.send(sample(route, token)).await;
            assert_eq!((answer.status, answer.code().as_str()), (StatusCode::FORBIDDEN, "ADMIN_CLOSED"), "{route:?}");
        }
    }
}

#[tokio::test]
async fn without_tokens_loopback_is_open_to_programs_and_not_to_web_pages() {
    let world = World::with(Access::new(None, IpAddr::from([127, 0, 0, 1])));
    let local = |route: &(String, String), headers: &[(&'static str, &str)]| {
        let mut request = sample(route, None);
        request.headers_mut().insert("host", "localhost:9090".parse().unwrap());
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        request
    };
    for route in table().keys().filter(|(_, path)| !path.ends_with("/live")) {
        let answer = world.send(local(route, &[])).await;
        assert!(![401, 403].contains(&answer.status.as_u16()), "{route:?}: {answer:?}");
        let refused: [(&[_], _); 4] = [
            (&[("host", "rebound.example")], "ADMIN_HOST_REFUSED"),
            (&[("host", "10.0.0.1")], "ADMIN_HOST_REFUSED"),
            (&[("origin", "http://evil.example")], "ADMIN_ORIGIN_REFUSED"),
            (&[("sec-fetch-site", "cross-site")], "ADMIN_ORIGIN_REFUSED"),
        ];
        for (headers, code) in refused {
            let answer = world.send(local(route, headers)).await;
            assert_eq!((answer.status, answer.code().as_str()), (StatusCode::FORBIDDEN, code), "{route:?} {headers:?}");
        }
    }
    let me: Value = world.send(local(&("GET".to_owned(), "/api/v1/me".to_owned()), &[])).await.json();
    assert_eq!(me, json!({ "name": "loopback", "role": "operate", "via": "loopback" }));
}
