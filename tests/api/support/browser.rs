//! Headless Chromium, controlled by the DevTools protocol over two pipes, without a WebDriver.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::process::MAX_WAIT;

/// Program names of Chromium on Debian, Ubuntu and other systems.
const NAMES: &[&str] = &["chromium", "chromium-browser", "google-chrome"];
/// Shell script that starts Chromium. Chromium reads commands from file descriptor 3 and writes responses to
/// 4. The script connects these descriptors to standard input and output.
const SCRIPT: &str = r#"exec "$0" "$@" 3<&0 4>&1 0</dev/null 1>/dev/null 2>/dev/null"#;

/// Browser with one page. Killed when dropped.
pub struct Browser {
    child: Child,
    commands: ChildStdin,
    messages: Receiver<Value>,
    session: Value,
    last_id: u64,
    _profile: TempDir,
}

impl Browser {
    /// Starts a browser with an empty page of this size in pixels.
    pub fn start(width: u32, height: u32) -> Self {
        let profile = tempfile::tempdir().expect("a folder");
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, find()]).arg(format!("--user-data-dir={}", profile.path().display()));
        command.arg(format!("--window-size={width},{height}"));
        // The sandbox is disabled, because tests run as root in containers. The browser only loads pages of
        // Kith.
        command.args([
            "--headless",
            "--remote-debugging-pipe",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
        ]);
        command.args(["--no-first-run", "--disable-dev-shm-usage", "--disable-background-networking"]);
        command.args(["--lang=en-GB"]).env("LANGUAGE", "en_GB").env("TZ", "UTC");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a browser");
        let commands = child.stdin.take().expect("a pipe for commands");
        let (sender, messages) = channel();
        let responses = BufReader::new(child.stdout.take().expect("a pipe for responses"));
        std::thread::spawn(move || {
            for message in responses.split(0).map_while(Result::ok) {
                let message = serde_json::from_slice(&message).expect("JSON");
                // The receiver may have been dropped.
                drop(sender.send(message));
            }
        });
        let mut browser =
            Self { child, commands, messages, session: Value::Null, last_id: 0, _profile: profile };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        browser.session = browser.call("Target.attachToTarget", attach)["sessionId"].clone();
        browser.call("Page.enable", json!({}));
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        browser.call("Emulation.setDeviceMetricsOverride", metrics);
        browser
    }

    /// Opens a URL and waits until the page is loaded.
    pub fn open(&mut self, url: &str) {
        let went = self.call("Page.navigate", json!({ "url": url }));
        assert_eq!(went["errorText"], Value::Null, "{url}");
        while self.next()["method"] != "Page.loadEventFired" {}
    }

    /// Evaluates a JavaScript expression on the page and returns its value. If the value is a promise, waits
    /// for its result.
    pub fn run(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let reply = self.call("Runtime.evaluate", params);
        assert_eq!(reply["exceptionDetails"], Value::Null, "{expression}");
        reply["result"]["value"].clone()
    }

    /// Returns a screenshot of the page as PNG.
    pub fn picture(&mut self) -> Vec<u8> {
        let reply = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        STANDARD.decode(reply["data"].as_str().expect("a picture")).expect("base64")
    }

    /// Sends a command of the protocol and returns its result.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.last_id += 1;
        let mut message = json!({ "id": self.last_id, "method": method, "params": params });
        if !self.session.is_null() {
            message["sessionId"] = self.session.clone();
        }
        self.commands.write_all(format!("{message}\0").as_bytes()).expect("the browser reads commands");
        loop {
            let mut reply = self.next();
            if reply["id"] == self.last_id {
                assert_eq!(reply["error"], Value::Null, "{method}");
                return reply["result"].take();
            }
        }
    }

    fn next(&self) -> Value {
        self.messages.recv_timeout(MAX_WAIT).expect("the browser responds")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn find() -> &'static str {
    let is_there = |name: &&&str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(name).exists())
    };
    NAMES.iter().find(is_there).expect("Chromium is not installed: `cargo xtask setup` installs it")
}
