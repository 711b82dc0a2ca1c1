//! Chromium, driven over WebDriver as a person would: it clicks what can be clicked, and types.

use std::process::Stdio;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::eventually;
use crate::server::START_MAX;

/// How long the page may take to show something.
pub const SHOWN_MAX: Duration = Duration::from_secs(60);
/// How long the driver may take for a command.
const COMMAND_MAX: Duration = Duration::from_secs(120);

const FLAGS: [&str; 10] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
];

/// The name of an element in the protocol (<https://www.w3.org/TR/webdriver2/#elements>).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Chromium with one window. Killed when dropped.
#[derive(Debug)]
pub struct Browser {
    client: reqwest::Client,
    session: String,
    _driver: Driver,
    _profile: TempDir,
}

impl Browser {
    /// Opens a window.
    ///
    /// # Panics
    ///
    /// If chromedriver or Chromium does not start.
    pub async fn open() -> Self {
        let (driver, port) = start_driver().await;
        let profile = tempfile::tempdir().expect("there is room for a directory");
        let user_data = format!("--user-data-dir={}", profile.path().display());
        let args: Vec<_> = FLAGS.into_iter().chain([user_data.as_str()]).collect();
        let wanted = json!({ "goog:chromeOptions": { "args": args }, "goog:loggingPrefs": { "browser": "ALL" } });
        let client = reqwest::Client::builder().timeout(COMMAND_MAX).build().expect("a client");
        let sessions = format!("http://127.0.0.1:{port}/session");
        let asked = json!({ "capabilities": { "alwaysMatch": wanted } });
        let opened = answer(client.post(&sessions).json(&asked)).await.unwrap_or_else(|error| panic!("{error}"));
        let session = format!("{sessions}/{}", opened["sessionId"].as_str().expect("a session has an id"));
        Self { client, session, _driver: driver, _profile: profile }
    }

    /// Opens `url`, and waits until it is loaded.
    pub async fn go(&self, url: &str) {
        self.post("url", json!({ "url": url })).await;
    }

    /// The address of the page.
    pub async fn url(&self) -> String {
        let url = self.run("return location.href", json!([])).await;
        url.as_str().expect("an address is a text").to_owned()
    }

    /// Runs the body of a function in the page, and returns its value.
    pub async fn run(&self, script: &str, args: Value) -> Value {
        self.post("execute/sync", json!({ "script": script, "args": args })).await
    }

    /// Sends a command of the browser's own protocol.
    pub async fn command(&self, name: &str, parameters: Value) -> Value {
        self.post("goog/cdp/execute", json!({ "cmd": name, "params": parameters })).await
    }

