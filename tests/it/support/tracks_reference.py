"""Writes tests/fixtures/tracks.json: drawn boxes of people who cross, hide, leave and come back, and the tracks that
Ultralytics' ByteTrack gives them, with one fault of it removed.

    pip install ultralytics lapx && python tests/it/support/tracks_reference.py >tests/fixtures/tracks.json
"""

import json
import sys
from types import SimpleNamespace

import numpy as np
from ultralytics.trackers.basetrack import TrackState
from ultralytics.trackers.byte_tracker import BYTETracker, STrack

# Those of bytetrack.yaml at five frames per second, and of its Kalman filter.
DEFAULTS = SimpleNamespace(
    track_high_thresh=0.25, track_low_thresh=0.1, new_track_thresh=0.25, track_buffer=5, match_thresh=0.8, fuse_score=True,
    std_velocity=1 / 160,
)
# Those of vidindex.
SETTINGS = SimpleNamespace(**{**vars(DEFAULTS), "match_thresh": 0.9, "std_velocity": 6**0.5 / 160})


class Boxes:
    """What the tracker reads of a detector's results."""

    def __init__(self, rows):
        self.rows = np.asarray(rows, dtype=np.float32).reshape(-1, 5)
        self.conf = self.rows[:, 4]
        self.cls = np.zeros(len(self.rows), dtype=np.float32)
        corners = self.rows[:, :4]
        self.xywh = np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)

    def __getitem__(self, which):
        return Boxes(self.rows[which])

    def __len__(self):
        return len(self.rows)


def scene(seed, frames=80, people=7):
    """Boxes [x1, y1, x2, y2, score] of each frame, strongest first."""
    random = np.random.default_rng(seed)
    place = random.uniform([60, 200], [580, 280], (people, 2))
    speed = random.uniform([-14, -2], [14, 2], (people, 2))
    height = random.uniform(60, 160, people)
    hidden = random.uniform(0.0, frames, (people, 2))
    shown = []
    for frame in range(frames):
        place += speed
        turned = (place[:, 0] < 20) | (place[:, 0] > 620)
        speed[turned, 0] *= -1
        boxes = []
        for person in range(people):
            since = frame - hidden[person]
            if ((since > 0) & (since < [4, 9])).any() or random.random() < 0.04:
                continue
            x, y = place[person] + random.normal(0, 1.5, 2)
            h = height[person] * random.normal(1, 0.02)
            w = 0.4 * h * random.normal(1, 0.03)
            score = np.clip(random.normal(0.6, 0.25), 0.05, 0.95)
            boxes.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2, score])
        if random.random() < 0.15:
            x, y = random.uniform([0, 0], [600, 400])
            boxes.append([x, y, x + 30, y + 70, random.uniform(0.1, 0.6)])
        # With so many digits, no score is the threshold itself, which the reference and the job take differently.
        shown.append(sorted([[round(float(v), 4) for v in box] for box in boxes], key=lambda box: -box[4]))
    return shown


def tracks(frames, settings=SETTINGS):
    """The track of each box, or null."""
    tracker = BYTETracker(settings)
    for kalman in (tracker.kalman_filter, STrack.shared_kalman):
        kalman._std_weight_velocity = settings.std_velocity
    numbers = []
    for boxes in frames:
        of_frame = [None] * len(boxes)
        for row in tracker.update(Boxes(boxes)):
            of_frame[int(row[7])] = int(row[4])
        # The reference drops a track that was lost for too long a frame late. If a box continues it in this frame, its next
        # gap ends it, however short.
        tracker.lost_stracks = [track for track in tracker.lost_stracks if track.state != TrackState.Removed]
        numbers.append(of_frame)
    return numbers


def main():
    scenes = []
    for seed in range(6):
        frames = scene(seed)
        scenes.append({"frames": frames, "tracks": tracks(frames)})
    json.dump(scenes, sys.stdout, separators=(",", ":"))


if __name__ == "__main__":
    main()
