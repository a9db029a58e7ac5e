//! A web server on loopback for one file, which can be told to misbehave.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

/// What the server does; may be changed while it runs.
#[derive(Debug, Default)]
pub(crate) struct Conduct {
    /// The file; none is a 404.
    pub(crate) content: Option<Vec<u8>>,
    pub(crate) etag: Option<String>,
    /// What it says that the file is.
    pub(crate) content_type: &'static str,
    /// `Range` is taken for what it is; else every answer is whole.
    pub(crate) ranges: bool,
    /// The next answers are cut after so many bytes.
    pub(crate) cuts: VecDeque<usize>,
    /// A cut answer is not closed: it hangs.
    pub(crate) hangs: bool,
    /// The heads of all requests.
    pub(crate) requests: Vec<String>,
}

/// A server for as long as it lives.
#[derive(Debug)]
pub(crate) struct Site {
    port: u16,
    conduct: Arc<Mutex<Conduct>>,
}

impl Site {
    /// Serves this file, ranges and all.
    pub(crate) fn start(content: &[u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let conduct = Conduct {
            content: Some(content.to_vec()),
            etag: Some("\"first\"".into()),
            content_type: "application/octet-stream",
            ranges: true,
            ..Conduct::default()
        };
        let conduct = Arc::new(Mutex::new(conduct));
        let shared = conduct.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let conduct = shared.clone();
                // A client that hangs up is no concern of ours.
                std::thread::spawn(move || answer(stream, &conduct).ok());
            }
        });
        Self { port, conduct }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/zoo", self.port)
    }

    pub(crate) fn conduct(&self) -> MutexGuard<'_, Conduct> {
        self.conduct.lock().unwrap()
    }

    /// This header of each request, in their order.
    pub(crate) fn asked(&self, header: &str) -> Vec<Option<String>> {
        self.conduct().requests.iter().map(|head| value(head, header)).collect()
    }
}

fn value(head: &str, header: &str) -> Option<String> {
    let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{header}: ")))?;
    Some(line[header.len() + 2..].to_owned())
}

fn answer(mut stream: TcpStream, conduct: &Mutex<Conduct>) -> std::io::Result<()> {
    let mut head = String::new();
    let mut reader = BufReader::new(stream.try_clone()?);
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head)? > 0 {}
    let (reply, body, hangs) = {
        let mut conduct = conduct.lock().unwrap();
        conduct.requests.push(head.clone());
        let Some(content) = &conduct.content else {
            return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        };
        let is_same = value(&head, "if-range").is_none_or(|validator| Some(validator) == conduct.etag);
        let first = value(&head, "range").filter(|_| conduct.ranges && is_same);
        let first = first.map(|range| range["bytes=".len()..].trim_end_matches('-').parse::<usize>().unwrap());
        let (whole, start) = (content.len(), first.unwrap_or(0).min(content.len()));
        let mut reply = match first {
            Some(first) if first >= whole => {
                format!("HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */{whole}\r\n")
            }
            Some(first) => {
                format!("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {first}-{}/{whole}\r\n", whole - 1)
            }
            None => "HTTP/1.1 200 OK\r\n".to_owned(),
        };
        if let Some(etag) = &conduct.etag {
            reply.push_str(&format!("ETag: {etag}\r\n"));
        }
        let (kind, length) = (conduct.content_type, whole - start);
        reply.push_str(&format!("Content-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"));
        let mut body = content[start..].to_vec();
        let cut = conduct.cuts.pop_front();
        body.truncate(cut.unwrap_or(body.len()));
        (reply, body, cut.is_some() && conduct.hangs)
    };
    stream.write_all(reply.as_bytes())?;
    stream.write_all(&body)?;
    if hangs {
        // Until the client hangs up.
        reader.read_line(&mut head)?;
    }
    Ok(())
}
