//! How many videos of a run may fail before the run counts as failed: `max_failed = "1%"` or `max_failed = 10`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A number or a share of videos.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum MaxFailed {
    /// So many.
    Videos(u64),
    /// So many of a million.
    PerMillion(u32),
}

impl MaxFailed {
    /// Whether so many of all videos of a run may fail.
    pub fn allows(self, failed: u64, all: u64) -> bool {
        match self {
            Self::Videos(most) => failed <= most,
            Self::PerMillion(share) => u128::from(failed) * 1_000_000 <= u128::from(share) * u128::from(all),
        }
    }
}

impl Default for MaxFailed {
    /// None.
    fn default() -> Self {
        Self::Videos(0)
    }
}

impl FromStr for MaxFailed {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parsed = match text.strip_suffix('%') {
            None => text.parse().ok().map(Self::Videos),
            Some(percent) => {
                let percent = percent.trim_end().parse::<f64>().ok().filter(|percent| (0.0..=100.0).contains(percent));
                percent.map(|percent| Self::PerMillion((percent * 10_000.0).round() as u32))
            }
        };
        parsed.ok_or_else(|| Error::usage(format!("{text:?} is neither a number of videos nor a share such as \"1%\"")))
    }
}

impl TryFrom<String> for MaxFailed {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<MaxFailed> for String {
    fn from(max: MaxFailed) -> Self {
        max.to_string()
    }
}

impl fmt::Display for MaxFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Videos(most) => most.fmt(f),
            Self::PerMillion(share) => write!(f, "{}%", f64::from(*share) / 10_000.0),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_number_or_a_share_of_the_videos_may_fail() {
        let of = |text: &str| text.parse::<MaxFailed>().unwrap();
        assert!(of("1%").allows(1, 100) && !of("1%").allows(2, 100) && of("1%").allows(199, 19_999));
        assert!(of("0.01%").allows(1, 10_000) && !of("0.01%").allows(1, 9_999));
        assert!(of("3").allows(3, 3) && !of("3").allows(4, 1_000_000));
        assert!(of("0").allows(0, 0) && of("100%").allows(u64::MAX, u64::MAX));
        assert!(!MaxFailed::default().allows(1, 1_000_000));
    }

    #[test]
    fn the_text_reads_back_and_other_texts_are_refused() {
        for text in ["0", "12", "0%", "0.5%", "0.0001%", "100%"] {
            assert_eq!(text.parse::<MaxFailed>().unwrap().to_string(), text);
        }
        for text in ["", "%", "-1", "1.5", "101%", "-1%", "NaN%", "one"] {
            assert!(text.parse::<MaxFailed>().is_err(), "{text}");
        }
    }
}
