//! The report as a page of HTML, to hand on.

use std::fmt::Write as _;

use crate::report::{Finding, Report, escaped, required};

/// The page. It needs nothing else: no script, and its style is in it.
pub(crate) fn of(report: &Report) -> String {
    let mut rows = String::new();
    for Finding { case, verdict } in &report.findings {
        let class = verdict.name().replace(' ', "-");
        let _ = write!(
            rows,
            "<tr class=\"{class}\"><td>{}</td><td><b>{}</b><br>{}<br><small>required by: {}</small></td><td>{}",
            verdict.name(),
            case.name,
            escaped(case.why),
            required(case.required),
            escaped(verdict.text()),
        );
        if !verdict.curl().is_empty() {
            let _ = write!(rows, "<pre>{}</pre>", escaped(&verdict.curl().join("\n")));
        }
        rows.push_str("</td></tr>\n");
    }
    include_str!("page.html")
        .replace("{request}", &escaped(&report.request))
        .replace("{summary}", &escaped(&report.summary()))
        .replace("{rows}", &rows)
}
