//! A service that makes repeated requests safe, written by hand and with nothing of Keylatch, and the mistakes that it can be
//! told to make.

use std::collections::HashMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// How long an order takes, so that a client can hang up in the middle.
const WORK: Duration = Duration::from_millis(30);
/// How long a slow body is waited for, by the mistake of that name.
const BODY_MAX: Duration = Duration::from_millis(300);

/// A mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mistake {
    /// A third answer is made anew.
    ThirdAnswerDiffers,
    /// The key is looked up before the work and kept after it.
    LooksThenActs,
    /// Another body gets the stored answer.
    IgnoresBody,
    /// Another body runs.
    RunsOtherBody,
    /// Keys of all callers are one name space.
    SharesCallers,
    /// A broken body takes the key for ever.
    WedgesOnError,
    /// A replay sets the cookie again.
    ReplaysCookie,
    /// A replay does not say so.
    MarksNothing,
    /// Keys by HTTP/2 are others.
    SplitsVersions,
    /// No key is a key.
    SharesNoKey,
    /// An empty key is no key.
    TakesEmptyForNone,
    /// A key is cut.
    CutsKeys,
    /// A key that is not visible ASCII is a failure.
    FailsOnOddKeys,
    /// Keys are compared without case.
    FoldsCase,
    /// Work ends when its client hangs up, and its key stays taken.
    CancelsOnHangUp,
    /// The key is taken before the body is read.
    ClaimsBeforeBody,
    /// A slow body is a failure.
    FailsOnSlowBody,
    /// Orders are on disk, and keys are not.
    ForgetsOnCrash,
    /// A key that was taken before a crash stays taken.
    WedgesOnCrash,
}

/// All mistakes.
pub const MISTAKES: [Mistake; 19] = [
    Mistake::ThirdAnswerDiffers,
    Mistake::LooksThenActs,
    Mistake::IgnoresBody,
    Mistake::RunsOtherBody,
    Mistake::SharesCallers,
    Mistake::WedgesOnError,
    Mistake::ReplaysCookie,
    Mistake::MarksNothing,
    Mistake::SplitsVersions,
    Mistake::SharesNoKey,
    Mistake::TakesEmptyForNone,
    Mistake::CutsKeys,
    Mistake::FailsOnOddKeys,
    Mistake::FoldsCase,
    Mistake::CancelsOnHangUp,
    Mistake::ClaimsBeforeBody,
    Mistake::FailsOnSlowBody,
    Mistake::ForgetsOnCrash,
    Mistake::WedgesOnCrash,
];

impl FromStr for Mistake {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        MISTAKES.into_iter().find(|mistake| format!("{mistake:?}") == name).ok_or_else(|| format!("no mistake {name}"))
    }
}

/// The service.
pub struct Service {
    /// Whether it knows of keys at all.
    keeps_keys: bool,
    mistake: Option<Mistake>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    records: HashMap<Id, Record>,
    orders: Vec<Value>,
    file: Option<File>,
}

type Id = (String, Vec<u8>);

struct Record {
    body: Bytes,
    /// The order, once it is made.
    order: Option<Value>,
    replays: usize,
    was_asked_meanwhile: bool,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("mistake", &self.mistake).finish_non_exhaustive()
    }
}

impl Service {
    /// A service that makes `mistake`, and keeps what it must keep in `file`.
    ///
    /// # Panics
    ///
    /// If the file cannot be read or written.
    pub fn new(mistake: Option<Mistake>, file: Option<&Path>) -> Arc<Self> {
        let mut state = State::default();
        if let Some(path) = file {
            let file =
                OpenOptions::new().create(true).read(true).append(true).open(path).expect("the file can be opened");
            for line in BufReader::new(&file).lines().map_while(Result::ok) {
                state.load(&line);
            }
            state.file = Some(file);
        }
        Arc::new(Self { keeps_keys: true, mistake, state: Mutex::new(state) })
    }

    /// A service that knows nothing of keys: every order takes effect.
    pub fn without_keys() -> Arc<Self> {
        Arc::new(Self { keeps_keys: false, mistake: None, state: Mutex::default() })
    }

