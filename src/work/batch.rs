//! Batches: combines the inputs of several videos, and runs them on the threads that own the model.
//!
//! One thread opens the model, and then fills the next batch while others run the previous ones: one or several, each with a
//! session of its own. Every queue is bounded, so that decoders that are ahead wait in [`Batcher::submit`].

use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use crate::error::{Error, Result};
use crate::infer::session::Timed;
use crate::telemetry::UsageCounter;

/// Runs a model in batches. Clones share the model. Its threads end when the last clone is dropped.
#[derive(Debug)]
pub struct Batcher<I, O> {
    requests: mpsc::Sender<Request<I, O>>,
    shared: Arc<Shared>,
}

impl<I, O> Clone for Batcher<I, O> {
    fn clone(&self) -> Self {
        Self { requests: self.requests.clone(), shared: self.shared.clone() }
    }
}

/// Most inputs that wait for a batch. Each holds a slot of a decoder, whose number limits the memory.
const QUEUE: usize = 64;

/// Computes one output for each input of a batch.
type Run<B, O> = Box<dyn FnMut(B) -> Result<Timed<Vec<O>>> + Send>;

/// An open model.
pub struct Lanes<I, B, O> {
    batch_max: usize,
    fill: Box<dyn FnMut(Vec<I>) -> Result<B>>,
    runs: Vec<Run<B, O>>,
}

impl<I, B, O> Lanes<I, B, O> {
    /// `fill` makes a batch of at most `batch_max` inputs. Each of `runs` computes one output for each input of a batch,
    /// while the others compute other batches.
    pub fn new<R: FnMut(B) -> Result<Timed<Vec<O>>> + Send + 'static>(
        batch_max: usize,
        fill: impl FnMut(Vec<I>) -> Result<B> + 'static,
        runs: impl IntoIterator<Item = R>,
    ) -> Self {
        let runs = runs.into_iter().map(|run| Box::new(run) as Run<B, O>).collect();
        Self { batch_max, fill: Box::new(fill), runs }
    }
}

/// When a model has been opened, or why it could not be.
pub type Opened = oneshot::Receiver<Result<Instant>>;

/// The output for one input, which is still to come. Its time is an equal share of the batch's.
pub type Pending<O> = oneshot::Receiver<Timed<O>>;

/// An output that needs no model.
pub fn answered<O>(output: O) -> Pending<O> {
    let (reply, pending) = oneshot::channel();
    // The receiver is right here.
    let _ = reply.send(Timed { output, seconds: 0.0 });
    pending
}

#[derive(Debug)]
struct Request<I, O> {
    input: I,
    reply: oneshot::Sender<Timed<O>>,
}

#[derive(Debug, Default)]
struct Shared {
    used: UsageCounter,
    failure: OnceLock<String>,
}

impl Shared {
    /// Those who wait for these replies see that they are dropped, and then read the reason.
    fn fail<O>(&self, error: &Error, replies: Vec<oneshot::Sender<Timed<O>>>) {
        let _ = self.failure.set(error.to_string());
        drop(replies);
    }
}

impl<I: Send + 'static, O: Send + 'static> Batcher<I, O> {
    /// Starts a thread that opens the model. Inputs can be queued at once.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start<B: Send + 'static>(
        name: &'static str,
        open: impl FnOnce() -> Result<Lanes<I, B, O>> + Send + 'static,
    ) -> Result<(Self, Opened)> {
        let (requests, waiting) = mpsc::channel(QUEUE);
        let (tell, opened) = oneshot::channel();
        let shared = Arc::new(Shared::default());
        let of_thread = shared.clone();
        spawn(name, "fill", move || {
            let ready = open().and_then(|Lanes { batch_max, fill, runs }| {
                let filled = start_lanes(name, runs, &of_thread)?;
                Ok((batch_max, fill, filled))
            });
            // Nobody asks when the model was opened if work has ended meanwhile.
            match ready {
                Ok((batch_max, fill, filled)) => {
                    let _ = tell.send(Ok(Instant::now()));
                    fill_batches(waiting, batch_max, fill, &filled, &of_thread);
                }
                Err(error) => {
                    of_thread.fail::<O>(&error, vec![]);
                    let _ = tell.send(Err(error));
                }
            }
        })?;
        Ok((Self { requests, shared }, opened))
    }

    /// Queues an input. Waits while the model is behind.
    ///
    /// # Errors
    /// If the model has failed.
    pub async fn submit(&self, input: I) -> Result<Pending<O>> {
        let (reply, pending) = oneshot::channel();
        match self.requests.send(Request { input, reply }).await {
            Ok(()) => Ok(pending),
            Err(_) => Err(self.failure()),
        }
    }

    /// The reason why an output will never arrive.
    pub fn failure(&self) -> Error {
        Error::failed(self.shared.failure.get().map_or("the model's thread has ended", String::as_str))
    }

    /// Counts the inputs and the time of the model.
    pub fn counter(&self) -> UsageCounter {
        self.shared.used.clone()
    }
}

