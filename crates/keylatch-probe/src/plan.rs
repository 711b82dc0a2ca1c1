//! What is sent, said before anything is.

use std::fmt;

use crate::args::Probe;
use crate::cases::{CASES, Case};

pub(crate) struct Plan<'p> {
    probe: &'p Probe,
}

impl<'p> Plan<'p> {
    pub(crate) const fn new(probe: &'p Probe) -> Self {
        Self { probe }
    }

    fn cases(&self) -> impl Iterator<Item = &'static Case> {
        CASES.iter().filter(|case| case.is_asked_for(self.probe))
    }
}

impl fmt::Display for Plan<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Probe { method, url, body, effects, requests_max, at_once, .. } = self.probe;
        writeln!(f, "{method} {url}, with a body of {} bytes, is sent as follows:\n", body.len())?;
        let (mut requests, mut taking_effect) = (0, 0);
        for case in self.cases() {
            let most = (case.requests)(usize::from(*at_once));
            writeln!(f, "  {:<15} {:>4}  {}", case.name, most, case.why)?;
            requests += most;
            taking_effect += case.effects;
        }
        writeln!(f, "\nThese are about {requests} requests; more than {requests_max} are never sent.")?;
        writeln!(
            f,
            "A service that keeps its promise lets about {taking_effect} of them take effect, and others more."
        )?;
        match effects {
            Some((method, path)) => writeln!(f, "Effects are counted by {method} {path}."),
            None => writeln!(f, "Without --effects, double effects can only be guessed from the answers."),
        }?;
        if self.probe.restart.is_some() || self.probe.pid.is_some() {
            writeln!(f, "The service is killed with SIGKILL.")?;
        }
        Ok(())
    }
}
