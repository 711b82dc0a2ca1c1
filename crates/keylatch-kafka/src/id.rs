//! What makes two messages one: the identity of a message, as the record of its id has it.

use std::sync::Arc;

use keylatch_core::{Fingerprint, Hasher, Key, SCOPE_FIELD_BYTES_MAX, Scope};

use crate::Message;

/// The identity of a message: two messages of one scope and key are one, if the fingerprint is the same as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageId {
    /// Who names messages so, and for whom.
    pub scope: Scope,
    /// The name.
    pub key: Key,
    /// What the message says. A message under a used name that says something else is a dead letter.
    pub fingerprint: Fingerprint,
}

/// How a consumer finds the id of a message.
///
/// `Ok(None)` means that it has none: then only its place is remembered, and the same message sent twice takes effect
/// twice. An `Err` means that the message is undecodable: it is a dead letter, with this text.
pub type Extractor = Arc<dyn Fn(&Message) -> Result<Option<MessageId>, String> + Send + Sync>;

/// The id in the headers of `message`, for the consumer `consumer`: `ce_source` and `ce_id` of CloudEvents, else the `id`
/// of Debezium's outbox, else `message-id`. An id without a source belongs to its topic.
///
/// # Errors
///
/// If there is one that is empty or not UTF-8.
pub(crate) fn of_headers(consumer: &str, message: &Message) -> Result<Option<MessageId>, String> {
    let (source, name) = match (message.header("ce_id"), message.header("ce_source")) {
        (Some(id), Some(source)) => (Some(source), ("ce_id", id)),
        _ => match (message.header("id"), message.header("message-id")) {
            (Some(id), _) => (None, ("id", id)),
            (None, Some(id)) => (None, ("message-id", id)),
            (None, None) => return Ok(None),
        },
    };
    let (header, id) = name;
    let id = text(header, id)?;
    // A topic has no slash in its name, and no source has a space.
    let operation = match source {
        Some(source) => short(text("ce_source", source)?),
        None => format!("topic {}", message.topic()),
    };
    let scope = Scope::of_parts(consumer, &[&operation]).map_err(|error| format!("the header ce_source: {error}"))?;
    let key = Key::new(id).or_else(|_| Key::new(&hashed(id))).expect("a hash is a key");
    Ok(Some(MessageId { scope, key, fingerprint: message.fingerprint() }))
}

fn text<'m>(header: &str, value: &'m [u8]) -> Result<&'m str, String> {
    match std::str::from_utf8(value) {
        Ok("") => Err(format!("the header {header} is empty")),
        Ok(text) => Ok(text),
        Err(_) => Err(format!("the header {header} is not UTF-8")),
    }
}

/// What fits into a scope.
fn short(source: &str) -> String {
    let fits = source.len() <= SCOPE_FIELD_BYTES_MAX && !source.chars().any(char::is_control);
    if fits { source.to_owned() } else { hashed(source) }
}

pub(crate) fn hashed(text: &str) -> String {
    let mut hasher = Hasher::default();
    hasher.field(text.as_bytes());
    format!("sha256:{}", hex::encode(hasher.finish().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(message: &Message) -> Option<(String, String)> {
        let id = of_headers("inventory", message).unwrap()?;
        assert_eq!(id.scope.caller(), "inventory");
        Some((id.scope.operation().to_owned(), id.key.as_str().to_owned()))
    }

    #[test]
    fn cloudevents_come_before_debezium_and_that_before_plain_ids() {
        let message = Message::new("orders", 0, 1).with_header("message-id", "m");
        assert_eq!(id(&message), Some(("topic orders".into(), "m".into())));
        let message = message.with_header("id", "d");
        assert_eq!(id(&message), Some(("topic orders".into(), "d".into())));
        let message = message.with_header("ce_id", "c");
        // A CloudEvent without a source has no id.
        assert_eq!(id(&message), Some(("topic orders".into(), "d".into())));
        let message = message.with_header("ce_source", "/shop");
        assert_eq!(id(&message), Some(("/shop".into(), "c".into())));
        assert_eq!(id(&Message::new("orders", 0, 1).with_header("other", "o")), None);
    }

    #[test]
    fn an_id_that_is_no_key_is_hashed() {
        let of = |text: &str| id(&Message::new("t", 0, 0).with_header("message-id", text.to_owned())).unwrap().1;
        assert!(of("a b").starts_with("sha256:"));
        assert_ne!(of("a b"), of("a  b"));
        assert_ne!(of(&"x".repeat(300)), of(&"x".repeat(301)));
        assert_eq!(of("a-b"), "a-b");
    }

    #[test]
    fn an_id_that_cannot_be_read_is_said() {
        let message = Message::new("t", 0, 0);
        assert!(of_headers("c", &message.clone().with_header("id", "")).unwrap_err().contains("id is empty"));
        assert!(of_headers("c", &message.with_header("id", vec![0xff])).unwrap_err().contains("not UTF-8"));
    }
}
