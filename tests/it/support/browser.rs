//! A headless Chromium, controlled with the WebDriver protocol.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use serde_json::{Value, json};
use tempfile::TempDir;

/// WebDriver's codes of keys that are not characters.
pub(crate) mod key {
    pub(crate) const TAB: char = '\u{e004}';
    pub(crate) const ESCAPE: char = '\u{e00c}';
    pub(crate) const END: char = '\u{e010}';
    pub(crate) const RIGHT: char = '\u{e014}';
    pub(crate) const DOWN: char = '\u{e015}';
}

/// A browser with one page. It is closed when this value is dropped.
pub(crate) struct Browser {
    driver: Child,
    port: u16,
    session: String,
    _profile: TempDir,
}

impl Browser {
    /// Starts a browser. If Chromium is not installed, reports that the test is skipped and returns `None`.
    pub(crate) fn start() -> Option<Self> {
        let (Some(chromium), Some(chromedriver)) = (program("chromium"), program("chromedriver")) else {
            assert!(
                std::env::var_os("VIDINDEX_TEST_REQUIRE").is_none(),
                "chromium or chromedriver is missing: run make setup-test"
            );
            eprintln!("skipped: chromium or chromedriver is missing; run make setup-test");
            return None;
        };
        let mut driver = Command::new(chromedriver).arg("--port=0").stdout(Stdio::piped()).spawn().unwrap();
        let mut port = None;
        let mut output = BufReader::new(driver.stdout.take().unwrap());
        while port.is_none() {
            let mut line = String::new();
            assert!(output.read_line(&mut line).unwrap() > 0, "chromedriver ended before it printed its port");
            port = line
                .split_once("successfully on port ")
                .and_then(|(_, port)| port.trim().trim_end_matches('.').parse().ok());
        }
        let profile = TempDir::new().unwrap();
        let arguments = [
            "--headless=new".to_owned(),
            // Chromium's sandbox does not work for tests that run as root in a container.
            "--no-sandbox".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-gpu".to_owned(),
            "--force-device-scale-factor=1".to_owned(),
            format!("--user-data-dir={}", profile.path().display()),
        ];
        let mut browser = Self { driver, port: port.unwrap(), session: String::new(), _profile: profile };
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "binary": chromium, "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let session = browser.call("POST", "/session", &capabilities);
        browser.session = format!("/session/{}", session["sessionId"].as_str().unwrap());
        browser.set_size(1440, 900);
        Some(browser)
    }

    /// Opens a report. It must be drawn when the browser says that it is loaded, because programs that print it go by that.
    pub(crate) fn open(&self, file: &Path) {
        self.load(file);
        assert_eq!(self.script("return document.documentElement.dataset.ready"), "true");
    }

    /// Opens a file and waits until it is loaded.
    pub(crate) fn load(&self, file: &Path) {
        self.post("/url", json!({ "url": format!("file://{}", file.display()) }));
    }

    /// Number of pages on which the page is printed.
    pub(crate) fn printed_pages(&self) -> usize {
        let pdf = self.post("/print", json!({}));
        let pdf = base64::engine::general_purpose::STANDARD.decode(pdf.as_str().unwrap()).unwrap();
        String::from_utf8_lossy(&pdf).matches("/Type /Page\n").count()
    }

    /// Runs the body of a function and returns its result.
    pub(crate) fn script(&self, body: &str) -> Value {
        self.post("/execute/sync", json!({ "script": body, "args": [] }))
    }