    fn makes(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    /// Answers the connections of `listener`.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let this = self.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let this = this.clone();
                    async move { this.answer(request).await }
                });
                let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/api/orders") => Ok(self.orders()),
            (&Method::POST, "/api/orders") => self.order(request).await,
            _ => Ok(problem(StatusCode::NOT_FOUND, "there is nothing here")),
        }
    }

    fn orders(&self) -> Response<Full<Bytes>> {
        let orders = self.state.lock().orders.clone();
        Response::new(json!({"data": {"orders": orders}}).to_string().into())
    }

    async fn order(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
        let (parts, body) = request.into_parts();
        let id = match self.id(&parts.headers, parts.version) {
            Ok(id) => id,
            Err(refusal) => return Ok(*refusal),
        };
        if let (true, Some(id)) = (self.makes(Mistake::ClaimsBeforeBody), &id)
            && let Some(answer) = self.state.lock().taken_before_body(id)
        {
            return Ok(answer);
        }
        let body = match self.read(body).await? {
            Ok(body) => body,
            Err(failure) => return Ok(*failure),
        };
        let Ok(Value::Object(_)) = serde_json::from_slice(&body) else {
            if self.makes(Mistake::WedgesOnError)
                && let Some(answer) = id.and_then(|id| self.held(&id, &body))
            {
                return Ok(answer);
            }
            return Ok(problem(StatusCode::BAD_REQUEST, "the body is not JSON"));
        };
        let Some(id) = id else { return Ok(created(&self.make(&body, None).await, false)) };
        if let Some(answer) = self.held(&id, &body) {
            return Ok(answer);
        }
        if self.makes(Mistake::CancelsOnHangUp) {
            return Ok(created(&self.make(&body, Some(id)).await, false));
        }
        // A client that hangs up does not end the work.
        let this = self.clone();
        let made = tokio::spawn(async move { this.make(&body, Some(id)).await }).await;
        Ok(created(&made.expect("the work does not fail"), false))
    }

    async fn read(&self, body: Incoming) -> Result<Result<Bytes, Box<Response<Full<Bytes>>>>, hyper::Error> {
        let is_empty = body.is_end_stream();
        let body = body.collect();
        if !self.makes(Mistake::FailsOnSlowBody) || is_empty {
            return Ok(Ok(body.await?.to_bytes()));
        }
        match tokio::time::timeout(BODY_MAX, body).await {
            Ok(body) => Ok(Ok(body?.to_bytes())),
            Err(_) => Ok(Err(Box::new(problem(StatusCode::INTERNAL_SERVER_ERROR, "the body is slow")))),
        }
    }

    /// Whose key it is; none if the request has none and needs none.
    fn id(&self, headers: &HeaderMap, version: Version) -> Result<Option<Id>, Box<Response<Full<Bytes>>>> {
        if !self.keeps_keys {
            return Ok(None);
        }
        let refuse = |why| Err(Box::new(problem(StatusCode::BAD_REQUEST, why)));
        let caller = headers.get("x-user-id").map_or(&b""[..], |value| value.as_bytes());
        let mut caller = String::from_utf8_lossy(caller).into_owned();
        if self.makes(Mistake::SharesCallers) {
            caller.clear();
        }
        if self.makes(Mistake::SplitsVersions) {
            caller.push_str(&format!(" {version:?}"));
        }
        let mut key = match headers.get("idempotency-key") {
            None if self.makes(Mistake::SharesNoKey) => b"none".to_vec(),
            None => return refuse("send a key"),
            Some(key) => key.as_bytes().to_vec(),
        };
        if key.is_empty() {
            return if self.makes(Mistake::TakesEmptyForNone) { Ok(None) } else { refuse("the key is empty") };
        }
        if self.makes(Mistake::CutsKeys) {
            key.truncate(64);
        }
        if key.len() > 255 {
            return refuse("the key is too long");
        }
        if !key.iter().all(u8::is_ascii_graphic) {
            if self.makes(Mistake::FailsOnOddKeys) {
                return Err(Box::new(problem(StatusCode::INTERNAL_SERVER_ERROR, "a key is text")));
            }
            return refuse("the key is not visible ASCII");
        }
        if self.makes(Mistake::FoldsCase) {
            key.make_ascii_lowercase();
        }
        Ok(Some((caller, key)))
    }

    /// The answer of a key that is taken; otherwise takes it.
    fn held(&self, id: &Id, body: &Bytes) -> Option<Response<Full<Bytes>>> {
        let mut state = self.state.lock();
        let Some(record) = state.records.get_mut(id) else {
            if !self.makes(Mistake::LooksThenActs) {
                state.take(id, body);
                if self.makes(Mistake::WedgesOnCrash) {
                    state.write(id, body, None);
                }
            }
            return None;
        };
        if record.body.is_empty() {
            // It was taken before its body was read.
            record.body = body.clone();
            return None;
        }
        if record.body != body && !self.makes(Mistake::IgnoresBody) {
            return match self.makes(Mistake::RunsOtherBody) {
                true => None,
                false => Some(problem(StatusCode::UNPROCESSABLE_ENTITY, "the key belongs to another request")),
            };
        }
        let Some(order) = &record.order else {
            record.was_asked_meanwhile = true;
            return Some(problem(StatusCode::CONFLICT, "it is running"));
        };
        record.replays += 1;
        let mut order = order.clone();
        if self.makes(Mistake::ThirdAnswerDiffers) && record.replays == 2 && !record.was_asked_meanwhile {
            order["total"] = 0.into();
        }
        let mut answer = created(&order, !self.makes(Mistake::MarksNothing));
        if !self.makes(Mistake::ReplaysCookie) {
            answer.headers_mut().remove("set-cookie");
        }
        Some(answer)
    }

    /// Makes an order, and keeps it under its key.
    async fn make(&self, body: &Bytes, id: Option<Id>) -> Value {
        tokio::time::sleep(WORK).await;
        let mut state = self.state.lock();
        let order = json!({"order_id": state.orders.len() + 1, "total": 42});
        state.orders.push(order.clone());
        let keeps = id.filter(|id| state.records.get(id).is_none_or(|record| record.body == body));
        match &keeps {
            Some(id) if !self.makes(Mistake::ForgetsOnCrash) => state.write(id, body, Some(&order)),
            _ => state.write(&(String::new(), Vec::new()), body, Some(&order)),
        }
        if let Some(id) = keeps {
            state.take(&id, body);
            if let Some(record) = state.records.get_mut(&id) {
                record.order = Some(order.clone());
            }
        }
        order
    }
}

