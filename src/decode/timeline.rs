//! A continuous timeline: converts packet timestamps, whose clock may wrap or restart, to seconds since the first
//! frame. Does not use FFmpeg.
//!
//! Packets are moved to the timeline before they reach the decoder, so that decoded frames sort in presentation order
//! across every break of the clock. A break at a key frame starts another part (recordings that were joined): its first
//! frame is presented when the last frame of the previous part ends. A break elsewhere belongs to the same recording,
//! whose clock was reset: decoding times continue.

use std::collections::{BTreeMap, VecDeque};

/// A decoding time that is earlier than the previous packet's by this much, seconds, is a break.
const BACK_SECONDS: f64 = 1.0;
/// In broadcast containers, whose clock may be reset, a decoding time that is later by this much, seconds, is a break
/// too. The FFmpeg tool uses the same threshold (`dts_delta_threshold`).
const BROADCAST_AHEAD_SECONDS: f64 = 10.0;
/// The same for all other containers, where a long gap is a still picture (`dts_error_threshold`).
const AHEAD_SECONDS: f64 = 30.0 * 3600.0;
/// The limit is at least this many average frame durations, so that a time lapse does not have a break at every frame.
const AHEAD_FRAMES: i64 = 10;
/// Maximum number of remembered durations of packets whose frames have not been returned yet.
const DURATIONS_MAX: usize = 10_000;

/// How the container of a video stream counts time.
#[derive(Debug, Clone, Copy)]
pub(super) struct ContainerClock {
    /// Duration of a tick, seconds.
    pub(super) tick_seconds: f64,
    /// Duration of an average frame, ticks. Used if nothing else is known about a frame.
    pub(super) frame_ticks: i64,
    /// Timestamps are counted modulo two to this power; 64 if they do not wrap.
    pub(super) wrap_bits: u32,
    /// Whether this is a broadcast container, whose clock may be reset at any time.
    pub(super) is_broadcast: bool,
}

/// A packet's timestamps and duration, in ticks.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Stamps {
    /// When its picture is presented.
    pub(super) pts: Option<i64>,
    /// When it is decoded.
    pub(super) dts: Option<i64>,
    /// How long its picture stays on screen; zero if unknown.
    pub(super) duration: i64,
}

impl Stamps {
    /// The timestamp that a decoder uses for the frame.
    pub(super) fn at(&self) -> Option<i64> {
        self.pts.or(self.dts)
    }

    fn end(&self) -> Option<i64> {
        self.pts.max(self.dts).map(|at| at.saturating_add(self.duration))
    }
}

/// Keeps a stream's time continuous across every break of its clock.
#[derive(Debug)]
pub(super) struct Timeline {
    clock: ContainerClock,
    /// Offset from the container's clock to the timeline.
    offset: i64,
    /// The first decoding time since the last break, on the unwrapped container clock.
    first_dts: Option<i64>,
    /// The latest decoding time, on the same clock.
    last_dts: Option<i64>,
    /// The latest packet, on the timeline.
    last: Stamps,
    /// Latest end of any picture so far, on the timeline.
    end: i64,
    /// Starts of the parts of which no frame was presented yet, on the timeline.
    parts: VecDeque<i64>,
    /// Durations of the pictures that were not presented yet, by their time on the timeline.
    durations: BTreeMap<i64, i64>,
    /// The latest frame that the decoder returned, on the timeline.
    last_decoded: Option<i64>,
    presented: Option<PresentedFrame>,
}

/// The latest frame presented.
#[derive(Debug, Clone, Copy)]
struct PresentedFrame {
    /// Time on the timeline.
    pts: i64,
    /// Origin of its part: subtracted from the timeline to count from the first frame.
    origin: i64,
    /// Ticks since the first frame.
    ticks: i64,
    duration: i64,
}

impl Timeline {
    /// A stream before its first packet.
    pub(super) fn new(clock: ContainerClock) -> Self {
        Self {
            clock,
            offset: 0,
            first_dts: None,
            last_dts: None,
            last: Stamps::default(),
            end: i64::MIN,
            parts: VecDeque::new(),
            durations: BTreeMap::new(),
            last_decoded: None,
            presented: None,
        }
    }

