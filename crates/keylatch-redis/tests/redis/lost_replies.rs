//! For each call: a connection that breaks after the server has executed the call and before its reply arrives.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use keylatch::machine::{Claim, Claimed};
use keylatch::redis::{Options, Store};
use keylatch::store::{Applied, Inspect as _, Owner, State, Store as _};
use testing_support::redis::{Config, Server};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{FREE, applied, claim, completion, connect, win};

/// A proxy in front of a server. It breaks a connection instead of passing on a reply.
struct Cutting {
    port: u16,
    /// How many replies pass before one is cut off; [`NONE`] for no limit.
    passing: Arc<AtomicUsize>,
}

const NONE: usize = usize::MAX;

impl Cutting {
    async fn before(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, passing) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(NONE)));
        let left = passing.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, target, left.clone()));
            }
        });
        Self { port, passing }
    }

    /// Cuts off the reply after this many.
    fn cut_after(&self, passing: usize) {
        self.passing.store(passing, Ordering::SeqCst);
    }

    fn cut(&self) {
        self.cut_after(0);
    }

    fn has_cut(&self) -> bool {
        self.passing.load(Ordering::SeqCst) == NONE
    }
}

async fn pass(client: TcpStream, target: u16, passing: Arc<AtomicUsize>) {
    let server = TcpStream::connect(("127.0.0.1", target)).await.unwrap();
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let asking = tokio::spawn(async move { drop(tokio::io::copy(&mut from_client, &mut to_server).await) });
    let mut bytes = vec![0; 1 << 16];
    while let Ok(read @ 1..) = from_server.read(&mut bytes).await {
        // The server has answered, so it has executed the call.
        let counted = passing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |passing| match passing {
            NONE => None,
            passing => Some(passing.checked_sub(1).unwrap_or(NONE)),
        });
        if counted == Ok(0) || to_client.write_all(&bytes[..read]).await.is_err() {
            break;
        }
    }
    asking.abort();
}

#[tokio::test]
async fn each_call_is_sent_again_and_has_no_further_effect() {
    let server = Server::start(Config::new());
    let proxy = Cutting::before(server.port()).await;
    let store = Store::connect_with(&format!("redis://127.0.0.1:{}", proxy.port), Options::default()).await.unwrap();
    let other = connect(&server).await;
    let first = claim("key");

    proxy.cut();
    let record = win(&store, &first).await;
    assert!(proxy.has_cut());
    assert_eq!((record.attempt, record.owner), (1, first.owner));

    proxy.cut();
    applied(&store.renew(record.lease(), first.terms, None).await);
    assert!(proxy.has_cut());

    // At the look, and at the write.
    for passing in 0..2 {
        let step = Some((format!("step {passing}"), "result".into()));
        proxy.cut_after(passing);
        applied(&store.renew(record.lease(), first.terms, step).await);
        assert!(proxy.has_cut());
    }

    proxy.cut();
    let held = other_claim(&store, &first).await;
    assert!(proxy.has_cut());
    let State::Running { notes, .. } = held.state else { panic!("it runs") };
    assert_eq!(notes.steps.len(), 2);

    proxy.cut();
    applied(&store.complete(record.lease(), completion("answer")).await);
    assert!(proxy.has_cut());
    proxy.cut();
    let held = other_claim(&store, &first).await;
    assert!(proxy.has_cut());
    assert!(matches!(held.state, State::Completed { outcome: Some(_), .. }), "{held:?}");

    // A completion that uses what this process has written.
    let record = win(&store, &claim("written")).await;
    proxy.cut();
    applied(&store.complete(record.lease(), completion("answer")).await);
    assert!(proxy.has_cut());

    let record = win(&store, &claim("freed")).await;
    proxy.cut();
    assert!(store.release(record.lease(), FREE).await.is_ok());
    assert!(proxy.has_cut());
    assert!(other.lapsed(None, 10).await.unwrap().value.records.is_empty());
    assert_eq!(other.renew(record.lease(), first.terms, None).await.unwrap(), Applied::Lost);
}

async fn other_claim(store: &Store, claim: &Claim) -> keylatch::Record {
    match store.claim(Claim { owner: Owner::random(), ..claim.clone() }).await.unwrap().value {
        Claimed::Held(record) => record,
        won @ Claimed::Won(_) => panic!("{won:?}"),
    }
}
