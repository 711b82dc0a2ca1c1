//! Lost replies, servers that stop, and standbys.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{join_all, try_join_all};
use keylatch::machine::{Claim, Claimed, Completion};
use keylatch::postgres::{OpenError, Options, Store};
use keylatch::store::{Applied, ErrorKind, Inspect as _, Store as _, Sweep as _};
use keylatch::{Fingerprint, Guarantee, Key, Outcome, Policy, Scope};
use testing_support::postgres::Cluster;
use testing_support::postgres::proxy::{Break, Proxy};

use crate::support::{Service, cluster, database, fresh, items, records, store_with};

fn claim(key: &str) -> Claim {
    let (scope, key) = (Scope::new("user").unwrap(), Key::new(key).unwrap());
    Claim::new(scope, key, Fingerprint::of([b"request".as_slice()]), Guarantee::Fenced, &Policy::default())
}

async fn behind_a_proxy() -> (Proxy, Service) {
    let database = database().await;
    let proxy = Proxy::start(cluster().port()).await;
    let store = Store::connect_with(&proxy.url(&database), Options::default().with_connections_max(4)).await.unwrap();
    (proxy, Service::start(store).await)
}

/// The connection breaks `at` the commit, which takes place: the client gets its answer, and so does a retry.
async fn is_settled(proxy: &Proxy, service: &Service, at: Break) {
    proxy.cut("COMMIT", at);
    let answer = service.post("created", "a", 0).await;
    assert_eq!(proxy.cuts_made(), 1);
    assert_eq!((answer.status, answer.replayed, answer.body.as_str()), (201, false, "created a"));
    assert!(service.post("created", "a", 0).await.replayed);
    assert_eq!(service.items().await, ["a"]);
}

/// The reply to a commit is lost: the record shows that it took place, and the client gets its answer.
#[tokio::test]
async fn a_commit_whose_reply_is_lost_is_settled() {
    let (proxy, service) = behind_a_proxy().await;
    is_settled(&proxy, &service, Break::BeforeReply).await;
}

/// The commit itself is lost: nothing took place, the client is told to try again, and the retry runs.
#[tokio::test]
async fn a_commit_that_never_arrives_is_no_effect() {
    let (proxy, service) = behind_a_proxy().await;
    proxy.cut("COMMIT", Break::BeforeServer);
    let answer = service.post("created", "a", 0).await;
    assert_eq!(proxy.cuts_made(), 1);
    assert_eq!((answer.status, answer.code().as_str()), (503, "IDEMPOTENCY_STORE_UNAVAILABLE"));
    assert_eq!((service.items().await.len(), records(&service.store).await), (0, 0));
    let retry = service.post("created", "a", 5).await;
    assert_eq!((retry.status, retry.replayed), (201, false));
    assert_eq!(service.items().await, ["a"]);
}

/// The connection breaks while the server commits: the client gets its answer once the result is known.
#[tokio::test]
async fn a_commit_that_is_under_way_is_waited_for() {
    let (proxy, service) = behind_a_proxy().await;
    let slow =
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.3); RETURN NEW; END';
        CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON item DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION slow()";
    sqlx::raw_sql(slow).execute(service.store.pool()).await.unwrap();
    is_settled(&proxy, &service, Break::AfterSent).await;
}

/// The connection breaks after the reply: nobody notices.
#[tokio::test]
async fn a_connection_that_breaks_at_rest_is_replaced() {
    let (proxy, service) = behind_a_proxy().await;
    for made in 1..=4 {
        proxy.cut("COMMIT", Break::AfterReply);
        let answer = service.post("created", &format!("key-{made}"), 0).await;
        assert_eq!((answer.status, proxy.cuts_made()), (201, made));
    }
    assert!(service.post("created", "key-1", 0).await.replayed);
    assert_eq!(service.items().await.len(), 4);
}