    /// Moves the next packet, in decoding order, to the timeline. Also returns whether another part begins with it.
    pub(super) fn packet(&mut self, stamps: Stamps, is_key: bool) -> (Stamps, bool) {
        let near = self.last_dts.or(stamps.at()).unwrap_or(0);
        let dts = stamps.dts.map(|dts| unwrapped(dts, near, self.clock.wrap_bits));
        let pts = stamps.pts.map(|pts| unwrapped(pts, dts.unwrap_or(near), self.clock.wrap_bits));
        let duration = stamps.duration.max(0);
        let is_break = dts.is_some_and(|dts| self.is_break(dts));
        if let (true, Some(dts)) = (is_break, dts) {
            let steps = if self.last.duration > 0 { self.last.duration } else { self.clock.frame_ticks };
            let follows = self.last.dts.unwrap_or(0).saturating_add(steps);
            self.offset = match is_key {
                // Beyond everything before, regardless of the reordering delay of either part.
                true => self.end.max(follows).saturating_add(1).saturating_sub(dts.min(pts.unwrap_or(dts))),
                false => follows.saturating_sub(dts),
            };
            self.first_dts = Some(dts);
        }
        if dts.is_some() {
            self.first_dts = self.first_dts.or(dts);
            self.last_dts = dts;
        }
        let moved = |at: Option<i64>| at.map(|at| at.saturating_add(self.offset));
        let moved = Stamps { pts: moved(pts), dts: moved(dts), duration };
        let begins_part = is_break && is_key;
        if begins_part {
            self.parts.extend(moved.dts.min(moved.pts.or(moved.dts)));
        }
        self.last = Stamps { dts: moved.dts.or(self.last.dts), ..moved };
        self.end = moved.end().map_or(self.end, |end| end.max(self.end));
        if let Some(at) = moved.at() {
            self.durations.insert(at, duration);
            if self.durations.len() > DURATIONS_MAX {
                self.durations.pop_first();
            }
        }
        (moved, begins_part)
    }

    fn is_break(&self, dts: i64) -> bool {
        let (Some(first), Some(last)) = (self.first_dts, self.last_dts) else { return false };
        let ticks = |seconds: f64| (seconds / self.clock.tick_seconds) as i64;
        let ahead_seconds = if self.clock.is_broadcast { BROADCAST_AHEAD_SECONDS } else { AHEAD_SECONDS };
        let ahead_max = ticks(ahead_seconds).max(self.clock.frame_ticks.saturating_mul(AHEAD_FRAMES));
        // Even a short recording can restart at its beginning. A smaller step back elsewhere comes from a careless
        // muxer.
        let starts_again = dts < last && dts <= first;
        starts_again || last.saturating_sub(dts) >= ticks(BACK_SECONDS) || dts.saturating_sub(last) > ahead_max
    }

    /// Time on the timeline of the next frame that the decoder returns. A frame without a timestamp follows the last
    /// one.
    pub(super) fn decoded(&mut self, timestamp: Option<i64>) -> i64 {
        let follows = self.last_decoded.map_or(0, |last| last.saturating_add(self.clock.frame_ticks));
        *self.last_decoded.insert(timestamp.unwrap_or(follows))
    }

    /// Presents the next frame in presentation order, at `pts` on the timeline. Returns its time in seconds since the
    /// first frame, which never decreases.
    pub(super) fn present(&mut self, pts: i64) -> f64 {
        let duration = match self.durations.remove(&pts) {
            Some(duration) if duration > 0 => duration,
            _ => self.clock.frame_ticks,
        };
        self.durations = self.durations.split_off(&pts);
        let mut begins_part = false;
        while self.parts.front().is_some_and(|start| *start <= pts) {
            self.parts.pop_front();
            begins_part = true;
        }
        let (origin, ticks) = match self.presented {
            None => (pts, 0),
            Some(last) if begins_part => {
                let ticks = last.ticks.saturating_add(last.duration);
                (pts.saturating_sub(ticks), ticks)
            }
            Some(last) => (last.origin, pts.saturating_sub(last.origin).max(last.ticks)),
        };
        self.presented = Some(PresentedFrame { pts, origin, ticks, duration });
        ticks as f64 * self.clock.tick_seconds
    }

    /// End of the last frame's presentation, in seconds since the first frame.
    ///
    /// Containers store the time until the next packet in decoding order as a packet's duration. So if frames are
    /// reordered, the last packet rather than the last frame may determine how long the picture stays.
    pub(super) fn end_seconds(&self) -> f64 {
        let Some(last) = self.presented else { return 0.0 };
        let own = last.ticks.saturating_add(last.duration);
        let by_packet = self.last.at().filter(|at| *at <= last.pts && self.last.duration > 0);
        let by_packet = by_packet.map(|at| at.saturating_add(self.last.duration).saturating_sub(last.origin));
        by_packet.map_or(own, |end| end.max(own)) as f64 * self.clock.tick_seconds
    }
}

