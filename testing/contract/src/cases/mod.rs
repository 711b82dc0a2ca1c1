//! The cases.
#![expect(missing_docs, reason = "the name of a case says what it checks")]

pub mod answers;
pub mod clients;
pub mod fingerprint;
pub mod key;
pub mod large;
pub mod recorded;
pub mod refusals;
pub mod retained;

use crate::{App, Gate, Seen, Setup, Subject};

/// A service whose handler waits for the gate.
async fn waiting<S: Subject>(at: &S, setup: Setup, gate: &Gate) -> App<S::Running> {
    let gate = gate.clone();
    let handler = move |seen: Seen| {
        let gate = gate.clone();
        async move {
            gate.pass().await;
            format!("run {}", seen.nth)
        }
    };
    setup.start(at, handler).await
}
