//! The cases that all clients run (`clients/cases`), on a transport that follows a script, with time that stands still.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::pending;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tower_service::Service;

use crate::bound::Bound;
use crate::policy::RetryBudget;
use crate::profile::{is_replay, retry_after};
use crate::request::Identity;
use crate::{BoxError, Client, Clock, Error, Event, Key, Meaning, Options, Policy, Profile, Step, Timestamp};

/// The cases called `name` in the file.
fn cases<T: DeserializeOwned>(file: &str, name: &str) -> Vec<T> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../clients/cases").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    // Half of a surrogate pair is no text in Rust, and serde_json refuses it.
    let is_text = |line: &&str| !line.contains(r#""\ud800""#) && !line.contains(r#""\udc00x""#);
    let text: String = text.lines().filter(is_text).collect();
    let mut all: Value = serde_json::from_str(&text).expect("the file is JSON");
    let cases: Vec<Value> = serde_json::from_value(all[name].take()).expect("a list of cases");
    assert!(!cases.is_empty(), "{file} has {name}");
    cases
        .into_iter()
        .map(|case| serde_json::from_value(case.clone()).unwrap_or_else(|e| panic!("{case}: {e}")))
        .collect()
}

fn profile(name: &str) -> Profile {
    match name {
        "draft" => Profile::DRAFT,
        "stripe" => Profile::STRIPE,
        other => panic!("a profile {other}"),
    }
}

fn policy(fields: &Value) -> Policy {
    let mut policy = Policy::default();
    for (name, value) in fields.as_object().expect("a policy is an object") {
        let number = value.as_f64().expect("a limit is a number");
        let seconds = Duration::from_secs_f64(number);
        match name.as_str() {
            "tries_max" => policy.tries_max = value.as_u64().unwrap().try_into().unwrap(),
            "time_s_max" => policy.time_max = seconds,
            "try_s_max" => policy.try_max = seconds,
            "pause_s_base" => policy.pause_base = seconds,
            "pause_s_max" => policy.pause_max = seconds,
            "prefer_wait_s" => policy.prefer_wait = seconds,
            "retries_burst_max" => policy.retries_burst_max = value.as_u64().unwrap().try_into().unwrap(),
            "retries_per_s" => policy.retries_per_s = number,
            "retries_per_answer" => policy.retries_per_answer = number,
            other => panic!("a limit {other}"),
        }
    }
    policy
}

#[test]
fn the_defaults_are_those_of_the_table() {
    let default = Policy::default();
    let seconds = |span: Duration| span.as_secs_f64().to_string();
    let fields = [
        ("tries_max", default.tries_max.to_string()),
        ("time_s_max", seconds(default.time_max)),
        ("try_s_max", seconds(default.try_max)),
        ("pause_s_base", seconds(default.pause_base)),
        ("pause_s_max", seconds(default.pause_max)),
        ("prefer_wait_s", seconds(default.prefer_wait)),
        ("retries_burst_max", default.retries_burst_max.to_string()),
        ("retries_per_s", default.retries_per_s.to_string()),
        ("retries_per_answer", default.retries_per_answer.to_string()),
    ];
    let table = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../clients/cases/README.md"));
    let table = table.expect("the table is there");
    for (name, value) in fields {
        assert!(table.contains(&format!("| `{name}` | {value} |")), "{name} is {value}");
    }
}

#[derive(Deserialize)]
struct Derived {
    name: String,
    parts: Vec<String>,
    key: String,
}

#[test]
fn derived_keys() {
    for case in cases::<Derived>("keys.json", "derived") {
        let key = Key::derive(case.parts.iter().map(String::as_str)).expect("there are parts");
        assert_eq!(key.as_str(), case.key, "{}", case.name);
    }
    assert!(Key::derive([]).is_err());
    // The other cases of this table cannot be written in Rust, whose parts are always text.
    assert!(cases::<Value>("keys.json", "derived_refused").iter().any(|case| case["parts"] == serde_json::json!([])));
}

