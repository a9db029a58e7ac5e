//! A decoder process that is under the control of a hostile video (`support/hostile_decoder.rs`), against the parent's real code.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use vidindex::decode::{ByteSource, ClipSpec, Decoders, Decoding, ImageSpec, Request, SampledFrame, View};
use vidindex::error::{VideoErrorKind, WorkError};

/// Number of dialogues in every change; `VIDINDEX_TEST_ROUNDS` sets another.
const DIALOGUES: u64 = 2000;
/// Number of dialogues at the same time.
const AT_ONCE: u64 = 16;
/// How long a decoder may work.
const TIMEOUT: Duration = Duration::from_millis(400);
/// How long a dialogue may take, on a busy machine.
const DIALOGUE_MAX: Duration = Duration::from_secs(60);

struct Zeros;

#[async_trait::async_trait]
impl ByteSource for Zeros {
    async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes, WorkError> {
        let left = 1_u64.checked_shl(20).unwrap_or(0).saturating_sub(offset);
        Ok(vec![0; length.min(left as usize)].into())
    }
}

fn program() -> PathBuf {
    // Cargo builds the examples of a package together with its tests.
    Path::new(env!("CARGO_BIN_EXE_vidindex")).with_file_name("examples").join("hostile_decoder")
}

fn request(seed: u64) -> Request {
    let clips = ClipSpec {
        frames: 4,
        side: 16,
        view: View::Centre(16),
        mean: [0.45; 3],
        std: [0.225; 3],
        clip_seconds: 1.0,
        stride_seconds: 1.0,
    };
    let images = ImageSpec { width: 32, height: 32, frames_per_second: 1.0 };
    Request { size_bytes: seed, clips: Some(clips), images: Some(images), memory_bytes: 1 << 30, ..Request::default() }
}

/// What came of a dialogue: a word.
async fn dialogue(decoders: &Decoders, seed: u64) -> &'static str {
    let mut decoding = Decoding::start(decoders, request(seed), Arc::new(Zeros), TIMEOUT).unwrap();
    let mut frames = 0_u64;
    loop {
        let slot = match decoding.next().await {
            Ok(Some(SampledFrame::Opened(info))) => {
                assert!(
                    info.codec.len() < 1000 && info.container.bytes().all(|byte| byte.is_ascii_graphic()),
                    "{info:?}"
                );
                assert!(info.width <= i32::MAX as u32 && info.duration_seconds.is_none_or(f64::is_finite), "{info:?}");
                continue;
            }
            Ok(Some(SampledFrame::Clip(clip))) => {
                assert!(clip.start_seconds == clip.segment as f64 && clip.sampled.len() == 4, "{clip:?}");
                assert_eq!(clip.slot.halves().len(), 3 * 4 * 16 * 16);
                clip.slot
            }
            Ok(Some(SampledFrame::Image(image))) => {
                assert!(image.frame >= 0 && image.time_seconds.is_finite(), "{image:?}");
                assert_eq!(image.slot.bytes().len(), 3 * 32 * 32);
                image.slot
            }
            Ok(None) => return "ended",
            Err(WorkError::Video(error)) => {
                assert!(error.message.len() < 10_000 && !error.message.contains(char::is_control), "{error:?}");
                let known = [VideoErrorKind::DecoderCrashed, VideoErrorKind::Timeout];
                return if known.contains(&error.kind) { error.kind.as_str() } else { "own error" };
            }
            Err(WorkError::Fatal(error)) => {
                assert!(error.to_string().contains("not sandboxed"), "{error}");
                return "not sandboxed";
            }
            Err(error) => panic!("dialogue {seed}: {error}"),
        };
        frames += 1;
        assert!(frames < 10_000, "dialogue {seed} has no end");
        // Inference takes a while, and gives the slot back.
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(seed % 5)).await;
            drop(slot);
        });
    }
}

/// Kilobytes of memory, and number of open descriptors.
fn usage() -> (u64, usize) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kilobytes = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    (kilobytes, std::fs::read_dir("/proc/self/fd").unwrap().count())
}

#[test]
fn a_hostile_decoder_neither_stops_nor_fills_nor_deceives_its_parent() {
    let rounds = std::env::var("VIDINDEX_TEST_ROUNDS");
    let dialogues = rounds.as_ref().map_or(DIALOGUES, |rounds| rounds.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let decoders = Arc::new(Decoders::new(program()));
    let next = Arc::new(AtomicU64::new(0));
    let before = Arc::new(OnceLock::new());
    let started = Instant::now();
    let (outcomes, longest, before) = runtime.block_on(async {
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..AT_ONCE {
            let (decoders, next, before) = (decoders.clone(), next.clone(), before.clone());
            workers.spawn(async move {
                let mut outcomes = Vec::new();
                let mut longest = Duration::ZERO;
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= dialogues {
                        return (outcomes, longest);
                    }
                    if seed == 1000 {
                        before.set(usage()).unwrap();
                    }
                    let begun = Instant::now();
                    let outcome = tokio::time::timeout(DIALOGUE_MAX, dialogue(&decoders, seed)).await;
                    outcomes.push(outcome.unwrap_or_else(|_| panic!("dialogue {seed} hangs")));
                    longest = longest.max(begun.elapsed());
                }
            });
        }
        let mut all = std::collections::BTreeMap::<&str, u64>::new();
        let mut longest = Duration::ZERO;
        while let Some(done) = workers.join_next().await {
            let (outcomes, its_longest) = done.unwrap();
            outcomes.into_iter().for_each(|outcome| *all.entry(outcome).or_default() += 1);
            longest = longest.max(its_longest);
        }
        (all, longest, *before.get().unwrap())
    });
    drop((runtime, decoders));
    let (kilobytes, descriptors) = usage();
    println!(
        "{dialogues} dialogues in {:.1} s, the longest {:.2} s: {outcomes:?}; kB and descriptors after 1000: {before:?}, at \
         the end: {kilobytes}, {descriptors}",
        started.elapsed().as_secs_f64(),
        longest.as_secs_f64()
    );
    assert_eq!(outcomes.values().sum::<u64>(), dialogues);
    // Other tests of this process use memory, too, unless this is the only one.
    if rounds.is_ok() {
        assert!(kilobytes < before.0 + 50_000 && descriptors <= before.1, "the parent grows");
    }
    for outcome in ["ended", "decoder_crashed", "timeout", "not sandboxed"] {
        assert!(outcomes.contains_key(outcome), "no dialogue: {outcome}");
    }
}
