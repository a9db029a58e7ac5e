//! An HTTP/1.1 proxy on loopback that injects faults between a client and a server, such as an S3 server.
//!
//! The `Host` header is forwarded unchanged. For [`Often::Share`], which requests get a fault depends on the seed, the
//! method, the path and the number of earlier requests for that path, but not on the timing of threads. Ids of runs and
//! attempts in a path are ignored, because they differ in each run.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use regex::Regex;
use sha2::Digest;
use vidindex::store::StoreConfig;

/// What happens to a request.
#[derive(Debug, Clone)]
pub(crate) enum What {
    /// Forwarded after a delay.
    Delay(Duration),
    /// Not forwarded: the response has this status and body.
    Status(u16, String),
    /// Not forwarded: the response has this status (400, 403, …) and an S3 error with this code (`ExpiredToken`, …).
    Refuse(u16, &'static str),
    /// Not forwarded: the connection is reset.
    ResetBefore,
    /// Forwarded, but the connection is reset instead of sending the response.
    ResetAfter,
    /// Forwarded, but the connection is closed after at most this many bytes of the response's body, and always before
    /// its end (`Content-Length` states the full length). A response without a body is cut within its headers.
    CutBody(usize),
    /// Forwarded, but the body is truncated to at most this many bytes. The response is still valid HTTP.
    ShortBody(usize),
    /// Not forwarded: the response has the status 200 and an S3 error with this code, as `CopyObject` and
    /// `CompleteMultipartUpload` may return it.
    ErrorInside200(&'static str),
    /// Forwarded, but the response has no `Content-Length`, and its body ends with the connection.
    NoLength,
    /// Forwarded, unless the same request was answered within this time: then it gets the same answer.
    Stale(Duration),
    /// Forwarded without its `If-None-Match`, as if the server ignored it.
    Unconditional,
}

/// How many of the requests that a fault applies to get it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Often {
    Always,
    /// Only the first requests, this many.
    Times(u32),
    /// All except the first requests, this many.
    After(u32),
    /// Each with this probability. The second field is the seed.
    Share(f64, u64),
}

/// Whether a fault applies to a method and a target (path and query).
type On = Box<dyn Fn(&str, &str) -> bool + Send + Sync>;

/// A rule of the proxy. If several rules hit a request, the first one is used.
pub(crate) struct Fault {
    on: On,
    what: What,
    often: Often,
    applied: u32,
    injected: u32,
}

impl Fault {
    pub(crate) fn new(on: impl Fn(&str, &str) -> bool + Send + Sync + 'static, what: What, often: Often) -> Self {
        Self { on: Box::new(on), what, often, applied: 0, injected: 0 }
    }

    /// A fault that applies to all requests.
    pub(crate) fn on_all(what: What, often: Often) -> Self {
        Self::new(|_, _| true, what, often)
    }

    /// Whether this fault, at index `rule`, hits request `nth` (from 0) of its method and path.
    fn hits(&mut self, rule: usize, request: &Request, nth: u32) -> bool {
        if !(self.on)(&request.method, &request.target) {
            return false;
        }
        let before = self.applied;
        self.applied += 1;
        let hits = match self.often {
            Often::Always => true,
            Often::Times(times) => before < times,
            Often::After(times) => before >= times,
            Often::Share(probability, seed) => {
                let drawn = sha2::Sha256::digest(format!("{seed} {rule} {} {nth}", request.identity()));
                f64::from(u32::from_be_bytes([drawn[0], drawn[1], drawn[2], drawn[3]])) / 2_f64.powi(32) < probability
            }
        };
        self.injected += u32::from(hits);
        hits
    }
}

/// A received request, and whether it got a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// Index of the rule that hit it.
    pub(crate) rule: Option<usize>,
    /// First and last byte that it asked for.
    pub(crate) range: Option<(u64, u64)>,
    /// The public part of the credentials that signed it.
    pub(crate) access_key: Option<String>,
}

