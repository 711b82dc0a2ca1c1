//! Limits and pauses.

use std::time::{Duration, Instant};

use http::HeaderValue;
use parking_lot::Mutex;

use crate::Profile;

/// The limits of each call, and of the retries of all calls of a client together.
///
/// ```
/// use keylatch_client::Policy;
///
/// let patient = Policy { tries_max: 30, ..Policy::default() };
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// How often a call sends its request: 10. With the default pauses, ten tries take about half a minute.
    pub tries_max: u32,
    /// How long a call takes, with all its tries and pauses: 120 s, longer than a restart or a failover of most services.
    pub time_max: Duration,
    /// How long a try waits for a whole answer: 30 s.
    pub try_max: Duration,
    /// The pause before the second try is random, up to this: 100 ms. The limit doubles with each try.
    pub pause_base: Duration,
    /// The longest random pause: 10 s. What `Retry-After` asks for comes on top.
    pub pause_max: Duration,
    /// How long the server should wait for a run of the same key instead of answering 409: `Prefer: wait=5`. Whole
    /// seconds; less than one sends nothing.
    pub prefer_wait: Duration,
    /// How many retries of all calls may go out at once: 100.
    pub retries_burst_max: u32,
    /// How fast further retries go out: 10 a second. In an outage this is all that the client adds to the load.
    pub retries_per_s: f64,
    /// How many further retries each final answer allows: 0.2. While most calls succeed, few failures need not wait.
    pub retries_per_answer: f64,
    /// The largest body of an answer: 64 MiB, because it is read into memory.
    pub answer_bytes_max: usize,
}

/// A limit that cannot be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field} of the policy must be {must}")]
pub struct InvalidPolicy {
    field: &'static str,
    must: &'static str,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            tries_max: 10,
            time_max: Duration::from_secs(120),
            try_max: Duration::from_secs(30),
            pause_base: Duration::from_millis(100),
            pause_max: Duration::from_secs(10),
            prefer_wait: Duration::from_secs(5),
            retries_burst_max: 100,
            retries_per_s: 10.0,
            retries_per_answer: 0.2,
            answer_bytes_max: 64 << 20,
        }
    }
}

impl Policy {
    pub(crate) fn check(&self, profile: &Profile) -> Result<(), InvalidPolicy> {
        let fields = [
            ("tries_max", self.tries_max >= 1, "1 or more"),
            ("time_max", !self.time_max.is_zero(), "more than 0"),
            ("time_max", self.time_max < profile.key_max(), "less than the time for which the server keeps keys"),
            ("try_max", !self.try_max.is_zero(), "more than 0"),
            ("retries_burst_max", self.retries_burst_max >= 1, "1 or more"),
            ("retries_per_s", self.retries_per_s > 0.0 && self.retries_per_s.is_finite(), "more than 0"),
            ("retries_per_answer", self.retries_per_answer >= 0.0 && self.retries_per_answer.is_finite(), "0 or more"),
        ];
        match fields.into_iter().find(|(_, is_valid, _)| !is_valid) {
            Some((field, _, must)) => Err(InvalidPolicy { field, must }),
            None => Ok(()),
        }
    }

    /// The pause after so many tries: exponential backoff with full jitter, after the time that the server asks for.
    /// `random` is at least 0 and less than 1.
    pub(crate) fn pause(&self, tries: u32, after: Option<Duration>, random: f64) -> Duration {
        let doubled = self.pause_base.saturating_mul(2_u32.saturating_pow(tries - 1));
        after.unwrap_or_default().saturating_add(doubled.min(self.pause_max).mul_f64(random))
    }

    /// `Prefer: wait`, in whole seconds: never so long that the try would time out first.
    pub(crate) fn prefer(&self) -> Option<HeaderValue> {
        let wait_s = self.prefer_wait.min(self.try_max / 2).as_secs();
        (wait_s > 0).then(|| HeaderValue::try_from(format!("wait={wait_s}")).expect("it is ASCII"))
    }
}

/// Spreads the retries of all calls of a client, so that an outage is not made worse.
///
/// It is a bucket of permits that time and final answers fill. A retry that finds none reserves one that is to come.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    burst_max: f64,
    per_s: f64,
    per_answer: f64,
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    permits: f64,
    at: Instant,
}

impl RetryBudget {
    pub(crate) fn new(policy: &Policy, now: Instant) -> Self {
        let burst_max = f64::from(policy.retries_burst_max);
        let bucket = Mutex::new(Bucket { permits: burst_max, at: now });
        Self { burst_max, per_s: policy.retries_per_s, per_answer: policy.retries_per_answer, bucket }
    }

    /// Takes a permit. Returns how long to wait until it is valid.
    pub(crate) fn reserve(&self, now: Instant) -> Duration {
        let mut bucket = self.bucket.lock();
        let elapsed = now.saturating_duration_since(bucket.at);
        self.add(&mut bucket, elapsed.as_secs_f64() * self.per_s);
        bucket.at = now;
        bucket.permits -= 1.0;
        Duration::try_from_secs_f64((-bucket.permits / self.per_s).max(0.0)).unwrap_or(Duration::MAX)
    }

    /// Returns a permit that was not used.
    pub(crate) fn give_back(&self) {
        self.add(&mut self.bucket.lock(), 1.0);
    }

    /// Notes a final answer.
    pub(crate) fn answered(&self) {
        self.add(&mut self.bucket.lock(), self.per_answer);
    }

    fn add(&self, bucket: &mut Bucket, permits: f64) {
        bucket.permits = (bucket.permits + permits).min(self.burst_max);
    }
}
