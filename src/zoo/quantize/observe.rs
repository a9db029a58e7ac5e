//! What is seen of a value while samples run: how often each magnitude occurs, and the mean of each channel. The range that is
//! kept of it follows from that.

/// Bins of a histogram.
const BINS: usize = 2048;

/// The largest 8-bit integer.
const LEVEL_MAX: f32 = 255.0;

/// About as many values of a tensor are counted.
const COUNTED_MAX: usize = 1 << 19;

/// Shares of the values that a range may contain, if the others are clipped.
const SHARES: [f64; 4] = [0.999, 0.9999, 0.99999, 0.999_999];

/// How a value is represented in 8 bits: `real = scale · (integer - zero)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    /// The distance between two neighbouring values.
    pub scale: f32,
    /// The integer that stands for 0.
    pub zero: u8,
}

/// What was seen of a value.
#[derive(Debug, Clone, Default)]
pub struct Observation {
    positive: Side,
    negative: Side,
    squares: f64,
    /// The sum over each channel, the second dimension.
    sums: Vec<f64>,
    /// Number of values in each channel.
    count: f64,
}

/// How often each magnitude occurred, of the values with the same sign.
#[derive(Debug, Clone, Default)]
struct Side {
    /// The first bin begins at 0.
    bins: Vec<u64>,
    /// Width of a bin.
    width: f32,
    max: f32,
}

impl Observation {
    /// Adds the values of a tensor.
    pub fn add(&mut self, shape: &[i64], values: &[f32]) {
        let finite = |value: f32| if value.is_finite() { value } else { 0.0 };
        let low = values.iter().fold(0.0_f32, |low, &value| low.min(finite(value)));
        let high = values.iter().fold(0.0_f32, |high, &value| high.max(finite(value)));
        self.positive.widen(high);
        self.negative.widen(-low);
        let (up, down) = (self.positive.bins_per_unit(), self.negative.bins_per_unit());
        let mut squares = 0.0;
        // Odd, so that all columns of an image are among them.
        for &value in values.iter().step_by((values.len() / COUNTED_MAX) | 1) {
            let (side, per_unit) = if value < 0.0 { (&mut self.negative, down) } else { (&mut self.positive, up) };
            // The conversion saturates, and makes 0 of what is not a number.
            side.bins[((value.abs() * per_unit) as usize).min(BINS - 1)] += 1;
            squares += f64::from(value * value);
        }
        self.squares += squares;
        let channels = shape.get(1).map_or(1, |&channels| channels.max(1) as usize);
        let area: usize = shape.iter().skip(2).map(|&length| length.max(0) as usize).product();
        if self.sums.len() != channels {
            (self.sums, self.count) = (vec![0.0; channels], 0.0);
        }
        for (number, plane) in values.chunks_exact(area.max(1)).enumerate() {
            self.sums[number % channels] += sum(plane);
        }
        self.count += values.len() as f64 / channels as f64;
    }

    /// The mean of each channel.
    pub(super) fn means(&self) -> Vec<f64> {
        self.sums.iter().map(|sum| sum / self.count.max(1.0)).collect()
    }

    /// The scale with the smallest mean squared error, of those that contain all values, a share of them, or lose the least
    /// information (Migacz, "8-bit inference with TensorRT", 2017), on either side of 0.
    pub fn scale(&self) -> Scale {
        let [low, high] = self.range();
        let scale = (low + high) / LEVEL_MAX;
        Scale { scale, zero: (low / scale).round() as u8 }
    }

    /// The mean squared error of the scale, relative to the mean square.
    pub(super) fn noise(&self) -> f64 {
        let total = self.positive.total() + self.negative.total();
        if self.squares == 0.0 || total == 0 {
            return 0.0;
        }
        let [low, high] = self.range();
        self.error(self.negative.beyond(low), self.positive.beyond(high), low + high) / (self.squares / total as f64)
    }

    /// How far the range reaches on the negative and on the positive side.
    fn range(&self) -> [f32; 2] {
        let total = self.positive.total() + self.negative.total();
        let limits = |side: &Side| -> Vec<(f32, Beyond)> {
            let limits = side.candidates(total);
            limits.into_iter().map(|limit| (limit, side.beyond(limit))).collect()
        };
        let positive = limits(&self.positive);
        let mut best = (f64::INFINITY, [0.0, 1.0]);
        for (low, below) in limits(&self.negative) {
            for &(high, above) in &positive {
                let error = self.error(below, above, low + high);
                // A value that is always 0 has no range.
                if low + high > 0.0 && error < best.0 {
                    best = (error, [low, high]);
                }
            }
        }
        best.1
    }

    /// The mean squared error of a range of this length, given what is beyond it.
    fn error(&self, below: Beyond, above: Beyond, length: f32) -> f64 {
        let total = self.positive.total() + self.negative.total();
        let step = f64::from(length / LEVEL_MAX);
        // The error of rounding is distributed evenly.
        let rounded = (total - below.count - above.count) as f64 * step * step / 12.0;
        (rounded + below.squares + above.squares) / total.max(1) as f64
    }
}

/// In lanes, so that the processor adds several values at once.
fn sum(values: &[f32]) -> f64 {
    let (chunks, rest) = values.as_chunks::<16>();
    let mut lanes = [0.0_f32; 16];
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value;
        }
    }
    lanes.iter().chain(rest).map(|&value| f64::from(value)).sum()
}

/// The values that a range does not contain.
#[derive(Debug, Clone, Copy)]
struct Beyond {
    count: u64,
    /// Sum of the squares of what is clipped of them.
    squares: f64,
}

