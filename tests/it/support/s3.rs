//! An S3 server on loopback: moto's, from `make setup-test`.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Once, Weak};
use std::time::{Duration, Instant};

use vidindex::store::StoreConfig;

/// A `moto_server` process on its own port. It is killed when this value is dropped.
#[derive(Debug)]
pub(crate) struct S3Server {
    process: Child,
    port: u16,
}

impl S3Server {
    /// Starts a server. If `moto_server` is not installed, reports that the test is skipped and returns `None`.
    ///
    /// # Panics
    /// If the server does not start, or if `moto_server` is not installed and `VIDINDEX_TEST_REQUIRE=1`.
    pub(crate) fn start() -> Option<Self> {
        set_credentials();
        let Some(program) = moto_server() else {
            assert!(
                std::env::var("VIDINDEX_TEST_REQUIRE").as_deref() != Ok("1"),
                "moto_server not found; run make setup-test"
            );
            eprintln!("skipped: moto_server not found; run make setup-test");
            return None;
        };
        // Another process may take the free port before the server does.
        let started = (0..3).find_map(|_| Self::start_on(&program, free_port()));
        assert!(started.is_some(), "{} did not start", program.display());
        started
    }

    /// A server that is shared by the tests that run at the same time. The first starts it, and it stops after the
    /// last.
    pub(crate) fn shared() -> Option<Arc<Self>> {
        static SHARED: Mutex<Weak<S3Server>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(server) = shared.upgrade() {
            return Some(server);
        }
        let server = Arc::new(Self::start()?);
        *shared = Arc::downgrade(&server);
        Some(server)
    }

    fn start_on(program: &Path, port: u16) -> Option<Self> {
        let process = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Self { process, port };
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(60) {
            if server.process.try_wait().unwrap().is_some() {
                return None;
            }
            if server.request("GET", "/moto-api/data.json", b"").is_some_and(|reply| reply.starts_with("HTTP/1.1 200"))
            {
                return Some(server);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    }

    /// `http://127.0.0.1:PORT`
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The server's address.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// For [`vidindex::store::open`].
    pub(crate) fn config(&self) -> StoreConfig {
        StoreConfig { endpoint: Some(self.endpoint()), ..StoreConfig::default() }
    }

    /// Creates a bucket.
    pub(crate) fn create_bucket(&self, name: &str) {
        let reply = self.request("PUT", &format!("/{name}"), b"").unwrap();
        assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    }

    /// Rejects all later requests: the server checks them against its own users, and it has none.
    pub(crate) fn reject_all_credentials(&self) {
        let reply = self.request("POST", "/moto-api/reset-auth", b"0").unwrap();
        assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    }

    /// Sends an unsigned request and returns the complete response.
    pub(crate) fn request(&self, method: &str, path: &str, body: &[u8]) -> Option<String> {
        let mut stream = TcpStream::connect(self.address()).ok()?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.port,
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body).ok()?;
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).ok()?;
        Some(String::from_utf8_lossy(&reply).into_owned())
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Variables for a child process: credentials that the test servers accept, and nothing of the user's own
/// configuration.
pub(crate) fn environment() -> [(&'static str, &'static str); 5] {
    [
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
    ]
}

/// Variables of the user's environment that would redirect a test or its child process.
pub(crate) const FOREIGN_VARIABLES: [&str; 12] = [
    "AWS_PROFILE",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
];

/// Sets [`environment`] in this process, once. Each test that opens an S3 store or loads ONNX Runtime in this process
/// must call it first.
pub(crate) fn set_credentials() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for name in FOREIGN_VARIABLES {
            // SAFETY: ONNX Runtime, which reads the environment without std's lock, and the AWS SDK run only after this
            // function returns. All other code in this process reads it through std, with the lock.
            unsafe { std::env::remove_var(name) };
        }
        for (name, value) in environment() {
            // SAFETY: as above.
            unsafe { std::env::set_var(name, value) };
        }
    });
}

/// A loopback port on which nothing listens.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn moto_server() -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/moto_server");
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(own)
        .chain(std::env::split_paths(&path).map(|directory| directory.join("moto_server")))
        .find(|program| program.is_file())
}