/// The connection breaks at any other point, on either side of the server: there is one effect, and one answer in the
/// end.
#[tokio::test]
async fn a_connection_may_break_anywhere() {
    let (proxy, service) = behind_a_proxy().await;
    let mut made = 0;
    for (how, parts) in [
        (
            "created",
            ["keylatch.look", "keylatch.enter", "INSERT INTO item", "Writes a finished record", "COMMIT"].as_slice(),
        ),
        ("refused", &["ROLLBACK", "Writes a finished record"]),
        ("failed", &["ROLLBACK"]),
    ] {
        for part in parts {
            for at in [Break::BeforeServer, Break::BeforeReply] {
                made += 1;
                proxy.cut(part, at);
                let key = format!("{how}-{made}");
                let mut answer = service.post(how, &key, 5).await;
                assert_eq!(proxy.cuts_made(), made, "{how} {part} {at:?}");
                if answer.status >= 500 {
                    answer = service.post(how, &key, 5).await;
                }
                let expected = match how {
                    "created" => 201,
                    "refused" => 422,
                    _ => 500,
                };
                assert_eq!(answer.status, expected, "{how} {part} {at:?}: {}", answer.body);
                let again = service.post(how, &key, 5).await;
                assert_eq!((again.status, again.replayed), (expected, how != "failed"), "{how} {part} {at:?}");
                let there = service.items().await.iter().filter(|item| **item == key).count();
                assert_eq!(there, usize::from(how == "created"), "{how} {part} {at:?}");
            }
        }
    }
}

/// On a lease, a claim or a completion whose reply was lost is sent again, and the server recognises its owner.
#[tokio::test]
async fn a_lease_survives_lost_replies() {
    let (proxy, service) = behind_a_proxy().await;
    let store = &service.store;
    let mut made = 0;
    for at in [Break::BeforeServer, Break::BeforeReply] {
        let claim = claim(&fresh("key"));
        let mut cut = |part: &str| {
            proxy.cut(part, at);
            made += 1;
            made
        };
        let cuts = cut("keylatch.claim");
        let Claimed::Won(record) = store.claim(claim.clone()).await.unwrap().value else { panic!("it is ours") };
        assert_eq!((record.owner, proxy.cuts_made()), (claim.owner, cuts));
        let cuts = cut("Renews a running record");
        let step = Some(("step".to_owned(), "result".into()));
        assert!(matches!(store.renew(record.lease(), claim.terms, step).await.unwrap(), Applied::Applied(_)));
        assert_eq!(proxy.cuts_made(), cuts);
        let cuts = cut("keylatch.complete");
        let completion = Completion::new(Outcome::bytes("done"), &Policy::default());
        assert!(matches!(store.complete(record.lease(), completion).await.unwrap(), Applied::Applied(_)));
        assert_eq!(proxy.cuts_made(), cuts);
        let cuts = cut("Reads one record");
        assert!(store.read(claim.id()).await.unwrap().value.is_some());
        assert_eq!(proxy.cuts_made(), cuts);
    }
}

