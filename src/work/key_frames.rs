//! Key frames: the frame of the detector that determines where the persons of a segment are.
//!
//! PyTorchVideo detects persons in the frame at a clip's centre. Here the detector only sees the frames at the job's rate,
//! so that the table `persons` has the same boxes with any action model. The key frame is the one of those frames inside
//! the segment that is nearest to its middle; of two at the same distance, the earlier one. With at least one frame per
//! clip length, every whole segment has a key frame. A segment without a key frame scores nobody. If overlapping segments
//! choose the same frame, its persons get the actions of the segment whose middle is nearer.

use std::collections::VecDeque;

use crate::decode::sample::SLACK_SECONDS;

/// The frames of the detector that a segment may still choose, by time.
#[derive(Debug, Default)]
pub struct KeyFrames {
    frames: VecDeque<KeyFrame>,
}

/// A frame that was passed to the detector.
#[derive(Debug)]
pub struct KeyFrame {
    /// Number of the frame in presentation order, from 0.
    pub frame: i64,
    /// Time in seconds from the first presented frame.
    pub time_seconds: f64,
    /// Width and height as displayed, pixels.
    pub size: (u32, u32),
    /// Positions of its rows in `persons`. `None` until the detector has answered.
    pub rows: Option<Vec<usize>>,
    /// Distance to the middle of the nearest segment that chose it.
    offset_seconds: f64,
}

impl KeyFrames {
    /// Adds a frame. Frames must be added by time.
    pub fn push(&mut self, frame: i64, time_seconds: f64, size: (u32, u32)) {
        self.frames.push_back(KeyFrame { frame, time_seconds, size, rows: None, offset_seconds: f64::INFINITY });
    }

    /// The frame with this number, unless it was removed.
    pub fn get_mut(&mut self, frame: i64) -> Option<&mut KeyFrame> {
        self.frames.iter_mut().find(|known| known.frame == frame)
    }

    /// The first position of a person's row in any of the frames.
    pub fn first_row(&self) -> Option<usize> {
        self.frames.iter().filter_map(|frame| frame.rows.as_ref()?.first().copied()).min()
    }

    /// Chooses the key frame of the segment `[start, end)`. Returns its number, and whether this segment's middle is nearer
    /// to it than the middle of every earlier segment that chose it. Removes the frames before `next_start`, the start of
    /// the next segment, except the chosen one: segments come in order, so that none of them can be chosen any more.
    pub fn choose(&mut self, start: f64, end: f64, next_start: f64) -> Option<(i64, bool)> {
        let middle = (start + end) / 2.0;
        let mut chosen: Option<(f64, &mut KeyFrame)> = None;
        for frame in &mut self.frames {
            let time = frame.time_seconds;
            let offset = (time - middle).abs();
            let is_inside = time >= start - SLACK_SECONDS && time < end - SLACK_SECONDS;
            if is_inside && chosen.as_ref().is_none_or(|(best, _)| offset < best - SLACK_SECONDS) {
                chosen = Some((offset, frame));
            }
        }
        let chosen = chosen.map(|(offset, frame)| {
            let is_nearest = offset < frame.offset_seconds - SLACK_SECONDS;
            frame.offset_seconds = frame.offset_seconds.min(offset);
            (frame.frame, is_nearest)
        });
        let keep = chosen.map_or(i64::MAX, |(frame, _)| frame);
        self.frames.retain(|frame| frame.frame == keep || frame.time_seconds >= next_start - SLACK_SECONDS);
        chosen
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// The choices among frames at `times` of segments of `clip` seconds, one every `stride` seconds.
    fn chosen(times: &[f64], clip: f64, stride: f64, segments: usize) -> Vec<Option<(i64, bool)>> {
        let mut frames = KeyFrames::default();
        let mut next = 0;
        (0..segments)
            .map(|k| {
                let start = k as f64 * stride;
                // A clip arrives after the detector's frames inside it, and after the frame that ends it.
                while next < times.len() && times[next] <= start + clip {
                    frames.push(next as i64 * 10, times[next], (4, 3));
                    next += 1;
                }
                frames.choose(start, start + clip, start + stride)
            })
            .collect()
    }

    #[test]
    fn the_frame_nearest_to_the_middle_is_chosen() {
        let each_second: Vec<f64> = (0..8).map(f64::from).collect();
        let clip = 64.0 / 30.0;
        // Middles at 1.07, 3.2 and 5.33 s.
        let frames = [10, 30, 50].map(|frame| Some((frame, true)));
        assert_eq!(chosen(&each_second, clip, clip, 3), frames);
    }

    #[test]
    fn of_two_frames_at_the_same_distance_the_earlier_is_chosen() {
        assert_eq!(chosen(&[0.0, 1.0, 2.0], 3.0, 3.0, 1), [Some((10, true))]);
        assert_eq!(chosen(&[0.5, 1.5 + 1e-9], 2.0, 2.0, 1), [Some((0, true))]);
    }

    #[test]
    fn a_segment_without_a_frame_has_none() {
        // One frame every three seconds, clips of one second: a frame at a border belongs to the next clip.
        assert_eq!(chosen(&[0.0, 3.0], 1.0, 1.0, 4), [Some((0, true)), None, None, Some((10, true))]);
        assert_eq!(chosen(&[], 1.0, 1.0, 1), [None]);
    }

    #[test]
    fn a_frame_of_two_segments_belongs_to_the_nearer_one() {
        // Middles at 1, 1.5, 2 and 2.5 s.
        let found = chosen(&[0.0, 1.25, 2.1, 4.0], 2.0, 0.5, 4);
        assert_eq!(found, [Some((10, true)), Some((10, false)), Some((20, true)), Some((20, false))]);
        // The later segment is nearer: its scores replace those of the earlier one.
        assert_eq!(chosen(&[1.4], 2.0, 0.5, 2), [Some((0, true)), Some((0, true))]);
    }

    #[test]
    fn frames_that_can_no_longer_be_chosen_are_removed() {
        let mut frames = KeyFrames::default();
        for number in 0..1000 {
            frames.push(number, number as f64 / 10.0, (4, 3));
            if number % 20 == 19 {
                let start = (number / 20) as f64 * 2.0;
                let (chosen, _) = frames.choose(start, start + 2.0, start + 2.0).unwrap();
                assert!(frames.get_mut(chosen).is_some());
            }
            assert!(frames.frames.len() <= 21);
        }
    }
}