impl State {
    fn take(&mut self, id: &Id, body: &Bytes) {
        self.records.entry(id.clone()).or_insert_with(|| Record {
            body: body.clone(),
            order: None,
            replays: 0,
            was_asked_meanwhile: false,
        });
    }

    fn taken_before_body(&mut self, id: &Id) -> Option<Response<Full<Bytes>>> {
        match self.records.get(id) {
            Some(record) if record.order.is_none() => Some(problem(StatusCode::CONFLICT, "it is running")),
            Some(_) => None,
            None => {
                self.take(id, &Bytes::new());
                None
            }
        }
    }

    /// Writes a line: a key, its body, and its order if it is made. Order and key are one write, so a crash keeps both or
    /// neither.
    fn write(&mut self, (caller, key): &Id, body: &Bytes, order: Option<&Value>) {
        let Some(file) = &mut self.file else { return };
        let line = json!({
            "caller": caller, "key": String::from_utf8_lossy(key), "body": String::from_utf8_lossy(body), "order": order,
        });
        file.write_all(format!("{line}\n").as_bytes())
            .and_then(|()| file.sync_data())
            .expect("the file can be written");
    }

    fn load(&mut self, line: &str) {
        let Ok(line) = serde_json::from_str::<Value>(line) else { return };
        let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        let (id, body) = ((text("caller"), text("key").into_bytes()), Bytes::from(text("body")));
        let order = line["order"].as_object().is_some().then(|| line["order"].clone());
        self.orders.extend(order.clone());
        if !id.1.is_empty() {
            self.take(&id, &body);
            if let Some(record) = self.records.get_mut(&id) {
                record.order = order;
            }
        }
    }
}

fn created(order: &Value, is_replay: bool) -> Response<Full<Bytes>> {
    let mut answer = Response::builder()
        .status(StatusCode::CREATED)
        .header("content-type", "application/json")
        .header("location", format!("/api/orders/{}", order["order_id"]))
        .header("set-cookie", "session=1");
    if is_replay {
        answer = answer.header("idempotent-replayed", "true");
    }
    answer.body(order.to_string().into()).expect("it is an answer")
}

fn problem(status: StatusCode, title: &str) -> Response<Full<Bytes>> {
    let answer = Response::builder().status(status).header("content-type", "application/problem+json");
    answer.body(json!({"title": title}).to_string().into()).expect("it is an answer")
}