/// A lock on the table does not stop the store for ever, and every call that failed meanwhile can be repeated.
#[tokio::test]
async fn every_statement_is_bounded_in_time() {
    let database = database().await;
    let store = store_with(&database, Options::default().with_statement_max(Duration::from_millis(300))).await;
    let Claimed::Won(record) = store.claim(claim("held")).await.unwrap().value else { panic!("it is free") };
    let mut blocker = store.pool().begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE keylatch.record").execute(&mut *blocker).await.unwrap();
    let new = claim("new");
    assert_eq!(store.claim(new.clone()).await.unwrap_err().kind(), ErrorKind::Unavailable);
    let completion = Completion::new(Outcome::bytes("done"), &Policy::default());
    assert_eq!(store.complete(record.lease(), completion.clone()).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(store.renew(record.lease(), new.terms, None).await.unwrap_err().kind(), ErrorKind::NotKnown);
    assert_eq!(store.read(record.id()).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(store.sweep(10).await.unwrap_err().kind(), ErrorKind::NotKnown);
    blocker.rollback().await.unwrap();
    assert!(matches!(store.claim(new).await.unwrap().value, Claimed::Won(_)));
    assert!(matches!(store.complete(record.lease(), completion).await.unwrap(), Applied::Applied(_)));
}

/// The server crashes during a run and starts again: requests get 503 meanwhile, in time, and then everything continues
/// by itself.
#[tokio::test]
async fn a_restart_of_the_server_is_survived() {
    const CONNECT: Duration = Duration::from_millis(500);
    let cluster = Arc::new(tokio::task::spawn_blocking(|| Cluster::start("")).await.unwrap());
    let options = Options::default().with_connect_max(CONNECT);
    let store = Store::connect_with(&cluster.url("postgres"), options).await.unwrap();
    sqlx::raw_sql("CREATE TABLE item (name text UNIQUE)").execute(store.pool()).await.unwrap();
    let service = Service::start(store).await;
    assert_eq!(service.post("created", "a", 0).await.status, 201);

    let running = service.post("gated", "b", 0);
    let stopping = async {
        service.gate.reached.notified().await;
        let server = cluster.clone();
        tokio::task::spawn_blocking(move || server.stop_immediately()).await.unwrap();
        service.gate.open.add_permits(1);
    };
    let (running, ()) = tokio::join!(running, stopping);
    assert_eq!(running.code(), "IDEMPOTENCY_STORE_UNAVAILABLE");
    for key in ["a", "b", "c"] {
        let asked = Instant::now();
        assert_eq!(service.post("created", key, 0).await.code(), "IDEMPOTENCY_STORE_UNAVAILABLE");
        assert!(asked.elapsed() < 10 * CONNECT, "it took {:?} to say so", asked.elapsed());
    }

    let server = cluster.clone();
    tokio::task::spawn_blocking(move || server.start_again()).await.unwrap();
    let replay = service.post("created", "a", 0).await;
    assert_eq!((replay.status, replay.replayed, replay.body.as_str()), (201, true, "created a"));
    for key in ["b", "c"] {
        assert_eq!(
            (service.post("created", key, 0).await.status, service.post("created", key, 0).await.replayed),
            (201, true)
        );
    }
    assert_eq!(service.items().await, ["a", "b", "c"]);
}

/// The durations of five simultaneous calls, shortest first, while none of them can succeed.
async fn five_in_vain(store: &Store) -> Vec<Duration> {
    let mut took = join_all((0..5).map(|_| async {
        let asked = Instant::now();
        assert_eq!(store.read(claim("key").id()).await.unwrap_err().kind(), ErrorKind::Unavailable);
        asked.elapsed()
    }))
    .await;
    took.sort_unstable();
    took
}

/// While the server is stopped, or nobody answers at its address, one caller at a time tries to connect, and the others
/// are refused at once. Everything continues as soon as it is back.
#[tokio::test]
async fn an_outage_holds_up_one_caller_at_a_time() {
    const CONNECT: Duration = Duration::from_secs(1);
    let cluster = Arc::new(tokio::task::spawn_blocking(|| Cluster::start("")).await.unwrap());
    let proxy = Proxy::start(cluster.port()).await;
    let options = || Options::default().with_connect_max(CONNECT);
    let direct = Store::connect_with(&cluster.tcp_url("postgres"), options()).await.unwrap();
    let led_astray = Store::connect_with(&proxy.url("postgres"), options()).await.unwrap();

    // It accepts connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.lead_to(silent.local_addr().unwrap().port());
    let server = cluster.clone();
    tokio::task::spawn_blocking(move || server.stop_immediately()).await.unwrap();
    for store in [&direct, &led_astray] {
        // Callers that arrive before this is known wait as long as they may.
        assert!(five_in_vain(store).await[0] >= CONNECT);
        for _ in 0..2 {
            let took = five_in_vain(store).await;
            assert!(took[3] < CONNECT / 2 && took[4] >= CONNECT, "{took:?}");
        }
    }

    let server = cluster.clone();
    tokio::task::spawn_blocking(move || server.start_again()).await.unwrap();
    proxy.lead_to(cluster.port());
    for store in [&direct, &led_astray] {
        assert!(store.read(claim("key").id()).await.unwrap().value.is_none());
        let together = try_join_all((0..5).map(|_| store.claim(claim(&fresh("key"))))).await.unwrap();
        assert!(together.iter().all(|claimed| matches!(claimed.value, Claimed::Won(_))));
    }
}

/// A server stops answering on open connections: the first statement that takes too long shows it, and the other
/// connections are not tried one by one.
#[tokio::test]
async fn a_server_that_falls_silent_is_an_outage() {
    const CONNECT: Duration = Duration::from_secs(1);
    let database = database().await;
    let proxy = Proxy::start(cluster().port()).await;
    let options = Options::default().with_connect_max(CONNECT).with_statement_max(CONNECT);
    let store = Store::connect_with(&proxy.url(&database), options).await.unwrap();
    try_join_all((0..5).map(|_| store.read(claim("key").id()))).await.unwrap();
    let at_rest = async || store.pool().num_idle() >= 5;
    testing_support::eventually(Duration::from_secs(30), "the connections to go back", at_rest).await;
    proxy.fall_silent(true);
    for _ in 0..2 {
        assert_eq!(store.read(claim("key").id()).await.unwrap_err().kind(), ErrorKind::Unavailable);
    }
    let took = five_in_vain(&store).await;
    assert!(took[3] < CONNECT / 2 && took[4] >= CONNECT, "{took:?}");
    proxy.fall_silent(false);
    assert!(store.read(claim("key").id()).await.unwrap().value.is_none());
}

/// If no connection is free, the store says so in time. That is not an outage: each caller waits for its own
/// connection.
#[tokio::test]
async fn a_pool_that_is_used_up_is_unavailable() {
    let database = database().await;
    let options = Options::default().with_connections_max(1).with_connect_max(Duration::from_millis(100));
    let store = store_with(&database, options).await;
    let held = store.pool().acquire().await.unwrap();
    for _ in 0..2 {
        assert!(five_in_vain(&store).await[0] >= Duration::from_millis(100));
    }
    assert_eq!(store.claim(claim("key")).await.unwrap_err().kind(), ErrorKind::Unavailable);
    drop(held);
    assert!(matches!(store.claim(claim("key")).await.unwrap().value, Claimed::Won(_)));
}

/// A standby is refused, both when a store is opened and later.
#[tokio::test]
async fn a_standby_is_refused() {
    let (primary, standby) = tokio::task::spawn_blocking(|| {
        let primary = Cluster::start("");
        let standby = Cluster::standby_of(&primary, "");
        (primary, standby)
    })
    .await
    .unwrap();
    assert!(matches!(Store::connect(&standby.url("postgres")).await.unwrap_err(), OpenError::Standby));

    let proxy = Proxy::start(primary.port()).await;
    let store = Store::connect(&proxy.url("postgres")).await.unwrap();
    sqlx::raw_sql("CREATE TABLE item (name text UNIQUE)").execute(store.pool()).await.unwrap();
    let service = Service::start(store.clone()).await;
    assert_eq!(service.post("created", "a", 0).await.status, 201);
    let Claimed::Won(record) = store.claim(claim("held")).await.unwrap().value else { panic!("it is free") };
    let written = primary.sql("postgres", "SELECT pg_current_wal_flush_lsn()");
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'");
    let caught_up = async || standby.sql("postgres", &replayed) == "t";
    testing_support::eventually(Duration::from_secs(30), "the standby to catch up", caught_up).await;

    // The address leads to the standby: its data may be old, so it answers nothing.
    proxy.lead_to(standby.port());
    let scope = Scope::new("user").unwrap();
    assert_eq!(store.read(record.id()).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(store.claim(claim("new")).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(
        store.renew(record.lease(), claim("held").terms, None).await.unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    assert_eq!(store.sweep(10).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(store.count(scope, 10).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(store.lapsed(None, 10).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(store.list(keylatch::store::PageRequest::default()).await.unwrap_err().kind(), ErrorKind::Unavailable);
    for key in ["a", "b"] {
        assert_eq!(service.post("created", key, 0).await.code(), "IDEMPOTENCY_STORE_UNAVAILABLE");
    }

    // Once it is the primary, everything continues by itself.
    let _servers = tokio::task::spawn_blocking(move || {
        primary.stop_immediately();
        standby.promote();
        (primary, standby)
    })
    .await
    .unwrap();
    let replay = service.post("created", "a", 0).await;
    assert!(replay.replayed, "{replay:?}");
    assert_eq!(service.post("created", "b", 0).await.status, 201);
    assert_eq!(items(&store).await, ["a", "b"]);
}