#[derive(Default)]
struct State {
    faults: Vec<Fault>,
    /// Number of received requests by method and path.
    counts: HashMap<String, u32>,
    seen: Vec<Seen>,
    /// The answers that [`What::Stale`] repeats, by target.
    stale: HashMap<String, (Instant, Response)>,
    clients: HashMap<SocketAddr, Arc<TcpStream>>,
}

/// A running proxy in front of one server. It needs no async runtime.
pub(crate) struct FaultProxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    ended: Arc<AtomicBool>,
    accepting: Option<std::thread::JoinHandle<()>>,
}

impl FaultProxy {
    pub(crate) fn start(server: SocketAddr, faults: Vec<Fault>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { faults, ..State::default() }));
        let ended = Arc::new(AtomicBool::new(false));
        let accepting = std::thread::spawn({
            let (state, ended) = (state.clone(), ended.clone());
            move || accept(&listener, server, &state, &ended)
        });
        Self { address, state, ended, accepting: Some(accepting) }
    }

    /// `http://127.0.0.1:PORT`
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// For [`vidindex::store::open`].
    pub(crate) fn config(&self) -> StoreConfig {
        StoreConfig { endpoint: Some(self.endpoint()), ..StoreConfig::default() }
    }

    /// Replaces the rules, and resets the counters and the list of requests.
    pub(crate) fn set(&self, faults: Vec<Fault>) {
        let mut state = lock(&self.state);
        state.faults = faults;
        state.counts.clear();
        state.seen.clear();
    }

    /// Number of hits of each rule.
    pub(crate) fn injected(&self) -> Vec<u32> {
        lock(&self.state).faults.iter().map(|fault| fault.injected).collect()
    }

    /// All requests, in the order of arrival.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        lock(&self.state).seen.clone()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // The listener notices `ended` after the next connection.
        drop(TcpStream::connect(self.address));
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        for client in lock(&self.state).clients.values() {
            let _ = client.shutdown(Shutdown::Both);
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // If a rule panics, only its own test should fail.
    state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn accept(listener: &TcpListener, server: SocketAddr, state: &Arc<Mutex<State>>, ended: &AtomicBool) {
    for client in listener.incoming().flatten() {
        if ended.load(Ordering::SeqCst) {
            return;
        }
        // The client may have disconnected.
        let Ok(address) = client.peer_addr() else { continue };
        let client = Arc::new(client);
        lock(state).clients.insert(address, client.clone());
        let state = state.clone();
        std::thread::spawn(move || {
            // An error means that one side closed the connection.
            let reset = serve(&client, server, &state).unwrap_or(false);
            if reset {
                let _ = rustix::net::sockopt::set_socket_linger(&*client, Some(Duration::ZERO));
            }
            // Dropping the last of the two references closes the socket.
            lock(&state).clients.remove(&address);
        });
    }
}

/// Serves the requests of one connection until it ends. Returns whether it must end with a reset.
fn serve(client: &TcpStream, server: SocketAddr, state: &Mutex<State>) -> Result<bool> {
    client.set_nodelay(true)?;
    let mut reader = BufReader::new(client);
    loop {
        let mut request = Request::read(&mut reader, client)?;
        let what = decide(&request, state);
        let head_only = request.method == "HEAD";
        let response = match &what {
            Some(What::ResetBefore) => return Ok(true),
            Some(What::Status(status, body)) => Response::new(*status, body),
            Some(What::Refuse(status, code)) => Response::new(*status, &s3_error(code)),
            Some(What::ErrorInside200(code)) => Response::new(200, &s3_error(code)),
            Some(What::Delay(wait)) => {
                std::thread::sleep(*wait);
                request.forward(server)?
            }
            Some(What::Stale(age)) => {
                let kept = lock(state).stale.get(&request.target).filter(|(at, _)| at.elapsed() < *age).cloned();
                match kept {
                    Some((_, response)) => response,
                    None => {
                        let response = request.forward(server)?;
                        lock(state).stale.insert(request.target.clone(), (Instant::now(), response.clone()));
                        response
                    }
                }
            }
            Some(What::Unconditional) => {
                request.headers.retain(|line| !is_one_of(line, &["if-none-match"]));
                request.forward(server)?
            }
            _ => request.forward(server)?,
        };
        let (mut head, mut body) = response.to_bytes(head_only, !matches!(what, Some(What::NoLength)));
        let mut ends = value(&request.headers, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        match what {
            Some(What::ResetAfter) => return Ok(true),
            Some(What::CutBody(_)) if body.is_empty() => {
                head.truncate(head.len() / 2);
                ends = true;
            }
            Some(What::CutBody(bytes)) => {
                body.truncate(bytes.min(body.len() - 1));
                ends = true;
            }
            Some(What::ShortBody(bytes)) if !head_only => {
                let short = Response { body: body[..bytes.min(body.len())].to_vec(), ..response };
                (head, body) = short.to_bytes(false, true);
            }
            Some(What::NoLength) => ends |= !head_only,
            _ => {}
        }
        let mut writer = client;
        writer.write_all(&[head, body].concat())?;
        if ends {
            return Ok(false);
        }
    }
}

fn decide(request: &Request, state: &Mutex<State>) -> Option<What> {
    let mut state = lock(state);
    let count = state.counts.entry(request.identity()).or_default();
    let nth = *count;
    *count += 1;
    let rule = state.faults.iter_mut().enumerate().find_map(|(i, fault)| fault.hits(i, request, nth).then_some(i));
    let range = value(&request.headers, "range").and_then(|range| {
        let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    });
    let access_key = value(&request.headers, "authorization").and_then(|signed| {
        let credential = signed.split_once("Credential=")?.1;
        Some(credential.split('/').next()?.to_owned())
    });
    let (method, target) = (request.method.clone(), request.target.clone());
    state.seen.push(Seen { method, target, rule, range, access_key });
    rule.map(|rule| state.faults[rule].what.clone())
}

fn s3_error(code: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <Error><Code>{code}</Code><Message>injected by the test</Message><RequestId>0</RequestId></Error>"
    )
}

struct Request {
    method: String,
    target: String,
    headers: Vec<String>,
    /// The body as received. If it is chunked, it includes the chunk sizes.
    body: Vec<u8>,
}

impl Request {
    fn read(reader: &mut impl BufRead, mut client: &TcpStream) -> Result<Self> {
        let (first, headers) = read_head(reader)?;
        let mut words = first.split(' ').map(ToOwned::to_owned);
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Err(Error::new(ErrorKind::InvalidData, first));
        };
        if value(&headers, "expect").is_some() {
            client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let body = if is_chunked(&headers) {
            read_chunks(reader)?.0
        } else {
            let mut body = vec![0; value(&headers, "content-length").map_or(0, |length| length.parse().unwrap_or(0))];
            reader.read_exact(&mut body)?;
            body
        };
        Ok(Self { method, target, headers, body })
    }

    /// Identifies a request in the same way in each run of a test.
    fn identity(&self) -> String {
        static NAME: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\d{8}T\d{9,12}Z-[0-9a-f]{6,16}").unwrap());
        let path = self.target.split('?').next().unwrap_or_default();
        format!("{} {}", self.method, NAME.replace_all(path, "*"))
    }

    /// Sends the request to the server, in a new connection, and returns the response.
    fn forward(&self, server: SocketAddr) -> Result<Response> {
        let mut stream = TcpStream::connect(server)?;
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for line in self.headers.iter().filter(|line| !is_one_of(line, &["connection", "expect"])) {
            head.push_str(line);
            head.push_str("\r\n");
        }
        head.push_str("Connection: close\r\n\r\n");
        stream.write_all(&[head.as_bytes(), &self.body].concat())?;
        let mut reader = BufReader::new(stream);
        let (first, headers) = read_head(&mut reader)?;
        let length = value(&headers, "content-length").and_then(|length| length.parse::<usize>().ok());
        let body = if self.method == "HEAD" {
            Vec::new()
        } else if is_chunked(&headers) {
            read_chunks(&mut reader)?.1
        } else if let Some(length) = length {
            let mut body = vec![0; length];
            reader.read_exact(&mut body)?;
            body
        } else {
            let mut body = Vec::new();
            reader.read_to_end(&mut body)?;
            body
        };
        Ok(Response { first, headers, body })
    }
}

#[derive(Clone)]
struct Response {
    first: String,
    headers: Vec<String>,
    body: Vec<u8>,
}

impl Response {
    fn new(status: u16, body: &str) -> Self {
        let headers = vec!["Content-Type: application/xml".to_owned(), format!("Content-Length: {}", body.len())];
        Self { first: format!("HTTP/1.1 {status} Injected"), headers, body: body.as_bytes().to_vec() }
    }

    /// The headers and the body, without chunks, for a connection that stays open. The response to a HEAD request keeps
    /// its `Content-Length`.
    fn to_bytes(&self, head_only: bool, with_length: bool) -> (Vec<u8>, Vec<u8>) {
        let own = ["connection", "keep-alive", "transfer-encoding", "content-length"];
        let mut lines = vec![self.first.replacen("HTTP/1.0", "HTTP/1.1", 1)];
        lines.extend(self.headers.iter().filter(|line| !is_one_of(line, &own)).cloned());
        let length = if head_only {
            value(&self.headers, "content-length").map(ToOwned::to_owned)
        } else {
            Some(self.body.len().to_string())
        };
        lines.extend(length.filter(|_| with_length).map(|length| format!("Content-Length: {length}")));
        let body = if head_only { Vec::new() } else { self.body.clone() };
        ((lines.join("\r\n") + "\r\n\r\n").into_bytes(), body)
    }
}

/// Reads the first line and the headers.
fn read_head(reader: &mut impl BufRead) -> Result<(String, Vec<String>)> {
    let first = read_line(reader)?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(reader)?;
        if line.is_empty() {
            return Ok((first, headers));
        }
        headers.push(line);
    }
}