    /// Gives the window this size, in pixels of the page.
    pub async fn resize(&self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.command("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// Prefers the colour scheme `light` or `dark`, and no motion: a colour that is shown is the one that stays.
    pub async fn prefer(&self, scheme: &str) {
        let features = json!([
            { "name": "prefers-color-scheme", "value": scheme },
            { "name": "prefers-reduced-motion", "value": "reduce" },
        ]);
        self.command("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    }

    /// Waits until an element matches `css`, and clicks the first that does.
    ///
    /// # Panics
    ///
    /// If there is none within [`SHOWN_MAX`], or it cannot be clicked.
    pub async fn click(&self, css: &str) {
        self.on_element(css, "click", json!({})).await;
    }

    /// Waits until an element matches `css`, replaces its text, and types `text` into it.
    ///
    /// # Panics
    ///
    /// If there is none within [`SHOWN_MAX`], or it takes no text.
    pub async fn fill(&self, css: &str, text: &str) {
        self.on_element(css, "clear", json!({})).await;
        self.on_element(css, "value", json!({ "text": text })).await;
    }

    /// Presses and releases these keys, one after the other, wherever the focus is.
    pub async fn press(&self, keys: &str) {
        let strokes: Vec<_> = keys
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|stroke| json!({ "type": stroke, "value": key.to_string() })))
            .collect();
        self.post("actions", json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": strokes }] })).await;
    }

    /// The text of the first element that matches `css`; `None` if there is none.
    pub async fn text(&self, css: &str) -> Option<String> {
        let text = self.run("return document.querySelector(arguments[0])?.textContent ?? null", json!([css])).await;
        text.as_str().map(str::to_owned)
    }

    /// How many elements match `css`.
    pub async fn count(&self, css: &str) -> usize {
        let count = self.run("return document.querySelectorAll(arguments[0]).length", json!([css])).await;
        usize::try_from(count.as_u64().expect("it is a number")).expect("it is small")
    }

    /// Waits until the first element that matches `css` has `text` in it.
    ///
    /// # Panics
    ///
    /// If it has not within [`SHOWN_MAX`].
    pub async fn shows(&self, css: &str, text: &str) {
        let what = format!("{css} to show {text:?}");
        eventually(SHOWN_MAX, &what, async || self.text(css).await.is_some_and(|found| found.contains(text))).await;
    }

    /// Waits until no element matches `css`.
    ///
    /// # Panics
    ///
    /// If one still does after [`SHOWN_MAX`].
    pub async fn is_gone(&self, css: &str) {
        eventually(SHOWN_MAX, &format!("{css} to be gone"), async || self.count(css).await == 0).await;
    }

    /// A picture of the window, as PNG.
    pub async fn screenshot(&self) -> Vec<u8> {
        let taken = self.command("Page.captureScreenshot", json!({ "format": "png" })).await;
        BASE64_STANDARD.decode(taken["data"].as_str().expect("a picture")).expect("it is in Base64")
    }

    /// What the browser has logged since the last call.
    pub async fn logged(&self) -> Vec<String> {
        let lines = self.post("se/log", json!({ "type": "browser" })).await;
        let lines = lines.as_array().expect("a log is a list").iter();
        lines.map(|line| line["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    async fn on_element(&self, css: &str, command: &str, parameters: Value) {
        const PAUSE: Duration = Duration::from_millis(20);
        let started = Instant::now();
        let wanted = json!({ "using": "css selector", "value": css });
        // A page may replace the element between two commands.
        loop {
            let done = async {
                let found = self.try_post("element", wanted.clone()).await?;
                let id = found[ELEMENT].as_str().expect("an element has an id").to_owned();
                self.try_post(&format!("element/{id}/{command}"), parameters.clone()).await
            };
            match done.await {
                Ok(_) => return,
                Err(error) => assert!(started.elapsed() < SHOWN_MAX, "{command} on {css}: {error}"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn post(&self, command: &str, parameters: Value) -> Value {
        self.try_post(command, parameters).await.unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    async fn try_post(&self, command: &str, parameters: Value) -> Result<Value, String> {
        answer(self.client.post(format!("{}/{command}", self.session)).json(&parameters)).await
    }
}

/// The value of the driver's answer.
async fn answer(request: reqwest::RequestBuilder) -> Result<Value, String> {
    let response = request.send().await.map_err(|error| error.to_string())?;
    let mut answer: Value = response.json().await.map_err(|error| error.to_string())?;
    let value = answer["value"].take();
    match value["error"].as_str() {
        Some(error) => Err(format!("{error}: {}", value["message"].as_str().unwrap_or_default())),
        None => Ok(value),
    }
}

/// Starts chromedriver on a port that it chooses, and returns the port.
///
/// It binds the port for both versions of IP, one after the other, and ends if another program gets the second in
/// between.
async fn start_driver() -> (Driver, u16) {
    const TRIES: usize = 10;
    for _ in 0..TRIES {
        if let Some(started) = try_start_driver().await {
            return started;
        }
    }
    panic!("chromedriver ended {TRIES} times instead of listening");
}

async fn try_start_driver() -> Option<(Driver, u16)> {
    let mut command = Command::new("chromedriver");
    command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
    let mut driver = Driver(
        command.spawn().unwrap_or_else(|error| panic!("chromedriver: {error}; run: apt-get install chromium-driver")),
    );
    let mut lines = BufReader::new(driver.0.stdout.take().expect("it is piped")).lines();
    let port = async {
        loop {
            let line = lines.next_line().await.expect("its output is text")?;
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                return Some(port.trim_end_matches('.').parse().expect("a port is a number"));
            }
        }
    };
    let port = timeout(START_MAX, port).await.expect("chromedriver starts in time")?;
    // Nobody else reads it, and a full pipe would stop the driver.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Some((driver, port))
}

/// chromedriver and all that it has started, which are one process group. Killed when dropped.
#[derive(Debug)]
struct Driver(Child);

impl Drop for Driver {
    fn drop(&mut self) {
        let group = self.0.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(group) = group {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}
