//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::{HeaderName, HeaderValue, Method, Uri};

/// Check from outside whether an API keeps its promise that a repeated request takes effect once.
///
/// It sends one request in many ways: twice, at once, with another body, broken off. The request must be one that may take
/// effect: use a test system. Give --effects, or double effects can only be guessed from the answers.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example:
  keylatch probe http://localhost:3000/api/orders --body @order.json -H 'X-User-Id: user123' \\
      --effects 'GET /api/orders?user_id=user123' --count .orders

Exit status: 0 if no case failed, 1 if one did, 2 if nothing could be checked.")]
pub struct Probe {
    /// Where the request goes. Nothing is sent to any other host.
    pub(crate) url: Uri,
    /// The method of the request.
    #[arg(short = 'X', long, value_name = "METHOD", default_value = "POST")]
    pub(crate) method: Method,
    /// The body, or @FILE.
    #[arg(long, value_name = "BODY", value_parser = body, default_value = "")]
    pub(crate) body: Bytes,
    /// Another valid body, or @FILE, for the case that a key is used for another request. By default a number or a text of
    /// the JSON body is changed.
    #[arg(long, value_name = "BODY", value_parser = body)]
    pub(crate) other_body: Option<Bytes>,
    /// A header of every request, such as a token. Reports show only the names of headers that carry secrets.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// A header that makes the request another caller's, such as 'X-User-Id: other' or another token.
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    pub(crate) other_caller: Option<(HeaderName, HeaderValue)>,
    /// The header that carries the key.
    #[arg(long, value_name = "NAME", default_value = "Idempotency-Key")]
    pub(crate) key_header: HeaderName,
    /// Send keys as quoted strings, as the IETF draft has them.
    #[arg(long)]
    pub(crate) quote_keys: bool,
    /// How effects are counted: a method and a path on the same host, such as 'GET /api/orders?user_id=user123'.
    #[arg(long, value_name = "METHOD PATH", value_parser = effects)]
    pub(crate) effects: Option<(Method, String)>,
    /// Where the answer of --effects has them: a list or a number, such as .orders or .data.count.
    #[arg(long, value_name = "PATH", default_value = ".", requires = "effects")]
    pub(crate) count: String,
    /// A command that kills the service with SIGKILL and starts it again. It is run in the middle of a request.
    #[arg(long, value_name = "COMMAND", conflicts_with = "pid")]
    pub(crate) restart: Option<String>,
    /// The process to kill with SIGKILL in the middle of a request: its number, or a file with it. Something else must
    /// start it again.
    #[arg(long, value_name = "PID or FILE")]
    pub(crate) pid: Option<String>,
    /// How many of the same request are sent at once.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u16).range(2..=1000))]
    pub(crate) at_once: u16,
    /// How long a final answer is waited for, in seconds, while the service says that a request is running.
    #[arg(long, value_name = "SECONDS", default_value = "15", value_parser = seconds)]
    pub(crate) patience: Duration,
    /// The most requests that may be sent.
    #[arg(long, value_name = "N", default_value_t = 2000)]
    pub(crate) requests_max: usize,
    /// Run only these cases; all by default.
    #[arg(long, value_name = "CASE", value_delimiter = ',', value_parser = case)]
    pub(crate) only: Vec<String>,
    /// Send without asking.
    #[arg(long)]
    pub(crate) yes: bool,
    /// Say what would be sent, and send nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Write JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Also write a JUnit report for CI.
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,
    /// Also write a page of HTML to hand on.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

fn body(text: &str) -> Result<Bytes, String> {
    match text.strip_prefix('@') {
        Some(path) => std::fs::read(path).map(Bytes::from).map_err(|error| format!("{path} cannot be read: {error}")),
        None => Ok(Bytes::copy_from_slice(text.as_bytes())),
    }
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("a header is written as 'Name: value'")?;
    let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|error| error.to_string())?;
    let value = HeaderValue::from_str(value.trim()).map_err(|error| error.to_string())?;
    Ok((name, value))
}

fn effects(text: &str) -> Result<(Method, String), String> {
    let (method, path) = text.split_once(' ').ok_or("write a method and a path, such as 'GET /api/orders'")?;
    let method = Method::from_bytes(method.as_bytes()).map_err(|error| error.to_string())?;
    let path = path.trim();
    if !path.starts_with('/') {
        return Err("the path begins with /, on the same host as the URL".to_owned());
    }
    Ok((method, path.to_owned()))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|_| "write a number of seconds")?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn case(name: &str) -> Result<String, String> {
    if crate::CASES.iter().any(|case| case.name == name) {
        return Ok(name.to_owned());
    }
    let names: Vec<_> = crate::CASES.iter().map(|case| case.name).collect();
    Err(format!("the cases are {}", names.join(", ")))
}
