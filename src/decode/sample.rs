//! Selects the frames that are needed: presentation order, segments with their sampled frames, detection frames. Does
//! not use FFmpeg.

use std::collections::{BinaryHeap, VecDeque};

/// Tolerance for comparing times: a container's clock may be as coarse as a microsecond.
pub(crate) const SLACK_SECONDS: f64 = 1e-6;

/// Position of the `i`-th of `count` samples over `n` items: the floor of `linspace(0, n-1, count)`, as PyTorchVideo's
/// `uniform_temporal_subsample` selects them.
///
/// The reference computes in 32-bit floats, from both ends towards the middle, and so does this function: at exact
/// integers the rounding decides which frame is selected.
pub fn linspace_index(n: usize, count: usize, i: usize) -> usize {
    if count <= 1 || n == 0 {
        return 0;
    }
    let last = (n - 1) as f32;
    let step = last / (count - 1) as f32;
    let at = if i < count / 2 { step * i as f32 } else { last - step * (count - 1 - i) as f32 };
    (at.max(0.0) as usize).min(n - 1)
}

/// The segment that a time belongs to: the one that started last, if it still covers the time.
pub fn segment_at(time_seconds: f64, clip_seconds: f64, stride_seconds: f64) -> Option<i64> {
    let k = ((time_seconds + SLACK_SECONDS) / stride_seconds).floor();
    (time_seconds < k * stride_seconds + clip_seconds - SLACK_SECONDS).then_some(k as i64)
}

/// Puts frames in presentation order by holding back a few, for decoders that return timestamps out of order.
#[derive(Debug)]
pub struct Reorder<F> {
    held: BinaryHeap<ByTime<F>>,
    depth: usize,
    arrivals: u64,
}

#[derive(Debug)]
struct ByTime<F> {
    pts: i64,
    arrival: u64,
    frame: F,
}

impl<F> PartialEq for ByTime<F> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl<F> Eq for ByTime<F> {}
impl<F> PartialOrd for ByTime<F> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<F> Ord for ByTime<F> {
    /// The earliest frame compares as the greatest, because `BinaryHeap` pops the greatest.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.pts, other.arrival).cmp(&(self.pts, self.arrival))
    }
}

impl<F> Reorder<F> {
    /// Holds back `depth` frames.
    pub fn new(depth: usize) -> Self {
        Self { held: BinaryHeap::with_capacity(depth + 1), depth, arrivals: 0 }
    }

    /// Takes a frame in decoder order. Returns the next frame in presentation order once enough are held.
    pub fn push(&mut self, pts: i64, frame: F) -> Option<(i64, F)> {
        self.held.push(ByTime { pts, arrival: self.arrivals, frame });
        self.arrivals += 1;
        if self.held.len() > self.depth { self.pop() } else { None }
    }

    /// At the end of the stream: returns the next of the frames that are still held.
    pub fn pop(&mut self) -> Option<(i64, F)> {
        self.held.pop().map(|next| (next.pts, next.frame))
    }
}

/// Selects the first frame at or after the start of each period of `1/frames_per_second`.
#[derive(Debug)]
pub struct DetectionSampler {
    frames_per_second: f64,
    next: f64,
}

impl DetectionSampler {
    /// Starts at time zero, so the first frame is always selected.
    pub fn new(frames_per_second: f64) -> Self {
        Self { frames_per_second, next: 0.0 }
    }

    /// Whether the frame at this time is needed. Times must ascend.
    pub fn takes(&mut self, time_seconds: f64) -> bool {
        let period = (time_seconds + SLACK_SECONDS) * self.frames_per_second;
        if period < self.next {
            return false;
        }
        self.next = period.floor() + 1.0;
        true
    }
}

/// A presented frame that an open segment can still use.
#[derive(Debug)]
pub struct Presented<F> {
    /// The frame's number in presentation order, from 0.
    pub number: i64,
    /// Seconds from the first frame's presentation.
    pub time_seconds: f64,
    /// The frame itself, decoded or scaled.
    pub frame: F,
}

/// A segment with all of its frames.
#[derive(Debug)]
pub struct Segment<'a, F> {
    /// The segment's number.
    pub index: i64,
    /// Start of the segment, seconds: `index * stride`.
    pub start_seconds: f64,
    /// End of the segment, seconds: its start plus the clip length, or the end of the last frame if that comes first.
    pub end_seconds: f64,
    /// The frames presented within the segment, in presentation order. Never empty.
    pub frames: &'a mut [Presented<F>],
}

/// Maximum number of segments that a still last picture may fill, because its duration is only what the file declares.
const STILL_SEGMENTS_MAX: usize = 1000;

