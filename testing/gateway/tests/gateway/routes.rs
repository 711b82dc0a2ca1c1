//! Routes from a file: each guards in its own way, mistakes are found at once, and SIGHUP loads a new file without
//! losing a request.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::Method;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;
use tempfile::TempDir;
use testing_support::eventually;

use crate::setup::{Answer, Pair, SOON, Service, gateway};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A gateway with the routes of `file`, in front of a service; and the file.
async fn with_routes(file: &str) -> (Pair, PathBuf) {
    let dir = tempfile::tempdir().expect("there is room for a directory");
    let path = dir.path().join("keylatch.toml");
    fs::write(&path, file).expect("it can be written");
    fs::write(dir.path().join("secret"), SECRET).expect("it can be written");
    let upstream = Service::start(&dir.path().join("ledger"), 0).await;
    let store = format!("sqlite:{}", dir.path().join("keylatch.db").display());
    let arguments = ["--store", &store, "--config", path.to_str().expect("text")];
    let gateway = gateway(&upstream.url, &arguments).start().await.unwrap_or_else(|error| panic!("{error}"));
    (Pair::of(gateway, upstream, dir), path)
}

fn route(name: &str, path: &str, more: &str) -> String {
    format!("[[route]]\nname = \"{name}\"\npath = \"{path}\"\n{more}\n")
}

const BY_HEADER: &str = "scope.header = \"X-User-Id\"\nguarantee = \"at-most-once\"\n";

/// A number that is used only once.
fn unique() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A token for HS256.
fn token(secret: &str, claims: &serde_json::Value) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes()).expect("it is a secret");
    encode(&Header::new(Algorithm::HS256), claims, &key).expect("it can be signed")
}

fn claims(subject: &str, seconds: i64) -> serde_json::Value {
    let now = i64::try_from(jsonwebtoken::get_current_timestamp()).expect("it is a time");
    json!({ "sub": subject, "iss": "login", "exp": now + seconds, "nonce": unique() })
}

async fn post(pair: &Pair, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    pair.send(Method::POST, path, headers, body).await
}

