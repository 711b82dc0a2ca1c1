//! Fail points: named points at which a test kills or pauses the process. They do nothing without the feature
//! `failpoints`.
//!
//! A test starts a process with `KEYLATCH_FAILPOINT=name:N:action`, such as `after-commit:3:kill`: at the third hit of
//! `after-commit` the process kills itself (`kill`, SIGKILL) or stops itself (`pause`, SIGSTOP; it goes on with
//! SIGCONT). A value that cannot be parsed, or a name that is not a [`Point`], ends the process: otherwise a test with
//! a misspelt name would pass without its fault.

/// The points, in the order in which a run passes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "failpoints"), allow(dead_code, reason = "each is hit by a store or a guarantee of its own"))]
pub enum Point {
    /// The request is read; the store has not been asked.
    BeforeClaim,
    /// The claim is won; on a lease it is durable.
    AfterClaim,
    /// The handler has had its effect; nothing is recorded.
    AfterHandlerWrite,
    /// Everything is written and nothing durable: at the end of the transaction, or before the outcome is sent to the
    /// store.
    BeforeCommit,
    /// The outcome is durable, but nobody has been told.
    AfterCommit,
    /// The answer is ready to be sent.
    BeforeAnswer,
    /// The publisher has acknowledged events; they are still in the outbox.
    AfterAcknowledgement,
}

/// Passes `point`: in a test that asked for it, the process may die here.
#[cfg(not(feature = "failpoints"))]
#[allow(dead_code, reason = "hit by the engine and by stores, which are features")]
#[inline(always)]
pub const fn hit(_: Point) {}

#[cfg(feature = "failpoints")]
#[allow(unused_imports, reason = "hit by the engine and by stores, which are features")]
pub use enabled::hit;

#[cfg(feature = "failpoints")]
mod enabled {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use nix::sys::signal::{Signal, raise};

    use super::Point;

    const VARIABLE: &str = "KEYLATCH_FAILPOINT";

    /// Passes `point`: in a test that asked for it, the process may die here.
    #[allow(dead_code, reason = "hit by the engine and by stores, which are features")]
    pub fn hit(point: Point) {
        static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
        let plan = PLAN.get_or_init(|| {
            let value = std::env::var(VARIABLE).ok()?;
            Some(Plan::parse(&value).unwrap_or_else(|| {
                eprintln!("{VARIABLE}={value}: want name:N:action with action kill or pause");
                std::process::abort()
            }))
        });
        if let Some(plan) = plan {
            plan.hit(point);
        }
    }

    #[derive(Debug)]
    struct Plan {
        point: Point,
        signal: Signal,
        /// Hits until it acts.
        left: AtomicU64,
    }

    impl Plan {
        fn parse(value: &str) -> Option<Self> {
            let mut parts = value.split(':');
            let (name, count, action) = (parts.next()?, parts.next()?, parts.next()?);
            let point = Point::named(name)?;
            let left = AtomicU64::new(count.parse().ok().filter(|count| *count > 0)?);
            let signal = match action {
                "kill" => Signal::SIGKILL,
                "pause" => Signal::SIGSTOP,
                _ => return None,
            };
            parts.next().is_none().then_some(Self { point, signal, left })
        }

        fn hit(&self, point: Point) {
            if point != self.point {
                return;
            }
            let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            if left == Ok(1) {
                // Sent to this thread, which receives it before the call returns: a signal to the process could reach
                // another thread first, while this one continues.
                raise(self.signal).expect("a thread may send signals to itself");
            }
        }
    }

    impl Point {
        fn named(name: &str) -> Option<Self> {
            Some(match name {
                "before-claim" => Self::BeforeClaim,
                "after-claim" => Self::AfterClaim,
                "after-handler-write" => Self::AfterHandlerWrite,
                "before-commit" => Self::BeforeCommit,
                "after-commit" => Self::AfterCommit,
                "before-answer" => Self::BeforeAnswer,
                "after-acknowledgement" => Self::AfterAcknowledgement,
                _ => return None,
            })
        }
    }

    #[cfg(test)]
    mod tests {
        use std::os::unix::process::ExitStatusExt;
        use std::process::{Command, ExitStatus};

        use super::*;

        const VICTIM: &str = "KEYLATCH_FAILPOINT_VICTIM";

        /// Runs this very test in another process, which then passes `after-commit` three times.
        fn victim(plan: &str) -> ExitStatus {
            Command::new(std::env::current_exe().expect("a test has an executable"))
                .args(["--exact", "failpoint::enabled::tests::strikes_at_the_hit_that_was_asked_for"])
                .env(VARIABLE, plan)
                .env(VICTIM, "1")
                .output()
                .expect("it starts again")
                .status
        }

        #[test]
        fn strikes_at_the_hit_that_was_asked_for() {
            if std::env::var_os(VICTIM).is_some() {
                hit(Point::BeforeCommit);
                (0..3).for_each(|_| hit(Point::AfterCommit));
                return;
            }
            const SIGKILL: i32 = 9;
            assert_eq!(victim("after-commit:3:kill").signal(), Some(SIGKILL));
            assert!(victim("after-commit:4:kill").success());
            assert!(victim("before-answer:1:kill").success());
        }

        #[test]
        fn a_misspelt_plan_ends_the_process() {
            for plan in ["", "after-commit", "after-commit:1", "after-comit:1:kill", "after-commit:0:kill"] {
                assert!(!victim(plan).success(), "{plan:?}");
            }
            for plan in ["after-commit:x:kill", "after-commit:1:die", "after-commit:1:kill:2"] {
                assert!(!victim(plan).success(), "{plan:?}");
            }
        }
    }
}
