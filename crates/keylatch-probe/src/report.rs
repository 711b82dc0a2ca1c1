//! What was found: as a table, as JSON, and for CI.

use std::fmt::{self, Write as _};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cases::{By, Case};

/// What a case says of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It does what it must, with a note if there is something to add.
    Pass(String),
    /// It does not.
    Fail {
        /// What it does instead.
        found: String,
        /// Lines for a shell that show it.
        curl: Vec<String>,
    },
    /// It cannot be told, for this reason.
    CannotTell(String),
}

impl Verdict {
    /// Its name in reports.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Pass(_) => "pass",
            Self::Fail { .. } => "fail",
            Self::CannotTell(_) => "cannot tell",
        }
    }

    /// The note, what was found, or why nothing can be told.
    pub fn text(&self) -> &str {
        match self {
            Self::Pass(text) | Self::Fail { found: text, .. } | Self::CannotTell(text) => text,
        }
    }

    /// The lines that show a failure.
    pub fn curl(&self) -> &[String] {
        match self {
            Self::Fail { curl, .. } => curl,
            _ => &[],
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// A case and what it says.
#[derive(Debug)]
pub struct Finding {
    /// The case.
    pub case: &'static Case,
    /// What it says.
    pub verdict: Verdict,
}

/// Everything that was found.
#[derive(Debug)]
pub struct Report {
    /// Method and URL of the request.
    pub request: String,
    /// Whether effects were counted.
    pub counted: bool,
    /// The cases that ran.
    pub findings: Vec<Finding>,
    /// How many requests were sent.
    pub requests: usize,
    /// How long it took.
    pub took: Duration,
}

impl Report {
    /// How many cases failed.
    pub fn failed(&self) -> usize {
        self.findings.iter().filter(|finding| matches!(finding.verdict, Verdict::Fail { .. })).count()
    }

    /// A table for people.
    pub fn table(&self) -> String {
        let mut text = format!("{}\n\n", self.request);
        for Finding { case, verdict } in &self.findings {
            let _ = writeln!(text, "{:<12} {:<15} {}", verdict.name().to_uppercase(), case.name, case.why);
            if !verdict.text().is_empty() {
                let _ = writeln!(text, "{:28} {}", "", verdict.text());
            }
            if matches!(verdict, Verdict::Fail { .. }) {
                let _ = writeln!(text, "{:28} required by: {}", "", required(case.required));
            }
            for line in verdict.curl() {
                let _ = writeln!(text, "{:28} $ {line}", "");
            }
        }
        let _ = write!(text, "\n{}\n", self.summary());
        text
    }

    /// One sentence.
    pub(crate) fn summary(&self) -> String {
        let count = |name| self.findings.iter().filter(|finding| finding.verdict.name() == name).count();
        let mut text = format!(
            "{} passed, {} failed, {} cannot be told; {} requests in {:.1} s",
            count("pass"),
            count("fail"),
            count("cannot tell"),
            self.requests,
            self.took.as_secs_f64(),
        );
        if !self.counted {
            text.push_str(
                "; effects were not counted, so a double effect with the same answer is not seen: give --effects",
            );
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> String {
        let cases: Vec<Value> = self
            .findings
            .iter()
            .map(|Finding { case, verdict }| {
                json!({
                    "case": case.name,
                    "why": case.why,
                    "required_by": case.required.iter().map(|by| by.name()).collect::<Vec<_>>(),
                    "verdict": verdict.name(),
                    "text": verdict.text(),
                    "curl": verdict.curl(),
                })
            })
            .collect();
        let report = json!({
            "request": self.request,
            "effects_counted": self.counted,
            "requests": self.requests,
            "seconds": self.took.as_secs_f64(),
            "failed": self.failed(),
            "cases": cases,
        });
        format!("{report:#}\n")
    }

    /// The format that CI systems read.
    pub fn junit(&self) -> String {
        let told = |name| self.findings.iter().filter(|finding| finding.verdict.name() == name).count();
        let mut text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"keylatch probe\" tests=\"{}\" failures=\"{}\" skipped=\"{}\" time=\"{:.3}\">\n",
            self.findings.len(),
            told("fail"),
            told("cannot tell"),
            self.took.as_secs_f64(),
        );
        for Finding { case, verdict } in &self.findings {
            let _ = write!(text, "  <testcase classname=\"probe\" name=\"{}: {}\">", case.name, escaped(case.why));
            let _ = match verdict {
                Verdict::Pass(_) => Ok(()),
                Verdict::Fail { found, curl } => {
                    write!(text, "<failure message=\"{}\">{}</failure>", escaped(found), escaped(&curl.join("\n")))
                }
                Verdict::CannotTell(why) => write!(text, "<skipped message=\"{}\"/>", escaped(why)),
            };
            text.push_str("</testcase>\n");
        }
        text.push_str("</testsuite>\n");
        text
    }
}

pub(crate) fn required(by: &[By]) -> String {
    by.iter().map(|by| by.name()).collect::<Vec<_>>().join(", ")
}

/// A text in XML or HTML. Control characters, which XML cannot have, are replaced.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(letter),
            control if control.is_control() => escaped.push('\u{fffd}'),
            letter => escaped.push(letter),
        }
    }
    escaped
}
