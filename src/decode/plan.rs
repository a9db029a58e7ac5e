//! Plans which packets of a video must be decoded, from their timestamps and flags alone. Does not use FFmpeg.
//!
//! The planner presents packets as if each of them were one decoded frame, with the same timeline and the same samplers as
//! full decoding. So it knows what full decoding would send, and which frames that takes. It then passes on, in decoding
//! order, the packets of these frames and those that they may refer to: within a group of pictures, all packets up to the
//! last needed one. It leaves out the rest of the group, groups without a needed frame, and unneeded frames that no other
//! frame refers to.
//!
//! A packet waits in the planner until it is decided. That takes as long as the segments that it lies in, or as its group.
//! If too much waits, packets are decoded without need.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::sample::{Presented, Samplers, Segment, linspace_index};
use super::timeline::{ContainerClock, Stamps, Timeline};

/// Why a video is decoded in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FullDecode {
    /// The caller asked for it.
    Requested,
    /// Frames of this codec cannot be told from its packets, or the codec is not supported.
    Codec,
    /// Two packets may be the fields of one frame.
    Interlaced,
    /// Packets without timestamps, or with timestamps that are repeated or out of order.
    Timestamps,
    /// The container's clock restarts, as in joined recordings.
    ClockRestart,
    /// The video does not begin with a key frame.
    Start,
    /// Some packets are not shown, because of an edit list or because they only serve as references.
    HiddenFrames,
    /// Frames refer to frames before their key frame.
    OpenGroups,
    /// Packets are damaged or cannot be read or decoded.
    Damage,
    /// Frames have orientations of their own.
    Orientation,
    /// The decoder did not return a frame that was planned.
    MissingFrame,
}

impl FullDecode {
    /// All reasons.
    pub const ALL: [Self; 11] = [
        Self::Requested,
        Self::Codec,
        Self::Interlaced,
        Self::Timestamps,
        Self::ClockRestart,
        Self::Start,
        Self::HiddenFrames,
        Self::OpenGroups,
        Self::Damage,
        Self::Orientation,
        Self::MissingFrame,
    ];

    /// The name in the tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Codec => "codec",
            Self::Interlaced => "interlaced",
            Self::Timestamps => "timestamps",
            Self::ClockRestart => "clock_restart",
            Self::Start => "start",
            Self::HiddenFrames => "hidden_frames",
            Self::OpenGroups => "open_groups",
            Self::Damage => "damage",
            Self::Orientation => "orientation",
            Self::MissingFrame => "missing_frame",
        }
    }
}

/// Weight of the packets that may wait: their bytes, plus [`PACKET_BYTES`] each.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// Packets without a decoding time at the start of a video. H.264 and HEVC delay frames by at most 16.
const UNKNOWN_DTS_MAX: usize = 17;
/// Weight of a waiting packet beside its bytes.
const PACKET_BYTES: usize = 256;

/// A packet as the planner sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct PacketInfo {
    /// Whether decoding can start here.
    pub(super) is_key: bool,
    /// Whether other frames may refer to it. `None` if that is unknown.
    pub(super) is_reference: Option<bool>,
    /// Memory that it takes while it waits.
    pub(super) bytes: usize,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Its frame is needed.
    Frame,
    /// Needed frames may refer to its frame.
    Reference,
    /// Not needed.
    None,
}

/// A packet that was decided.
#[derive(Debug)]
pub(super) struct Decided<P> {
    pub(super) packet: P,
    pub(super) used: Use,
    /// Whether packets before this one were left out that it could refer to if it were no key frame.
    pub(super) after_gap: bool,
}

/// What full decoding would send. Frames are named by their time on the timeline.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Planned {
    Image {
        pts: i64,
        number: i64,
        time_seconds: f64,
    },
    Clip {
        segment: i64,
        start_seconds: f64,
        end_seconds: f64,
        /// Number of frames in the segment.
        frames: i64,
        /// The sampled frames: times and numbers.
        picks: Vec<(i64, i64)>,
    },
}

impl Planned {
    /// Times of the frames that it takes.
    pub(super) fn frames(&self) -> Vec<i64> {
        match self {
            Self::Image { pts, .. } => vec![*pts],
            Self::Clip { picks, .. } => picks.iter().map(|(pts, _)| *pts).collect(),
        }
    }
}

#[derive(Debug)]
struct Waiting<P> {
    packet: P,
    info: PacketInfo,
    pts: i64,
    group: u64,
}

/// A key frame, and the packets up to the next.
#[derive(Debug)]
struct Group {
    number: u64,
    /// Time of its key frame.
    key: i64,
    /// Number of its waiting packets whose frames are needed.
    needed: usize,
    /// Whether a needed frame is presented before the key frame, and so may refer to the group before.
    needs_previous: bool,
}

/// Samples the frames of a video before they are decoded.
#[derive(Debug)]
struct Sampler {
    samplers: Samplers<i64>,
    planned: VecDeque<Planned>,
}

