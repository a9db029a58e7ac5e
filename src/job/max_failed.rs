//! How many videos of a run may fail before the run counts as failed: `max_failed = "1%"`, `max_failed = 10`, or by kind of error.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, VideoErrorKind};

/// How many videos may fail: in all, and by kind of error. In text, `1%` or `10` is for all kinds, and `KIND=LIMIT` for one kind,
/// which then does not count for all: `1%, corrupt=5%`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MaxFailed {
    /// Of the kinds without a limit of their own.
    all: Limit,
    kinds: BTreeMap<VideoErrorKind, Limit>,
}

/// A number or a share of videos.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    Videos(u64),
    PerMillion(u32),
}

impl MaxFailed {
    /// So many videos, with any kinds of errors.
    pub fn videos(count: u64) -> Self {
        Self { all: Limit::Videos(count), kinds: BTreeMap::new() }
    }

    /// Whether videos may fail like that: with so many of each kind of error, among so many videos.
    pub fn allows(&self, failed: impl IntoIterator<Item = (VideoErrorKind, u64)>, videos: u64) -> bool {
        let mut rest = 0;
        failed.into_iter().all(|(kind, failed)| match self.kinds.get(&kind) {
            Some(limit) => limit.allows(failed, videos),
            None => {
                rest += failed;
                true
            }
        }) && self.all.allows(rest, videos)
    }
}

impl Limit {
    fn allows(self, failed: u64, videos: u64) -> bool {
        match self {
            Self::Videos(most) => failed <= most,
            Self::PerMillion(share) => u128::from(failed) * 1_000_000 <= u128::from(share) * u128::from(videos),
        }
    }
}

impl Default for Limit {
    /// None.
    fn default() -> Self {
        Self::Videos(0)
    }
}

impl FromStr for Limit {
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

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Videos(most) => most.fmt(f),
            Self::PerMillion(share) => write!(f, "{}%", f64::from(*share) / 10_000.0),
        }
    }
}

impl FromStr for MaxFailed {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (mut all, mut kinds) = (None, BTreeMap::new());
        for part in text.split(',').map(str::trim) {
            let before = match part.split_once('=') {
                None => all.replace(part.parse()?),
                Some((name, limit)) => {
                    let kind = VideoErrorKind::named(name.trim()).ok_or_else(|| {
                        let names = VideoErrorKind::ALL.map(VideoErrorKind::as_str).join(", ");
                        Error::usage(format!("{:?} is no kind of error", name.trim()))
                            .with_hint(format!("the kinds are {names}"))
                    })?;
                    kinds.insert(kind, limit.trim().parse()?)
                }
            };
            if before.is_some() {
                return Err(Error::usage(format!("{text:?} has two limits for the same errors")));
            }
        }
        Ok(Self { all: all.unwrap_or_default(), kinds })
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
        self.all.fmt(f)?;
        self.kinds.iter().try_for_each(|(kind, limit)| write!(f, ", {kind}={limit}"))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_number_or_a_share_of_the_videos_may_fail() {
        let of = |text: &str| text.parse::<Limit>().unwrap();
        assert!(of("1%").allows(1, 100) && !of("1%").allows(2, 100) && of("1%").allows(199, 19_999));
        assert!(of("0.01%").allows(1, 10_000) && !of("0.01%").allows(1, 9_999));
        assert!(of("3").allows(3, 3) && !of("3").allows(4, 1_000_000));
        assert!(of("0").allows(0, 0) && of("100%").allows(u64::MAX, u64::MAX));
        assert!(!Limit::default().allows(1, 1_000_000));
    }

    #[test]
    fn a_kind_with_a_limit_of_its_own_does_not_count_for_all() {
        use VideoErrorKind::{Corrupt, NotAVideo, Timeout};
        let allows = |text: &str, failed: &[(VideoErrorKind, u64)]| {
            text.parse::<MaxFailed>().unwrap().allows(failed.iter().copied(), 100)
        };
        assert!(allows("1, corrupt=5%", &[(Corrupt, 5), (Timeout, 1)]));
        assert!(!allows("1, corrupt=5%", &[(Corrupt, 6)]));
        assert!(!allows("1, corrupt=5%", &[(NotAVideo, 1), (Timeout, 1)]));
        assert!(allows("not_a_video=100%", &[(NotAVideo, 100)]) && !allows("not_a_video=100%", &[(Timeout, 1)]));
        assert!(!allows("100%, timeout=0", &[(Corrupt, 50), (Timeout, 1)]));
        assert!(!MaxFailed::default().allows([(Timeout, 1)], 1_000_000));
    }

    #[test]
    fn the_text_reads_back_and_other_texts_are_refused() {
        for text in ["0", "12", "0%", "0.5%", "0.0001%", "100%", "1%, corrupt=5%, timeout=3"] {
            assert_eq!(text.parse::<MaxFailed>().unwrap().to_string(), text);
        }
        assert_eq!("timeout = 3,corrupt=1%".parse::<MaxFailed>().unwrap().to_string(), "0, corrupt=1%, timeout=3");
        for text in ["", "%", "-1", "1.5", "101%", "-1%", "NaN%", "one", "1,", "1, 2", "corrupt=1, corrupt=2", "bad=1"]
        {
            assert!(text.parse::<MaxFailed>().is_err(), "{text}");
        }
    }
}
