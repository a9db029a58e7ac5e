//! The names of runs.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The name of a run, which sorts by the time of planning: `20261123T073712123Z-ab12cd`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(String);

impl RunId {
    /// A new name for a run planned at `now`: the time in milliseconds, and 24 random bits for runs of the same
    /// instant.
    pub fn new(now: DateTime<Utc>) -> Self {
        use std::hash::BuildHasher;
        // Each RandomState is seeded by the system, which avoids a random number generator for six digits.
        let random = std::hash::RandomState::new().hash_one(std::process::id()) & 0xff_ffff;
        Self(format!("{}Z-{random:06x}", now.format("%Y%m%dT%H%M%S%3f")))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RunId {
    type Err = Error;

    /// # Errors
    /// [`Error::Usage`] if the text has another form. It becomes part of keys, so nothing else is accepted.
    fn from_str(text: &str) -> Result<Self> {
        let well_formed = text.split_once("Z-").is_some_and(|(time, random)| {
            time.len() == 18
                && NaiveDateTime::parse_from_str(time, "%Y%m%dT%H%M%S%3f").is_ok()
                && random.len() == 6
                && random.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        });
        if !well_formed {
            return Err(Error::usage(format!("{text:?} is not a run ID"))
                .with_hint("`vidindex status JOB.toml` lists the runs; an ID looks like 20261123T073712123Z-ab12cd"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for RunId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<RunId> for String {
    fn from(run: RunId) -> Self {
        run.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_run_id_sorts_by_time_and_nothing_else_is_accepted() {
        let at = |text: &str| RunId::new(text.parse::<DateTime<Utc>>().unwrap());
        let early = at("2026-11-23T07:37:12.123Z");
        assert!(early.as_str().starts_with("20261123T073712123Z-"), "{early}");
        assert_eq!(early.to_string().parse::<RunId>().unwrap(), early);
        assert!(early < at("2026-11-23T07:37:12.124Z") && early < at("2027-01-01T00:00:00Z"));
        assert_ne!(early, at("2026-11-23T07:37:12.123Z"));
        for text in [
            "",
            "latest",
            "../x",
            "20261123T073712123Z-AB12CD",
            "20261323T073712123Z-ab12cd",
            "20261123T073712123Z-ab12cd/",
        ] {
            assert!(text.parse::<RunId>().is_err(), "{text}");
        }
    }
}
