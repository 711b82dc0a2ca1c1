//! What follows from orders: how many pieces of each product are ordered, and how much each user has ordered. An order is
//! counted by an event, which is published if and only if the order is taken, and is handled once.

use std::error::Error;
use std::time::Duration;

use keylatch::outbox::{Event, Failed, InProcess, Published, Relay, RunningRelay};
use keylatch::{Engine, Tx};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::money::Money;
use crate::order::{Fault, Faults, Order};
use crate::problem::Problem;
use crate::store::Orders;

/// The topic of orders.
const TOPIC: &str = "orders";
/// The type of an event that says that an order was taken.
const CREATED: &str = "order.created";

/// An order was taken: what is counted of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OrderCreated {
    pub(crate) order_id: Uuid,
    pub(crate) user_id: String,
    /// As a text: a total can be more than any price, and no reader of JSON may round it.
    #[serde(with = "as_text")]
    pub(crate) total_amount: Money,
    pub(crate) items: Vec<Pieces>,
}

/// So many pieces of a product.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pieces {
    pub(crate) product_id: String,
    pub(crate) quantity: u32,
}

/// A product, and how many pieces of it are ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Product {
    pub(crate) product_id: String,
    pub(crate) ordered: i64,
}

/// What a user has ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct UserTotal {
    pub(crate) user_id: String,
    pub(crate) orders: i64,
    pub(crate) total_amount: Money,
}

impl OrderCreated {
    fn of(order: &Order) -> Self {
        let pieces =
            |item: &crate::order::Item| Pieces { product_id: item.product_id.clone(), quantity: item.quantity };
        Self {
            order_id: order.order_id,
            user_id: order.user_id.clone(),
            total_amount: order.total_amount,
            items: order.items.iter().map(pieces).collect(),
        }
    }
}

/// The event of an order. Those of a user are in the order in which they were taken.
pub(crate) fn created(order: &Order) -> Event {
    let value = serde_json::to_vec(&OrderCreated::of(order)).expect("an order has nothing that JSON cannot say");
    Event::new(TOPIC).with_key(order.user_id.clone()).with_value(value).with_header("type", CREATED)
}

/// Why an order cannot be told of: it is too large for an event.
pub(crate) fn too_large(error: keylatch::outbox::InvalidEvent) -> Problem {
    let fault = Fault { field: "items".to_owned(), message: format!("are too large together: {error}") };
    Problem::Order(Faults { named: vec![fault], more: 0 })
}

/// How events get to the inventory.
pub(crate) struct Flow {
    /// Hands events out.
    relay: Relay,
    /// Takes them from Kafka, until it is told to stop.
    #[cfg(feature = "kafka")]
    consumer: Option<Box<kafka::Consume>>,
}

/// A flow that has begun.
pub(crate) struct RunningFlow {
    relay: RunningRelay,
    #[cfg(feature = "kafka")]
    consumer: Option<kafka::Consuming>,
}

impl Flow {
    /// Hands each event to [`count`] in this process, through `engine`, which is on the database of the orders.
    pub(crate) fn in_process<D: Orders>(store: D::Store, engine: Engine) -> Result<Self, Box<dyn Error>> {
        let inventory = InProcess::atomic(engine, "inventory", count::<D>)?;
        Ok(Self {
            relay: Relay::new(store, inventory).with_lease(LEASE)?,
            #[cfg(feature = "kafka")]
            consumer: None,
        })
    }

    pub(crate) fn start(self) -> RunningFlow {
        RunningFlow {
            relay: self.relay.start(),
            #[cfg(feature = "kafka")]
            consumer: self.consumer.map(kafka::Consuming::start),
        }
    }
}

impl RunningFlow {
    /// Ends when what was handed out is settled, or `limit` is over.
    pub(crate) async fn stop(self, limit: Duration) {
        self.relay.stop(limit).await;
        #[cfg(feature = "kafka")]
        if let Some(consumer) = self.consumer {
            consumer.stop().await;
        }
    }
}

/// An order is counted in milliseconds; if a process dies, another hands events out after this time.
const LEASE: Duration = Duration::from_secs(2);

