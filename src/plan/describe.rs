//! A plan in words.

use std::fmt;

use super::{FAILURES_MAX, Plan, Skipped, counted, human};
use crate::run::RunRecord;

impl Plan {
    /// Whether the input contains no video that matches the job's globs, as opposed to no new video.
    /// [`Plan::nothing_matched_message`] describes the situation.
    pub fn nothing_matched(&self) -> bool {
        let Skipped { already_indexed, failed_before, given_up, archived, .. } = &self.skipped;
        self.run.videos == 0
            && [already_indexed, failed_before, given_up, archived].iter().all(|group| group.count == 0)
    }

    /// Describes what was searched and found if [`Plan::nothing_matched`].
    pub fn nothing_matched_message(&self) -> String {
        let input = &self.run.job.input;
        let mut message = format!(
            "no video in {}: {} seen, none matches include = {:?}",
            input.uri,
            counted(self.objects_seen, "object"),
            input.include
        );
        if !input.exclude.is_empty() {
            message.push_str(&format!(" without matching exclude = {:?}", input.exclude));
        }
        let Skipped { hidden, unlisted, .. } = &self.skipped;
        if hidden.total() > 0 {
            message.push_str(&format!("; {} hidden (set [input] hidden = true to include them)", hidden.amount()));
        }
        if unlisted.total() > 0 {
            message.push_str(&format!("; {} could not be listed", unlisted.amount()));
        }
        message
    }

    /// Number of files that match no `include` glob, by extension. `None` if all files match.
    pub fn not_included_message(&self) -> Option<String> {
        let Skipped { not_included, extensions, .. } = &self.skipped;
        let (files, verb) = match not_included.count {
            0 => return None,
            1 => ("1 file".to_owned(), "matches"),
            count => (format!("{count} files"), "match"),
        };
        Some(format!("{files} {verb} no include: {extensions}"))
    }

    /// The videos that will fail because of their keys. `None` if there are none.
    pub fn unfit_message(&self) -> Option<String> {
        let unfit = &self.unfit;
        let will_fail = || {
            format!(
                "{} will fail because a partition value is too long for a folder's name: {}",
                counted(unfit.count, "video"),
                unfit.examples()
            )
        };
        (unfit.count > 0).then(will_fail)
    }

    /// What could not be listed. `None` if everything was.
    pub fn unlisted_message(&self) -> Option<String> {
        let unlisted = &self.skipped.unlisted;
        let passed_over = || {
            format!("{} could not be listed; videos indexed there are kept: {}", unlisted.amount(), unlisted.examples())
        };
        (unlisted.total() > 0).then(passed_over)
    }
}

/// Formats what will be done and what is skipped, with reasons. Ends without a newline.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RunRecord { job, bytes, .. } = &self.run;
        if self.nothing_matched() {
            write!(f, "{}", self.nothing_matched_message())?;
        } else {
            let shards = counted(u64::from(self.run.shards), "shard");
            let to_index = counted(self.videos_to_read(), "video");
            write!(f, "{to_index}, {} to index, in {shards}", human(*bytes))?;
            if let Some((first, last)) = self.videos.modified {
                let (largest, goal) = (human(self.videos.largest_shard_bytes), human(job.run.shard_bytes));
                write!(f, " (the largest {largest}; run.shard_bytes is {goal})")?;
                write!(f, "\nlast modified {} to {}", first.date_naive(), last.date_naive())?;
            }
        }
        let Skipped {
            already_indexed,
            failed_before,
            given_up,
            archived,
            not_included,
            extensions,
            hidden,
            unlisted,
            excluded,
            own_output,
        } = &self.skipped;
        let times = format!("failed {FAILURES_MAX} times in a row (--retry-failed retries them)");
        let by_extension = format!("not matched by input.include: {extensions}");
        let groups = [
            (&self.unfit, "will fail", "a partition value is too long for a folder's name"),
            (already_indexed, "skipped", "already indexed (--reindex indexes them again)"),
            (failed_before, "skipped", "failed before and unchanged (--retry-failed retries them)"),
            (given_up, "skipped", times.as_str()),
            (archived, "skipped", "still in an archive storage class (--retry-failed retries them)"),
            (unlisted, "not listed", "could not be listed; videos indexed there are kept"),
            (not_included, "skipped", &by_extension),
            (hidden, "skipped", "hidden or system files ([input] hidden = true includes them)"),
            (excluded, "skipped", "matched by input.exclude"),
            (own_output, "skipped", "written by vidindex"),
        ];
        let taken = self.taken.iter().map(|(why, group)| (group, why.word(), why.reason(&self.settings)));
        let others = groups.into_iter().map(|(group, what, reason)| (group, what, reason.into()));
        for (group, what, reason) in taken.chain(others) {
            if group.total() > 0 {
                write!(f, "\n{what} {}: {reason}\n    {}", group.amount(), group.examples())?;
            }
        }
        self.missing.iter().try_for_each(|missing| write!(f, "\n{missing}"))
    }
}
