//! The alert rules and the dashboard.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::files::{metrics, run, text, yaml};

/// The rules of all groups.
fn rules() -> Vec<Value> {
    let groups = yaml("prometheus/alerts.yml");
    let groups = groups["groups"].as_array().unwrap().iter();
    groups.flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

/// The queries of all panels, as Prometheus would get them.
pub(crate) fn queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&text("deploy/grafana/keylatch.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default());
    let queries = targets.map(|target| target["expr"].as_str().unwrap().to_owned());
    queries.map(|query| query.replace("$__rate_interval", "5m").replace("$job", ".*")).collect()
}

#[test]
fn prometheus_takes_the_rules_and_each_fires_when_it_should() {
    for (command, file) in [("check", "deploy/prometheus/alerts.yml"), ("test", "deploy/prometheus/alerts_test.yml")] {
        let printed = run("promtool", &[command, "rules", file]).unwrap_or_else(|printed| panic!("{printed}"));
        assert!(printed.contains("SUCCESS"), "{printed}");
    }
    run("promtool", &["check", "config", "deploy/prometheus/prometheus.yml"])
        .unwrap_or_else(|printed| panic!("{printed}"));
    let cases = yaml("prometheus/alerts_test.yml");
    let cases = cases["tests"].as_array().unwrap();
    let tested = |name: &str, fires: bool| {
        cases.iter().flat_map(|case| case["alert_rule_test"].as_array().unwrap()).any(|test| {
            test["alertname"] == name && test["exp_alerts"].as_array().is_some_and(|alerts| alerts.is_empty() != fires)
        })
    };
    let rules = rules();
    assert!(rules.len() > 15);
    for rule in &rules {
        let name = rule["alert"].as_str().unwrap();
        assert!(
            tested(name, true) && tested(name, false),
            "{name} has no case in which it fires, or none in which not"
        );
    }
}

#[test]
fn every_alert_says_what_to_do_and_has_a_section_of_its_own() {
    let page = text("docs/ALERTS.md");
    let sections: Vec<&str> = page.split("\n### ").skip(1).collect();
    let rules = rules();
    for rule in &rules {
        let name = rule["alert"].as_str().unwrap();
        for (what, length) in [("summary", 20), ("description", 60)] {
            assert!(rule["annotations"][what].as_str().is_some_and(|text| text.len() > length), "{name} has no {what}");
        }
        assert!(["critical", "warning"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{name}");
        let link = format!("https://github.com/keylatch/keylatch/blob/main/docs/ALERTS.md#{}", name.to_lowercase());
        assert_eq!(rule["annotations"]["runbook_url"], link);
        let section = sections.iter().find(|section| section.lines().next() == Some(name));
        let section = section.unwrap_or_else(|| panic!("docs/ALERTS.md has no section {name}"));
        for part in ["**It means:**", "**Look at:**", "**Do:**"] {
            let written = section.split(part).nth(1).is_some_and(|text| text.trim().len() > 40);
            assert!(written, "{name} has no {part}");
        }
    }
    let names: BTreeSet<_> = rules.iter().map(|rule| rule["alert"].as_str().unwrap()).collect();
    assert_eq!(names.len(), rules.len(), "each alert has a name of its own");
    for section in sections {
        let name = section.lines().next().unwrap();
        assert!(names.contains(name), "docs/ALERTS.md has a section for {name}, which is no alert");
    }
}

#[test]
fn rules_and_dashboard_name_only_metrics_and_labels_that_there_are() {
    let rules = rules();
    let of_rules = rules.iter().map(|rule| rule["expr"].as_str().unwrap().to_owned());
    let mut named = BTreeSet::new();
    for query in of_rules.chain(queries()) {
        check(&query, &mut named).unwrap_or_else(|wrong| panic!("{wrong}: {query}"));
    }
    // Each metric can be seen on the dashboard or raises an alert.
    let known: BTreeSet<_> = metrics().into_keys().collect();
    let unseen: Vec<_> = known.difference(&named).collect();
    assert!(unseen.is_empty(), "neither the dashboard nor an alert has {unseen:?}");
    for wrong in [
        "keylatch_nothing_total",
        "keylatch_running_total",
        "keylatch_answers_total{answer=\"ran\"}",
        "keylatch_answers_total{replay=\"run\"}",
        "sum by (key) (keylatch_answers_total)",
        "keylatch_store_seconds",
    ] {
        assert!(check(wrong, &mut BTreeSet::new()).is_err(), "{wrong} is a mistake");
    }
}

/// Checks the metrics of a query, and adds them to `named`.
fn check(query: &str, named: &mut BTreeSet<String>) -> Result<(), String> {
    /// What Prometheus adds itself.
    const ADDED: [&str; 3] = ["job", "instance", "le"];
    let metrics = metrics();
    let mut labels = BTreeSet::new();
    for (at, _) in query.match_indices("keylatch_") {
        let rest = &query[at..];
        let end = rest.find(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_')).unwrap_or(rest.len());
        let (written, after) = rest.split_at(end);
        let parts = ["_bucket", "_count", "_sum"].iter().find_map(|part| written.strip_suffix(part));
        let name = parts.filter(|name| metrics.contains_key(*name)).unwrap_or(written);
        let metric = metrics.get(name).ok_or(format!("{written} is in no table"))?;
        if (metric.kind == "histogram") != (name != written) {
            return Err(format!("{name} is a {}, and is not read as one", metric.kind));
        }
        labels.extend(metric.labels.keys().cloned());
        if let Some(matchers) = after.strip_prefix('{').and_then(|after| after.split('}').next()) {
            for matcher in matchers.split(',').map(str::trim) {
                let (label, value) = matcher.split_once('=').expect("a matcher has a value");
                if ADDED.contains(&label) {
                    continue;
                }
                let values = metric.labels.get(label).ok_or(format!("{name} has no label {label}"))?;
                for value in value.trim_matches(['~', '"']).split('|') {
                    if !values.is_empty() && !values.contains(value) {
                        return Err(format!("{label} of {name} is never {value}"));
                    }
                }
            }
        }
        named.insert(name.to_owned());
    }
    for by in query.split("by (").skip(1).filter_map(|rest| rest.split(')').next()) {
        for label in by.split(',').map(str::trim) {
            if !ADDED.contains(&label) && !labels.contains(label) {
                return Err(format!("there is no label {label} to group by"));
            }
        }
    }
    Ok(())
}

#[test]
fn grafana_can_read_the_dashboard_and_prometheus_its_queries() {
    let dashboard: Value = serde_json::from_str(&text("deploy/grafana/keylatch.json")).unwrap();
    assert!(
        dashboard["title"] == "Keylatch" && dashboard["schemaVersion"].as_u64().is_some_and(|version| version >= 36)
    );
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "each panel has an id of its own");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let position = &panel["gridPos"];
        let (x, width) = (position["x"].as_u64().unwrap(), position["w"].as_u64().unwrap());
        assert!(
            x + width <= 24 && panel["description"].as_str().is_some_and(|text| text.len() > 10),
            "{}",
            panel["title"]
        );
        let own = |other: &&Value| other["gridPos"] == panel["gridPos"];
        assert_eq!(panels.iter().filter(own).count(), 1, "{} covers another", panel["title"]);
    }
    // As rules, because promtool checks no queries by themselves.
    let rules = queries().into_iter().enumerate().fold(
        "groups:\n- name: dashboard\n  rules:\n".to_owned(),
        |rules, (at, query)| {
            rules + &format!("  - record: panel:{at}\n    expr: {}\n", serde_json::to_string(&query).unwrap())
        },
    );
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rules.yml");
    fs::write(&file, rules).unwrap();
    run("promtool", &["check", "rules", &file.display().to_string()]).unwrap_or_else(|printed| panic!("{printed}"));
}
