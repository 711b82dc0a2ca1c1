//! The span around a handler, linked to the spans that produced its messages.

use tracing::Span;
use tracing::field::Empty;
use tracing::level_filters::LevelFilter;

use crate::Message;

/// The span in which a handler applies these messages, all of one partition. A message is applied long after the span
/// that produced it has ended, and together with others, so its trace is linked (feature `opentelemetry`).
pub(crate) fn span<'m>(mut messages: impl Iterator<Item = &'m Message> + Clone) -> Span {
    // Creating a span takes time even if it is not recorded.
    if LevelFilter::current() < LevelFilter::INFO {
        return Span::none();
    }
    let count = messages.clone().count();
    let Some(first) = messages.next() else { return Span::none() };
    let (topic, partition, offset) = (first.topic(), first.partition(), first.offset());
    let span =
        tracing::info_span!("keylatch.message", "otel.kind" = "consumer", topic, partition, offset, messages = Empty);
    if count > 1 {
        span.record("messages", count);
    }
    #[cfg(feature = "opentelemetry")]
    for message in std::iter::once(first).chain(messages) {
        keylatch::entry_point::propagation::link(&span, |name| message.header(name).map(|value| &**value));
    }
    span
}