impl Side {
    fn total(&self) -> u64 {
        self.bins.iter().sum()
    }

    fn bins_per_unit(&self) -> f32 {
        if self.width > 0.0 { 1.0 / self.width } else { 0.0 }
    }

    /// Doubles the range until `max` is in it.
    fn widen(&mut self, max: f32) {
        self.max = self.max.max(max);
        if self.bins.is_empty() {
            self.bins = vec![0; BINS];
        }
        if self.width == 0.0 {
            self.width = max / (BINS / 2) as f32;
            return;
        }
        while self.width * BINS as f32 <= max {
            self.bins = self.bins.chunks_exact(2).map(|pair| pair[0] + pair[1]).collect();
            self.bins.resize(BINS, 0);
            self.width *= 2.0;
        }
    }

    /// Limits that are worth considering, given the number of values on both sides.
    fn candidates(&self, total: u64) -> Vec<f32> {
        let share = |share: f64| {
            let mut may_be_beyond = (total as f64 * (1.0 - share)) as u64;
            let last = self.bins.iter().rposition(|&count| {
                let is_within = count > may_be_beyond;
                may_be_beyond = may_be_beyond.saturating_sub(count);
                is_within
            });
            last.map_or(0.0, |bin| (self.width * (bin + 1) as f32).min(self.max))
        };
        [self.max, self.least_information_lost()].into_iter().chain(SHARES.map(share)).collect()
    }

    fn beyond(&self, limit: f32) -> Beyond {
        let mut beyond = Beyond { count: 0, squares: 0.0 };
        for (bin, &count) in self.bins.iter().enumerate() {
            let excess = f64::from(self.width) * (bin as f64 + 0.5) - f64::from(limit);
            if excess > 0.0 {
                beyond.count += count;
                beyond.squares += excess * excess * count as f64;
            }
        }
        beyond
    }

    /// The limit up to which the distribution, rounded to half of the levels, has the smallest divergence from the original
    /// (Kullback-Leibler).
    fn least_information_lost(&self) -> f32 {
        const LEVELS: usize = 128;
        let used = self.bins.iter().rposition(|&count| count > 0).map_or(0, |bin| bin + 1);
        let divergence = |kept: usize| {
            let outliers: u64 = self.bins[kept..used].iter().sum();
            let mut reference: Vec<f64> = self.bins[..kept].iter().map(|&count| count as f64).collect();
            reference[kept - 1] += outliers as f64;
            let total: f64 = reference.iter().sum();
            let mut sum = 0.0;
            for level in 0..LEVELS {
                let (from, to) = (level * kept / LEVELS, (level + 1) * kept / LEVELS);
                let bins = &self.bins[from..to];
                let filled = bins.iter().filter(|&&count| count > 0).count().max(1);
                let mean = bins.iter().sum::<u64>() as f64 / filled as f64;
                for (&exact, &count) in reference[from..to].iter().zip(bins) {
                    // What the rounded distribution does not have costs as if it occurred once.
                    let rounded = if count > 0 { mean } else { 1.0 };
                    if exact > 0.0 {
                        sum += exact / total * (exact / rounded).ln();
                    }
                }
            }
            sum
        };
        let kept = (LEVELS..=used).step_by(16).chain((used > 0).then_some(used));
        let best = kept.min_by(|a, b| divergence(*a).total_cmp(&divergence(*b)));
        best.map_or(self.max, |kept| (self.width * kept as f32).min(self.max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(values: &[f32]) -> Observation {
        let mut observation = Observation::default();
        observation.add(&[1, 1, values.len() as i64], values);
        observation
    }

    #[test]
    fn the_levels_reach_from_the_smallest_to_the_largest_value() {
        let scale = observed(&(0..=255_u8).map(f32::from).collect::<Vec<_>>()).scale();
        assert_eq!(scale, Scale { scale: 1.0, zero: 0 });
        let scale = observed(&(-50..=205_i16).map(f32::from).collect::<Vec<_>>()).scale();
        assert_eq!(scale, Scale { scale: 1.0, zero: 50 });
    }

    #[test]
    fn a_rare_outlier_is_clipped_if_that_is_more_exact() {
        // Clipping it costs (2 - 1)^2 once; keeping it makes all steps twice as large.
        let mut values: Vec<f32> = (0..1_000_000_u32).map(|number| (number % 1000) as f32 / 1000.0).collect();
        values.insert(0, 2.0);
        let scale = observed(&values).scale();
        assert!((scale.scale * 255.0 - 1.0).abs() < 0.01, "{scale:?}");
        values.extend([2.0; 10]);
        let scale = observed(&values).scale();
        assert!((scale.scale * 255.0 - 2.0).abs() < 0.01, "{scale:?}");
    }

    #[test]
    fn the_range_grows_with_later_samples() {
        let mut observation = observed(&[0.5; 100]);
        observation.add(&[1, 1, 100], &[64.0; 100]);
        assert!((observation.scale().scale * 255.0 - 64.0).abs() < 0.5, "{:?}", observation.scale());
        assert_eq!(observation.positive.total(), 200);
        assert_eq!(observation.means(), [32.25]);
    }

    #[test]
    fn a_value_that_is_always_0_has_a_scale() {
        assert!(observed(&[0.0; 10]).scale().scale > 0.0);
        assert_eq!(observed(&[0.0; 10]).noise(), 0.0);
    }

    #[test]
    fn means_are_per_channel() {
        let mut observation = Observation::default();
        observation.add(&[2, 2, 2], &[1.0, 3.0, 10.0, 20.0, 5.0, 7.0, 30.0, 40.0]);
        assert_eq!(observation.means(), [4.0, 25.0]);
    }
}
