//! An S3 server on loopback, for one test: moto's, from `make setup-test`.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running server; ends with this value.
pub(crate) struct S3Server {
    child: Child,
    pub(crate) endpoint: String,
}

/// What every client of the server sets. Any will do: it looks at none of them.
pub(crate) const CREDENTIALS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")];

impl S3Server {
    /// Starts a server with these buckets, or says that the test is skipped.
    pub(crate) fn start(buckets: &[&str]) -> Option<Self> {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/moto_server");
        if !program.exists() {
            let missing = format!("{} is missing: run make setup-test", program.display());
            assert!(std::env::var_os("VIDINDEX_TEST_REQUIRE").is_none(), "{missing}");
            eprintln!("skipped: {missing}");
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { child, endpoint: format!("http://127.0.0.1:{port}") };
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "moto_server did not answer within a minute");
            std::thread::yield_now();
            std::thread::park_timeout(Duration::from_millis(100));
        }
        for bucket in buckets {
            server.make_bucket(port, bucket);
        }
        Some(server)
    }

    fn make_bucket(&self, port: u16, bucket: &str) {
        use std::io::{Read, Write};
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let request = format!(
            "PUT /{bucket} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// The `[store]` section for it.
    pub(crate) fn section(&self) -> String {
        format!("[store]\nendpoint = \"{}\"\nregion = \"us-east-1\"\n", self.endpoint)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
