//! The proxies that the gateway is compared with: hyper between a client and the upstream, and nothing else; and the same
//! that sends Redis the two commands of a first request.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::http::uri::{Authority, Scheme, Uri};
use axum::http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use keylatch::http::IDEMPOTENCY_KEY;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use tokio::net::TcpListener;

use crate::Result;
use crate::serve::end_with_parent;

/// Passes requests on to `upstream`. With `redis`, each has a record there.
pub(crate) fn serve(port: u16, upstream: SocketAddr, redis: Option<&str>) -> Result<()> {
    std::thread::spawn(end_with_parent);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let records = match redis {
            Some(url) => Some(Records::open(url).await?),
            None => None,
        };
        let proxy = Arc::new(Proxy {
            client: Client::builder(TokioExecutor::new()).set_host(false).build(connector),
            upstream: upstream.to_string().parse()?,
            records,
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let proxy = proxy.clone();
            tokio::spawn(async move {
                let answer = service_fn(|request| {
                    let proxy = proxy.clone();
                    async move { Ok::<_, Infallible>(proxy.answer(request).await) }
                });
                // A client that is done closes its connection.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    })
}

struct Proxy {
    client: Client<HttpConnector, Incoming>,
    upstream: Authority,
    records: Option<Records>,
}

type Answer = Response<Either<Incoming, Full<Bytes>>>;

impl Proxy {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        self.pass(request).await.unwrap_or_else(|error| {
            eprintln!("a request failed: {error}");
            let mut failed = Response::new(Either::Right(Full::default()));
            *failed.status_mut() = StatusCode::BAD_GATEWAY;
            failed
        })
    }

    async fn pass(&self, mut request: Request<Incoming>) -> Result<Answer> {
        let path = request.uri().path_and_query().cloned().ok_or("a request without a path")?;
        let uri = Uri::builder().scheme(Scheme::HTTP).authority(self.upstream.clone()).path_and_query(path);
        *request.uri_mut() = uri.build()?;
        let Some(records) = &self.records else {
            return Ok(self.client.request(request).await?.map(Either::Left));
        };
        let key = request.headers().get(IDEMPOTENCY_KEY).ok_or("a request without a key")?;
        let key = format!("bench:{{0}}:{}", key.to_str()?);
        records.claim(&key).await?;
        let (head, body) = self.client.request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        records.complete(&key, &body).await?;
        Ok(Response::from_parts(head, Either::Right(Full::new(body))))
    }
}

/// Records as the store writes them, in size and in commands.
struct Records {
    connection: MultiplexedConnection,
    replace: String,
}

/// A header of 54 bytes, and an identity.
const HEADER: &str = "hhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhh";
const IDENTITY_BYTES: usize = 118;
const LIFE_MS: u64 = 691_200_000;

impl Records {
    async fn open(url: &str) -> Result<Self> {
        // On a busy machine a command may take long, which is no failure here.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let client = redis::Client::open(url)?;
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let script = include_str!("../../../crates/keylatch-redis/src/lua/replace.lua");
        let replace = redis::cmd("SCRIPT").arg("LOAD").arg(script).query_async(&mut connection).await?;
        Ok(Self { connection, replace })
    }

    async fn claim(&self, key: &str) -> Result<()> {
        let record = format!("{HEADER}{:i<IDENTITY_BYTES$}", "");
        let mut set = redis::cmd("SET");
        set.arg(key).arg(record).arg("NX").arg("GET").arg("PX").arg(LIFE_MS);
        match set.query_async::<Option<Vec<u8>>>(&mut self.connection.clone()).await? {
            None => Ok(()),
            Some(_) => Err("a new key is held".into()),
        }
    }

    async fn complete(&self, key: &str, answer: &[u8]) -> Result<()> {
        let record = [format!("{:c<54}{:i<IDENTITY_BYTES$}", "", "").as_bytes(), answer].concat();
        let mut replace = redis::cmd("EVALSHA");
        replace.arg(&self.replace).arg(1).arg(key).arg(HEADER).arg("PX").arg(LIFE_MS).arg(record);
        match replace.query_async::<i64>(&mut self.connection.clone()).await? {
            1 => Ok(()),
            _ => Err(io::Error::other("a record is lost").into()),
        }
    }
}
