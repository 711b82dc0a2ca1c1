//! A cache whose connections take longer to open than a look into it may take.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use keylatch::machine::Claimed;
use keylatch::redis::{Cache, Options};
use keylatch::store::{Durability, Store as _};
use keylatch::tiered::{CACHE_TIMEOUT, Tiered};
use keylatch::{Clock, memory};
use testing_support::certificates::Authority;
use testing_support::eventually;
use testing_support::redis::{Config, Server};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::common::faulty::{Faulty, Op};
use crate::support::{applied, claim, completion};

const SOON: Duration = Duration::from_secs(30);
/// How much the proxy delays a handshake.
const DELAY: Duration = CACHE_TIMEOUT.saturating_mul(5);

/// A proxy in front of a server. It delays its clients before it passes anything on.
struct Slow {
    port: u16,
    connections: Arc<AtomicUsize>,
    cut: watch::Sender<()>,
}

impl Slow {
    async fn before(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, connections) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
        let (cut, cuts) = watch::channel(());
        let counted = connections.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let mut cuts = cuts.clone();
                cuts.mark_unchanged();
                tokio::spawn(async move {
                    tokio::time::sleep(DELAY).await;
                    let mut server = TcpStream::connect(("127.0.0.1", target)).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        Self { port, connections, cut }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_with_a_slow_handshake_comes_back_and_nobody_waits_for_it() {
    let config = Config::new().with("appendonly", "no").with("maxmemory-policy", "allkeys-lru");
    let (server, authority) = (Server::start(config), Authority::new());
    let slow = Slow::before(server.listen_tls(&authority.certify(&["localhost"]))).await;
    let truth = Faulty::with_durability(memory::Store::with_clock(Clock::system()), Durability::Disk);
    let options = Options::default().with_root_certificate(authority.pem()).with_connect_timeout(SOON);
    let cache = Cache::connect(&format!("rediss://localhost:{}", slow.port), options).await.expect("it is there");
    let store = Tiered::new(truth.clone(), cache);

    let Claimed::Won(record) = store.claim(claim("key")).await.unwrap().value else { panic!("it is free") };
    applied(&store.complete(record.lease(), completion("answer")).await);
    let expected = store.read(record.id()).await.unwrap().value;
    let from_cache = async || {
        let (asked, started) = (truth.calls(Op::Read), Instant::now());
        assert_eq!(store.read(record.id()).await.unwrap().value, expected);
        (truth.calls(Op::Read) == asked, started.elapsed())
    };
    eventually(SOON, "an answer from the cache", async || from_cache().await.0).await;
    assert_eq!(slow.connections.load(Ordering::SeqCst), 1);

    slow.cut.send_replace(());
    let mut longest = Duration::ZERO;
    eventually(SOON, "an answer from the cache again", async || {
        let (found, took) = from_cache().await;
        longest = longest.max(took);
        // If one was lost on the way, its caller may try once more.
        found && slow.connections.load(Ordering::SeqCst) > 1
    })
    .await;
    assert!(slow.connections.load(Ordering::SeqCst) <= 3, "one attempt at a time, and it succeeds");
    assert!(longest < DELAY, "a caller waited {longest:?}");
}
