//! A web server on loopback that serves one file and can be set to misbehave.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

/// The server's behaviour, which may change while it runs, and its log of requests.
#[derive(Debug, Default)]
pub(crate) struct Behaviour {
    /// The file. If it is `None`, the server responds with 404.
    pub(crate) content: Option<Vec<u8>>,
    pub(crate) etag: Option<String>,
    /// The `Content-Type` of responses.
    pub(crate) content_type: &'static str,
    /// Whether the server supports `Range`. If not, it always sends the complete file.
    pub(crate) ranges: bool,
    /// The next responses are cut after these numbers of bytes.
    pub(crate) cuts: VecDeque<usize>,
    /// Whether a cut response hangs instead of closing the connection.
    pub(crate) hangs: bool,
    /// The headers of all requests.
    pub(crate) requests: Vec<String>,
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Site {
    port: u16,
    behaviour: Arc<Mutex<Behaviour>>,
}

impl Site {
    /// Starts a server for this file, with support for ranges.
    pub(crate) fn start(content: &[u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let behaviour = Behaviour {
            content: Some(content.to_vec()),
            etag: Some("\"first\"".into()),
            content_type: "application/octet-stream",
            ranges: true,
            ..Behaviour::default()
        };
        let behaviour = Arc::new(Mutex::new(behaviour));
        let shared = behaviour.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let behaviour = shared.clone();
                // Ignores errors: a client may close its connection.
                std::thread::spawn(move || respond(stream, &behaviour).ok());
            }
        });
        Self { port, behaviour }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/zoo", self.port)
    }

    pub(crate) fn behaviour(&self) -> MutexGuard<'_, Behaviour> {
        self.behaviour.lock().unwrap()
    }

    /// The value of this header in each request, in order.
    pub(crate) fn request_headers(&self, header: &str) -> Vec<Option<String>> {
        self.behaviour().requests.iter().map(|head| value(head, header)).collect()
    }
}

fn value(head: &str, header: &str) -> Option<String> {
    let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{header}: ")))?;
    Some(line[header.len() + 2..].to_owned())
}

fn respond(mut stream: TcpStream, behaviour: &Mutex<Behaviour>) -> std::io::Result<()> {
    let mut head = String::new();
    let mut reader = BufReader::new(stream.try_clone()?);
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head)? > 0 {}
    let (reply, body, hangs) = {
        let mut behaviour = behaviour.lock().unwrap();
        behaviour.requests.push(head.clone());
        let Some(content) = &behaviour.content else {
            return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        };
        let is_same = value(&head, "if-range").is_none_or(|validator| Some(validator) == behaviour.etag);
        let first = value(&head, "range").filter(|_| behaviour.ranges && is_same);
        let first = first.map(|range| range["bytes=".len()..].trim_end_matches('-').parse::<usize>().unwrap());
        let (size, start) = (content.len(), first.unwrap_or(0).min(content.len()));
        let mut reply = match first {
            Some(first) if first >= size => {
                format!("HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */{size}\r\n")
            }
            Some(first) => {
                format!("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {first}-{}/{size}\r\n", size - 1)
            }
            None => "HTTP/1.1 200 OK\r\n".to_owned(),
        };
        if let Some(etag) = &behaviour.etag {
            reply.push_str(&format!("ETag: {etag}\r\n"));
        }
        let (kind, length) = (behaviour.content_type, size - start);
        reply.push_str(&format!("Content-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"));
        let mut body = content[start..].to_vec();
        let cut = behaviour.cuts.pop_front();
        body.truncate(cut.unwrap_or(body.len()));
        (reply, body, cut.is_some() && behaviour.hangs)
    };
    stream.write_all(reply.as_bytes())?;
    stream.write_all(&body)?;
    if hangs {
        // Waits until the client closes the connection.
        reader.read_line(&mut head)?;
    }
    Ok(())
}