/// Groups presented frames into segments of `clip_seconds`, one every `stride_seconds`.
#[derive(Debug)]
pub struct SegmentSampler<F> {
    clip_seconds: f64,
    stride_seconds: f64,
    next: i64,
    held: VecDeque<Presented<F>>,
}

impl<F> SegmentSampler<F> {
    /// Both values must be positive. A stride shorter than the clip makes segments overlap; a longer stride leaves
    /// gaps.
    pub fn new(clip_seconds: f64, stride_seconds: f64) -> Self {
        Self { clip_seconds, stride_seconds, next: 0, held: VecDeque::new() }
    }

    fn start(&self) -> f64 {
        self.next as f64 * self.stride_seconds
    }

    /// Takes the next presented frame and calls `emit` for every segment that it completes.
    pub fn push<E>(
        &mut self,
        presented: Presented<F>,
        mut emit: impl FnMut(Segment<'_, F>) -> Result<(), E>,
    ) -> Result<(), E> {
        let time = presented.time_seconds;
        while time >= self.start() + self.clip_seconds - SLACK_SECONDS {
            if self.held.is_empty() {
                // After a gap in the video, go straight to the first segment that can contain this frame.
                let first = ((time + SLACK_SECONDS - self.clip_seconds) / self.stride_seconds).floor() as i64 + 1;
                self.next = first.max(self.next);
                if time >= self.start() + self.clip_seconds - SLACK_SECONDS {
                    self.next += 1;
                }
                break;
            }
            self.close(f64::INFINITY, &mut emit)?;
        }
        if time >= self.start() - SLACK_SECONDS {
            self.held.push_back(presented);
        }
        Ok(())
    }

    /// At the end of the stream: emits the last, shorter segments. `end_seconds` is when the last frame's presentation
    /// ends. If that frame stays on screen for a clip's length or longer, it is the only frame of every segment until
    /// then.
    pub fn finish<E>(
        &mut self,
        end_seconds: f64,
        mut emit: impl FnMut(Segment<'_, F>) -> Result<(), E>,
    ) -> Result<(), E> {
        let stands_still =
            self.held.back().is_some_and(|last| end_seconds - last.time_seconds >= self.clip_seconds - SLACK_SECONDS);
        let mut left = if stands_still { STILL_SEGMENTS_MAX } else { 0 };
        while !self.held.is_empty() {
            let passed = self.close(end_seconds, &mut emit)?;
            let start = self.start();
            if self.held.is_empty() && left > 0 && start < end_seconds - SLACK_SECONDS {
                left -= 1;
                self.held.extend(passed.map(|last| Presented { time_seconds: start, ..last }));
            }
        }
        Ok(())
    }

    /// The frames that are held now.
    pub fn held(&self) -> impl Iterator<Item = &Presented<F>> {
        self.held.iter()
    }

    /// Emits the next segment, and returns the last frame that no later segment uses.
    fn close<E>(
        &mut self,
        video_end_seconds: f64,
        emit: &mut impl FnMut(Segment<'_, F>) -> Result<(), E>,
    ) -> Result<Option<Presented<F>>, E> {
        let start_seconds = self.start();
        let clip_end = start_seconds + self.clip_seconds;
        let inside = self.held.iter().take_while(|p| p.time_seconds < clip_end - SLACK_SECONDS).count();
        if inside > 0 {
            emit(Segment {
                index: self.next,
                start_seconds,
                end_seconds: clip_end.min(video_end_seconds),
                frames: &mut self.held.make_contiguous()[..inside],
            })?;
        }
        self.next += 1;
        let next_start = self.start();
        let mut passed = None;
        while self.held.front().is_some_and(|p| p.time_seconds < next_start - SLACK_SECONDS) {
            passed = self.held.pop_front();
        }
        Ok(passed)
    }
}

/// What the models take of a video.
#[derive(Debug)]
pub struct Samplers<F> {
    /// The frames of which images are made, if any.
    pub detections: Option<DetectionSampler>,
    /// The segments of which clips are made, if any.
    pub segments: Option<SegmentSampler<F>>,
    /// Frames of a clip.
    pub clip_frames: usize,
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    /// (index, numbers of the contained frames) of every segment, for these frame times.
    fn segments(times: &[f64], clip: f64, stride: f64) -> Vec<(i64, Vec<i64>)> {
        let mut out = Vec::new();
        let mut sampler = SegmentSampler::new(clip, stride);
        let mut emit = |s: Segment<'_, ()>| -> Result<(), Infallible> {
            out.push((s.index, s.frames.iter().map(|p| p.number).collect()));
            Ok(())
        };
        for (number, &time_seconds) in times.iter().enumerate() {
            let Ok(()) = sampler.push(Presented { number: number as i64, time_seconds, frame: () }, &mut emit);
        }
        let Ok(()) = sampler.finish(times.last().copied().unwrap_or(0.0), &mut emit);
        out
    }

    #[test]
    fn sixty_frames_give_the_indices_of_the_reference() {
        let picked: Vec<_> = (0..32).map(|i| linspace_index(60, 32, i)).collect();
        assert_eq!(&picked[..13], &[0, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 20, 22]);
        assert_eq!(picked[31], 59);
    }

    #[test]
    fn one_frame_fills_a_whole_clip() {
        assert!((0..32).all(|i| linspace_index(1, 32, i) == 0));
    }

    #[test]
    fn a_frame_on_the_border_opens_the_next_segment() {
        let times: Vec<f64> = (0..128).map(|i| i as f64 / 30.0).collect();
        let found = segments(&times, 64.0 / 30.0, 64.0 / 30.0);
        assert_eq!(found[0].1, (0..64).collect::<Vec<i64>>());
        assert_eq!(found[1].1, (64..128).collect::<Vec<i64>>());
    }

    #[test]
    fn a_long_gap_skips_segments_without_frames() {
        assert_eq!(segments(&[0.0, 0.5, 1e6], 1.0, 1.0), vec![(0, vec![0, 1]), (1_000_000, vec![2])]);
    }

    /// Start and end of every segment, for frames at these times. The last frame stays until `end`.
    fn spans(times: &[f64], end: f64) -> Vec<(f64, f64)> {
        let mut out = Vec::new();
        let mut sampler = SegmentSampler::new(2.0, 2.0);
        let mut emit = |s: Segment<'_, ()>| -> Result<(), Infallible> {
            out.push((s.start_seconds, s.end_seconds));
            Ok(())
        };
        for (number, &time_seconds) in times.iter().enumerate() {
            let Ok(()) = sampler.push(Presented { number: number as i64, time_seconds, frame: () }, &mut emit);
        }
        let Ok(()) = sampler.finish(end, &mut emit);
        out
    }

    #[test]
    fn a_still_last_picture_fills_the_segments_until_the_end() {
        assert_eq!(spans(&[0.0, 0.5, 1.0], 5.5), vec![(0.0, 2.0), (2.0, 4.0), (4.0, 5.5)]);
        assert_eq!(spans(&[0.0, 1.0, 1.9], 2.5), vec![(0.0, 2.0)], "the next segment has no frame of its own");
        assert_eq!(spans(&[0.0], f64::MAX).len(), STILL_SEGMENTS_MAX + 1);
    }

    #[test]
    fn detection_takes_the_first_frame_of_each_period() {
        let mut sampler = DetectionSampler::new(1.0);
        let picked: Vec<usize> = (0..90).filter(|i| sampler.takes(*i as f64 * 1001.0 / 30000.0)).collect();
        assert_eq!(picked, vec![0, 30, 60]);
    }

    proptest! {
        #[test]
        fn every_segment_holds_exactly_the_frames_inside_it(
            gaps in prop::collection::vec(0.001f64..3.0, 1..120),
            clip in 0.05f64..4.0,
            stride in 0.05f64..4.0,
        ) {
            let mut time = 0.0;
            let mut times = vec![0.0];
            for gap in gaps { time += gap; times.push(time); }
            let found = segments(&times, clip, stride);
            let mut expected = Vec::new();
            for k in 0..=((time + SLACK_SECONDS) / stride) as i64 {
                let start = k as f64 * stride;
                let inside: Vec<i64> = times.iter().enumerate()
                    .filter(|(_, t)| **t >= start - SLACK_SECONDS && **t < start + clip - SLACK_SECONDS)
                    .map(|(i, _)| i as i64).collect();
                if !inside.is_empty() { expected.push((k, inside)); }
            }
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn shuffled_within_the_depth_comes_out_in_order(swaps in prop::collection::vec(any::<bool>(), 1..60)) {
            let mut order: Vec<i64> = (0..swaps.len() as i64 + 1).collect();
            let mut i = 0;
            while i < swaps.len() { if swaps[i] { order.swap(i, i + 1); i += 1; } i += 1; }
            let mut reorder = Reorder::new(2);
            let mut out: Vec<i64> = order.iter().filter_map(|&pts| reorder.push(pts, ())).map(|(pts, ())| pts).collect();
            while let Some((pts, ())) = reorder.pop() { out.push(pts); }
            prop_assert!(out.is_sorted());
            prop_assert_eq!(out.len(), order.len());
        }

        #[test]
        fn samples_ascend_and_span_the_segment(n in 1usize..5000, count in 2usize..128) {
            let picked: Vec<usize> = (0..count).map(|i| linspace_index(n, count, i)).collect();
            prop_assert!(picked.is_sorted());
            prop_assert_eq!(picked[0], 0);
            prop_assert_eq!(picked[count - 1], n - 1);
        }
    }
}