/// Counts an order. What it writes commits together with the record that the event was handled.
async fn count<D: Orders>(mut tx: Tx<D>, Published { event, .. }: Published) -> Result<(), Failed> {
    let of_order = event.headers().iter().any(|(name, value)| name == "type" && value == CREATED);
    D::count(&mut tx, read(event.topic(), of_order, event.value().map_or(&[][..], |value| value))?).await
}

/// What is counted of an event. An error does not show it.
fn read(topic: &str, of_order: bool, value: &[u8]) -> Result<OrderCreated, Failed> {
    if topic != TOPIC || !of_order {
        return Err(Failed::reject("it is no event of an order that this version knows"));
    }
    serde_json::from_slice(value).map_err(|_| Failed::reject("the order in it cannot be read"))
}

/// The way through Kafka: the relay publishes there, and a consumer in this process counts. Any number of processes share
/// the work; on SQLite one of them does it, and the others stand by.
#[cfg(feature = "kafka")]
mod kafka {
    use std::pin::Pin;

    use keylatch_kafka::{Consumer, Kafka, Message, Producer};
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    use super::*;

    /// A consumer that has not begun.
    pub(super) type Consume = dyn FnOnce(oneshot::Receiver<()>) -> Consumed + Send;
    type Consumed = Pin<Box<dyn Future<Output = ()> + Send>>;

    /// A consumer that has begun.
    pub(super) struct Consuming {
        stop: oneshot::Sender<()>,
        task: JoinHandle<()>,
    }

    impl Flow {
        /// Hands each event to the brokers, and counts what comes from there.
        pub(crate) fn by_kafka<D: Orders>(store: D::Store, brokers: &str) -> Result<Self, Box<dyn Error>> {
            let brokers = Kafka::new(brokers);
            let producer = Producer::new(&brokers, "/orders")?;
            let consumer = Consumer::new(brokers, "inventory", [TOPIC]).each(store.clone(), take::<D>)?;
            let consume = |stopped: oneshot::Receiver<()>| {
                let stopped = async { stopped.await.unwrap_or_default() };
                Box::pin(consumer.run_until(stopped)) as Consumed
            };
            Ok(Self { relay: Relay::new(store, producer).with_lease(LEASE)?, consumer: Some(Box::new(consume)) })
        }
    }

    /// Counts an order. What it writes commits together with the place in the topic.
    async fn take<D: Orders>(mut tx: Tx<D>, message: Message) -> Result<(), Failed> {
        let of_order = message.header("type").is_some_and(|value| value == CREATED.as_bytes());
        let order = read(message.topic(), of_order, message.value().map_or(&[][..], |value| value))?;
        D::count(&mut tx, order).await
    }

    impl Consuming {
        pub(super) fn start(consume: Box<Consume>) -> Self {
            let (stop, stopped) = oneshot::channel();
            Self { stop, task: tokio::spawn(consume(stopped)) }
        }

        pub(super) async fn stop(self) {
            drop(self.stop);
            // It has a deadline of its own.
            let _ = self.task.await;
        }
    }
}

mod as_text {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::money::Money;

    pub(super) fn serialize<S: Serializer>(amount: &Money, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(amount)
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Money, D::Error> {
        let text = String::deserialize(deserializer)?;
        Money::from_stored(&text).ok_or_else(|| D::Error::custom("it is no amount"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::NewOrder;

    #[test]
    fn an_event_says_what_is_counted() {
        let body = br#"{"user_id":"u","cart_id":"c","items":[{"product_id":"p","quantity":3,"price":0.10}]}"#;
        let order = Order::taken(NewOrder::parse(body).unwrap(), jiff::Timestamp::UNIX_EPOCH);
        let event = created(&order);
        assert_eq!((event.topic(), &event.key().unwrap()[..]), ("orders", &b"u"[..]));
        let read: OrderCreated = serde_json::from_slice(event.value().unwrap()).unwrap();
        assert_eq!(read, OrderCreated::of(&order));
        assert_eq!(read.total_amount.to_string(), "0.30");
    }
}