#[test]
fn random_keys() {
    let one = Key::random();
    let id = uuid::Uuid::parse_str(one.as_str()).expect("it is a UUID");
    assert_eq!(id.get_version_num(), 7);
    assert_ne!(one, Key::random());
}

#[derive(Deserialize)]
struct InRegion {
    name: String,
    key: String,
    region: String,
    in_region: Option<String>,
}

#[test]
fn keys_in_regions() {
    for table in ["in_region", "in_region_refused"] {
        for case in cases::<InRegion>("keys.json", table) {
            let key = Key::new(&case.key).expect("it is a key").in_region(&case.region).ok();
            assert_eq!(key.as_ref().map(Key::as_str), case.in_region.as_deref(), "{}", case.name);
        }
    }
}

#[derive(Deserialize)]
struct Header {
    name: String,
    key: String,
    draft: String,
    stripe: String,
}

#[test]
fn keys_in_headers() {
    for case in cases::<Header>("keys.json", "headers") {
        let key = Key::new(&case.key).expect("it is a key");
        assert_eq!(Profile::DRAFT.header(&key), case.draft, "{}", case.name);
        assert_eq!(Profile::STRIPE.header(&key), case.stripe, "{}", case.name);
        // A server reads both forms.
        assert_eq!(Key::from_header(case.draft.as_bytes()).expect("it is one"), key, "{}", case.name);
    }
    for case in cases::<Value>("keys.json", "refused") {
        assert!(Key::new(case["key"].as_str().expect("it is text")).is_err(), "{case}");
    }
}

#[derive(Deserialize)]
struct Fingerprinted {
    name: String,
    method: String,
    url: String,
    content_type: Option<String>,
    content_encoding: Option<String>,
    body: String,
    fingerprint: String,
}

#[test]
fn fingerprints() {
    let cases = cases::<Fingerprinted>("requests.json", "fingerprints");
    let requests: Vec<_> = cases.iter().map(Fingerprinted::request).collect();
    for (case, request) in cases.iter().zip(&requests) {
        for (other, than) in cases.iter().zip(&requests) {
            let same = Identity::of(request) == Identity::of(than);
            assert_eq!(same, case.fingerprint == other.fingerprint, "{} and {}", case.name, other.name);
            let bound = Bound::default();
            let key = Key::random();
            assert!(bound.bind(&key, &Identity::of(request)), "{}", case.name);
            assert_eq!(bound.bind(&key, &Identity::of(than)), same, "{} and {}", case.name, other.name);
        }
    }
}

impl Fingerprinted {
    fn request(&self) -> Request<Bytes> {
        let mut request = Request::builder().method(self.method.as_str()).uri(&self.url);
        for (name, value) in [("content-type", &self.content_type), ("content-encoding", &self.content_encoding)] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        request.body(Bytes::from(unhex(&self.body))).expect("it is a request")
    }
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal")).collect()
}

#[derive(Deserialize)]
struct Judged {
    name: String,
    profile: String,
    means: String,
    #[serde(flatten)]
    answer: Scripted,
    #[serde(default)]
    replayed: bool,
    after_s: Option<f64>,
    #[serde(default)]
    unix_s: i64,
}

#[derive(Deserialize, Clone)]
struct Scripted {
    status: u16,
    headers: std::collections::HashMap<String, String>,
    body: Option<Value>,
}

impl Scripted {
    fn response(&self) -> Response<Bytes> {
        let mut response = Response::builder().status(self.status);
        for (name, value) in &self.headers {
            response = response.header(name, value);
        }
        let body = match &self.body {
            None => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(json) => json.to_string(),
        };
        response.body(body.into()).expect("it is a response")
    }
}

