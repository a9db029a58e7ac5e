//! A line to a server that breaks where it is told to: after so many bytes of the answer to a certain request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Forwards connections; ends when it is dropped.
#[derive(Debug)]
pub(crate) struct BreakingLine {
    address: SocketAddr,
    broken: Arc<AtomicU32>,
    task: JoinHandle<()>,
}

impl BreakingLine {
    /// The first `times` requests whose head begins with `request` get `answer_bytes` of their answer.
    pub(crate) async fn to(server: SocketAddr, request: &'static str, answer_bytes: usize, times: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let broken = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&broken);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(server).await.unwrap();
                tokio::spawn(forward(client, server, request, answer_bytes, times, Arc::clone(&counter)));
            }
        });
        Self { address, broken, task }
    }

    /// `http://127.0.0.1:PORT`
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How often it broke.
    pub(crate) fn broken(&self) -> u32 {
        self.broken.load(Ordering::SeqCst)
    }
}

impl Drop for BreakingLine {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(
    mut client: TcpStream,
    mut server: TcpStream,
    request: &'static str,
    answer_bytes: usize,
    times: u32,
    broken: Arc<AtomicU32>,
) {
    let (mut up, mut down) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut left: Option<usize> = None;
    loop {
        tokio::select! {
            count = client.read(&mut up) => {
                let Ok(count @ 1..) = count else { return };
                if up[..count].starts_with(request.as_bytes()) && broken.load(Ordering::SeqCst) < times {
                    broken.fetch_add(1, Ordering::SeqCst);
                    left = Some(answer_bytes);
                }
                if server.write_all(&up[..count]).await.is_err() { return }
            }
            count = server.read(&mut down) => {
                let Ok(count @ 1..) = count else { return };
                let allowed = left.map_or(count, |left| left.min(count));
                if client.write_all(&down[..allowed]).await.is_err() { return }
                if let Some(left) = &mut left {
                    *left -= allowed;
                    if allowed < count { return }
                }
            }
        }
    }
}
