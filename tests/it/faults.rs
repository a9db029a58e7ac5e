//! The tests' fault-injecting proxy follows its rules, in front of a real S3 server.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use vidindex::store::open;

use crate::support::faults::{Fault, FaultProxy, Often, What};
use crate::support::s3::S3Server;

/// A response, as far as it was received, and how it ended.
#[derive(Debug)]
struct Reply {
    head: String,
    body: Vec<u8>,
    reset: bool,
}

impl Reply {
    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn length(&self) -> Option<usize> {
        let line = self.head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        line.map(|length| length.parse().unwrap())
    }

    fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

/// The server accepts only signed requests, but does not check the signatures.
const SIGNED: &str = "Authorization: AWS4-HMAC-SHA256 Credential=test/20261101/us-east-1/s3/aws4_request, \
                      SignedHeaders=host, Signature=0";

/// Sends one HTTP request on its own connection.
fn send(server: SocketAddr, method: &str, target: &str, body: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let length = body.len();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\n{SIGNED}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut bytes = Vec::new();
    let reset = match stream.read_to_end(&mut bytes) {
        Ok(_) => false,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
            true
        }
    };
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
    let body = bytes.split_off(end);
    Reply { head: String::from_utf8(bytes).unwrap(), body, reset }
}

/// A server with a bucket that contains this object as `k`.
fn server(bucket: &str, object: &[u8]) -> Option<Arc<S3Server>> {
    let server = S3Server::shared()?;
    server.create_bucket(bucket);
    assert_eq!(send(server.address(), "PUT", &format!("/{bucket}/k"), object).status(), 200);
    Some(server)
}

#[test]
fn without_faults_all_requests_are_forwarded_unchanged() {
    let Some(server) = server("plain", b"0123456789") else { return };
    let proxy = FaultProxy::start(server.address(), Vec::new());
    assert_eq!(send(proxy.address(), "PUT", "/plain/other", b"abc").status(), 200);
    let got = send(proxy.address(), "GET", "/plain/other", b"");
    assert_eq!((got.status(), got.length(), got.text()), (200, Some(3), "abc".to_owned()));
    let head = send(proxy.address(), "HEAD", "/plain/k", b"");
    assert_eq!((head.status(), head.length(), head.body.len()), (200, Some(10), 0));
    assert_eq!(send(proxy.address(), "GET", "/plain/absent", b"").status(), 404);
    assert_eq!(send(proxy.address(), "DELETE", "/plain/other", b"").status(), 204);
    assert!(send(proxy.address(), "GET", "/plain?list-type=2", b"").text().contains("<Key>k</Key>"));
    let seen: Vec<_> = proxy.seen().into_iter().map(|seen| (seen.method, seen.target, seen.rule)).collect();
    assert_eq!(seen[0], ("PUT".to_owned(), "/plain/other".to_owned(), None));
    assert_eq!(seen[5], ("GET".to_owned(), "/plain?list-type=2".to_owned(), None));
    assert_eq!(seen.len(), 6);
}

#[test]
fn several_requests_on_a_connection_and_chunked_bodies_are_forwarded() {
    let Some(server) = server("kept", b"0123456789") else { return };
    let proxy = FaultProxy::start(server.address(), Vec::new());
    let mut stream = TcpStream::connect(proxy.address()).unwrap();
    stream
        .write_all(
            b"PUT /kept/c HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        )
        .unwrap();
    let get = format!("GET /kept/k HTTP/1.1\r\nHost: localhost\r\n{SIGNED}\r\nConnection: keep-alive\r\n\r\n");
    stream.write_all(get.as_bytes()).unwrap();
    stream
        .write_all(b"PUT /kept/d HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx")
        .unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text.matches("HTTP/1.1 200").count(), 3, "{text}");
    assert!(text.contains("0123456789") && text.contains("HTTP/1.1 100 Continue"), "{text}");
    assert_eq!(send(server.address(), "GET", "/kept/d", b"").text(), "x");
}

#[test]
fn each_kind_of_fault_has_its_effect() {
    let Some(server) = server("kinds", b"0123456789") else { return };
    let proxy = FaultProxy::start(server.address(), Vec::new());
    let address = proxy.address();
    let with = |what| {
        proxy.set(vec![Fault::on_all(what, Often::Always)]);
        move |method: &str, target: &str, body: &[u8]| send(address, method, target, body)
    };
    let exists = |key: &str| send(server.address(), "GET", &format!("/kinds/{key}"), b"").status() == 200;

    let started = Instant::now();
    let reply = with(What::Delay(Duration::from_millis(300)))("GET", "/kinds/k", b"");
    assert_eq!(reply.text(), "0123456789");
    assert!(started.elapsed() >= Duration::from_millis(300));

    let reply = with(What::Status(503, "<Error/>".to_owned()))("PUT", "/kinds/unavailable", b"x");
    assert_eq!((reply.status(), reply.text()), (503, "<Error/>".to_owned()));
    assert!(!exists("unavailable"));

    let reply = with(What::Refuse(400, "ExpiredToken"))("PUT", "/kinds/refused", b"x");
    assert_eq!(reply.status(), 400);
    assert!(reply.text().contains("<Code>ExpiredToken</Code>"));
    assert!(!exists("refused"));
    let reply = with(What::Refuse(403, "InvalidAccessKeyId"))("HEAD", "/kinds/k", b"");
    assert_eq!((reply.status(), reply.body.len()), (403, 0));

    let reply = with(What::ResetBefore)("PUT", "/kinds/before", b"x");
    assert!(reply.reset && reply.head.is_empty(), "{reply:?}");
    assert!(!exists("before"));

    let reply = with(What::ResetAfter)("PUT", "/kinds/after", b"x");
    assert!(reply.reset && reply.head.is_empty(), "{reply:?}");
    assert!(exists("after"));

    let reply = with(What::CutBody(4))("GET", "/kinds/k", b"");
    assert_eq!((reply.status(), reply.length(), reply.text()), (200, Some(10), "0123".to_owned()));
    let reply = with(What::CutBody(99))("GET", "/kinds/k", b"");
    assert_eq!((reply.length(), reply.body.len()), (Some(10), 9));
    let reply = with(What::CutBody(4))("HEAD", "/kinds/k", b"");
    assert!(reply.head.starts_with("HTTP/1.1 200") && !reply.head.ends_with("\r\n\r\n"), "{reply:?}");

    let reply = with(What::ShortBody(4))("GET", "/kinds/k", b"");
    assert_eq!((reply.length(), reply.text()), (Some(4), "0123".to_owned()));

    let reply = with(What::ErrorInside200("InternalError"))("PUT", "/kinds/inside", b"x");
    assert_eq!(reply.status(), 200);
    assert!(reply.text().contains("<Error><Code>InternalError</Code>"));
    assert!(!exists("inside"));

    let reply = with(What::NoLength)("HEAD", "/kinds/k", b"");
    assert_eq!((reply.status(), reply.length()), (200, None));
    let reply = with(What::NoLength)("GET", "/kinds/k", b"");
    assert_eq!((reply.length(), reply.text()), (None, "0123456789".to_owned()));
}