fn name_of(meaning: Meaning) -> &'static str {
    match meaning {
        Meaning::Answer => "answer",
        Meaning::Retry => "retry",
        Meaning::InProgress => "in_progress",
        Meaning::KeyReused => "key_reused",
        Meaning::OutcomeUnknown => "outcome_unknown",
        Meaning::NotRetained => "not_retained",
        Meaning::Expired => "expired",
    }
}

#[test]
fn answers() {
    for case in cases::<Judged>("answers.json", "answers") {
        let response = case.answer.response();
        assert_eq!(name_of(profile(&case.profile).meaning(&response)), case.means, "{}", case.name);
        assert_eq!(is_replay(&response), case.replayed, "{}", case.name);
        let after = retry_after(response.headers(), Timestamp::from_millis(case.unix_s * 1000));
        assert_eq!(after.map(|after| after.as_secs_f64()), case.after_s, "{}", case.name);
    }
}

#[derive(Deserialize)]
struct Budgeted {
    name: String,
    policy: Value,
    events: Vec<Vec<Value>>,
}

#[test]
fn budgets() {
    let start = std::time::Instant::now();
    for case in cases::<Budgeted>("budget.json", "budgets") {
        let budget = RetryBudget::new(&policy(&case.policy), start);
        for event in &case.events {
            let at = start + Duration::from_secs_f64(event[0].as_f64().unwrap());
            match event[1].as_str().unwrap() {
                "retry" => close(budget.reserve(at), event[2].as_f64().unwrap(), &case.name),
                "answered" => budget.answered(),
                "returned" => budget.give_back(),
                other => panic!("{other}"),
            }
        }
    }
}

fn close(span: Duration, seconds: f64, case: &str) {
    assert!((span.as_secs_f64() - seconds).abs() < 1e-6, "{case}: {span:?} is to be {seconds} s");
}

#[derive(Deserialize)]
struct Called {
    name: String,
    profile: String,
    random: f64,
    policy: Value,
    server: Vec<Try>,
    pauses: Vec<f64>,
    ends: Value,
}

#[derive(Deserialize, Clone)]
#[serde(untagged)]
enum Try {
    Answer(Scripted),
    Fault(String),
}

type Seen = Arc<Mutex<Vec<Request<Bytes>>>>;

/// A transport that does what the script says with each try.
#[derive(Clone)]
struct Script {
    tries: Arc<Mutex<VecDeque<Try>>>,
    seen: Seen,
}

impl Script {
    fn new(tries: impl IntoIterator<Item = Try>) -> Self {
        Self { tries: Arc::new(Mutex::new(tries.into_iter().collect())), seen: Seen::default() }
    }

    fn of(texts: &[&str]) -> Self {
        let created = Scripted { status: 201, headers: Default::default(), body: None };
        Self::new(texts.iter().map(|text| match *text {
            "created" => Try::Answer(created.clone()),
            fault => Try::Fault(fault.to_owned()),
        }))
    }
}

impl Service<Request<Full<Bytes>>> for Script {
    type Response = Response<BoxBody<Bytes, BoxError>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        let next = self.tries.lock().pop_front();
        let seen = self.seen.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let Ok(body) = body.collect().await;
            seen.lock().push(Request::from_parts(parts, body.to_bytes()));
            match next.expect("the script has another try") {
                Try::Answer(answer) => Ok(answer.response().map(|body| Full::new(body).map_err(never).boxed())),
                Try::Fault(fault) => match fault.as_str() {
                    "lost" => Err("the connection is lost".into()),
                    "silent" => pending().await,
                    "cut" => {
                        let cut =
                            [Ok(http_body::Frame::data(Bytes::from_static(b"{"))), Err(BoxError::from("it broke"))];
                        Ok(Response::new(BodyExt::boxed(StreamBody::new(futures_util::stream::iter(cut)))))
                    }
                    "unsendable" => Err(crate::Unsendable::new("it is not a request").into()),
                    other => panic!("{other}"),
                },
            }
        })
    }
}

fn never(never: Infallible) -> BoxError {
    match never {}
}

