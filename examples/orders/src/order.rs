//! What a client orders, checked once at the edge, and the order that it becomes.

use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::money::Money;

/// The most items of an order.
pub(crate) const ITEMS_MAX: usize = 1_000;
/// The most pieces of an item.
pub(crate) const QUANTITY_MAX: u32 = 1_000_000;
/// The longest identifier (user, cart, product), in characters.
pub(crate) const ID_CHARS_MAX: usize = 255;
/// How many wrong fields an answer reports at most.
const FAULTS_MAX: usize = 20;

/// An order as a client sends it, with every field checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewOrder {
    pub(crate) user_id: String,
    pub(crate) cart_id: String,
    pub(crate) items: Vec<Item>,
}

/// A number of pieces of a product, at a price each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Item {
    pub(crate) product_id: String,
    pub(crate) quantity: u32,
    pub(crate) price: Money,
}

/// An order that was taken, as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Order {
    pub(crate) order_id: Uuid,
    pub(crate) user_id: String,
    pub(crate) cart_id: String,
    pub(crate) status: Status,
    pub(crate) total_amount: Money,
    pub(crate) items: Vec<Item>,
    #[serde(serialize_with = "rfc3339")]
    pub(crate) created_at: Timestamp,
}

/// The status of an order. This API only takes orders; other services process them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    Pending,
}

/// Why a body is not an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Invalid {
    /// It is not valid JSON; the text says where the error is.
    NotJson(String),
    /// These fields are wrong.
    Faults(Faults),
}

/// The wrong fields: the first few, and how many more there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    pub(crate) named: Vec<Fault>,
    pub(crate) more: usize,
}

/// A field, such as `items[3].price`, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Fault {
    pub(crate) field: String,
    pub(crate) message: String,
}

impl NewOrder {
    /// Reads a request's body. Fields that an order does not have are ignored.
    ///
    /// # Errors
    ///
    /// If it is not JSON, or with all fields that are wrong.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Invalid> {
        let body: Value = serde_json::from_slice(body).map_err(|error| Invalid::NotJson(error.to_string()))?;
        let mut faults = Faults::default();
        let order = Self::read(&body, &mut faults);
        match order {
            Some(order) if faults.named.is_empty() => Ok(order),
            _ => Err(Invalid::Faults(faults)),
        }
    }

    fn read(body: &Value, faults: &mut Faults) -> Option<Self> {
        let order = object(body, "body", faults)?;
        let user_id = id(order, "", "user_id", faults);
        let cart_id = id(order, "", "cart_id", faults);
        let items = items(order, faults);
        Some(Self { user_id: user_id?, cart_id: cart_id?, items: items? })
    }
}

impl Order {
    /// The order that `new` becomes at `now`.
    ///
    /// Its identity begins with the time, so that orders sort in the order in which they were taken.
    pub(crate) fn taken(new: NewOrder, now: Timestamp) -> Self {
        Self {
            order_id: Uuid::now_v7(),
            status: Status::Pending,
            total_amount: Money::total(new.items.iter().map(|item| (item.price, item.quantity))),
            user_id: new.user_id,
            cart_id: new.cart_id,
            items: new.items,
            created_at: now,
        }
    }

    /// Whether both have the same items for the same user and cart.
    #[cfg(any(feature = "cassandra", feature = "redis"))]
    pub(crate) fn is_of_the_same(&self, other: &Self) -> bool {
        (&self.user_id, &self.cart_id, &self.items) == (&other.user_id, &other.cart_id, &other.items)
    }
}

impl Status {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
        }
    }

    pub(crate) fn from_stored(status: &str) -> Option<Self> {
        [Self::Pending].into_iter().find(|known| known.as_str() == status)
    }
}

/// An instant as the API writes it: RFC 3339, with milliseconds.
pub(crate) fn rfc3339<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{at:.3}"))
}

impl Faults {
    fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        if self.named.len() < FAULTS_MAX {
            self.named.push(Fault { field: field.into(), message: message.into() });
        } else {
            self.more += 1;
        }
    }
}

fn items(order: &Map<String, Value>, faults: &mut Faults) -> Option<Vec<Item>> {
    let list = match order.get("items") {
        Some(Value::Array(list)) => list,
        Some(other) => {
            faults.add("items", format!("must be an array, not {}", kind(other)));
            return None;
        }
        None => {
            faults.add("items", "is missing");
            return None;
        }
    };
    if list.len() > ITEMS_MAX {
        faults.add("items", format!("has {} items; at most {ITEMS_MAX} are allowed", list.len()));
        return None;
    }
    // Every item is checked, so that all faults are reported at once.
    let items: Vec<_> = list.iter().enumerate().map(|(at, value)| item(value, at, faults)).collect();
    items.into_iter().collect()
}

