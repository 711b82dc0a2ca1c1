//! The headers that the service gets of a request, and the client of an answer.

use http::Method;

use crate::setup::Pair;

#[tokio::test]
async fn the_service_learns_attempt_epoch_and_derived_key_and_clients_cannot_imitate_them() {
    let pair = Pair::new("fenced", &[]).await;
    let headers = [
        ("x-user-id", "alice"),
        ("idempotency-key", "k"),
        ("idempotency-derived-key", "mine"),
        ("idempotency-epoch", "99"),
        ("idempotency_epoch", "99"),
        ("idempotency-attempt", "99"),
        ("x_user_id", "mallory"),
    ];
    assert_eq!(pair.send(Method::POST, "/echo", &headers, "a").await.status, 200);
    let without_key: Vec<_> = headers.iter().filter(|(name, _)| *name != "idempotency-key").copied().collect();
    assert_eq!(pair.send(Method::POST, "/echo", &without_key, "a").await.status, 200);
    let seen = pair.upstream.upstream.seen();
    let [guarded, unguarded] = &seen[..] else { panic!("{seen:?}") };
    let key = guarded.header("idempotency-derived-key").unwrap();
    assert!(key.len() == 64 && key.bytes().all(|digit| digit.is_ascii_hexdigit()), "{key}");
    assert_eq!(guarded.header("idempotency-epoch").as_deref(), Some("1"));
    assert_eq!(guarded.header("idempotency-attempt").as_deref(), Some("1"));
    assert_eq!(guarded.header("idempotency-key"), None, "it is withheld");
    for name in ["idempotency-derived-key", "idempotency-epoch", "idempotency-attempt", "idempotency-key"] {
        assert_eq!(unguarded.header(name), None, "{name}");
    }
    for request in &seen {
        assert_eq!(request.header("x-user-id").as_deref(), Some("alice"));
        assert!(!request.head.to_lowercase().contains("mallory") && !request.head.contains("idempotency_epoch"));
    }
}

#[tokio::test]
async fn the_key_is_withheld_received_or_derived() {
    for (which, is_right) in [
        ("withheld", (|key, _| key.is_none()) as fn(&Option<String>, &Option<String>) -> bool),
        ("received", |key, _| key.as_deref() == Some("\"k\"")),
        ("derived", |key, derived| key == derived && key.is_some()),
    ] {
        let pair = Pair::new("fenced", &["--upstream-key", which]).await;
        pair.post("/echo", "\"k\"", "a").await;
        let seen = pair.upstream.upstream.seen();
        let (key, derived) = (seen[0].header("idempotency-key"), seen[0].header("idempotency-derived-key"));
        assert!(is_right(&key, &derived), "{which}: {key:?}, {derived:?}");
    }
}

#[tokio::test]
async fn who_called_is_told_by_the_gateway_alone_unless_it_is_behind_another() {
    let said = [
        ("x-user-id", "alice"),
        ("forwarded", "for=10.0.0.1"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x-forwarded-proto", "https"),
    ];
    let pair = Pair::new("fenced", &[]).await;
    pair.send(Method::GET, "/echo", &said, "").await;
    let behind = Pair::new("fenced", &["--trust-forwarded", "--upstream-host", "orders.internal"]).await;
    behind.send(Method::GET, "/echo", &said, "").await;
    let (doubted, believed) = (pair.upstream.upstream.seen(), behind.upstream.upstream.seen());
    let (doubted, believed) = (&doubted[0], &believed[0]);
    assert_eq!(doubted.header("x-forwarded-for").as_deref(), Some("127.0.0.1"));
    assert_eq!(doubted.header("x-forwarded-proto").as_deref(), Some("http"));
    assert_eq!(doubted.header("x-forwarded-host").as_deref(), Some(pair.gateway.authority()));
    assert_eq!(doubted.header("host").as_deref(), Some(pair.gateway.authority()));
    assert_eq!(doubted.header("via").as_deref(), Some("1.1 keylatch"));
    assert_eq!(doubted.header("forwarded"), None);
    assert_eq!(believed.header("x-forwarded-for").as_deref(), Some("10.0.0.1, 127.0.0.1"));
    assert_eq!(believed.header("x-forwarded-proto").as_deref(), Some("https"));
    assert_eq!(believed.header("forwarded").as_deref(), Some("for=10.0.0.1"));
    assert_eq!(believed.header("host").as_deref(), Some("orders.internal"));
}

#[tokio::test]
async fn what_concerns_one_connection_ends_at_the_gateway() {
    let pair = Pair::new("fenced", &[]).await;
    let headers =
        [("x-user-id", "alice"), ("connection", "x-hop"), ("x-hop", "1"), ("keep-alive", "5"), ("te", "trailers")];
    pair.send(Method::GET, "/echo", &headers, "").await;
    let seen = pair.upstream.upstream.seen();
    for name in ["connection", "x-hop", "keep-alive", "proxy-connection"] {
        assert_eq!(seen[0].header(name), None, "{name}");
    }
    for key in [None, Some("k")] {
        let key = key.map(|key| ("idempotency-key", key));
        let headers: Vec<_> = [("x-user-id", "alice")].into_iter().chain(key).collect();
        let answer = pair.send(Method::POST, "/hops", &headers, "").await;
        assert_eq!(answer.header("x-kept"), Some("1"));
        for name in ["connection", "x-hop", "keep-alive"] {
            assert_eq!(answer.header(name), None, "{name}");
        }
    }
}

#[tokio::test]
async fn a_head_tells_the_length_of_the_answer_it_stands_for() {
    let pair = Pair::new("fenced", &[]).await;
    let answer = pair.raw(b"HEAD /large/100000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.to_lowercase().contains("content-length: 100000\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
}
