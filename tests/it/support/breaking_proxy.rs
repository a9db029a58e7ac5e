//! A proxy that closes connections to a server after a given number of response bytes.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Forwards connections until it is dropped.
#[derive(Debug)]
pub(crate) struct BreakingProxy {
    address: SocketAddr,
    broken: Arc<AtomicU32>,
    sent: Arc<Mutex<String>>,
    task: JoinHandle<()>,
}

impl BreakingProxy {
    /// Closes the connection of the first `times` requests that begin with `request`, after `response_bytes` of the
    /// response.
    pub(crate) async fn to(server: SocketAddr, request: &'static str, response_bytes: usize, times: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let broken = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&broken);
        let sent = Arc::new(Mutex::new(String::new()));
        let log = Arc::clone(&sent);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(server).await.unwrap();
                tokio::spawn(forward(
                    client,
                    server,
                    request,
                    response_bytes,
                    times,
                    Arc::clone(&counter),
                    Arc::clone(&log),
                ));
            }
        });
        Self { address, broken, sent, task }
    }

    /// `http://127.0.0.1:PORT`
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Everything that clients sent, in lower case.
    pub(crate) fn sent(&self) -> String {
        self.sent.lock().unwrap().to_lowercase()
    }

    /// Number of requests whose response was cut.
    pub(crate) fn broken(&self) -> u32 {
        self.broken.load(Ordering::SeqCst)
    }
}

impl Drop for BreakingProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(
    mut client: TcpStream,
    mut server: TcpStream,
    request: &'static str,
    response_bytes: usize,
    times: u32,
    broken: Arc<AtomicU32>,
    sent: Arc<Mutex<String>>,
) {
    let (mut up, mut down) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut remaining: Option<usize> = None;
    loop {
        tokio::select! {
            count = client.read(&mut up) => {
                let Ok(count @ 1..) = count else { return };
                sent.lock().unwrap().push_str(&String::from_utf8_lossy(&up[..count]));
                if up[..count].starts_with(request.as_bytes()) && broken.load(Ordering::SeqCst) < times {
                    broken.fetch_add(1, Ordering::SeqCst);
                    remaining = Some(response_bytes);
                }
                if server.write_all(&up[..count]).await.is_err() { return }
            }
            count = server.read(&mut down) => {
                let Ok(count @ 1..) = count else { return };
                let allowed = remaining.map_or(count, |remaining| remaining.min(count));
                if client.write_all(&down[..allowed]).await.is_err() { return }
                if let Some(remaining) = &mut remaining {
                    *remaining -= allowed;
                    if allowed < count { return }
                }
            }
        }
    }
}