/// A client over the script, whose pauses take the fraction `random` of their limit; and the events that it tells.
fn client(script: Script, options: Options, random: f64) -> (Client<Script>, Arc<Mutex<Vec<Event>>>) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let told = events.clone();
    let options = options.with_observer(move |event| told.lock().push(event.clone()));
    let client = Client::over(script, options).expect("the policy is valid");
    (client.with_random(random), events)
}

#[tokio::test(start_paused = true)]
async fn calls() {
    for case in cases::<Called>("calls.json", "calls") {
        let script = Script::new(case.server.clone());
        let rules = profile(&case.profile);
        let options = Options::default().with_profile(rules).with_policy(policy(&case.policy));
        let (client, events) = client(script.clone(), options, case.random);
        let key = Key::new("a-key").unwrap();
        let call = client.post("http://shop.test/api/orders").json(&serde_json::json!({"a": 1})).key(key.clone());
        let found = match call.send().await {
            Ok(answer) => serde_json::json!({
                "answer": answer.status().as_u16(), "tries": answer.tries, "replayed": answer.replayed,
            }),
            Err(error) => {
                let call = error.call().expect("it is an end of a call");
                let status = call.answer.as_ref().map(|answer| answer.status().as_u16());
                let mut found = serde_json::json!({"error": error.name(), "tries": call.tries, "status": status});
                if let Error::GaveUp { why, .. } = error {
                    found["why"] = why.to_string().trim_end_matches("_max").into();
                }
                found
            }
        };
        assert_eq!(found, case.ends, "{}", case.name);
        let pauses: Vec<_> = events.lock().iter().filter_map(pause).collect();
        assert_eq!(pauses.len(), case.pauses.len(), "{}: {pauses:?}", case.name);
        for (pause, expected) in pauses.into_iter().zip(case.pauses) {
            close(pause, expected, &case.name);
        }
        // Each try sends the same bytes under the same key.
        let seen = script.seen.lock();
        assert_eq!(seen.len(), usize::try_from(case.ends["tries"].as_u64().unwrap()).unwrap(), "{}", case.name);
        for request in seen.iter() {
            assert_eq!(request.body().as_ref(), br#"{"a":1}"#, "{}", case.name);
            assert_eq!(request.headers()["idempotency-key"], rules.header(&key), "{}", case.name);
            assert_eq!(request.headers()["content-type"], "application/json", "{}", case.name);
        }
    }
}

fn pause(event: &Event) -> Option<Duration> {
    match event.step {
        Step::Pause { pause, .. } => Some(pause),
        _ => None,
    }
}

#[tokio::test]
async fn a_key_is_bound_to_its_request() {
    let script = Script::of(&["created", "created"]);
    let (client, _) = client(script.clone(), Options::default(), 0.0);
    let key = Key::derive(["order", "1"]).unwrap();
    let send = |body: &'static str| client.post("http://shop.test/orders").body(body).key(key.clone()).send();
    assert!(send("a").await.is_ok());
    assert!(matches!(send("b").await, Err(Error::KeyReused(call)) if call.tries == 0));
    let elsewhere = client.post("http://shop.test/refunds").body("a").key(key.clone()).send().await;
    assert!(matches!(elsewhere, Err(Error::KeyReused(_))));
    assert_eq!(script.seen.lock().len(), 1, "nothing else was sent");
    assert!(send("a").await.is_ok());
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_before_anything_is() {
    let script = Script::of(&[]);
    let (client, _) = client(script.clone(), Options::default(), 0.0);
    let calls = [
        client.post("not a url"),
        client.post("http://shop.test/").header("idempotency-key", "k"),
        client.post("http://shop.test/").header("a header", "v"),
        client.post("http://shop.test/").body(vec![0; (64 << 20) + 1]),
    ];
    for call in calls {
        assert!(matches!(call.send().await, Err(Error::Unsendable(_))));
    }
    assert!(script.seen.lock().is_empty());
}

#[tokio::test]
async fn a_transport_can_say_that_a_request_can_never_be_sent() {
    let (client, _) = client(Script::of(&["unsendable"]), Options::default(), 0.0);
    assert!(matches!(client.post("http://shop.test/").send().await, Err(Error::Unsendable(_))));
}

#[tokio::test]
async fn an_answer_over_the_limit_is_an_error() {
    let policy = Policy { answer_bytes_max: 3, ..Policy::default() };
    let answer = Scripted { status: 200, headers: Default::default(), body: Some(Value::String("long".to_owned())) };
    let (client, _) = client(Script::new([Try::Answer(answer)]), Options::default().with_policy(policy), 0.0);
    assert!(matches!(client.post("http://shop.test/").send().await, Err(Error::AnswerTooLarge(_))));
}

#[tokio::test(start_paused = true)]
async fn events_tell_a_call_and_no_secret() {
    let (client, events) = client(Script::of(&["lost", "created", "silent"]), Options::default(), 1.0);
    let secret = Key::new("SENTINEL").unwrap();
    let url = "http://user:SENTINEL@shop.test:81/orders?token=SENTINEL";
    client.post(url).header("authorization", "SENTINEL").body("SENTINEL").key(secret).send().await.unwrap();
    let text = format!("{:?}", events.lock());
    assert!(!text.contains("SENTINEL"), "{text}");
    assert!(text.contains("http://shop.test:81/orders"), "{text}");
    let steps: Vec<_> = events.lock().drain(..).map(|event| event.step).collect();
    assert!(
        matches!(steps[..], [Step::Try, Step::Pause { .. }, Step::Try, Step::Answer { replayed: false, .. }]),
        "{steps:?}"
    );
    // A call that is dropped says so.
    let dropped = tokio::time::timeout(Duration::from_secs(1), client.post(url).body("other").send()).await;
    assert!(dropped.is_err());
    let steps: Vec<_> = events.lock().drain(..).map(|event| event.step).collect();
    assert_eq!(steps, [Step::Try, Step::Error { name: "stopped" }]);
}

#[test]
fn a_policy_that_cannot_be_kept_is_refused() {
    let default = Policy::default;
    for policy in [
        Policy { tries_max: 0, ..default() },
        Policy { time_max: Duration::ZERO, ..default() },
        Policy { time_max: Duration::from_secs(24 * 60 * 60), ..default() },
        Policy { retries_per_s: 0.0, ..default() },
        Policy { retries_per_answer: f64::NAN, ..default() },
    ] {
        let refused = Client::over(Script::of(&[]), Options::default().with_policy(policy.clone()));
        assert!(refused.is_err(), "{policy:?}");
    }
}

#[cfg(feature = "journal")]
mod journal {
    use super::*;
    use crate::{FileJournal, Journal as _};

    fn options(journal: FileJournal, clock: &Clock) -> Options {
        Options::default().with_journal(journal).with_clock(clock.clone())
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_answered_is_finished_with_the_same_key_and_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("intents.db");
        let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
        let key = Key::random();
        {
            let script = Script::of(&["silent"]);
            let (client, _) = client(script, options(FileJournal::open(&path).unwrap(), &clock), 0.0);
            let call =
                client.post("http://shop.test/orders?x=1").header("authorization", "secret").header("x-user-id", "u1");
            let cancelled =
                tokio::time::timeout(Duration::from_secs(1), call.json("order").key(key.clone()).send()).await;
            assert!(cancelled.is_err(), "it is cancelled");
        }
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"secret"), "credentials are not written");
        let script = Script::of(&["lost", "created"]);
        let (client, _) = client(script.clone(), options(FileJournal::open(&path).unwrap(), &clock), 0.0);
        let pending = client.pending().await.unwrap();
        assert_eq!(pending.len(), 1);
        for entry in pending {
            let answer = client.resume(entry).await.unwrap();
            assert_eq!((answer.key, answer.tries), (key.clone(), 2));
        }
        let seen = script.seen.lock().clone();
        assert_eq!(seen[1].uri(), "http://shop.test/orders?x=1");
        assert_eq!(seen[1].headers()["x-user-id"], "u1");
        assert_eq!(seen[1].body(), "\"order\"");
        assert!(client.pending().await.unwrap().is_empty(), "an answered entry goes");
    }

    #[tokio::test]
    async fn a_key_is_bound_over_restarts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("intents.db");
        let clock = Clock::manual(Timestamp::from_millis(0));
        let policy = Policy { tries_max: 1, ..Policy::default() };
        let key = Key::derive(["order", "1"]).unwrap();
        for (body, expected) in [("a", "gave_up"), ("b", "key_reused")] {
            let options = options(FileJournal::open(&path).unwrap(), &clock).with_policy(policy.clone());
            let (client, _) = client(Script::of(&["lost"]), options, 0.0);
            let error = client.post("http://shop.test/").body(body).key(key.clone()).send().await.unwrap_err();
            assert_eq!(error.name(), expected);
        }
    }

    #[tokio::test]
    async fn an_intent_that_is_too_old_is_not_sent() {
        let directory = tempfile::tempdir().unwrap();
        let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
        let journal = FileJournal::open(directory.path().join("intents.db")).unwrap();
        let script = Script::of(&["lost"]);
        let policy = Policy { tries_max: 1, ..Policy::default() };
        let (client, _) = client(script.clone(), options(journal, &clock).with_policy(policy), 0.0);
        client.post("http://shop.test/").key(Key::random()).send().await.unwrap_err();
        clock.advance(Duration::from_secs(24 * 60 * 60));
        let entry = client.pending().await.unwrap().remove(0);
        assert!(matches!(client.resume(entry).await, Err(Error::TooOld(_))));
        assert_eq!(script.seen.lock().len(), 1);
        assert_eq!(client.pending().await.unwrap().len(), 1, "it stays until somebody ends it");
    }

    #[derive(Deserialize)]
    struct Kept {
        name: String,
        server: Try,
        kept: bool,
    }

    #[tokio::test]
    async fn an_intent_stays_as_the_table_says() {
        let clock = Clock::manual(Timestamp::from_millis(0));
        for case in cases::<Kept>("calls.json", "journal") {
            let directory = tempfile::tempdir().unwrap();
            let journal = FileJournal::open(directory.path().join("intents.db")).unwrap();
            let policy = Policy { tries_max: 1, ..Policy::default() };
            let (client, _) = client(Script::new([case.server]), options(journal, &clock).with_policy(policy), 0.0);
            let _ = client.post("http://shop.test/").send().await;
            assert_eq!(client.pending().await.unwrap().len(), usize::from(case.kept), "{}", case.name);
        }
    }

    #[test]
    fn a_journal_has_bounds_and_a_format() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("intents.db");
        let journal = FileJournal::open(&path).unwrap();
        let entry = |body: Vec<u8>| crate::Entry {
            key: Key::random(),
            request: Request::post("http://shop.test/").body(body.into()).unwrap(),
            created_at: Timestamp::from_millis(0),
        };
        assert!(matches!(journal.begin(entry(vec![0; (1 << 20) + 1])), Err(crate::JournalError::TooLarge { .. })));
        assert!(journal.begin(entry(vec![0; 1 << 20])).is_ok());
        let db = rusqlite::Connection::open(&path).unwrap();
        db.execute_batch(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9999)
             INSERT INTO intent SELECT 'k' || i, 0, 'POST', 'http://shop.test/', x'', x'' FROM n",
        )
        .unwrap();
        assert!(matches!(journal.begin(entry(Vec::new())), Err(crate::JournalError::Full { entries: 10_000 })));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0, "only the user may read it");
        }
        db.pragma_update(None, "user_version", 2).unwrap();
        assert!(matches!(FileJournal::open(&path), Err(crate::JournalError::Format(2))));
    }
}
