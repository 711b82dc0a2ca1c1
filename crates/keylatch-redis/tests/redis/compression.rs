//! Long answers are compressed if the option is set, and can be read in either case.

use bytes::Bytes;
use keylatch::machine::{Claimed, Completion};
use keylatch::redis::{Options, Store};
use keylatch::store::{ErrorKind, State, Store as _};
use keylatch::{Body, Outcome, Policy, Record};
use redis::cmd;
use testing_support::redis::{Config, Server};

use crate::support::{applied, claim, connect_with, win};

fn outcome() -> Outcome {
    Outcome { headers: Vec::new(), ..Outcome::bytes("{\"status\":\"accepted\"}".repeat(200)) }
}

async fn complete(store: &Store, key: &str) -> Record {
    let record = win(store, &claim(key)).await;
    let completion = Completion::new(outcome(), &Policy::default());
    applied(&store.complete(record.lease(), completion.clone()).await);
    applied(&store.complete(record.lease(), completion).await);
    record
}

/// The keys of the records on `server`, and the size of each in bytes.
async fn stored(server: &Server) -> Vec<(Vec<u8>, Bytes)> {
    let client = redis::Client::open(server.url()).unwrap();
    let mut raw = client.get_multiplexed_async_connection().await.unwrap();
    let keys: Vec<Vec<u8>> = cmd("KEYS").arg("keylatch:*").query_async(&mut raw).await.unwrap();
    let mut stored = Vec::new();
    for key in keys {
        let kind: String = cmd("TYPE").arg(&key).query_async(&mut raw).await.unwrap();
        if kind == "string" {
            let value: Vec<u8> = cmd("GET").arg(&key).query_async(&mut raw).await.unwrap();
            stored.push((key, value.into()));
        }
    }
    stored
}

#[tokio::test]
async fn an_answer_is_read_whether_it_is_compressed_or_not() {
    let server = Server::start(Config::new());
    let on = connect_with(&server, Options::default()).await;
    let off = connect_with(&server, Options::default().with_compression(None)).await;
    let Body::Kept(body) = outcome().body else { panic!("it is kept") };
    complete(&on, "compressed").await;
    assert!(stored(&server).await[0].1.len() < body.len() / 4);
    complete(&off, "plain").await;
    assert!(stored(&server).await.iter().any(|(_, value)| value.len() > body.len()));
    for store in [&on, &off] {
        for key in ["compressed", "plain"] {
            match store.claim(claim(key)).await.unwrap().value {
                Claimed::Held(Record { state: State::Completed { outcome: found, .. }, .. }) => {
                    assert_eq!(found, Some(outcome().into()));
                }
                other => panic!("{key}: {other:?}"),
            }
        }
    }
}

/// A damaged value is an error: neither an answer nor a run.
#[tokio::test]
async fn damaged_compressed_bytes_are_an_error() {
    let server = Server::start(Config::new());
    let store = connect_with(&server, Options::default()).await;
    let record = complete(&store, "key").await;
    let (place, value) = stored(&server).await.remove(0);
    let client = redis::Client::open(server.url()).unwrap();
    let mut raw = client.get_multiplexed_async_connection().await.unwrap();
    let compressed_at = value.windows(4).position(|bytes| bytes == b"\x28\xb5\x2f\xfd").expect("zstd's magic number");
    let mut longer = value.to_vec();
    longer[compressed_at - 1] = 0xff;
    for damaged in [value[..value.len() - 1].to_vec(), value[..compressed_at].to_vec(), longer] {
        let _: () = cmd("SET").arg(&place).arg(damaged).query_async(&mut raw).await.unwrap();
        assert_eq!(store.claim(claim("key")).await.unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(store.read(record.id()).await.unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