fn item(value: &Value, at: usize, faults: &mut Faults) -> Option<Item> {
    let place = format!("items[{at}]");
    let item = object(value, &place, faults)?;
    let place = format!("{place}.");
    let product_id = id(item, &place, "product_id", faults);
    let quantity = quantity(item, &place, faults);
    let price = price(item, &place, faults);
    Some(Item { product_id: product_id?, quantity: quantity?, price: price? })
}

fn object<'v>(value: &'v Value, place: &str, faults: &mut Faults) -> Option<&'v Map<String, Value>> {
    let object = value.as_object();
    if object.is_none() {
        faults.add(place, format!("must be an object, not {}", kind(value)));
    }
    object
}

fn id(of: &Map<String, Value>, place: &str, name: &str, faults: &mut Faults) -> Option<String> {
    let wrong = match of.get(name) {
        None => "is missing".to_owned(),
        Some(Value::String(text)) if text.trim().is_empty() => "must not be empty".to_owned(),
        Some(Value::String(text)) if text.chars().count() > ID_CHARS_MAX => {
            format!("must have at most {ID_CHARS_MAX} characters")
        }
        Some(Value::String(text)) if text.contains(char::is_control) => "must not have control characters".to_owned(),
        Some(Value::String(text)) => return Some(text.clone()),
        Some(other) => format!("must be a string, not {}", kind(other)),
    };
    faults.add(format!("{place}{name}"), wrong);
    None
}

fn quantity(of: &Map<String, Value>, place: &str, faults: &mut Faults) -> Option<u32> {
    let wrong = match of.get("quantity") {
        None => "is missing".to_owned(),
        Some(Value::Number(number)) => {
            let whole = number.as_u64().and_then(|whole| u32::try_from(whole).ok());
            match whole {
                Some(whole @ 1..=QUANTITY_MAX) => return Some(whole),
                _ => format!("must be a whole number from 1 to {QUANTITY_MAX}"),
            }
        }
        Some(other) => format!("must be a number, not {}", kind(other)),
    };
    faults.add(format!("{place}quantity"), wrong);
    None
}