impl Sampler {
    fn present(&mut self, pts: i64, number: i64, time_seconds: f64) {
        if self.samplers.detections.as_mut().is_some_and(|sampler| sampler.takes(time_seconds)) {
            self.planned.push_back(Planned::Image { pts, number, time_seconds });
        }
        let (planned, frames) = (&mut self.planned, self.samplers.clip_frames);
        if let Some(segments) = &mut self.samplers.segments {
            let Ok(()) =
                segments.push(Presented { number, time_seconds, frame: pts }, |s| plan_clip(planned, frames, &s));
        }
    }

    fn finish(&mut self, end_seconds: f64) {
        let (planned, frames) = (&mut self.planned, self.samplers.clip_frames);
        if let Some(segments) = &mut self.samplers.segments {
            let Ok(()) = segments.finish(end_seconds, |s| plan_clip(planned, frames, &s));
        }
    }

    /// The first frame that an open segment may still sample.
    fn undecided(&self) -> Option<i64> {
        self.samplers.segments.as_ref()?.held().next().map(|presented| presented.frame)
    }
}

fn plan_clip(
    planned: &mut VecDeque<Planned>,
    samples: usize,
    segment: &Segment<'_, i64>,
) -> Result<(), std::convert::Infallible> {
    let count = segment.frames.len();
    let picks = (0..samples).map(|i| &segment.frames[linspace_index(count, samples, i)]);
    planned.push_back(Planned::Clip {
        segment: segment.index,
        start_seconds: segment.start_seconds,
        end_seconds: segment.end_seconds,
        frames: count as i64,
        picks: picks.map(|pick| (pick.frame, pick.number)).collect(),
    });
    Ok(())
}

/// Plans a video. Packets go in and come out in decoding order.
#[derive(Debug)]
pub(super) struct Planner<P> {
    timeline: Timeline,
    sampler: Sampler,
    /// Number of planned outputs whose frames are marked as needed.
    marked: usize,
    /// How many planned outputs take a frame, by its time.
    uses: BTreeMap<i64, usize>,
    /// Packets that were not presented yet, by time.
    unpresented: BTreeSet<i64>,
    waiting: VecDeque<Waiting<P>>,
    waiting_bytes: usize,
    /// Groups of the waiting packets, and of those that are needed, by time.
    group_of: BTreeMap<i64, u64>,
    needed: BTreeSet<i64>,
    groups: VecDeque<Group>,
    /// Latest time of a packet before the last group.
    group_end: i64,
    last_dts: i64,
    last_presented: i64,
    /// All packets before this time are decided.
    decided: i64,
    has_ended: bool,
    /// Whether a packet was left out that later ones in its group could refer to.
    is_gap: bool,
    /// Number of frames presented.
    pub(super) presented: u64,
    /// Time of the first frame on the timeline.
    pub(super) first: Option<i64>,
}

impl<P> Planner<P> {
    /// A planner of the outputs of these samplers.
    pub(super) fn new(clock: ContainerClock, samplers: Samplers<i64>) -> Self {
        Self {
            timeline: Timeline::new(clock),
            sampler: Sampler { samplers, planned: VecDeque::new() },
            marked: 0,
            uses: BTreeMap::new(),
            unpresented: BTreeSet::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            group_of: BTreeMap::new(),
            needed: BTreeSet::new(),
            groups: VecDeque::new(),
            group_end: i64::MIN,
            last_dts: i64::MIN,
            last_presented: i64::MIN,
            decided: i64::MIN,
            has_ended: false,
            is_gap: false,
            presented: 0,
            first: None,
        }
    }

    /// Takes the next packet in decoding order. `prepare` gets its timestamps on the timeline.
    ///
    /// # Errors
    /// If the packets do not determine what full decoding would present.
    pub(super) fn push(
        &mut self,
        stamps: Stamps,
        info: PacketInfo,
        prepare: impl FnOnce(Stamps) -> P,
    ) -> Result<(), FullDecode> {
        let (stamps, begins_part) = self.timeline.packet(stamps, info.is_key);
        if begins_part {
            return Err(FullDecode::ClockRestart);
        }
        let Some(pts) = stamps.pts else { return Err(FullDecode::Timestamps) };
        let dts = match stamps.dts {
            Some(dts) if dts > self.last_dts && dts <= pts => dts,
            // Demuxers that compute decoding times do not know the first ones.
            None if self.last_dts == i64::MIN && self.waiting.len() < UNKNOWN_DTS_MAX => i64::MIN,
            _ => return Err(FullDecode::Timestamps),
        };
        if pts <= self.last_presented || !self.unpresented.insert(pts) {
            return Err(FullDecode::Timestamps);
        }
        self.last_dts = dts;
        match self.groups.back() {
            _ if info.is_key => {
                let latest = self.group_of.last_key_value().map_or(i64::MIN, |(pts, _)| *pts);
                self.group_end = self.group_end.max(latest);
                if pts < self.group_end {
                    return Err(FullDecode::OpenGroups);
                }
                let number = self.groups.back().map_or(0, |group| group.number + 1);
                self.groups.push_back(Group { number, key: pts, needed: 0, needs_previous: false });
            }
            Some(group) if group.number == 0 && pts < group.key => return Err(FullDecode::Start),
            Some(_) => {}
            None => return Err(FullDecode::Start),
        }
        let group = self.groups.back().map_or(0, |group| group.number);
        self.group_of.insert(pts, group);
        self.waiting_bytes += info.bytes + PACKET_BYTES;
        self.waiting.push_back(Waiting { packet: prepare(stamps), info, pts, group });
        // Packets to come are decoded later, and so presented later.
        while self.unpresented.first().is_some_and(|first| *first <= dts) {
            self.present();
        }
        Ok(())
    }