    /// The visible text of the first element that a selector matches.
    pub(crate) fn text(&self, selector: &str) -> String {
        self.script(&format!("return document.querySelector({}).innerText", json!(selector)))
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// Number of elements that a selector matches.
    pub(crate) fn count(&self, selector: &str) -> u64 {
        self.script(&format!("return document.querySelectorAll({}).length", json!(selector))).as_u64().unwrap()
    }

    /// Whether the first element that a selector matches is displayed.
    pub(crate) fn visible(&self, selector: &str) -> bool {
        self.script(&format!("return document.querySelector({}).offsetParent !== null", json!(selector))) == true
    }

    /// Waits until the body of a function returns `true`.
    pub(crate) fn wait(&self, body: &str) {
        let started = Instant::now();
        while self.script(body) != true {
            assert!(
                started.elapsed() < Duration::from_secs(30),
                "not within 30 s: {body}; {:?}",
                self.console_messages()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Clicks in the middle of the first element that a selector matches. As with a mouse, an element that covers it
    /// gets the click.
    pub(crate) fn click(&self, selector: &str) {
        let element = self.post("/element", json!({ "using": "css selector", "value": selector }));
        let id = element.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned();
        self.post(&format!("/element/{id}/click"), json!({}));
    }

    /// Moves the mouse to the middle of an element.
    pub(crate) fn hover(&self, selector: &str) {
        let element = self.post("/element", json!({ "using": "css selector", "value": selector }));
        let steps = json!([{ "type": "pointerMove", "duration": 0, "origin": element, "x": 0, "y": 0 }]);
        self.post("/actions", json!({ "actions": [{ "type": "pointer", "id": "mouse", "actions": steps }] }));
    }

    /// Types keys into the element that has the focus.
    pub(crate) fn keys(&self, keys: impl IntoIterator<Item = char>) {
        let steps: Vec<Value> = keys
            .into_iter()
            .flat_map(|key| ["keyDown", "keyUp"].map(|what| json!({ "type": what, "value": key.to_string() })))
            .collect();
        self.post("/actions", json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": steps }] }));
    }

    /// Sets the size of the window.
    pub(crate) fn set_size(&self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", size);
    }

    /// Sets the preferred colour scheme: `light` or `dark`.
    pub(crate) fn set_colour_scheme(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// What a screen reader gets: the role, name and value of each node of the accessibility tree.
    pub(crate) fn accessibility_nodes(&self) -> Vec<String> {
        let tree = self.devtools("Accessibility.getFullAXTree", json!({}));
        let text = |node: &Value, part: &str| node[part]["value"].as_str().unwrap_or_default().to_owned();
        let nodes = tree["nodes"].as_array().unwrap().iter().filter(|node| node["ignored"] == false);
        nodes.map(|node| format!("{} {}: {}", text(node, "role"), text(node, "name"), node["value"]["value"])).collect()
    }

    /// Saves a screenshot below the target directory.
    pub(crate) fn screenshot(&self, name: &str) {
        let picture = self.call("GET", &format!("{}/screenshot", self.session), &Value::Null);
        let bytes = base64::engine::general_purpose::STANDARD.decode(picture.as_str().unwrap()).unwrap();
        std::fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("report-{name}.png")), bytes).unwrap();
    }

    /// The messages in the console: errors of scripts, and violations of the content security policy.
    pub(crate) fn console_messages(&self) -> Vec<String> {
        let log = self.post("/se/log", json!({ "type": "browser" }));
        log.as_array().unwrap().iter().map(|entry| entry["message"].to_string()).collect()
    }

    fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.post("/goog/cdp/execute", json!({ "cmd": command, "params": parameters }))
    }

    fn post(&self, path: &str, body: Value) -> Value {
        self.call("POST", &format!("{}{path}", self.session), &body)
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        let mut response = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut header = String::new();
            response.read_line(&mut header).unwrap();
            if header.trim().is_empty() {
                break;
            }
            if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut text = vec![0; length];
        response.read_exact(&mut text).unwrap();
        let response: Value = serde_json::from_slice(&text).unwrap();
        assert!(response["value"]["error"].is_null(), "{method} {path} {body}: {}", response["value"]);
        response["value"].clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver closes its browser on request, but not if it is killed. Errors are ignored, because the test may
        // be panicking already.
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) {
            let _ = write!(stream, "DELETE {} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n", self.session);
            let _ = stream.read(&mut [0; 512]);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

fn program(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| path.is_file())
}