fn price(of: &Map<String, Value>, place: &str, faults: &mut Faults) -> Option<Money> {
    let wrong = match of.get("price") {
        None => "is missing".to_owned(),
        Some(Value::Number(number)) => match Money::parse(number.as_str()) {
            Ok(price) => return Some(price),
            Err(why) => why.to_string(),
        },
        Some(other) => format!("must be a number, not {}", kind(other)),
    };
    faults.add(format!("{place}price"), wrong);
    None
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CURL: &str = r#"{"user_id":"user123","cart_id":"cart456","items":[{"product_id":"prod1","quantity":2,"price":10.00},{"product_id":"prod2","quantity":1,"price":5.00}]}"#;

    fn with_items(items: &str) -> String {
        format!(r#"{{"user_id":"u","cart_id":"c","items":{items}}}"#)
    }

    fn faults(body: &str) -> Vec<(String, String)> {
        match NewOrder::parse(body.as_bytes()) {
            Err(Invalid::Faults(faults)) => faults.named.into_iter().map(|it| (it.field, it.message)).collect(),
            other => panic!("{body}: {other:?}"),
        }
    }

    #[test]
    fn an_order_has_what_was_asked_for_and_its_total() {
        let new = NewOrder::parse(CURL.as_bytes()).unwrap();
        let order = Order::taken(new, Timestamp::from_millisecond(1_765_324_800_120).unwrap());
        let json = serde_json::to_string(&order).unwrap();
        let rest = json.strip_prefix(&format!(r#"{{"order_id":"{}","#, order.order_id)).unwrap();
        assert_eq!(
            rest,
            concat!(
                r#""user_id":"user123","cart_id":"cart456","status":"pending","total_amount":25.00,"items":["#,
                r#"{"product_id":"prod1","quantity":2,"price":10.00},{"product_id":"prod2","quantity":1,"price":5.00}"#,
                r#"],"created_at":"2025-12-10T00:00:00.120Z"}"#
            )
        );
    }

    #[test]
    fn an_empty_cart_is_an_order_of_nothing() {
        let new = NewOrder::parse(with_items("[]").as_bytes()).unwrap();
        assert_eq!(Order::taken(new, Timestamp::UNIX_EPOCH).total_amount.to_string(), "0.00");
    }

    #[test]
    fn what_is_not_json_says_where() {
        for body in ["", "{", "order", "{\"user_id\":NaN}", "{} {}", "\u{feff}{}"] {
            let Err(Invalid::NotJson(why)) = NewOrder::parse(body.as_bytes()) else { panic!("{body:?} was read") };
            assert!(why.contains("line 1"), "{why}");
        }
        let deep = "[".repeat(100_000);
        assert!(matches!(NewOrder::parse(deep.as_bytes()), Err(Invalid::NotJson(_))));
        assert!(matches!(NewOrder::parse(b"{\"user_id\":\"\xff\"}"), Err(Invalid::NotJson(_))));
    }

    #[test]
    fn each_fault_names_its_field() {
        let long = "x".repeat(ID_CHARS_MAX + 1);
        let item = |fields: &str| with_items(&format!("[{{{fields}}}]"));
        for (body, field, message) in [
            ("[]".to_owned(), "body", "must be an object, not an array"),
            ("null".to_owned(), "body", "must be an object, not null"),
            (r#"{"cart_id":"c","items":[]}"#.to_owned(), "user_id", "is missing"),
            (r#"{"user_id":7,"cart_id":"c","items":[]}"#.to_owned(), "user_id", "must be a string, not a number"),
            (r#"{"user_id":" ","cart_id":"c","items":[]}"#.to_owned(), "user_id", "must not be empty"),
            (r#"{"user_id":"u\n","cart_id":"c","items":[]}"#.to_owned(), "user_id", "must not have control characters"),
            (
                format!(r#"{{"user_id":"u","cart_id":"{long}","items":[]}}"#),
                "cart_id",
                "must have at most 255 characters",
            ),
            (r#"{"user_id":"u","cart_id":"c"}"#.to_owned(), "items", "is missing"),
            (with_items("{}"), "items", "must be an array, not an object"),
            (with_items("[7]"), "items[0]", "must be an object, not a number"),
            (item(r#""product_id":"p","price":1"#), "items[0].quantity", "is missing"),
            (
                item(r#""product_id":"p","quantity":-1,"price":1"#),
                "items[0].quantity",
                "must be a whole number from 1 to 1000000",
            ),
            (
                item(r#""product_id":"p","quantity":1.5,"price":1"#),
                "items[0].quantity",
                "must be a whole number from 1 to 1000000",
            ),
            (
                item(r#""product_id":"p","quantity":4294967297,"price":1"#),
                "items[0].quantity",
                "must be a whole number from 1 to 1000000",
            ),
            (
                item(r#""product_id":"p","quantity":"2","price":1"#),
                "items[0].quantity",
                "must be a number, not a string",
            ),
            (item(r#""product_id":"p","quantity":1,"price":-0.01"#), "items[0].price", "must not be negative"),
            (item(r#""product_id":"p","quantity":1,"price":"1""#), "items[0].price", "must be a number, not a string"),
            (
                item(r#""product_id":"p","quantity":1,"price":1e400"#),
                "items[0].price",
                "must be less than 1000000000000",
            ),
        ] {
            assert_eq!(faults(&body), [(field.to_owned(), message.to_owned())], "{body}");
        }
    }

    #[test]
    fn all_faults_are_told_at_once_and_no_more_than_a_page() {
        let fields: Vec<_> = faults(r#"{"items":[{"quantity":0}]}"#).into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["user_id", "cart_id", "items[0].product_id", "items[0].quantity", "items[0].price"]);

        let body = with_items(&format!("[{}]", vec!["0"; ITEMS_MAX].join(",")));
        let Err(Invalid::Faults(faults)) = NewOrder::parse(body.as_bytes()) else { panic!("was read") };
        assert_eq!((faults.named.len(), faults.more), (FAULTS_MAX, ITEMS_MAX - FAULTS_MAX));
    }

    #[test]
    fn a_thousand_items_are_allowed_and_no_more() {
        let items = |count| {
            with_items(&format!("[{}]", vec![r#"{"product_id":"p","quantity":1,"price":0.10}"#; count].join(",")))
        };
        let order = NewOrder::parse(items(ITEMS_MAX).as_bytes()).unwrap();
        assert_eq!(Order::taken(order, Timestamp::UNIX_EPOCH).total_amount.to_string(), "100.00");
        let message = "has 1001 items; at most 1000 are allowed".to_owned();
        assert_eq!(faults(&items(ITEMS_MAX + 1)), [("items".to_owned(), message)]);
    }
}