/// Reads a line and removes its line ending.
fn read_line(reader: &mut impl BufRead) -> Result<String> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned())
}

/// Reads a chunked body. Returns it as received, and decoded.
fn read_chunks(reader: &mut impl BufRead) -> Result<(Vec<u8>, Vec<u8>)> {
    let (mut raw, mut body) = (Vec::new(), Vec::new());
    loop {
        let line = read_line(reader)?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).map_err(|error| Error::new(ErrorKind::InvalidData, error))?;
        raw.extend(format!("{line}\r\n").bytes());
        if size == 0 {
            break;
        }
        let mut chunk = vec![0; size + 2];
        reader.read_exact(&mut chunk)?;
        raw.extend(&chunk);
        body.extend(&chunk[..size]);
    }
    // Trailers and the empty line.
    loop {
        let line = read_line(reader)?;
        raw.extend(format!("{line}\r\n").bytes());
        if line.is_empty() {
            return Ok((raw, body));
        }
    }
}

fn is_chunked(headers: &[String]) -> bool {
    value(headers, "transfer-encoding").is_some_and(|encoding| encoding.to_ascii_lowercase().contains("chunked"))
}

fn value<'a>(headers: &'a [String], name: &str) -> Option<&'a str> {
    headers.iter().find(|line| is_one_of(line, &[name])).and_then(|line| Some(line.split_once(':')?.1.trim()))
}

fn is_one_of(header: &str, names: &[&str]) -> bool {
    header.split_once(':').is_some_and(|(name, _)| names.iter().any(|known| name.eq_ignore_ascii_case(known)))
}
