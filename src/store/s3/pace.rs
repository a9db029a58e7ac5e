//! Limits how fast a process uses a store.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Gives out units, such as requests or bytes, at a constant rate.
#[derive(Debug)]
pub(super) struct Pace {
    seconds_per_unit: f64,
    /// When everything that was given out is paid for.
    paid_at: Mutex<Instant>,
}

impl Pace {
    pub(super) fn new(per_second: u64) -> Self {
        Self { seconds_per_unit: 1.0 / per_second.max(1) as f64, paid_at: Mutex::new(Instant::now()) }
    }

    /// Takes units. Waits until those taken before are paid for, so that a large amount delays only what follows it.
    pub(super) async fn take(&self, units: u64) {
        tokio::time::sleep_until(self.turn(Instant::now(), units)).await;
    }

    /// When units that are asked for now may be used.
    fn turn(&self, now: Instant, units: u64) -> Instant {
        let cost = Duration::from_secs_f64(units as f64 * self.seconds_per_unit);
        let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = now.max(*paid_at);
        *paid_at = turn + cost;
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_come_at_the_rate_however_they_are_taken_and_idle_time_is_not_saved_up() {
        let pace = Pace::new(10);
        let start = Instant::now() + Duration::from_secs(5);
        let turns: Vec<_> = (0..21).map(|_| (pace.turn(start, 1) - start).as_millis()).collect();
        assert_eq!(turns, (0..21).map(|turn| 100 * turn).collect::<Vec<_>>());
        assert_eq!((pace.turn(start, 50) - start).as_millis(), 2100);
        assert_eq!((pace.turn(start, 1) - start).as_millis(), 7100);
        let later = start + Duration::from_secs(60);
        assert_eq!(pace.turn(later, 1), later);
        assert_eq!((pace.turn(later, 1) - later).as_millis(), 100);
    }
}
