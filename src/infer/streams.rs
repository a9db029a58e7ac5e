//! Streams: how many models compute at the same time on a CPU, each with its share of the cores. More threads than a few do not
//! make one clip faster in proportion, so a machine with many cores is faster with several clips beside each other.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Threads of a stream, at least, on a machine that has so many cores. On two cores, two streams of one thread are as fast as one
/// stream of two.
const THREADS_MIN: usize = 8;

/// Lets a number of models compute at the same time. All models of a runtime share it.
#[derive(Debug, Clone)]
pub(super) struct Streams {
    count: usize,
    free: Arc<(Mutex<usize>, Condvar)>,
}

/// The right to compute.
#[derive(Debug)]
pub(super) struct Stream<'a>(&'a Streams);

impl Streams {
    pub(super) fn new(count: usize) -> Self {
        Self { count, free: Arc::new((Mutex::new(count), Condvar::new())) }
    }

    /// As many as suit a number of cores.
    pub(super) fn of_cores(cores: usize) -> Self {
        Self::new((cores / THREADS_MIN).max(1))
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Waits until a stream is free.
    pub(super) fn take(&self) -> Stream<'_> {
        let (free, freed) = &*self.free;
        let free = free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = freed.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Stream(self)
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        let (free, freed) = &*self.0.free;
        *free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn streams_grow_with_the_cores() {
        let counts = [1, 2, 8, 15, 16, 64, 192].map(|cores| Streams::of_cores(cores).count());
        assert_eq!(counts, [1, 1, 1, 1, 2, 8, 24]);
    }

    #[test]
    fn so_many_compute_at_the_same_time_and_no_more() {
        let (streams, now, most) = (Streams::new(3), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let stream = streams.take();
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(1));
                        now.fetch_sub(1, Ordering::SeqCst);
                        drop(stream);
                    }
                });
            }
        });
        assert_eq!(most.into_inner(), 3);
    }
}