    /// Call it after the last packet.
    pub(super) fn finish(&mut self) {
        while !self.unpresented.is_empty() {
            self.present();
        }
        self.sampler.finish(self.timeline.end_seconds());
        self.mark();
        self.has_ended = true;
    }

    /// End of the last presented frame, seconds since the first.
    pub(super) fn end_seconds(&self) -> f64 {
        self.timeline.end_seconds()
    }

    fn present(&mut self) {
        let Some(pts) = self.unpresented.pop_first() else { return };
        let time_seconds = self.timeline.present(pts);
        self.first.get_or_insert(pts);
        self.sampler.present(pts, self.presented as i64, time_seconds);
        self.presented += 1;
        self.last_presented = pts;
        self.mark();
        self.decided = self.sampler.undecided().unwrap_or(i64::MAX).min(pts.saturating_add(1));
    }

    /// Marks the frames of what was planned since the last call as needed.
    fn mark(&mut self) {
        for planned in self.sampler.planned.iter().skip(self.marked) {
            for pts in planned.frames() {
                *self.uses.entry(pts).or_default() += 1;
                let Some(number) = self.group_of.get(&pts).filter(|_| self.needed.insert(pts)) else { continue };
                if let Some(group) = self.groups.iter_mut().find(|group| group.number == *number) {
                    group.needed += 1;
                    group.needs_previous |= pts < group.key;
                }
            }
        }
        self.marked = self.sampler.planned.len();
    }

    /// The next output.
    pub(super) fn planned(&self) -> Option<&Planned> {
        self.sampler.planned.front()
    }

    /// Removes the next output, whose frames were there.
    pub(super) fn take_planned(&mut self) -> Option<Planned> {
        let planned = self.sampler.planned.pop_front()?;
        self.marked = self.sampler.planned.len();
        for pts in planned.frames() {
            if let Some(uses) = self.uses.get_mut(&pts) {
                *uses -= 1;
                if *uses == 0 {
                    self.uses.remove(&pts);
                }
            }
        }
        Some(planned)
    }

    /// Whether an output takes the frame at this time, or may yet take it.
    pub(super) fn wants(&self, pts: i64) -> bool {
        self.uses.contains_key(&pts) || !self.has_ended && pts >= self.decided
    }

    /// The next packet that is decided, in decoding order.
    pub(super) fn next_packet(&mut self) -> Option<Decided<P>> {
        let used = self.decide()?;
        let Waiting { packet, info, pts, group: number } = self.waiting.pop_front()?;
        self.waiting_bytes -= info.bytes + PACKET_BYTES;
        self.group_of.remove(&pts);
        self.group_end = self.group_end.max(pts);
        // The packets of all groups before the front's have left.
        while self.groups.front().is_some_and(|group| group.number < number) {
            self.groups.pop_front();
        }
        let mut after_gap = false;
        if let Some(group) = self.groups.front_mut() {
            if self.needed.remove(&pts) {
                group.needed -= 1;
            }
            if pts == group.key {
                after_gap = self.is_gap;
                self.is_gap &= used == Use::None;
            }
            // Frames after a key frame never refer to frames that are presented before it.
            self.is_gap |= used == Use::None && info.is_reference != Some(false) && pts >= group.key;
        }
        Some(Decided { packet, used, after_gap })
    }

    /// What becomes of the first waiting packet, if that is known.
    fn decide(&self) -> Option<Use> {
        let first = self.waiting.front()?;
        let is_full = self.waiting_bytes > WAITING_BYTES_MAX;
        if self.needed.contains(&first.pts) {
            return Some(Use::Frame);
        }
        let mut groups = self.groups.iter().skip_while(|group| group.number < first.group);
        let (group, next) = (groups.next()?, groups.next());
        if !self.has_ended && first.pts >= self.decided {
            // It may yet be needed. If it is a reference, it is decoded anyway for a later one.
            let is_wanted = first.info.is_reference == Some(true) && group.needed > 0;
            return (is_wanted || is_full).then_some(Use::Frame);
        }
        if first.info.is_reference == Some(false) {
            return Some(Use::None);
        }
        let (is_referred_to, decided_at) = match first.pts < group.key {
            true => (group.needs_previous, Some(group.key)),
            false => (group.needed > 0 || next.is_some_and(|next| next.needs_previous), next.map(|next| next.key)),
        };
        if is_referred_to {
            return Some(Use::Reference);
        }
        let is_decided = self.has_ended || decided_at.is_some_and(|key| self.decided > key);
        match is_decided {
            true => Some(Use::None),
            false => is_full.then_some(Use::Reference),
        }
    }
}

#[cfg(test)]
mod tests;
