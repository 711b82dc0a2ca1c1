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

    /// The longest that the pauses between so many tries may be together.
    pub(crate) fn longest_of(self, tries: u32) -> Duration {
        let pauses = tries.saturating_sub(1);
        let rising = (1..=pauses).map(|nth| self.whole(nth)).take_while(|pause| *pause < self.longest);
        let (count, sum) =
            rising.fold((0, Duration::ZERO), |(count, sum), pause| (count + 1, sum.saturating_add(pause)));
        sum.saturating_add(self.longest.saturating_mul(pauses - count))
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
        // 1, 2, 4, 8, 16, 32, 60, 60.
        assert_eq!([1, 2, 4, 9].map(|tries| backoff.longest_of(tries).as_secs()), [0, 1, 7, 183]);
        assert_eq!(backoff.longest_of(u32::MAX).as_secs(), 63 + 60 * u64::from(u32::MAX - 7));
        let constant = Backoff { first: backoff.longest, longest: backoff.longest };
        assert_eq!(constant.longest_of(3).as_secs(), 120);
        assert_eq!(Backoff { first: Duration::ZERO, longest: Duration::ZERO }.longest_of(9), Duration::ZERO);
        for nth in 0..100 {
            let pause = backoff.after(nth);
            assert!(pause <= backoff.whole(nth) && pause * 2 >= backoff.whole(nth));
        }
    }
}
