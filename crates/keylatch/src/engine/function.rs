//! Function calls: the same records and guarantees for jobs, webhooks and tool calls, without HTTP.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;

use futures_util::FutureExt;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Answer, Engine, Error, Ran, Refused, Request, Run, RunOrTx};
use crate::tx::{Database, Verdict};
use crate::{Body, Fingerprint, Guarantee, Key, Outcome, Scope, Tx};

/// A result, and whether it is that of an earlier run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done<T> {
    /// The result.
    pub value: T,
    /// Whether an earlier run produced it.
    pub replayed: bool,
}

/// Why a function has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError<E> {
    /// The work ran here and failed. Nothing is recorded as its result, unless [`Run::on_error`] says so.
    #[error(transparent)]
    Work(E),
    /// It did not run here, and there is no result.
    #[error("the function did not run: {0:?}")]
    Refused(Refused),
    /// It ran before, and its result was not kept.
    #[error("the call took effect before, but its result was not kept")]
    NotRetained,
    /// The recorded result does not have the function's type, or the result cannot be recorded; then nothing is
    /// recorded.
    #[error("the result cannot be stored as JSON or read back: {0}")]
    Json(#[from] serde_json::Error),
    /// The engine could not answer.
    #[error(transparent)]
    Engine(#[from] Error),
}

impl Engine {
    /// Calls a function once: `work` runs unless the same call ran before, and then its recorded result is returned.
    /// The result is recorded as JSON.
    ///
    /// An error is not recorded. In `Fenced` the same call may run again at once; in `AtMostOnce` its outcome is
    /// unknown, because the function may have had an effect. [`Run::on_error`] changes this. A panic counts as an
    /// error, and is resumed in the caller.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// use keylatch::{Engine, Fingerprint, Key, Limits, Policy, Scope};
    ///
    /// let engine = Engine::fenced(keylatch::memory::Store::new(), Policy::default(), Limits::default())?;
    /// let (scope, key) = (Scope::new("tenant-7")?, Key::new("nightly-2026-11-24")?);
    /// let input = Fingerprint::of_json(&["sales"])?;
    /// for replayed in [false, true] {
    ///     let done = engine.run(scope.clone(), key.clone(), input, |_run| async { Ok::<_, std::io::Error>(42) }).await?;
    ///     assert_eq!((done.value, done.replayed), (42, replayed));
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// If the work fails, is refused, or the engine cannot answer. If the same call is running, this one waits for it,
    /// up to [`Limits::wait_max`](crate::Limits::wait_max).
    ///
    /// # Panics
    ///
    /// If the work panics, or outside a tokio runtime.
    pub async fn run<T, E, F>(
        &self,
        scope: Scope,
        key: Key,
        fingerprint: Fingerprint,
        work: impl FnOnce(Run) -> F + Send + 'static,
    ) -> Result<Done<T>, RunError<E>>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        E: Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let rule = if self.guarantee() == Guarantee::AtMostOnce { Verdict::Unknown } else { Verdict::Retry };
        let call = move |given: RunOrTx| {
            let run = given.run().cloned();
            let run = run.expect("`Engine::run` is for leases; in `Atomic`, call `Engine::transact`");
            let working = work(run.clone());
            async move {
                let result = working.await;
                (result, run.verdict_on_error())
            }
        };
        self.call(scope, key, fingerprint, rule, call).await
    }

    /// Calls a function once in a transaction of `D`: what it writes in its [`Tx`] commits together with its recorded
    /// result, exactly once. An error rolls the writes back.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    ///
    /// # Panics
    ///
    /// If the work panics, outside a tokio runtime, or if the engine was not made by [`Engine::atomic`] with a store
    /// of `D`.
    pub async fn transact<D, T, E, F>(
        &self,
        scope: Scope,
        key: Key,
        fingerprint: Fingerprint,
        work: impl FnOnce(Tx<D>) -> F + Send + 'static,
    ) -> Result<Done<T>, RunError<E>>
    where
        D: Database,
        T: Serialize + DeserializeOwned + Send + 'static,
        E: Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let call = move |given: RunOrTx| {
            let tx = given.tx::<D>();
            let working =
                work(tx.expect("`Engine::transact` needs an engine made by `Engine::atomic` with this database"));
            async move { (working.await, None) }
        };
        self.call(scope, key, fingerprint, Verdict::Retry, call).await
    }

    async fn call<T, E, F>(
        &self,
        scope: Scope,
        key: Key,
        fingerprint: Fingerprint,
        rule: Verdict,
        call: impl FnOnce(RunOrTx) -> F + Send + 'static,
    ) -> Result<Done<T>, RunError<E>>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        E: Send + 'static,
        F: Future<Output = (Result<T, E>, Option<Verdict>)> + Send + 'static,
    {
        let start = move |handed| async move {
            match AssertUnwindSafe(async { call(handed).await }).catch_unwind().await {
                Ok((Ok(value), _)) => match serde_json::to_vec(&value) {
                    Ok(json) => (Verdict::Keep(Outcome::bytes(json.into_boxed_slice())), Ok(Ok(value))),
                    Err(error) => (rule, Ok(Err(RunError::Json(error)))),
                },
                Ok((Err(error), verdict)) => (verdict.unwrap_or(rule), Ok(Err(RunError::Work(error)))),
                Err(panic) => (rule, Err(panic)),
            }
        };
        let request = Request { scope, key, fingerprint, wait: Duration::MAX };
        match self.answer(request, start).await? {
            Answer::Ran(Ran { value: Ok(result), .. }) => Ok(Done { value: result?, replayed: false }),
            Answer::Ran(Ran { value: Err(panic), .. }) => resume_unwind(panic),
            Answer::Refused(refused) => Err(RunError::Refused(refused)),
            Answer::Replayed(found) => match &found.outcome().body {
                Body::Kept(json) => Ok(Done { value: serde_json::from_slice(json)?, replayed: true }),
                Body::NotRetained { .. } => Err(RunError::NotRetained),
            },
        }
    }
}