#[tokio::test]
async fn each_route_guards_in_its_own_way() {
    let file = [
        route("letters", "/letters/{id}", BY_HEADER),
        route(
            "once",
            "/once",
            "scope.shared = \"all\"\nguarantee = \"fenced\"\nkey.json = \"/id\"\ncanonical-json = true",
        ),
        route(
            "strict",
            "/echo/strict",
            &format!("{BY_HEADER}require-key = true\nkey.header = \"X-Id\"\nmethods = [\"PUT\"]"),
        ),
        route("small", "/echo/small", &format!("{BY_HEADER}request-body-max = \"4\"")),
        route("watched", "/echo/watched", &format!("{BY_HEADER}observe-only = true")),
    ];
    let (pair, _) = with_routes(&file.concat()).await;
    let alice = [("x-user-id", "alice"), ("idempotency-key", "k")];

    // A pattern is one name space: if two of its paths are used with one key, the second is another request.
    assert_eq!(post(&pair, "/letters/1", &alice, "a").await.status, 201);
    assert!(post(&pair, "/letters/1", &alice, "a").await.is_replay());
    assert_eq!(post(&pair, "/letters/2", &alice, "a").await.code(), "IDEMPOTENCY_KEY_REUSED");
    // Another spelling of the same path is no way around the guard.
    assert_eq!(post(&pair, "/%6Cetters/1", &alice, "a").await.code(), "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(post(&pair, "//letters/1/", &alice, "a").await.code(), "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(pair.starts(""), 1, "the service sees no key, and one start");
    // Another route has its own keys. Here they are in the body, in whatever form it is written.
    let json = [("content-type", "application/json")];
    assert_eq!(post(&pair, "/once", &json, r#"{"id":"k","n":1}"#).await.status, 201);
    assert!(post(&pair, "/once", &json, r#"{ "n": 1.0, "id": "k" }"#).await.is_replay());
    let strict = async |headers: &[(&str, &str)]| pair.send(Method::PUT, "/echo/strict", headers, "").await;
    assert_eq!(strict(&alice).await.code(), "IDEMPOTENCY_KEY_REQUIRED");
    let id = [("x-user-id", "alice"), ("x-id", "7")];
    assert!(!strict(&id).await.is_replay() && strict(&id).await.is_replay());
    assert_eq!(post(&pair, "/echo/strict", &alice, "").await.status, 200, "another method takes no route");
    assert_eq!(post(&pair, "/echo/small", &alice, "12345").await.code(), "REQUEST_TOO_LARGE");
    let watched = async || post(&pair, "/echo/watched", &alice, "").await;
    for _ in 0..2 {
        let answer = watched().await;
        assert!(answer.status == 200 && !answer.is_replay() && answer.header("idempotency-key").is_none());
    }
    // A request that matches no route passes, with or without a key.
    for _ in 0..2 {
        let answer = post(&pair, "/echo/elsewhere", &alice, "").await;
        assert!(answer.status == 200 && !answer.is_replay());
    }
    let seen = pair.upstream.upstream.seen();
    let to = |path: &str| seen.iter().filter(|seen| seen.target().1 == path).count();
    assert_eq!((to("/echo/watched"), to("/echo/elsewhere"), to("/echo/small")), (2, 2, 0));
}

#[tokio::test]
async fn a_token_says_who_calls_and_one_that_does_not_verify_is_401() {
    let jwt = "[jwt.customers]\nsecret-file = \"secret\"\nissuer = \"login\"\n";
    let scope = "scope = { jwt = \"customers\", claim = \"sub\" }\nguarantee = \"fenced\"";
    let (pair, _) = with_routes(&[jwt.to_owned(), route("echo", "/echo/{who}", scope)].concat()).await;
    let send = async |token: &str, key: &str| {
        let bearer = format!("Bearer {token}");
        post(&pair, "/echo/a", &[("authorization", &bearer), ("idempotency-key", key)], "").await
    };
    assert!(!send(&token(SECRET, &claims("alice", 60)), "k").await.is_replay());
    // A refreshed token is the same caller; another caller is not.
    assert!(send(&token(SECRET, &claims("alice", 60)), "k").await.is_replay());
    assert!(!send(&token(SECRET, &claims("bob", 60)), "k").await.is_replay());
    let before = pair.upstream.upstream.seen().len();
    let other = token("another secret of thirty-two bytes or more", &claims("alice", 60));
    for bad in [other, token(SECRET, &claims("alice", -600)), "no token".to_owned()] {
        let answer = send(&bad, "k").await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "TOKEN_INVALID"), "{answer:?}");
        assert!(answer.header("www-authenticate").is_some_and(|challenge| challenge.starts_with("Bearer")));
        assert!(!answer.is_replay());
    }
    assert_eq!(post(&pair, "/echo/a", &[("idempotency-key", "k")], "").await.status, 401, "none at all");
    assert_eq!(post(&pair, "/echo/a", &[], "").await.status, 401, "without a key, too");
    let nobody = json!({ "iss": "login", "exp": claims("", 60)["exp"] });
    assert_eq!(send(&token(SECRET, &nobody), "k").await.code(), "IDEMPOTENCY_SCOPE_REQUIRED");
    assert_eq!(pair.upstream.upstream.seen().len(), before, "nothing of it reaches the service");
    assert_eq!(post(&pair, "/elsewhere", &[], "").await.status, 200, "a request without a route needs no token");
}

/// The key pair of RFC 8037, appendix A.
#[tokio::test]
async fn tokens_are_verified_by_a_set_of_public_keys() {
    const PRIVATE: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    const PUBLIC: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    let private: String = ["302e020100300506032b657004220420", PRIVATE].concat();
    let private: Vec<u8> =
        (0..private.len()).step_by(2).map(|at| u8::from_str_radix(&private[at..at + 2], 16).unwrap()).collect();
    let jwt = "[jwt.partners]\njwks = \"keys.json\"\n";
    let scope = "scope = { jwt = \"partners\", claim = \"sub\" }\nguarantee = \"fenced\"";
    let dir = tempfile::tempdir().unwrap();
    let set =
        |kid: &str| json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": kid, "use": "sig", "x": PUBLIC }] });
    let path = dir.path().join("keylatch.toml");
    fs::write(&path, [jwt.to_owned(), route("echo", "/echo", scope)].concat()).unwrap();
    fs::write(dir.path().join("keys.json"), set("first").to_string()).unwrap();
    let upstream = Service::start(&dir.path().join("ledger"), 0).await;
    let arguments = ["--store", "memory:", "--config", path.to_str().unwrap()];
    let gateway = gateway(&upstream.url, &arguments).start().await.unwrap_or_else(|error| panic!("{error}"));
    let keys = dir.path().join("keys.json");
    let pair = Pair::of(gateway, upstream, dir);
    let send = async |kid: &str, algorithm: Algorithm, key: &EncodingKey| {
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(algorithm) };
        let token = encode(&header, &claims("alice", 60), key).expect("it can be signed");
        post(&pair, "/echo", &[("authorization", &format!("Bearer {token}")), ("idempotency-key", "k")], "").await
    };
    let signing = EncodingKey::from_ed_der(&private);
    assert_eq!(send("first", Algorithm::EdDSA, &signing).await.status, 200);
    assert_eq!(send("second", Algorithm::EdDSA, &signing).await.status, 401);
    // Its public key, used as a secret.
    let public = EncodingKey::from_secret(PUBLIC.as_bytes()).expect("it is a secret");
    assert_eq!(send("first", Algorithm::HS256, &public).await.status, 401);
    // SIGHUP rotates keys.
    fs::write(keys, set("second").to_string()).unwrap();
    pair.gateway.hang_up();
    eventually(SOON, "the new key to count", async || send("second", Algorithm::EdDSA, &signing).await.status == 200)
        .await;
    assert_eq!(send("first", Algorithm::EdDSA, &signing).await.status, 401);
}

/// Real signatures of each kind of key, in one set. A key verifies only what it has signed, whatever a token says of itself.
#[tokio::test]
async fn tokens_are_verified_by_keys_of_every_kind() {
    let dir = tempfile::tempdir().unwrap();
    let jwt = "[jwt.partners]\njwks = \"keys.json\"\n";
    let scope = "scope = { jwt = \"partners\", claim = \"sub\" }\nguarantee = \"fenced\"";
    let path = dir.path().join("keylatch.toml");
    fs::write(&path, [jwt.to_owned(), route("echo", "/echo", scope)].concat()).unwrap();
    fs::write(dir.path().join("keys.json"), include_str!("keys/public.json")).unwrap();
    let upstream = Service::start(&dir.path().join("ledger"), 0).await;
    let arguments = ["--store", "memory:", "--config", path.to_str().unwrap()];
    let gateway = gateway(&upstream.url, &arguments).start().await.unwrap_or_else(|error| panic!("{error}"));
    let pair = Pair::of(gateway, upstream, dir);
    let rsa = EncodingKey::from_rsa_der(include_bytes!("keys/rsa.der"));
    let p256 = EncodingKey::from_ec_der(include_bytes!("keys/p256.der"));
    let signed = |kid: Option<&str>, algorithm: Algorithm, key: &EncodingKey| {
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
        encode(&header, &claims("alice", 60), key).expect("it can be signed")
    };
    let send = async |token: &str| {
        let bearer = format!("Bearer {token}");
        post(&pair, "/echo", &[("authorization", &bearer), ("idempotency-key", "k")], "").await
    };
    let by_rsa = signed(Some("rsa"), Algorithm::RS256, &rsa);
    let by_p256 = signed(Some("p256"), Algorithm::ES256, &p256);
    assert_eq!(send(&by_rsa).await.status, 200);
    assert!(send(&by_p256).await.is_replay(), "of the same caller");
    assert!(send(&signed(None, Algorithm::ES256, &p256)).await.is_replay(), "the only key of its kind");
    // The head and the claims of one, with the signature of another, or with one byte of it changed.
    let parts =
        |token: &str| token.rsplit_once('.').map(|(signed, by)| (signed.to_owned(), by.to_owned())).expect("a token");
    let (signed_by_rsa, signature) = parts(&by_rsa);
    let (signed_by_p256, other) = parts(&by_p256);
    let changed = signature.replacen(|letter| letter != 'A', "A", 1);
    for bad in [
        format!("{signed_by_rsa}.{other}"),
        format!("{signed_by_p256}.{signature}"),
        format!("{signed_by_rsa}.{changed}"),
        format!("{signed_by_rsa}."),
        signed(Some("p256"), Algorithm::RS256, &rsa),
        signed(Some("rsa"), Algorithm::ES256, &p256),
        signed(Some("rsa"), Algorithm::RS384, &rsa),
        signed(Some("rsa"), Algorithm::PS256, &rsa),
    ] {
        assert_eq!(send(&bad).await.status, 401, "{bad}");
    }
}

/// New requests all the while, and a new file again and again, every other one with mistakes: no request is lost, and the
/// routes are always those of the last good file.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_file_is_read_again_without_losing_a_request() {
    let good = |nth: usize| {
        let routes =
            [route("letters", "/letters", BY_HEADER), route(&format!("n{nth}"), &format!("/echo/{nth}"), BY_HEADER)];
        routes.concat()
    };
    let (pair, path) = with_routes(&good(0)).await;
    let pair = Arc::new(pair);
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|client| {
            let (pair, stop, sent) = (pair.clone(), stop.clone(), sent.clone());
            tokio::spawn(async move {
                for nth in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let key = format!("{client}-{nth}");
                    for replayed in [false, true] {
                        let answer = pair.post("/letters", &key, "a").await;
                        assert_eq!((answer.status, answer.is_replay()), (201, replayed), "{key}: {answer:?}");
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    let guards = async |nth: usize| {
        let key = format!("probe-{nth}-{}", unique());
        let path = format!("/echo/{nth}");
        pair.post(&path, &key, "").await;
        pair.post(&path, &key, "").await.is_replay()
    };
    for nth in 1..=10 {
        fs::write(&path, good(nth)).unwrap();
        pair.gateway.hang_up();
        eventually(SOON, "the new routes to count", async || guards(nth).await).await;
        assert!(!guards(nth - 1).await, "the old route is gone");
        let refusals = || pair.gateway.printed().matches("have mistakes").count();
        let before = refusals();
        fs::write(&path, "[[route]]\nname = \"broken\"\n").unwrap();
        pair.gateway.hang_up();
        eventually(SOON, "the mistakes to be told", async || refusals() > before).await;
        assert!(guards(nth).await, "a file with mistakes changes nothing");
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("every request has its answer");
    }
    assert!(sent.load(Ordering::Relaxed) > 20, "there was load");
    let printed = pair.gateway.printed();
    assert!(printed.contains("keylatch.toml:1:1: route `broken` has no `path`: "), "{printed}");
}

// ---- check-config --------------------------------------------------------------------------------------

fn check(path: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gateway-under-test")).arg("check-config").arg(path).output().expect("it runs")
}

#[test]
fn check_config_finds_every_mistake_and_says_so() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("keylatch.toml");
    fs::write(&path, [route("a", "/a/{id}", BY_HEADER), route("b", "/b", BY_HEADER)].concat()).unwrap();
    let good = check(&path);
    assert!(good.status.success(), "{good:?}");
    let said = String::from_utf8(good.stdout).unwrap();
    assert_eq!(said, format!("{}: 2 routes, no mistakes\n", path.display()));

    let bad = [
        route("a", "/a/{id}", BY_HEADER),
        route("b", "/a/{other}", &format!("{BY_HEADER}retension = \"24h\"")),
        route("c", "/c", "guarantee = \"atomic\""),
    ];
    fs::write(&path, bad.concat()).unwrap();
    let refused = check(&path);
    assert_eq!(refused.status.code(), Some(1));
    let told = String::from_utf8(refused.stderr).unwrap();
    let told: Vec<_> =
        told.lines().map(|line| line.strip_prefix(&format!("{}:", path.display())).unwrap_or(line)).collect();
    let expected = [
        "9:8: route `b` (`/a/{other}`) is hidden by route `a` (`/a/{id}`) for POST, PATCH: ",
        "12:1: unknown key `retension` in route `b`: did you mean `retention`?",
        "13:1: route `c` has no `scope`: ",
        "16:13: `guarantee` of route `c` cannot be used: atomic cannot be had through a proxy",
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (line, expected) in told.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line}\nis not {expected}");
    }
    let absent = check(&dir.path().join("absent.toml"));
    assert!(
        absent.status.code() == Some(1)
            && String::from_utf8_lossy(&absent.stderr).contains("absent.toml: it cannot be read")
    );
}

/// The gateway does not start with a file that has mistakes, and prints all of them.
#[tokio::test]
async fn a_gateway_does_not_start_with_mistakes() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("keylatch.toml");
    fs::write(&path, "[[route]]\nname = \"a\"\n").unwrap();
    let arguments = ["--store", "memory:", "--config", path.to_str().unwrap()];
    let error = gateway("http://127.0.0.1:9", &arguments).start().await.unwrap_err().to_string();
    for missing in ["`path`", "`scope`", "`guarantee`"] {
        assert!(error.contains(&format!("keylatch.toml:1:1: route `a` has no {missing}")), "{error}");
    }
    let both = [&arguments[..], &["--guarantee", "fenced"]].concat();
    let error = gateway("http://127.0.0.1:9", &both).start().await.unwrap_err().to_string();
    assert!(error.contains("--config") && error.contains("--guarantee"), "{error}");
}

/// The file in the guide can be used.
#[test]
fn the_file_in_the_guide_has_no_mistakes() {
    let guide = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/GATEWAY.md")).unwrap();
    let file =
        guide.split("```toml\n").nth(1).and_then(|file| file.split("```").next()).expect("the guide shows a file");
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("keylatch.toml");
    fs::write(&path, file).unwrap();
    let keys =
        json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" }] });
    fs::write(dir.path().join("keys.json"), keys.to_string()).unwrap();
    fs::write(dir.path().join("secret"), SECRET).unwrap();
    let checked = check(&path);
    assert!(checked.status.success(), "{checked:?}");
}
