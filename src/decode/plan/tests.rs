//! Tests of the planner against videos of which every packet is known.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::sample::{DetectionSampler, SegmentSampler};
use super::*;

const CLOCK: ContainerClock =
    ContainerClock { tick_seconds: 0.001, frame_ticks: 40, wrap_bits: 64, is_broadcast: false };

/// A packet of a drawn video, in decoding order.
#[derive(Debug, Clone)]
struct Drawn {
    stamps: Stamps,
    group: usize,
    is_key: bool,
    is_leading: bool,
    /// Whether other frames refer to it, and whether the packet says so.
    is_reference: bool,
    tells: bool,
}

/// A group of pictures: frames presented before its key frame, and after it runs of B-frames before a P-frame.
type DrawnGroup = (usize, Vec<(usize, bool)>);

/// A job: rate of detection frames; length and stride of segments and frames sampled from each.
type Job = (Option<f64>, Option<(f64, f64, usize)>);

fn draw(groups: &[DrawnGroup], gaps: &[i64], tells: &[bool]) -> Vec<Drawn> {
    // Position in presentation order of each packet.
    let (mut packets, mut shown) = (Vec::new(), 0);
    for (number, (leading, runs)) in groups.iter().enumerate() {
        let leading = if number == 0 { 0 } else { *leading };
        packets.push((shown + leading, number, true, false, true));
        packets.extend((0..leading).map(|i| (shown + i, number, false, true, i == 0 && leading > 2)));
        shown += leading + 1;
        for (between, is_pyramid) in runs {
            packets.push((shown + between, number, false, false, true));
            packets.extend((0..*between).map(|i| (shown + i, number, false, false, *is_pyramid && i == 0)));
            shown += between + 1;
        }
    }
    let delay = 8;
    let mut at = 0;
    let times: Vec<i64> = (0..packets.len() + delay)
        .map(|i| {
            at += gaps[i % gaps.len()];
            at
        })
        .collect();
    let packet = |(i, (shown, group, is_key, is_leading, is_reference)): (usize, (usize, usize, bool, bool, bool))| {
        let stamps = Stamps { pts: Some(times[shown + delay]), dts: Some(times[i]), duration: 40 };
        Drawn { stamps, group, is_key, is_leading, is_reference, tells: tells[i % tells.len()] }
    };
    packets.into_iter().enumerate().map(packet).collect()
}

fn samplers((rate, clips): &Job) -> Samplers<i64> {
    Samplers {
        detections: rate.map(DetectionSampler::new),
        segments: clips.map(|(clip, stride, _)| SegmentSampler::new(clip, stride)),
        clip_frames: clips.map_or(0, |(_, _, frames)| frames),
    }
}

/// What full decoding sends: all frames go through the samplers in presentation order.
fn in_full(packets: &[Drawn], job: &Job) -> Vec<Planned> {
    let mut timeline = Timeline::new(CLOCK);
    for packet in packets {
        timeline.packet(packet.stamps, packet.is_key);
    }
    let mut shown: Vec<i64> = packets.iter().filter_map(|packet| packet.stamps.pts).collect();
    shown.sort_unstable();
    let mut sampler = Sampler { samplers: samplers(job), planned: VecDeque::new() };
    for (number, pts) in shown.into_iter().enumerate() {
        let time_seconds = timeline.present(pts);
        sampler.present(pts, number as i64, time_seconds);
    }
    sampler.finish(timeline.end_seconds());
    sampler.planned.into()
}

/// The outputs that were sent, and what became of each packet, if the decoder returns each frame at once.
fn planned(packets: &[Drawn], job: &Job, bytes: usize) -> Result<(Vec<Planned>, Vec<Decided<usize>>), FullDecode> {
    let mut planner = Planner::new(CLOCK, samplers(job));
    let (mut sent, mut decided, mut held) = (Vec::new(), Vec::new(), BTreeSet::new());
    let mut drain = |planner: &mut Planner<usize>| {
        while let Some(next) = planner.next_packet() {
            if next.used != Use::None {
                held.extend(packets[next.packet].stamps.pts);
            }
            decided.push(next);
        }
        held.retain(|pts| planner.wants(*pts));
        while planner.planned().is_some_and(|planned| planned.frames().iter().all(|pts| held.contains(pts))) {
            sent.extend(planner.take_planned());
        }
    };
    for (i, packet) in packets.iter().enumerate() {
        let is_reference = packet.tells.then_some(packet.is_reference);
        planner.push(packet.stamps, PacketInfo { is_key: packet.is_key, is_reference, bytes }, |_| i)?;
        drain(&mut planner);
    }
    planner.finish();
    drain(&mut planner);
    assert_eq!(planner.presented as usize, packets.len());
    Ok((sent, decided))
}

