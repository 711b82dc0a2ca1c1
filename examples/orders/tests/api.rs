//! The API, as its clients see it, on each set-up: each test has a server of its own.

#[macro_use]
mod setup;
mod shop;

use keylatch::Policy;
use keylatch::store::PageRequest;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use setup::Setup;
use shop::{Answer, Shop, answer, readme_order};

/// More than the layer reads of a body.
const LARGE: usize = 3 << 20;

fn one_item(fields: &str) -> String {
    format!(r#"{{"user_id":"u","cart_id":"c","items":[{{{fields}}}]}}"#)
}

// ---- Once ----------------------------------------------------------------------------------------------

async fn the_readmes_order_is_taken_once_and_answered_with_the_same_bytes(setup: Setup) {
    let shop = Shop::open(setup).await;
    let (key, body) = readme_order();
    let first = shop.order(key, body).await;
    assert_eq!(first.status, StatusCode::CREATED, "{first:?}");
    assert_eq!(first.header("content-type"), Some("application/json"));
    assert_eq!(first.header("idempotency-key"), Some(key));
    assert!(first.header("idempotency-expires").is_some_and(|date| date.ends_with(" GMT")), "{first:?}");
    assert!(!first.is_replay());

    let order = first.json();
    let order_id = order["order_id"].as_str().expect("it is text");
    assert!(uuid::Uuid::parse_str(order_id).is_ok(), "{order_id}");
    assert_eq!(first.header("location"), Some(format!("/api/orders/{order_id}").as_str()));
    assert!(order["created_at"].as_str().is_some_and(|at| at.parse::<jiff::Timestamp>().is_ok()), "{order}");
    assert_eq!(order["user_id"], "user123");
    assert_eq!(order["cart_id"], "cart456");
    assert_eq!(order["status"], "pending");
    assert!(first.body.contains(r#""total_amount":25.00,"#), "{}", first.body);
    assert!(first.body.contains(r#""items":[{"product_id":"prod1","quantity":2,"price":10.00},{"#), "{}", first.body);

    for _ in 0..3 {
        let again = shop.order(key, body).await;
        assert!(again.is_replay(), "{again:?}");
        assert_eq!((again.status, &again.body), (first.status, &first.body));
        for name in ["content-type", "location", "idempotency-key", "idempotency-expires"] {
            assert_eq!(again.header(name), first.header(name), "{name}");
        }
    }
    assert_eq!(shop.orders_of("user123").await, [order]);
}

async fn another_body_under_the_key_is_refused(setup: Setup) {
    let shop = Shop::open(setup).await;
    let (key, body) = readme_order();
    shop.order(key, body).await;
    let other = shop.order(key, &body.replace("\"quantity\":2", "\"quantity\":3")).await;
    assert_eq!(other.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(other.code(), "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(other.json()["error"], "Idempotency key reused with different request");
    assert_eq!(other.json()["retryable"], false);
    assert!(!other.body.contains("user123"), "it shows what was ordered: {other:?}");
    assert_eq!(shop.orders_of("user123").await.len(), 1);
}

async fn a_key_is_required(setup: Setup) {
    let shop = Shop::open(setup).await;
    let (_, body) = readme_order();
    let answer = answer(shop.request(Method::POST, "/api/orders").body(body)).await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_REQUEST, "IDEMPOTENCY_KEY_REQUIRED"));
    assert_eq!(shop.orders_of("user123").await.len(), 0);
}

async fn a_hundred_at_once_are_one_order(setup: Setup) {
    let shop = Shop::open(setup).await;
    let (key, body) = readme_order();
    let asked = (0..100).map(|_| tokio::spawn(answer(shop.placing(key, body).header("prefer", "wait=20"))));
    let asked: Vec<_> = asked.collect();
    let mut answers = Vec::new();
    for asked in asked {
        answers.push(asked.await.expect("it was answered"));
    }
    assert_eq!(answers.iter().filter(|answer| !answer.is_replay()).count(), 1);
    for answer in &answers {
        assert_eq!((answer.status, &answer.body), (StatusCode::CREATED, &answers[0].body), "{answer:?}");
    }
    assert_eq!(shop.orders_of("user123").await.len(), 1);
}

async fn an_answer_outlives_the_server(setup: Setup) {
    let shop = Shop::open(setup).await;
    let (key, body) = readme_order();
    let first = shop.order(key, body).await;
    let invalid = shop.order("no-order", "{}").await;
    let shop = shop.reopen().await;
    let again = shop.order(key, body).await;
    assert!(again.is_replay());
    assert_eq!((again.status, &again.body), (first.status, &first.body));
    assert_eq!(again.header("idempotency-expires"), first.header("idempotency-expires"));
    let invalid_again = shop.order("no-order", "{}").await;
    assert!(invalid_again.is_replay());
    assert_eq!((invalid_again.status, invalid_again.body), (invalid.status, invalid.body));
    assert_eq!(shop.orders_of("user123").await.len(), 1);
}

/// The second fence: the unique constraint on caller and key in the table of orders.
async fn a_lost_record_does_not_lead_to_a_second_order(setup: Setup) {
    let shop = Shop::open(setup).await;
    let (key, body) = readme_order();
    let first = shop.order(key, body).await;
    let Shop { server, stores, .. } = shop;
    server.terminate().await;
    stores.lose_records();

    let shop = Shop::start(&stores.program(), stores).await.expect("it starts again");
    if setup.is_fenced() {
        // The records are elsewhere, so the same request finds its order, and another does not.
        let other = shop.order(key, &body.replace("\"quantity\":2", "\"quantity\":3")).await;
        assert_eq!((other.status, other.code().as_str()), (StatusCode::CONFLICT, "ORDER_ALREADY_TAKEN"));
        shop.stores.lose_records();
    }
    let shop = shop.reopen().await;
    let second = shop.order(key, body).await;
    if setup.is_fenced() {
        assert_eq!((second.status, &second.body), (first.status, &first.body));
    } else {
        assert_eq!((second.status, second.code().as_str()), (StatusCode::CONFLICT, "ORDER_ALREADY_TAKEN"));
        assert_eq!(second.json()["order_id"], first.json()["order_id"]);
    }
    assert_eq!(shop.orders_of("user123").await, [first.json()]);
}

// ---- Who calls -----------------------------------------------------------------------------------------

async fn callers_do_not_meet(setup: Setup) {
    let shop = Shop::open(setup).await;
    let (key, body) = readme_order();
    let mut bodies = vec![shop.order(key, body).await.body];
    // "demo" is what requests without a caller share, and must not be reached by a caller of that name.
    for caller in ["alice", "bob", "demo", "user:alice"] {
        let first = answer(shop.placing(key, body).header("x-user-id", caller)).await;
        assert_eq!(first.status, StatusCode::CREATED);
        assert!(!first.is_replay(), "{caller} got another's answer");
        let again = answer(shop.placing(key, body).header("x-user-id", caller)).await;
        assert!(again.is_replay());
        assert_eq!(again.body, first.body);
        bodies.push(first.body);
    }
    bodies.sort_unstable();
    bodies.dedup();
    assert_eq!(bodies.len(), 5);
}

async fn a_caller_that_cannot_be_read_is_not_put_among_all(setup: Setup) {
    let shop = Shop::open(setup).await;
    let (key, body) = readme_order();
    let long = "u".repeat(600);
    for caller in ["", "\u{e9}", &long] {
        let answer = answer(shop.placing(key, body).header("x-user-id", caller.as_bytes())).await;
        assert_eq!(answer.code(), "IDEMPOTENCY_SCOPE_REQUIRED", "{caller:?}");
    }
    let twice = shop.placing(key, body).header("x-user-id", "alice").header("x-user-id", "bob");
    assert_eq!(answer(twice).await.code(), "IDEMPOTENCY_SCOPE_REQUIRED");
    assert_eq!(shop.orders_of("user123").await.len(), 0);
}

async fn i11_a_refusal_leaves_no_record(setup: Setup) {
    let shop = Shop::open(setup).await;
    let (key, body) = readme_order();
    assert_eq!(shop.order(key, body).await.status, StatusCode::CREATED);
    let keyless = shop.request(Method::POST, "/api/orders").body(body);
    assert!(shop.announce("large", LARGE).await.contains("REQUEST_TOO_LARGE"));
    for (refused, code) in [
        (keyless, "IDEMPOTENCY_KEY_REQUIRED"),
        (shop.placing("two words", body), "IDEMPOTENCY_KEY_INVALID"),
        (shop.placing("first", body).header("idempotency-key", "second"), "IDEMPOTENCY_KEY_INVALID"),
        (shop.placing("nobody", body).header("x-user-id", ""), "IDEMPOTENCY_SCOPE_REQUIRED"),
        (shop.placing(key, "{}"), "IDEMPOTENCY_KEY_REUSED"),
    ] {
        assert_eq!(answer(refused).await.code(), code);
    }
    let engine = shop.stores.engine(Policy::default()).await;
    let records = engine.store().list(PageRequest { limit: 10, ..PageRequest::default() }).await;
    let records = records.expect("records can be read").value.records;
    // The others are of events.
    let of_requests = records.iter().filter(|record| record.scope.operation().starts_with("POST "));
    assert_eq!(of_requests.map(|record| record.key.as_str()).collect::<Vec<_>>(), [key]);
}

// ---- What is an order ----------------------------------------------------------------------------------

async fn the_content_type_does_not_matter(setup: Setup) {
    let shop = Shop::open(setup).await;
    let (key, body) = readme_order();
    let without = shop.request(Method::POST, "/api/orders").header("idempotency-key", key).body(body);
    let first = answer(without.try_clone().expect("it can be sent twice")).await;
    assert_eq!(first.status, StatusCode::CREATED, "{first:?}");
    let again = answer(without).await;
    assert!(again.is_replay());
    assert_eq!(again.body, first.body);
    // As `curl -d` has it without -H.
    let form = shop.request(Method::POST, "/api/orders").header("idempotency-key", "form");
    let form = answer(form.header("content-type", "application/x-www-form-urlencoded").body(body)).await;
    assert_eq!(form.status, StatusCode::CREATED, "{form:?}");
}

async fn money_is_exact(setup: Setup) {
    let shop = Shop::open(setup).await;
    for (quantity, price, price_written, total) in [
        (3, "0.10", "0.10", "0.30"),
        (1, "25.00", "25.00", "25.00"),
        (1, "10", "10.00", "10.00"),
        (7, "0.0001", "0.0001", "0.0007"),
        (1_000_000, "999999999999.9999", "999999999999.9999", "999999999999999900.0000"),
        (9, "1e2", "100.00", "900.00"),
        (2, "0", "0.00", "0.00"),
    ] {
        let body = one_item(&format!(r#""product_id":"p","quantity":{quantity},"price":{price}"#));
        let taken = shop.order(&format!("{quantity}x{price}"), &body).await;
        assert_eq!(taken.status, StatusCode::CREATED, "{taken:?}");
        assert!(taken.body.contains(&format!(r#""total_amount":{total},"#)), "{quantity} × {price}: {}", taken.body);
        assert!(taken.body.contains(&format!(r#""price":{price_written}}}"#)), "{quantity} × {price}: {}", taken.body);
        // The same digits come back from the database.
        let found = shop.get(taken.header("location").expect("it says where it is")).await;
        assert_eq!(found.body, taken.body);
    }
}

async fn an_empty_cart_is_an_order(setup: Setup) {
    let shop = Shop::open(setup).await;
    let taken = shop.order("empty", r#"{"user_id":"u","cart_id":"c","items":[]}"#).await;
    assert_eq!(taken.status, StatusCode::CREATED, "{taken:?}");
    assert_eq!(taken.json()["items"], json!([]));
    assert!(taken.body.contains(r#""total_amount":0.00,"#), "{}", taken.body);
}

async fn a_thousand_items_are_an_order_and_one_more_is_not(setup: Setup) {
    let shop = Shop::open(setup).await;
    let items = |count| vec![r#"{"product_id":"p","quantity":1,"price":0.01}"#; count].join(",");
    let body = |count| format!(r#"{{"user_id":"u","cart_id":"c","items":[{}]}}"#, items(count));
    let taken = shop.order("most", &body(1_000)).await;
    assert_eq!(taken.status, StatusCode::CREATED, "{taken:?}");
    assert!(taken.body.contains(r#""total_amount":10.00,"#));
    let refused = shop.order("too-many", &body(1_001)).await;
    assert_eq!((refused.status, refused.code().as_str()), (StatusCode::UNPROCESSABLE_ENTITY, "ORDER_INVALID"));
    assert_eq!(refused.json()["errors"][0]["field"], "items");
}

async fn an_invalid_order_is_told_which_field_and_nothing_is_ordered(setup: Setup) {
    let shop = Shop::open(setup).await;
    let item =
        |quantity: &str, price: &str| one_item(&format!(r#""product_id":"p","quantity":{quantity},"price":{price}"#));
    let (unprocessable, bad) = (StatusCode::UNPROCESSABLE_ENTITY, StatusCode::BAD_REQUEST);
    for (at, (body, status, code, field)) in [
        ("".to_owned(), bad, "BODY_NOT_JSON", None),
        ("{".to_owned(), bad, "BODY_NOT_JSON", None),
        ("user_id=user123".to_owned(), bad, "BODY_NOT_JSON", None),
        ("[]".to_owned(), unprocessable, "ORDER_INVALID", Some("body")),
        (r#"{"cart_id":"c","items":[]}"#.to_owned(), unprocessable, "ORDER_INVALID", Some("user_id")),
        (r#"{"user_id":"u","items":[]}"#.to_owned(), unprocessable, "ORDER_INVALID", Some("cart_id")),
        (r#"{"user_id":"u","cart_id":"c"}"#.to_owned(), unprocessable, "ORDER_INVALID", Some("items")),
        (one_item(r#""quantity":1,"price":1"#), unprocessable, "ORDER_INVALID", Some("items[0].product_id")),
        (item("-1", "1"), unprocessable, "ORDER_INVALID", Some("items[0].quantity")),
        (item("0", "1"), unprocessable, "ORDER_INVALID", Some("items[0].quantity")),
        (item("1.5", "1"), unprocessable, "ORDER_INVALID", Some("items[0].quantity")),
        (item("1e99", "1"), unprocessable, "ORDER_INVALID", Some("items[0].quantity")),
        (item("1", "-0.01"), unprocessable, "ORDER_INVALID", Some("items[0].price")),
        (item("1", "1e999"), unprocessable, "ORDER_INVALID", Some("items[0].price")),
        (item("1", "0.00001"), unprocessable, "ORDER_INVALID", Some("items[0].price")),
        (item("1", "\"1\""), unprocessable, "ORDER_INVALID", Some("items[0].price")),
        (item("1", "null"), unprocessable, "ORDER_INVALID", Some("items[0].price")),
    ]
    .into_iter()
    .enumerate()
    {
        let refused = shop.order(&format!("invalid-{at}"), &body).await;
        assert_eq!((refused.status, refused.code().as_str()), (status, code), "{body}: {refused:?}");
        assert_eq!(refused.json()["errors"][0]["field"].as_str(), field, "{body}: {refused:?}");
        if let Some(field) = field {
            assert!(refused.json()["detail"].as_str().is_some_and(|detail| detail.contains(field)), "{refused:?}");
        }
    }
    assert_eq!(shop.orders_of("u").await.len(), 0);
}

async fn a_body_over_the_limit_is_refused(setup: Setup) {
    let shop = Shop::open(setup).await;
    let refused = shop.announce("large", LARGE).await;
    assert!(refused.starts_with("HTTP/1.1 413 ") && refused.contains("REQUEST_TOO_LARGE"), "{refused}");
}

// ---- Reading -------------------------------------------------------------------------------------------

async fn an_order_is_found_by_its_identity(setup: Setup) {
    let shop = Shop::open(setup).await;
    let (key, body) = readme_order();
    let taken = shop.order(key, body).await;
    let found = shop.get(taken.header("location").expect("it says where it is")).await;
    assert_eq!((found.status, found.body), (StatusCode::OK, taken.body));
    for nothing in ["00000000-0000-4000-8000-000000000000", "17", "%00", "x%2Fy"] {
        let answer = shop.get(&format!("/api/orders/{nothing}")).await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::NOT_FOUND, "ORDER_NOT_FOUND"), "{nothing}");
    }
}

async fn a_users_orders_come_page_by_page_each_once(setup: Setup) {
    let shop = Shop::open(setup).await;
    let mut taken = Vec::new();
    for number in 0..25 {
        // Two users in turn, whose pages must not mix.
        for user in ["ann", "ben"] {
            let body = format!(r#"{{"user_id":"{user}","cart_id":"{number}","items":[]}}"#);
            let answer = shop.order(&format!("{user}-{number}"), &body).await;
            if user == "ann" {
                taken.push(answer.json());
            }
        }
    }
    let mut listed = Vec::new();
    let mut sizes = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = shop.get(&format!("/api/orders?user_id=ann&limit=10{cursor}")).await.json();
        let orders = page["orders"].as_array().expect("a page has orders").clone();
        sizes.push(orders.len());
        listed.extend(orders);
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(sizes, [10, 10, 5]);
    assert_eq!(listed, taken, "in the order in which they were taken");

    let whole = shop.get("/api/orders?user_id=ann&limit=25").await.json();
    assert_eq!((whole["orders"].as_array().map(Vec::len), &whole["next"]), (Some(25), &Value::Null));
    for nobody in ["nobody", "%00"] {
        assert_eq!(shop.orders_of(nobody).await.len(), 0);
    }
}

async fn a_query_that_is_wrong_says_what(setup: Setup) {
    let shop = Shop::open(setup).await;
    for (query, field) in [
        ("", "user_id"),
        ("?limit=1", "user_id"),
        ("?user_id=u&limit=0", "limit"),
        ("?user_id=u&limit=1001", "limit"),
        ("?user_id=u&limit=-1", "limit"),
        ("?user_id=u&limit=many", "limit"),
        ("?user_id=u&limit=99999999999999999999", "limit"),
        ("?user_id=u&limit=", "limit"),
        ("?user_id=u&cursor=x", "cursor"),
        ("?user_id=u&cursor=", "cursor"),
        ("?user_id=u&user_id=v", "query"),
    ] {
        let answer = shop.get(&format!("/api/orders{query}")).await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_REQUEST, "QUERY_INVALID"), "{query}");
        assert_eq!(answer.json()["errors"][0]["field"], field, "{query}");
    }
    assert_eq!(shop.get("/api/orders?user_id=u&limit=1000").await.status, StatusCode::OK);
}

/// What an order changes elsewhere, it changes once, however often it is sent.
async fn an_order_is_in_the_inventory_once(setup: Setup) {
    let shop = Shop::open(setup).await;
    let (key, body) = readme_order();
    for _ in 0..3 {
        assert_eq!(shop.order(key, body).await.status, StatusCode::CREATED);
    }
    assert_eq!(shop.order("another", body).await.status, StatusCode::CREATED);
    // A refused order is not counted.
    assert_eq!(shop.order(key, "{}").await.status, StatusCode::UNPROCESSABLE_ENTITY);
    let begun = std::time::Instant::now();
    let inventory = loop {
        let inventory = shop.get("/api/inventory?user_id=user123").await.json();
        if inventory["user"]["orders"] == 2 {
            break inventory;
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{inventory}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    };
    let products = json!([{ "product_id": "prod1", "ordered": 4 }, { "product_id": "prod2", "ordered": 2 }]);
    assert_eq!((&inventory["products"], &inventory["next"]), (&products, &Value::Null));
    assert_eq!(inventory["user"]["total_amount"].to_string(), "50.00");
    let page = shop.get("/api/inventory?limit=1").await.json();
    assert_eq!((&page["products"], &page["user"]), (&json!([products[0]]), &Value::Null));
    let page = shop.get(&format!("/api/inventory?limit=1&cursor={}", page["next"].as_str().unwrap())).await.json();
    assert_eq!((&page["products"], &page["next"]), (&json!([products[1]]), &Value::Null));
    assert_eq!(shop.get("/api/inventory?limit=0").await.code(), "QUERY_INVALID");
    assert_eq!(shop.get("/api/inventory?user_id=nobody").await.json()["user"], Value::Null);
}

async fn other_paths_and_methods_are_problems_too(setup: Setup) {
    let shop = Shop::open(setup).await;
    let code = |answer: Answer| (answer.status.as_u16(), answer.code());
    assert_eq!(code(shop.get("/api").await), (404, "NOT_FOUND".to_owned()));
    let delete = answer(shop.request(Method::DELETE, "/api/orders")).await;
    assert!(delete.header("allow").is_some_and(|allow| allow.contains("POST")), "{delete:?}");
    assert_eq!(code(delete), (405, "METHOD_NOT_ALLOWED".to_owned()));
    assert_eq!(code(shop.get("/api/admin/cleanup").await), (405, "METHOD_NOT_ALLOWED".to_owned()));
}

tests_on!(sqlite: Sqlite, postgres: Postgres, redis: Redis, tiered: Tiered => [
    the_readmes_order_is_taken_once_and_answered_with_the_same_bytes,
    another_body_under_the_key_is_refused,
    a_key_is_required,
    a_hundred_at_once_are_one_order,
    an_answer_outlives_the_server,
    a_lost_record_does_not_lead_to_a_second_order,
    callers_do_not_meet,
    a_caller_that_cannot_be_read_is_not_put_among_all,
    i11_a_refusal_leaves_no_record,
    the_content_type_does_not_matter,
    money_is_exact,
    an_empty_cart_is_an_order,
    a_thousand_items_are_an_order_and_one_more_is_not,
    an_invalid_order_is_told_which_field_and_nothing_is_ordered,
    a_body_over_the_limit_is_refused,
    an_order_is_found_by_its_identity,
    a_users_orders_come_page_by_page_each_once,
    a_query_that_is_wrong_says_what,
    an_order_is_in_the_inventory_once,
    other_paths_and_methods_are_problems_too,
]);

tests_on!(cassandra: Cassandra, cassandra_and_postgres: CassandraPostgres => [
    the_readmes_order_is_taken_once_and_answered_with_the_same_bytes,
    another_body_under_the_key_is_refused,
    a_hundred_at_once_are_one_order,
    an_answer_outlives_the_server,
    a_lost_record_does_not_lead_to_a_second_order,
    i11_a_refusal_leaves_no_record,
    an_order_is_in_the_inventory_once,
]);
