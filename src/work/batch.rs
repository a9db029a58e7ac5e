//! Batches: combines the inputs of several videos, and runs them on the threads that own the model.
//!
//! One thread fills the next batch while others run the previous ones: one, or on a GPU several, each with a session of its
//! own. Every queue is bounded, so that decoders that are ahead wait in [`Batcher::submit`].

use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

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
    /// Starts the threads. `fill` makes a batch of inputs. Each of `runs` computes one output for each input of a batch,
    /// while the others compute other batches.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start<B: Send + 'static, R: FnMut(B) -> Result<Timed<Vec<O>>> + Send + 'static>(
        name: &str,
        batch_max: usize,
        mut fill: impl FnMut(Vec<I>) -> Result<B> + Send + 'static,
        runs: impl IntoIterator<Item = R>,
    ) -> Result<Self> {
        let (requests, mut waiting) = mpsc::channel::<Request<I, O>>(batch_max.max(2));
        let shared = Arc::new(Shared::default());
        let (filled, to_run) = std_mpsc::sync_channel::<(B, Vec<oneshot::Sender<Timed<O>>>)>(0);
        let to_run = Arc::new(Mutex::new(to_run));
        let spawn = |role: &str, body: Box<dyn FnOnce() + Send>| {
            let builder = thread::Builder::new().name(format!("{name}-{role}"));
            builder.spawn(body).map_err(|error| Error::failed(format!("failed to start a thread: {error}")))
        };
        for mut run in runs {
            let (to_run, shared) = (to_run.clone(), shared.clone());
            spawn(
                "run",
                Box::new(move || {
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
                }),
            )?;
        }
        // Only the threads that run keep it, so that filling ends when they have failed.
        drop(to_run);
        let failed = shared.clone();
        spawn(
            "fill",
            Box::new(move || {
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
                        Err(error) => return failed.fail(&error, replies),
                    };
                    if filled.send((batch, replies)).is_err() {
                        return;
                    }
                }
            }),
        )?;
        Ok(Self { requests, shared })
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
            let batcher = Batcher::start("test", 4, Ok, vec![run; lanes]).unwrap();
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
        }
    }

    #[tokio::test]
    async fn a_failed_model_says_why_to_everyone_who_waits() {
        let run = |_: Vec<u32>| -> Result<Timed<Vec<u32>>> { Err(Error::failed("out of memory")) };
        for lanes in [1, 2] {
            let batcher = Batcher::start("test", 4, Ok, vec![run; lanes]).unwrap();
            assert!(batcher.submit(1).await.unwrap().await.is_err());
            assert_eq!(batcher.failure().to_string(), "out of memory");
            while batcher.submit(1).await.is_ok() {
                tokio::task::yield_now().await;
            }
        }
    }
}
