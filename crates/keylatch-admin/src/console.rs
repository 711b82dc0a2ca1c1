//! The console: a page that is a client of the API.
//!
//! Its assets are in the binary, and they need no token: they have no content. The page shows nothing that the API does
//! not give to its token.
//!
//! Keys, scopes, headers and bodies were chosen by clients, so the page must not run what is in them. It sets text as
//! text only; and if it ever did not, the policy lets no script and no style run but the embedded ones, and takes no
//! text for markup.

use axum::Router;
use axum::extract::Path;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, StatusCode};
use sha2::{Digest as _, Sha256};
use std::sync::LazyLock;

use crate::problem::Problem;

/// What the page may load and do.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// A file of the console.
struct Asset {
    name: &'static str,
    bytes: &'static [u8],
}

macro_rules! assets {
    ($($name:literal),* $(,)?) => {
        [$(Asset { name: $name, bytes: include_bytes!(concat!("../console/", $name)) }),*]
    };
}

/// All files of the console. The page is the first.
static ASSETS: &[Asset] = &assets![
    "index.html",
    "style.css",
    "controls.css",
    "parts.css",
    "icon.svg",
    "actions.js",
    "api.js",
    "charts.js",
    "dead-letters.js",
    "dialog.js",
    "dom.js",
    "events.js",
    "find.js",
    "format.js",
    "keyboard.js",
    "list.js",
    "live.js",
    "main.js",
    "metrics.js",
    "needs.js",
    "now.js",
    "phase.js",
    "places.js",
    "record.js",
    "records.js",
    "sign-in.js",
    "timeline.js",
];

/// Tells one version of all files from another: a browser must not mix the files of two versions.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut hash = Sha256::new();
    for Asset { name, bytes } in ASSETS {
        hash.update((name.len() as u64).to_be_bytes());
        hash.update(name);
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    }
    format!("\"{:x}\"", hash.finalize())
});

/// The routes of the page and its files.
pub(crate) fn console() -> Router {
    Router::new()
        // The page names its files relative to itself, so its path must end with a slash. The router may be nested, so
        // this is relative as well.
        .route("/console", get(async || Redirect::permanent("console/")))
        .route("/console/", get(async |headers: HeaderMap| serve(&ASSETS[0], &headers)))
        .route("/console/{name}", get(file))
}

async fn file(Path(name): Path<String>, headers: HeaderMap) -> Response {
    match ASSETS.iter().find(|asset| asset.name == name) {
        Some(asset) => serve(asset, &headers),
        None => Problem::NoRoute.into_response(),
    }
}

fn serve(asset: &Asset, asked: &HeaderMap) -> Response {
    let kind = match asset.name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "text/javascript; charset=utf-8",
    };
    let headers: [(HeaderName, &str); 8] = [
        (CONTENT_TYPE, kind),
        // Kept, and asked for again each time.
        (CACHE_CONTROL, "no-cache"),
        (ETAG, &VERSION),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    let known = asked.get_all(IF_NONE_MATCH).iter().any(|tags| {
        tags.to_str().is_ok_and(|tags| tags.split(',').any(|tag| tag.trim().trim_start_matches("W/") == *VERSION))
    });
    if known { (StatusCode::NOT_MODIFIED, headers).into_response() } else { (headers, asset.bytes).into_response() }
}
