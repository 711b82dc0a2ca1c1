//! How long to wait before the next try.

use std::time::Duration;

use rand::Rng as _;

/// Pauses that double up to a limit. Each is between half of that and all of it, so that those who failed together do not
/// come back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
}

impl Backoff {
    /// While the database or a broker does not answer.
    pub(crate) const OF_SERVERS: Self = Self { first: Duration::from_millis(100), longest: Duration::from_secs(5) };
    /// While the id of a message runs somewhere else.
    pub(crate) const OF_HELD: Self = Self { first: Duration::from_millis(20), longest: Duration::from_secs(1) };

    /// The pause after the try `nth`, from 1.
    pub(crate) fn after(self, nth: u32) -> Duration {
        let whole = self.whole(nth);
        whole.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    fn whole(self, nth: u32) -> Duration {
        let doubled = 2_u32.checked_pow(nth.saturating_sub(1)).and_then(|factor| self.first.checked_mul(factor));
        doubled.unwrap_or(self.longest).min(self.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_are_bounded() {
        let backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(60) };
        assert_eq!([1, 2, 3].map(|nth| backoff.whole(nth).as_secs()), [1, 2, 4]);
        assert_eq!(backoff.whole(u32::MAX), Duration::from_secs(60));
        for nth in 0..100 {
            let pause = backoff.after(nth);
            assert!(pause <= backoff.whole(nth) && pause * 2 >= backoff.whole(nth));
        }
    }
}
