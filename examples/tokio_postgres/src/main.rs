//! Exactly once in a tokio-postgres transaction: the payment and its record commit together, or not at all.
//!
//! It needs a server at `DATABASE_URL`. Ten tasks pay the same salary at once, with one key: one pays, and all get the
//! number of that payment. The same holds for another process, or for this one when it is started again.
#![expect(clippy::print_stdout, reason = "it shows what it does")]

use std::error::Error;
use std::time::Duration;

use keylatch::machine::{self, Claim, Completion, Decision};
use keylatch::postgres::{InOwn, Options, Store};
use keylatch::{Body, Fingerprint, Guarantee, Key, Outcome, Policy, Scope};
use tokio_postgres::{Client, NoTls};

type Failure = Box<dyn Error + Send + Sync>;

/// Pays `cents` once under `key`, and returns the number of the payment, and whether it was made here. After an error,
/// call it again with the same key: if the money was paid and only the reply was lost, it returns that payment.
async fn pay(client: &mut Client, store: &Store, key: Key, cents: i64) -> Result<(String, bool), Failure> {
    let (scope, policy) = (Scope::new("salaries")?, Policy::default());
    let claim = Claim::new(scope, key, Fingerprint::of([cents.to_be_bytes().as_slice()]), Guarantee::Atomic, &policy);
    for _ in 0..100 {
        let mut tx = client.transaction().await?;
        match store.claim_in(&mut tx, &claim).await? {
            InOwn::Entered(entered) => {
                let insert = "INSERT INTO salary (cents) VALUES ($1) RETURNING id";
                let number = tx.query_one(insert, &[&cents]).await?.get::<_, i64>(0).to_string();
                let completion = Completion::new(Outcome::bytes(number.clone()), &policy);
                // Otherwise another owner has the record, and `tx` is rolled back.
                if store.complete_in(&mut tx, entered, completion).await?.is_some() {
                    tx.commit().await?;
                    return Ok((number, true));
                }
            }
            InOwn::Held(held) => match machine::decide(Some(&held.value), claim.fingerprint, held.now) {
                Decision::Replay(Outcome { body: Body::Kept(number), .. }) => {
                    return Ok((String::from_utf8(number.to_vec())?, false));
                }
                // Another amount under this key, or paid longer ago than answers are kept.
                decision => return Err(format!("{decision:?}").into()),
            },
            InOwn::Busy => tx.rollback().await?,
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err("another transaction holds the key".into())
}

async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let url = std::env::var("DATABASE_URL").map_err(|_| "set DATABASE_URL, such as postgres://postgres@localhost")?;
    // Besides your connections the store needs a few of its own, for its tables.
    let store = Store::connect_with(&url, Options::default().with_connections_max(2)).await?;
    let table = "SELECT pg_advisory_xact_lock(7);
        CREATE TABLE IF NOT EXISTS salary (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, cents bigint NOT NULL)";
    connect(&url).await?.batch_execute(table).await?;

    let mut paying = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let (mut client, store) = (connect(&url).await?, store.clone());
        paying.spawn(async move { pay(&mut client, &store, Key::new("ada-2026-11")?, 512_300).await });
    }
    let paid = paying.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let here = paid.iter().filter(|(_, here)| *here).count();
    let same = paid.iter().filter(|(number, _)| *number == paid[0].0).count();
    println!("10 calls, {here} paid here, {same} told: payment {}", paid[0].0);
    if same == paid.len() { Ok(()) } else { Err(format!("not one answer: {paid:?}").into()) }
}
