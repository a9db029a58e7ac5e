//! The retry policy of all requests to S3: a transient failure is retried for minutes, with exponential backoff and jitter, and
//! with fewer requests in flight while the store is overloaded.
//!
//! The SDK's own retries are off. They cannot limit the requests in flight, they give up when a bucket of retry tokens is
//! empty (an outage empties it in a second), and they do not notice a body that breaks off.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::sync::Notify;

use super::pace::Pace;
use crate::store::{StoreErrorKind, StoreResult};

const DELAY_MIN: Duration = Duration::from_millis(200);
const DELAY_MAX: Duration = Duration::from_secs(20);

/// Retries of a request that are logged at debug level only.
const QUIET_RETRIES: u32 = 2;

/// Requests in flight while the store is not overloaded.
const IN_FLIGHT_MAX: usize = 256;

/// Failures within this time reduce the requests in flight only once, because they have the same cause.
const SHRINK_INTERVAL: Duration = Duration::from_secs(1);

/// Retries the requests of one store.
#[derive(Debug, Clone)]
pub(super) struct Retry {
    /// Time for one request, including waits, after which its failure is final.
    limit: Duration,
    gate: Arc<Gate>,
    /// For the requests, if there is a limit.
    pace: Option<Arc<Pace>>,
}

impl Retry {
    pub(super) fn new(limit: Duration, requests_per_second: Option<u64>) -> Self {
        let pace = requests_per_second.map(|requests| Arc::new(Pace::new(requests)));
        Self { limit, gate: Arc::new(Gate::new(IN_FLIGHT_MAX)), pace }
    }

    /// The attempts at one request, for `retry!`.
    pub(super) fn attempts(&self) -> Attempts<'_> {
        Attempts { retry: self, started: Instant::now(), delays: backoff(), retries: 0 }
    }
}

/// Evaluates an expression of type `StoreResult`, which sends one request, until it succeeds, fails permanently, or has failed
/// transiently for the whole time limit.
///
/// The expression must not use `retry!` with the same [`Retry`], because it holds one of its places in flight.
// Not a function with an async closure, because rustc cannot prove that its future is `Send`.
macro_rules! retry {
    ($retry:expr, $request:expr) => {{
        let mut attempts = $retry.attempts();
        loop {
            let place = attempts.place().await;
            let result = $request;
            if let Some(result) = attempts.settle(place, result).await {
                break result;
            }
        }
    }};
}
pub(super) use retry;

/// See [`Retry::attempts`].
pub(super) struct Attempts<'a> {
    retry: &'a Retry,
    started: Instant,
    delays: ExponentialBackoff,
    retries: u32,
}

impl<'a> Attempts<'a> {
    /// A place in flight for the next attempt.
    pub(super) async fn place(&self) -> Place<'a> {
        if let Some(pace) = &self.retry.pace {
            pace.take(1).await;
        }
        self.retry.gate.enter().await
    }

    /// The final result. None if there is to be another attempt, after waiting until its time.
    pub(super) async fn settle<T>(&mut self, place: Place<'a>, result: StoreResult<T>) -> Option<StoreResult<T>> {
        let is_transient = matches!(&result, Err(error) if error.kind == StoreErrorKind::Transient);
        place.leave(if is_transient { Answer::Missing } else { Answer::Came });
        let mut error = match result {
            Err(error) if error.kind == StoreErrorKind::Transient => error,
            result => return Some(result),
        };
        let (failed, retries) = (self.started.elapsed(), self.retries);
        let delay = self.delays.next().unwrap_or(DELAY_MAX);
        if failed + delay > self.retry.limit {
            if retries > 0 {
                error.message = format!("{}, after {} attempts in {} s", error.message, retries + 1, failed.as_secs());
            }
            return Some(Err(error));
        }
        self.retries += 1;
        let (failed_seconds, delay_ms) = (failed.as_secs(), delay.as_millis());
        if retries >= QUIET_RETRIES {
            tracing::warn!(%error, retries, failed_seconds, delay_ms, "a request failed, retrying");
        } else {
            tracing::debug!(%error, retries, delay_ms, "a request failed, retrying");
        }
        tokio::time::sleep(delay).await;
        None
    }
}

/// 0.2 s, doubled for each further retry up to 20 s, plus a random time up to the same length, so that clients that failed
/// together do not retry together.
fn backoff() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_factor(2.0)
        .with_min_delay(DELAY_MIN)
        .with_max_delay(DELAY_MAX)
        .without_max_times()
        .with_jitter()
        .build()
}

/// Limits the requests in flight as TCP does in congestion: a transient failure halves the limit, and each round of successes
/// increases it by one.
#[derive(Debug)]
struct Gate {
    max: usize,
    state: Mutex<Flow>,
    left: Notify,
}

#[derive(Debug)]
struct Flow {
    in_flight: usize,
    /// Between 1 and `max`. The integer part counts.
    limit: f64,
    shrunk_at: Option<Instant>,
}

