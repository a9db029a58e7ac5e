//! Keeps a simulated device busy: batches are filled, copied, computed and copied back in times like those of a large GPU,
//! with one batch and with two in flight. The device computes one batch at a time, and copies beside that.
//!
//! `cargo bench --bench batching`
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run fails")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use vidindex::infer::session::Timed;
use vidindex::work::batch::{Batcher, Lanes};

const BATCH: usize = 8;
/// Batches that are measured.
const BATCHES: usize = 150;

/// Times of a batch.
struct Device {
    name: &'static str,
    fill: Duration,
    copy: Duration,
    compute: Duration,
}

fn main() {
    let ms = |ms: f64| Duration::from_secs_f64(ms / 1e3);
    let devices = [
        Device { name: "clips in 16-bit floats", fill: ms(6.0), copy: ms(2.0), compute: ms(20.0) },
        Device { name: "images in bytes", fill: ms(2.0), copy: ms(0.6), compute: ms(8.0) },
    ];
    println!("{:<26} {:>10} {:>12} {:>10}", "inputs", "in flight", "per second", "busy");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for device in devices.map(Arc::new) {
        for lanes in [1, 2] {
            let (per_second, busy) = runtime.block_on(measure(&device, lanes));
            println!("{:<26} {lanes:>10} {per_second:>12.0} {:>8.1} %", device.name, 100.0 * busy);
        }
    }
}

/// Inputs per second, and the share of the time in which the device computes.
async fn measure(device: &Arc<Device>, lanes: usize) -> (f64, f64) {
    let computing = Arc::new(Mutex::new(()));
    let computed_us = Arc::new(AtomicU64::new(0));
    let run = || {
        let (device, computing, computed_us) = (device.clone(), computing.clone(), computed_us.clone());
        move |inputs: Vec<usize>| {
            let started = Instant::now();
            thread::sleep(device.copy / 2);
            {
                let _turn = computing.lock().unwrap_or_else(PoisonError::into_inner);
                let started = Instant::now();
                thread::sleep(device.compute);
                computed_us.fetch_add(started.elapsed().as_micros() as u64, Ordering::Relaxed);
            }
            thread::sleep(device.copy / 2);
            Ok(Timed { output: inputs, seconds: started.elapsed().as_secs_f64() })
        }
    };
    let filled = device.clone();
    let fill = move |inputs: Vec<usize>| {
        thread::sleep(filled.fill);
        Ok(inputs)
    };
    let runs: Vec<_> = (0..lanes).map(|_| run()).collect();
    let (batcher, _) = Batcher::start("bench", move || Ok(Lanes::new(BATCH, fill, runs))).unwrap();
    // Decoders that are always ahead.
    let inputs = (0..BATCH * 8).map(|_| {
        let batcher = batcher.clone();
        tokio::spawn(async move {
            for input in 0..BATCHES / 8 {
                batcher.submit(input).await.unwrap().await.unwrap();
            }
        })
    });
    let inputs: Vec<_> = inputs.collect();
    let started = Instant::now();
    for input in inputs {
        input.await.unwrap();
    }
    let seconds = started.elapsed().as_secs_f64();
    let usage = batcher.counter().usage();
    (usage.inputs as f64 / seconds, computed_us.load(Ordering::Relaxed) as f64 / 1e6 / seconds)
}
