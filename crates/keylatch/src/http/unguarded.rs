//! Why a handler does not get what it asks for.

use http::Method;

/// Why a request is not guarded in the way that its handler asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unguarded {
    /// There is no layer around its route.
    NoLayer,
    /// Its layer does not guard this method.
    Method(Method),
    /// It has no key, and its layer lets such requests pass.
    NoKey,
    /// `skip_if` told its layer to let it pass.
    Skipped,
    /// The store was unavailable, and its layer fails open.
    Bypassed,
    /// Its layer [observes](super::IdempotencyLayer::observe), and this request is not the run of its key.
    Observed,
    /// Its layer has another guarantee: `Atomic` provides a [`Tx`](crate::Tx), the others a [`Run`](crate::Run).
    OtherGuarantee,
    /// The transaction is one of another database.
    OtherDatabase,
    /// The transaction was taken before.
    Taken,
}

impl Unguarded {
    /// Whether the layer saw the request and let it pass on purpose: then a handler may ask for `Option`.
    #[cfg(feature = "axum")]
    pub(super) fn was_passed(&self) -> bool {
        matches!(self, Self::Method(_) | Self::NoKey | Self::Skipped | Self::Bypassed | Self::Observed)
    }
}