#[test]
fn rules_select_which_requests_fail_and_how_often() {
    let Some(server) = server("rules", b"0123456789") else { return };
    let unavailable = || What::Status(503, String::new());
    let proxy = FaultProxy::start(
        server.address(),
        vec![
            Fault::new(|method, _| method == "HEAD", unavailable(), Often::Times(2)),
            Fault::new(|_, target| target.contains("list-type"), unavailable(), Often::Always),
            Fault::new(|method, _| method == "GET", What::Refuse(400, "ExpiredToken"), Often::After(1)),
        ],
    );
    let status = |method, target| send(proxy.address(), method, target, b"").status();
    assert_eq!([0; 3].map(|_| status("HEAD", "/rules/k")), [503, 503, 200]);
    assert_eq!([0; 2].map(|_| status("GET", "/rules?list-type=2")), [503, 503]);
    assert_eq!([0; 3].map(|_| status("GET", "/rules/k")), [200, 400, 400]);
    assert_eq!(proxy.injected(), [2, 2, 2]);
    assert_eq!(
        proxy.seen().iter().map(|seen| seen.rule).collect::<Vec<_>>(),
        [Some(0), Some(0), None, Some(1), Some(1), None, Some(2), Some(2)]
    );
    proxy.set(Vec::new());
    assert_eq!(status("GET", "/rules/k"), 200);
}

/// Sends requests for these paths in this order, and returns the sorted paths of those that got a fault.
fn faulted(server: SocketAddr, seed: u64, paths: &[String]) -> Vec<String> {
    let faults = vec![Fault::on_all(What::Status(503, String::new()), Often::Share(0.3, seed))];
    let proxy = FaultProxy::start(server, faults);
    for path in paths {
        send(proxy.address(), "GET", path, b"");
    }
    let mut faulted: Vec<_> =
        proxy.seen().into_iter().filter(|seen| seen.rule.is_some()).map(|seen| seen.target).collect();
    assert_eq!(proxy.injected(), [faulted.len() as u32]);
    faulted.sort();
    faulted
}

#[test]
fn a_share_selects_the_same_requests_in_any_order() {
    let Some(server) = server("share", b"0123456789") else { return };
    // Each path is requested three times, and each of these requests is drawn independently.
    let paths: Vec<String> = (0..300).map(|i| format!("/share/{}", i % 100)).collect();
    let first = faulted(server.address(), 7, &paths);
    assert!((50..=130).contains(&first.len()), "{} of 300", first.len());
    let reversed: Vec<_> = paths.iter().rev().cloned().collect();
    assert_eq!(faulted(server.address(), 7, &reversed), first);
    assert_ne!(faulted(server.address(), 8, &paths), first);
    // Run and attempt ids differ each time, but do not affect the draws.
    let paths_of = |run: &str| (0..40).map(|i| format!("/share/runs/{run}/{i}")).collect::<Vec<_>>();
    let faults_of = |run: &str| {
        faulted(server.address(), 7, &paths_of(run)).iter().map(|path| path.replace(run, "")).collect::<Vec<_>>()
    };
    assert_eq!(faults_of("20261123T073712123Z-ab12cd"), faults_of("20261124T000000000Z-000000"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_works_through_the_proxy() {
    let Some(server) = server("store", b"0123456789") else { return };
    let proxy = FaultProxy::start(server.address(), Vec::new());
    let store = open("s3://store/", &proxy.config()).await.unwrap();
    let get = |method: &str, target: &str| method == "GET" && target.starts_with("/store/k");
    proxy.set(vec![
        Fault::new(get, What::Status(503, String::new()), Often::Times(1)),
        Fault::new(get, What::ResetBefore, Often::Times(1)),
        Fault::new(get, What::CutBody(4), Often::Times(1)),
    ]);
    assert_eq!(store.get("k").await.unwrap(), Bytes::from_static(b"0123456789"));
    assert_eq!(proxy.injected(), [1, 1, 1]);
    let large: Vec<u8> = (0..20_u32 << 20).map(|i| i as u8).collect();
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("large"), &large).unwrap();
    store.put_file("large", &directory.path().join("large")).await.unwrap();
    assert!(store.get("large").await.unwrap() == large);
}