/// Each packet that is decoded can be decoded.
fn assert_decodable(packets: &[Drawn], decided: &[Decided<usize>]) {
    let used: Vec<bool> = decided.iter().map(|decided| decided.used != Use::None).collect();
    for (i, packet) in packets.iter().enumerate().filter(|(i, _)| used[*i]) {
        let refers_to = |other: &Drawn| {
            let is_before = other.group == packet.group && (!other.is_leading || packet.is_leading);
            let is_of_the_group_before = other.group + 1 == packet.group && packet.is_leading && !other.is_leading;
            other.is_reference && (is_before || is_of_the_group_before)
        };
        let lost: Vec<usize> = (0..i).filter(|j| refers_to(&packets[*j]) && !used[*j]).collect();
        assert!(lost.is_empty(), "{i} refers to {lost:?}, which were left out");
        if packet.is_key && !decided[i].after_gap {
            let mut before = packets.iter().enumerate().filter(|(_, other)| other.group + 1 == packet.group);
            assert!(before.all(|(j, other)| used[j] || !other.is_reference || other.is_leading), "a gap before {i}");
        }
    }
}

fn closed(groups: usize, frames: usize) -> Vec<DrawnGroup> {
    vec![(0, vec![(3, true); (frames - 1) / 4]); groups]
}

#[test]
fn whole_groups_and_the_ends_of_groups_are_left_out() {
    // Ten groups of a second each, 25 frames a second.
    let packets = draw(&closed(10, 25), &[40], &[true]);
    let used = |job: Job| {
        let (_, decided) = planned(&packets, &job, 1).unwrap();
        decided.iter().filter(|decided| decided.used != Use::None).count()
    };
    assert_eq!(used((Some(0.2), None)), 2, "two key frames");
    assert_eq!(used((Some(1.0), None)), 10, "all key frames");
    // A key frame, six P-frames, and the five B-frames among them that others refer to.
    assert_eq!(used((None, Some((1.0, 5.0, 2)))), 24, "the first and last frame of two segments");
    assert!(used((Some(25.0), None)) == packets.len());
}

#[test]
fn too_many_waiting_packets_are_decoded_without_need() {
    let packets = draw(&closed(4, 101), &[40], &[false]);
    let (sent, decided) = planned(&packets, &(Some(0.1), None), WAITING_BYTES_MAX / 8).unwrap();
    assert_eq!(sent, in_full(&packets, &(Some(0.1), None)));
    assert!(decided.iter().filter(|decided| decided.used != Use::None).count() > 300);
}

#[test]
fn a_video_whose_packets_do_not_tell_its_frames_is_decoded_in_full() {
    let whole = draw(&closed(2, 9), &[40], &[true]);
    let why = |change: &dyn Fn(&mut Vec<Drawn>)| {
        let mut packets = whole.clone();
        change(&mut packets);
        planned(&packets, &(Some(1.0), None), 1).map(drop)
    };
    assert_eq!(why(&|_| {}), Ok(()));
    assert_eq!(why(&|packets| packets[3].stamps.pts = None), Err(FullDecode::Timestamps));
    assert_eq!(why(&|packets| packets[3].stamps.dts = None), Err(FullDecode::Timestamps));
    assert_eq!(why(&|packets| packets[3].stamps.pts = packets[4].stamps.pts), Err(FullDecode::Timestamps));
    assert_eq!(why(&|packets| packets[3].stamps = packets[2].stamps), Err(FullDecode::Timestamps));
    assert_eq!(
        why(&|packets| {
            packets.remove(0);
        }),
        Err(FullDecode::Start)
    );
    assert_eq!(why(&|packets| packets.swap_remove(2).is_key = true), Err(FullDecode::Timestamps));
    let joined = |packets: &mut Vec<Drawn>| packets.extend(whole.clone());
    assert_eq!(why(&joined), Err(FullDecode::ClockRestart));
}

proptest! {
    #[test]
    fn the_plan_is_what_full_decoding_sends_and_all_that_it_takes_is_decoded(
        groups in prop::collection::vec((0usize..4, prop::collection::vec((0usize..4, any::<bool>()), 0..6)), 1..12),
        gaps in prop::collection::vec(1i64..400, 1..20),
        tells in prop::collection::vec(any::<bool>(), 1..5),
        rate in prop::option::of(0.05f64..30.0),
        clips in prop::option::of((0.05f64..4.0, 0.05f64..20.0, 1usize..9)),
        bytes in prop_oneof![Just(1usize), Just(WAITING_BYTES_MAX / 4)],
    ) {
        let (packets, job) = (draw(&groups, &gaps, &tells), (rate, clips));
        let (sent, decided) = planned(&packets, &job, bytes).unwrap();
        prop_assert_eq!(sent, in_full(&packets, &job));
        prop_assert_eq!(decided.len(), packets.len());
        prop_assert!(decided.iter().enumerate().all(|(i, decided)| decided.packet == i));
        assert_decodable(&packets, &decided);
    }
}
