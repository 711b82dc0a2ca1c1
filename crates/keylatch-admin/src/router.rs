//! The HTTP API. A program nests its router anywhere: on a listener of its own, or under a path of its API.
//!
//! | route | role | |
//! |---|---|---|
//! | `GET api/v1/records?caller=…&operation=…&phase=…&cursor=…&limit=…` | view | a page of records |
//! | `GET api/v1/records/lapsed?phase=…&cursor=…&limit=…` | view | the runs that nobody works on |
//! | `POST api/v1/records/find` | view | the record of a scope and key, which so do not get into a URL |
//! | `GET api/v1/records/{id}` | view | a record, its time line, and what can be done to it |
//! | `GET api/v1/records/{id}?body=true` | operate | the same with the content of its answer |
//! | `POST api/v1/records/{id}/release` | operate | lets go of the key of an unknown run |
//! | `POST api/v1/records/{id}/resolve` | operate | writes the answer of an unknown run |
//! | `POST api/v1/records/{id}/forget` | operate | takes a recorded answer away, and leaves its tombstone |
//! | `GET api/v1/places?consumer=…&cursor=…&limit=…` | view | how far consumers have come |
//! | `POST api/v1/places/reset` | operate | moves a place to another offset |
//! | `GET api/v1/dead-letters?consumer=…&topic=…&partition=…&wanted=…&cursor=…&limit=…` | view | messages that were given up |
//! | `POST api/v1/dead-letters/replay`, `keep`, `discard` | operate | what becomes of them |
//! | `GET api/v1/outbox?cursor=…&limit=…` | view | how much waits, and the events that are stuck |
//! | `POST api/v1/outbox/retry`, `discard` | operate | what becomes of them |
//! | `GET api/v1/regions` | view | which region decides about which keys |
//! | `POST api/v1/regions/lose`, `bring-back` | operate | another region stands in for one that is gone; it is back |
//! | `POST api/v1/sweep` | operate | removes expired records |
//! | `GET api/v1/stats?caller=…&operation=…` | view | how much there is |
//! | `GET api/v1/live` | view | the same and the metrics, each second, as server-sent events |
//! | `GET api/v1/me` | view | who the caller is |
//! | `GET api/v1/openapi.json` | view | this list, for programs |
//! | `GET console/` | none | the console, a page that is a client of these routes and asks for a token |
//! | `GET metrics`, `GET healthz`, `GET readyz` | none | for monitoring |
//!
//! Errors are `application/problem+json`. A request that would change something has a `dry_run`.

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use http::HeaderValue;
use http::header::CACHE_CONTROL;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::watch;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, OpenApi, OpenApiBuilder, SecurityRequirement};
use utoipa_axum::router::OpenApiRouter;

use crate::access::{Access, Role, authenticate, known_host, operators_only};
use crate::console::console;
use crate::live::Live;
use crate::ops::Operator;
use crate::problem::Problem;
use crate::{health, routes};

/// Where the API is, in the router.
pub const API: &str = "/api/v1";

/// The largest body of a request, unless its route says otherwise.
const BODY_BYTES_MAX: usize = 256 << 10;

/// The API over an [`Operator`]. Clones share it.
#[derive(Debug, Clone)]
pub struct Admin(Arc<Shared>);

/// What the handlers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) operator: Operator,
    pub(crate) access: Access,
    pub(crate) metrics: Option<PrometheusHandle>,
    pub(crate) live: Live,
    stopping: watch::Sender<bool>,
}

impl Shared {
    pub(crate) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    pub(crate) async fn stopped(&self) {
        // The sender is here, so it cannot be gone.
        let _ = self.stopping.subscribe().wait_for(|stopping| *stopping).await;
    }
}

impl Admin {
    /// What `operator` can do, for those whom `access` lets in.
    pub fn new(operator: Operator, access: Access) -> Self {
        Self::with(operator, access, None)
    }

    /// The same, with `GET metrics` and the metrics in the live numbers.
    pub fn with_metrics(operator: Operator, access: Access, metrics: PrometheusHandle) -> Self {
        Self::with(operator, access, Some(metrics))
    }

    fn with(operator: Operator, access: Access, metrics: Option<PrometheusHandle>) -> Self {
        let stopping = watch::Sender::new(false);
        Self(Arc::new(Shared { operator, access, metrics, live: Live::default(), stopping }))
    }

    /// What it can do.
    pub fn operator(&self) -> &Operator {
        &self.0.operator
    }

    /// Who is let in.
    pub fn access(&self) -> &Access {
        &self.0.access
    }

    /// The process is shutting down: `GET readyz` says so from now on, and the live streams end.
    pub fn stop(&self) {
        self.0.stopping.send_replace(true);
    }

    /// `routes` of the program's own, for callers with `role` only. They get who it is as an extension: [`Actor`].
    ///
    /// [`Actor`]: crate::Actor
    pub fn guard<S: Clone + Send + Sync + 'static>(&self, role: Role, routes: Router<S>) -> Router<S> {
        let routes = match role {
            Role::View => routes,
            Role::Operate => routes.route_layer(from_fn(operators_only)),
        };
        routes
            .route_layer(from_fn_with_state(self.0.clone(), authenticate))
            .route_layer(from_fn_with_state(self.0.clone(), known_host))
    }

    /// The router.
    pub fn router(&self) -> Router {
        let shared = self.0.clone();
        let (api, _) = api().split_for_parts();
        let api = api
            .fallback(async || Problem::NoRoute)
            .method_not_allowed_fallback(async || Problem::NoMethod)
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .layer(from_fn_with_state(shared.clone(), authenticate))
            .layer(axum::middleware::map_response(no_store))
            .with_state(shared.clone());
        Router::new()
            .nest(API, api)
            .merge(console())
            .layer(from_fn_with_state(shared.clone(), known_host))
            .merge(health::router(shared))
    }
}

/// What an operator sees is stored nowhere else.
async fn no_store(mut response: axum::response::Response) -> axum::response::Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// All routes of the API, each with its role. There is no other list.
fn api() -> OpenApiRouter<Arc<Shared>> {
    let operate = routes::operate().route_layer(from_fn(operators_only));
    of_role(routes::view(), Role::View).merge(of_role(operate, Role::Operate))
}

/// The routes, with their role in the document.
fn of_role(mut routes: OpenApiRouter<Arc<Shared>>, role: Role) -> OpenApiRouter<Arc<Shared>> {
    for item in routes.get_openapi_mut().paths.paths.values_mut() {
        for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
            operation.security = Some(vec![SecurityRequirement::new("token", [role.name()])]);
        }
    }
    routes
}

/// The description of the API, in OpenAPI 3.1. Each operation names the role that it needs.
pub fn openapi() -> OpenApi {
    let token = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("A token of the role."));
    let about = OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Keylatch")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some("What an operator can do.")),
        )
        .components(Some(
            ComponentsBuilder::new().security_scheme("token", SecurityScheme::Http(token.build())).build(),
        ))
        .build();
    OpenApiRouter::with_openapi(about).nest(API, api()).into_openapi()
}