impl Gate {
    fn new(max: usize) -> Self {
        let flow = Flow { in_flight: 0, limit: max as f64, shrunk_at: None };
        Self { max, state: Mutex::new(flow), left: Notify::new() }
    }

    fn flow(&self) -> std::sync::MutexGuard<'_, Flow> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn enter(&self) -> Place<'_> {
        loop {
            let left = self.left.notified();
            {
                let mut flow = self.flow();
                if flow.in_flight < flow.limit as usize {
                    flow.in_flight += 1;
                    return Place { gate: self };
                }
            }
            left.await;
        }
    }
}

/// Whether the store answered a request, be it with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Came,
    Missing,
}

/// The place of a request in flight, which is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    gate: &'a Gate,
}

impl Place<'_> {
    /// Adjusts the limit after a request.
    fn leave(self, answer: Answer) {
        let mut flow = self.gate.flow();
        if answer == Answer::Came {
            flow.limit = (flow.limit + 1.0 / flow.limit).min(self.gate.max as f64);
        } else if flow.shrunk_at.is_none_or(|at| at.elapsed() >= SHRINK_INTERVAL) {
            flow.shrunk_at = Some(Instant::now());
            // Half of what was in flight: reducing a limit far above that would have no effect.
            flow.limit = (flow.limit.min(flow.in_flight as f64) / 2.0).max(1.0);
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.gate.flow().in_flight -= 1;
        // The limit may have grown by one as well.
        self.gate.left.notify_one();
        self.gate.left.notify_one();
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;

    use super::*;
    use crate::store::StoreError;

    fn error(kind: StoreErrorKind) -> StoreError {
        StoreError { kind, message: "failed to read s3://b/k: SlowDown".to_owned(), hint: None }
    }

    async fn run<T>(limit: Duration, mut attempt: impl FnMut() -> StoreResult<T>) -> StoreResult<T> {
        let retrying = Retry::new(limit, None);
        retry!(retrying, attempt())
    }

    #[tokio::test]
    async fn what_is_transient_is_retried_until_it_succeeds() {
        let mut attempts = 0;
        let result = run(Duration::from_secs(300), || {
            attempts += 1;
            if attempts < 4 { Err(error(StoreErrorKind::Transient)) } else { Ok(attempts) }
        });
        assert_eq!(result.await.unwrap(), 4);
    }

    #[tokio::test]
    async fn what_a_retry_cannot_fix_fails_at_once() {
        for kind in [StoreErrorKind::Credentials, StoreErrorKind::AccessDenied, StoreErrorKind::NotFound] {
            let mut attempts = 0;
            let result = run(Duration::from_secs(300), || {
                attempts += 1;
                Err::<(), _>(error(kind))
            });
            assert_eq!(result.await.unwrap_err().kind, kind);
            assert_eq!(attempts, 1);
        }
    }

    #[tokio::test]
    async fn a_failure_that_outlasts_the_limit_says_how_often_it_was_tried() {
        let fail = || Err::<(), _>(error(StoreErrorKind::Transient));
        let failed = run(Duration::from_millis(1500), fail).await.unwrap_err();
        assert!(failed.message.contains("SlowDown, after "), "{failed}");
        let once = run(Duration::ZERO, fail).await.unwrap_err();
        assert_eq!(once.message, error(StoreErrorKind::Transient).message);
    }

    #[test]
    fn delays_grow_to_their_maximum_and_never_end() {
        let delays: Vec<_> = backoff().take(40).collect();
        for (n, delay) in delays.iter().enumerate() {
            let least = DELAY_MAX.min(DELAY_MIN * 2_u32.pow(n.min(10) as u32));
            assert!((least..=2 * least).contains(delay), "{n}: {delay:?}");
        }
    }

    #[tokio::test]
    async fn an_overloaded_store_gets_fewer_requests_at_once_and_a_recovered_one_more() {
        let gate = Gate::new(16);
        let places = join_all((0..16).map(|_| gate.enter())).await;
        // A burst of failures counts once.
        places.into_iter().for_each(|place| place.leave(Answer::Missing));
        assert_eq!(gate.flow().limit, 8.0);
        let at_once = AtomicUsize::new(0);
        let most = AtomicUsize::new(0);
        join_all((0..200).map(|_| async {
            let place = gate.enter().await;
            most.fetch_max(at_once.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            at_once.fetch_sub(1, Ordering::Relaxed);
            place.leave(Answer::Came);
        }))
        .await;
        let most = most.into_inner();
        assert!((8..=16).contains(&most), "{most}");
        let flow = gate.flow();
        assert_eq!((flow.limit, flow.in_flight), (16.0, 0));
    }

    #[tokio::test]
    async fn a_dropped_request_gives_its_place_back() {
        let gate = Gate::new(1);
        drop(gate.enter().await);
        let place = tokio::time::timeout(Duration::from_secs(5), gate.enter()).await.unwrap();
        place.leave(Answer::Came);
        assert_eq!(gate.flow().in_flight, 0);
    }
}