/// The value nearest to `near` that equals `value` modulo two to the power of `bits`.
fn unwrapped(value: i64, near: i64, bits: u32) -> i64 {
    if !(1..63).contains(&bits) {
        return value;
    }
    let shift = 64 - bits;
    near.wrapping_add(value.wrapping_sub(near) << shift >> shift)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::sample::Reorder;
    use super::*;

    /// 25 frames a second on the clock of a transport stream.
    const BROADCAST: ContainerClock =
        ContainerClock { tick_seconds: 1.0 / 90_000.0, frame_ticks: 3600, wrap_bits: 33, is_broadcast: true };
    const FILE: ContainerClock =
        ContainerClock { tick_seconds: 0.001, frame_ticks: 40, wrap_bits: 64, is_broadcast: false };

    /// A picture: its number in presentation order, its timestamps, and whether it is a key frame.
    type Picture = (usize, Stamps, bool);

    fn stamps(pts: i64, dts: i64, duration: i64) -> Stamps {
        Stamps { pts: Some(pts), dts: Some(dts), duration }
    }

    /// Pictures `from..to` of a recording whose clock starts at `start`. If `reordered`, every fourth picture is
    /// decoded before the three that are presented before it.
    fn recording(clock: ContainerClock, start: i64, from: usize, to: usize, reordered: bool) -> Vec<Picture> {
        let mut order: Vec<usize> = (from..to).collect();
        if reordered && to > from {
            order[1..].chunks_exact_mut(4).for_each(|group| group.rotate_right(1));
        }
        let delay = if reordered { 3 } else { 0 };
        let wrap = |ticks: i64| if clock.wrap_bits < 63 { ticks.rem_euclid(1 << clock.wrap_bits) } else { ticks };
        let at = |step: usize| wrap(start + (step - from) as i64 * clock.frame_ticks);
        let pictures = order.into_iter().enumerate();
        pictures.map(|(i, n)| (n, stamps(at(n + delay), at(from + i), clock.frame_ticks), n == from)).collect()
    }

    /// Numbers and times of the pictures as presented, and the end: passes the packets through a decoder that returns
    /// frames in decoding order, then through the reorder buffer.
    fn presented(clock: ContainerClock, packets: &[Picture]) -> (Vec<usize>, Vec<f64>, f64) {
        let mut timeline = Timeline::new(clock);
        let mut reorder = Reorder::new(4);
        let (mut numbers, mut times) = (Vec::new(), Vec::new());
        let mut show = |timeline: &mut Timeline, (pts, number): (i64, usize)| {
            numbers.push(number);
            times.push(timeline.present(pts));
        };
        for (number, stamps, is_key) in packets {
            let (moved, _) = timeline.packet(*stamps, *is_key);
            let pts = timeline.decoded(moved.at());
            if let Some(next) = reorder.push(pts, *number) {
                show(&mut timeline, next);
            }
        }
        while let Some(next) = reorder.pop() {
            show(&mut timeline, next);
        }
        (numbers, times, timeline.end_seconds())
    }

    fn assert_is_even(clock: ContainerClock, packets: &[Picture]) {
        let (numbers, times, end) = presented(clock, packets);
        let frame_seconds = clock.frame_ticks as f64 * clock.tick_seconds;
        assert_eq!(numbers, (0..packets.len()).collect::<Vec<_>>());
        for (number, time) in times.iter().enumerate() {
            assert!((time - number as f64 * frame_seconds).abs() < 1e-6, "{number} at {time}");
        }
        assert!((end - packets.len() as f64 * frame_seconds).abs() < 1e-6, "ends at {end}");
    }

    fn hours(hours: f64) -> i64 {
        (hours * 3600.0 * 90_000.0) as i64
    }

    #[test]
    fn joined_recordings_follow_one_another_whatever_their_clocks_and_delays() {
        for (starts, reordered) in [
            ([0, 0], [true, true]),
            ([hours(1.0), 0], [true, false]),
            ([0, hours(1.0)], [false, true]),
            ([hours(20.0), hours(0.01)], [true, true]),
        ] {
            let mut packets = recording(BROADCAST, starts[0], 0, 101, reordered[0]);
            packets.extend(recording(BROADCAST, starts[1], 101, 202, reordered[1]));
            assert_is_even(BROADCAST, &packets);
        }
    }

    #[test]
    fn recordings_of_a_few_frames_are_separated() {
        let mut packets = recording(BROADCAST, 9000, 0, 5, false);
        packets.extend(recording(BROADCAST, 9000, 5, 10, false));
        packets.extend(recording(BROADCAST, 9000, 10, 12, false));
        assert_is_even(BROADCAST, &packets);
    }

    #[test]
    fn a_clock_reset_between_reordered_frames_changes_neither_order_nor_time() {
        for at in 1..40 {
            let mut packets = recording(BROADCAST, hours(1.0), 0, 41, true);
            for (_, stamps, _) in &mut packets[at..] {
                let reset = |ticks: Option<i64>| ticks.map(|ticks| ticks - hours(1.0));
                *stamps = Stamps { pts: reset(stamps.pts), dts: reset(stamps.dts), ..*stamps };
            }
            assert_is_even(BROADCAST, &packets);
        }
    }

    #[test]
    fn time_continues_when_the_clock_wraps() {
        assert_is_even(BROADCAST, &recording(BROADCAST, (1 << 33) - 90_000, 0, 101, true));
    }

    #[test]
    fn a_gap_in_a_file_is_a_still_picture() {
        let packets =
            [(0, stamps(0, 0, 40), true), (1, stamps(40, 40, 60_000), false), (2, stamps(60_040, 60_040, 40), false)];
        assert_eq!(presented(FILE, &packets), (vec![0, 1, 2], vec![0.0, 0.04, 60.04], 60.08));
    }

    #[test]
    fn a_time_lapse_has_no_break_at_every_frame() {
        let clock = ContainerClock { frame_ticks: 20 * 90_000, ..BROADCAST };
        assert_is_even(clock, &recording(clock, 0, 0, 9, false));
    }

    #[test]
    fn the_last_frame_stays_as_long_as_its_packet_says() {
        let still = |pts, dts| (0, stamps(pts, dts, 28_000), false);
        let (_, _, end) = presented(FILE, &[(0, stamps(0, 0, 40), true), still(40, 40)]);
        assert_eq!(end, 28.04);
        // The last picture to be decoded has the long duration; another is presented last.
        let reordered = [(0, stamps(80, 0, 40), true), (2, stamps(160, 40, 40), false), still(120, 80)];
        assert_eq!(presented(FILE, &reordered).2, 28.04);
        assert_eq!(presented(FILE, &[(0, stamps(0, 0, 0), true)]).2, 0.04, "unknown: as long as the average");
    }

    #[test]
    fn frames_without_timestamps_follow_one_another() {
        let packets: Vec<Picture> = (0..20).map(|n| (n, Stamps::default(), n == 0)).collect();
        assert_is_even(FILE, &packets);
    }

    proptest! {
        /// Clock jumps that are breaks, modulo its wrap: more than ten seconds ahead or one second back.
        #[test]
        fn frames_keep_their_order_and_time_continues_across_breaks(
            parts in prop::collection::vec((11 * 90_000i64..(1 << 33) - 90_000, 1usize..40, any::<bool>()), 1..6),
        ) {
            let mut packets: Vec<Picture> = Vec::new();
            for (jump, frames, reordered) in parts {
                let from = packets.len();
                let last = packets.last().and_then(|(_, stamps, _)| stamps.dts).unwrap_or(0);
                packets.extend(recording(BROADCAST, last + jump, from, from + frames, reordered));
            }
            assert_is_even(BROADCAST, &packets);
        }

        #[test]
        fn time_never_runs_backwards_whatever_the_timestamps(
            packets in prop::collection::vec((any::<Option<i64>>(), any::<Option<i64>>(), any::<i64>(), any::<bool>()), 1..60),
            wraps in any::<bool>(),
        ) {
            let clock = if wraps { BROADCAST } else { FILE };
            let packets: Vec<Picture> =
                packets.into_iter().map(|(pts, dts, duration, is_key)| (0, Stamps { pts, dts, duration }, is_key)).collect();
            let (_, times, end) = presented(clock, &packets);
            prop_assert_eq!(times.len(), packets.len());
            prop_assert!(times.is_sorted() && times[0] == 0.0);
            prop_assert!(end >= *times.last().unwrap_or(&0.0) && end.is_finite());
        }
    }
}