type Filled<B, O> = (B, Vec<oneshot::Sender<Timed<O>>>);

fn spawn(name: &str, role: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    let spawned = thread::Builder::new().name(format!("{name}-{role}")).spawn(body);
    spawned.map(drop).map_err(|error| Error::failed(format!("failed to start a thread: {error}")))
}

/// Starts a thread for each of `runs`, which take batches from the returned queue until one of them fails.
fn start_lanes<B: Send + 'static, O: Send + 'static>(
    name: &str,
    runs: Vec<Run<B, O>>,
    shared: &Arc<Shared>,
) -> Result<std_mpsc::SyncSender<Filled<B, O>>> {
    let (filled, to_run) = std_mpsc::sync_channel::<Filled<B, O>>(0);
    // Only the threads that run keep it, so that filling ends when they have failed.
    let to_run = Arc::new(Mutex::new(to_run));
    for mut run in runs {
        let (to_run, shared) = (to_run.clone(), shared.clone());
        spawn(name, "run", move || {
            loop {
                let next = to_run.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok((batch, replies)) = next else { return };
                let outputs = match run(batch) {
                    Ok(outputs) => outputs,
                    Err(error) => return shared.fail(&error, replies),
                };
                shared.used.add(replies.len(), outputs.seconds);
                let seconds = outputs.seconds / replies.len().max(1) as f64;
                for (output, reply) in outputs.output.into_iter().zip(replies) {
                    // Nobody waits if work on the video has ended meanwhile.
                    let _ = reply.send(Timed { output, seconds });
                }
            }
        })?;
    }
    Ok(filled)
}

/// Fills batches until no more inputs can come, or none can be run.
fn fill_batches<I, B, O>(
    mut waiting: mpsc::Receiver<Request<I, O>>,
    batch_max: usize,
    mut fill: impl FnMut(Vec<I>) -> Result<B>,
    filled: &std_mpsc::SyncSender<Filled<B, O>>,
    shared: &Shared,
) {
    while let Some(first) = waiting.blocking_recv() {
        let mut requests = vec![first];
        while requests.len() < batch_max
            && let Ok(next) = waiting.try_recv()
        {
            requests.push(next);
        }
        let (inputs, replies) = requests.into_iter().map(|r| (r.input, r.reply)).unzip();
        let batch = match fill(inputs) {
            Ok(batch) => batch,
            Err(error) => return shared.fail(&error, replies),
        };
        if filled.send((batch, replies)).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[tokio::test]
    async fn each_input_gets_its_own_answer() {
        let run = |batch: Vec<u32>| {
            assert!(batch.len() <= 4);
            Ok(Timed { output: batch.iter().map(|v| v * 2).collect(), seconds: 0.5 })
        };
        for lanes in [1, 3] {
            let (batcher, opened) = Batcher::start("test", move || Ok(Lanes::new(4, Ok, vec![run; lanes]))).unwrap();
            let tasks: Vec<_> = (0..100u32)
                .map(|i| {
                    let batcher = batcher.clone();
                    tokio::spawn(async move { (i, batcher.submit(i).await.unwrap().await.unwrap().output) })
                })
                .collect();
            for task in tasks {
                let (input, output) = task.await.unwrap();
                assert_eq!(output, input * 2);
            }
            assert_eq!(batcher.counter().usage().inputs, 100);
            opened.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn a_failed_model_says_why_to_everyone_who_waits() {
        let run = |_: Vec<u32>| -> Result<Timed<Vec<u32>>> { Err(Error::failed("out of memory")) };
        for lanes in [1, 2] {
            let (batcher, _) = Batcher::start("test", move || Ok(Lanes::new(4, Ok, vec![run; lanes]))).unwrap();
            assert!(batcher.submit(1).await.unwrap().await.is_err());
            assert_eq!(batcher.failure().to_string(), "out of memory");
            while batcher.submit(1).await.is_ok() {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn a_model_that_cannot_be_opened_says_why_to_everyone_who_waits() {
        let (release, wait) = std_mpsc::channel::<()>();
        let open = move || {
            wait.recv().unwrap();
            Err::<Lanes<u32, u32, u32>, _>(Error::usage("no model"))
        };
        let (batcher, opened) = Batcher::start("test", open).unwrap();
        let early = batcher.submit(1).await.unwrap();
        release.send(()).unwrap();
        assert!(early.await.is_err());
        assert_eq!(batcher.failure().to_string(), "no model");
        assert!(batcher.submit(1).await.is_err());
        assert_eq!(opened.await.unwrap().unwrap_err().exit_code(), 2);
    }
}
