//! Counting what took effect.

use std::time::Duration;

use http::Method;
use serde_json::Value;

use crate::target::Target;

/// The pause between two counts that must agree.
const SETTLE_PAUSE: Duration = Duration::from_millis(150);
/// How often it is counted until two counts agree.
const COUNTS_MAX: usize = 20;

/// How effects are counted.
pub(crate) struct Effects {
    method: Method,
    path: String,
    count: String,
}

impl Effects {
    pub(crate) fn new(method: Method, path: String, count: String) -> Self {
        Self { method, path, count }
    }

    /// The number of effects, once two counts agree: a handler may still run after its client has gone.
    pub(crate) async fn settled(&self, target: &Target) -> Result<i64, String> {
        let mut latest = self.count(target).await?;
        for _ in 0..COUNTS_MAX {
            tokio::time::sleep(SETTLE_PAUSE).await;
            let count = self.count(target).await?;
            if count == latest {
                return Ok(count);
            }
            latest = count;
        }
        Err("the number of effects does not settle: does something else write there?".to_owned())
    }

    async fn count(&self, target: &Target) -> Result<i64, String> {
        let Self { method, path, count } = self;
        let answer = target.ask(method, path).await.map_err(|error| format!("--effects {method} {path}: {error}"))?;
        if !answer.status().is_success() {
            return Err(format!("--effects {method} {path} is answered with {}", answer.status()));
        }
        let json: Value = serde_json::from_slice(answer.body())
            .map_err(|error| format!("--effects {method} {path} is not answered with JSON: {error}"))?;
        counted(&json, count).ok_or_else(|| {
            format!("--count {count} finds neither a list nor a number in the answer of {method} {path}")
        })
    }
}

/// The length of the list, or the number, at `path`.
fn counted(json: &Value, path: &str) -> Option<i64> {
    let names = path.split('.').filter(|name| !name.is_empty());
    let found = names.into_iter().try_fold(json, |value, name| match value {
        Value::Array(items) => items.get(name.parse::<usize>().ok()?),
        value => value.get(name),
    })?;
    match found {
        Value::Array(items) => i64::try_from(items.len()).ok(),
        Value::Number(number) => number.as_i64(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_path_leads_to_a_list_or_a_number() {
        let json = json!({"orders": [1, 2], "data": {"count": 7, "pages": [{"items": [1]}]}});
        assert_eq!(counted(&json, ".orders"), Some(2));
        assert_eq!(counted(&json, "orders"), Some(2));
        assert_eq!(counted(&json, ".data.count"), Some(7));
        assert_eq!(counted(&json, ".data.pages.0.items"), Some(1));
        assert_eq!(counted(&json!([1, 2, 3]), "."), Some(3));
        assert_eq!(counted(&json, "."), None);
        assert_eq!(counted(&json, ".nothing"), None);
    }
}
