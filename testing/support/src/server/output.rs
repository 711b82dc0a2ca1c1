//! The output of a server.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// How many of the latest lines are kept.
const LINES_MAX: usize = 1_000;

/// The lines of both streams, in order of arrival. It ends with the readers.
#[derive(Debug, Default)]
pub(super) struct Output {
    lines: Arc<Lines>,
    readers: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Lines {
    latest: Mutex<VecDeque<String>>,
    url: Mutex<Option<String>>,
    changed: Notify,
}

impl Output {
    /// Reads `stream` to its end, because otherwise the writer would block.
    pub(super) fn follow(&mut self, stream: impl AsyncRead + Unpin + Send + 'static) {
        let lines = self.lines.clone();
        self.readers.spawn(async move {
            let mut stream = BufReader::new(stream).lines();
            while let Ok(Some(line)) = stream.next_line().await {
                lines.push(line);
            }
        });
    }

    /// The first address in the output.
    pub(super) fn url(&self) -> Option<String> {
        self.lines.url.lock().clone()
    }

    pub(super) fn text(&self) -> String {
        let lines = self.lines.latest.lock();
        lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
    }

    /// The whole output, once the process has ended.
    pub(super) async fn whole(&mut self) -> String {
        while self.readers.join_next().await.is_some() {}
        self.text()
    }

    pub(super) async fn changed(&self) {
        self.lines.changed.notified().await;
    }
}

impl Lines {
    fn push(&self, line: String) {
        let mut url = self.url.lock();
        if url.is_none() {
            *url = url_in(&line);
        }
        drop(url);
        let mut latest = self.latest.lock();
        if latest.len() == LINES_MAX {
            latest.pop_front();
        }
        latest.push_back(line);
        drop(latest);
        self.changed.notify_one();
    }
}

fn url_in(line: &str) -> Option<String> {
    const START: &str = "http://127.0.0.1:";
    let found = &line[line.find(START)?..];
    let port = found[START.len()..].chars().take_while(char::is_ascii_digit).count();
    (port > 0).then(|| found[..START.len() + port].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_an_address_in_a_line() {
        let found = |line| url_in(line);
        assert_eq!(found("listening on http://127.0.0.1:4711"), Some("http://127.0.0.1:4711".to_owned()));
        assert_eq!(found("curl http://127.0.0.1:80/api/orders -d {}"), Some("http://127.0.0.1:80".to_owned()));
        assert_eq!(found("http://127.0.0.1:/"), None);
        assert_eq!(found("http://localhost:3000"), None);
    }
}
