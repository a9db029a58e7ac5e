//! Why a run takes a video.

use std::borrow::Cow;

use futures::{StreamExt, TryStreamExt};

use crate::error::Result;
use crate::job::Job;
use crate::run::{ModelRef, PlanModels, RunRecord, record};
use crate::store::Store;

/// Runs that are searched, from the newest on, for the settings of a fingerprint.
const RUNS_MAX: usize = 256;

/// Records that are read concurrently.
const READS_MAX: usize = 16;

/// The reason why a run takes a video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// It has no rows.
    New,
    /// It changed after it was indexed.
    Changed,
    /// It was indexed with other models or settings: those with this number in [`super::Plan::settings`].
    Settings(u8),
    /// The user asked for every video.
    Asked,
    /// It failed before.
    Failed,
    /// It was deleted and is back unchanged. Its earlier rows are copied.
    Back,
    /// An interrupted run finished and saved it. The saved rows are copied.
    Interrupted,
    /// It cannot be read before it is restored from the archive. Its row will say so.
    Archived,
    /// It is missing from the input. The run marks it as deleted.
    Deleted,
}

impl Why {
    /// Whether the run reads such a video.
    pub(super) fn is_read(self) -> bool {
        !matches!(self, Self::Back | Self::Interrupted | Self::Archived | Self::Deleted)
    }

    /// A word, as in lists.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Changed => "changed",
            Self::Settings(_) => "again",
            Self::Asked => "asked",
            Self::Failed => "retried",
            Self::Back => "restored",
            Self::Interrupted => "resumed",
            Self::Archived => "archived",
            Self::Deleted => "deleted",
        }
    }

    /// The reason in words. `settings` describes what differs, by number.
    pub(super) fn reason(self, settings: &[String]) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::New => "not indexed before",
            Self::Changed => "changed after they were indexed",
            Self::Settings(number) => {
                return match settings.get(usize::from(number)) {
                    Some(difference) => format!("indexed with other settings: {difference}").into(),
                    None => "indexed with other settings".into(),
                };
            }
            Self::Asked => "every video is asked for (--reindex)",
            Self::Failed => "failed before",
            Self::Back => "deleted before and back unchanged: their earlier rows are used again",
            Self::Interrupted => "finished by an interrupted run: their rows are copied",
            Self::Archived => "in an archive storage class: restore them so that they can be indexed",
            Self::Deleted => "missing from the input: their rows are no longer current",
        })
    }
}

/// For each of these fingerprints, how the job's settings and models differ from those that it stands for.
///
/// # Errors
/// If the output cannot be accessed.
pub(super) async fn differences(
    output: &dyn Store,
    job: &Job,
    models: &PlanModels,
    fingerprints: &[String],
) -> Result<Vec<String>> {
    let mut differences: Vec<Option<String>> = vec![None; fingerprints.len()];
    if fingerprints.is_empty() {
        return Ok(Vec::new());
    }
    let runs = record::runs(output).await?;
    let newest = runs.into_iter().rev().take(RUNS_MAX);
    let mut records = std::pin::pin!(
        futures::stream::iter(newest).map(async |run| record::find_record(output, &run).await).buffered(READS_MAX)
    );
    while differences.contains(&None)
        && let Some(record) = records.try_next().await?
    {
        let Some(record) = record else { continue };
        if let Some(number) = fingerprints.iter().position(|fingerprint| *fingerprint == record.fingerprint) {
            differences[number].get_or_insert_with(|| difference(&record, job, models));
        }
    }
    let unknown = || "those of a run whose record is gone".to_owned();
    Ok(differences.into_iter().map(|difference| difference.unwrap_or_else(unknown)).collect())
}

/// Such as `persons.confidence 0.25 -> 0.4, persons.track true -> none`.
fn difference(before: &RunRecord, job: &Job, models: &PlanModels) -> String {
    let model = |model: &Option<ModelRef>| model.as_ref().map(|model| (model.id.clone(), model.sha256.clone()));
    let mut changes = Vec::new();
    let roles = [
        ("actions.model", &before.actions_model, &models.actions),
        ("persons.model", &before.persons_model, &models.persons),
    ];
    for (key, old, new) in roles {
        let (old, new) = (model(old), model(new));
        if old != new {
            let same_id = old.as_ref().zip(new.as_ref()).is_some_and(|(old, new)| old.0 == new.0);
            let shown = |model: Option<(String, String)>| match model {
                // Only the files differ.
                Some((id, sha256)) if same_id => format!("{id} ({})", sha256.get(..8).unwrap_or(&sha256)),
                Some((id, _)) => id,
                None => "none".to_owned(),
            };
            changes.push(format!("{key} {} -> {}", shown(old), shown(new)));
        }
    }
    let (old, new) = (before.job.settings(), job.settings());
    let mut keys: Vec<_> = old.iter().chain(&new).map(|(key, _)| *key).collect();
    keys.dedup();
    keys.sort_unstable();
    keys.dedup();
    let value = |settings: &[(&'static str, String)], key| {
        settings.iter().find(|(other, _)| *other == key).map_or("none".to_owned(), |(_, value)| value.clone())
    };
    for key in keys {
        let (old, new) = (value(&old, key), value(&new, key));
        // The settings of a model that is new or gone say no more than the model.
        let is_of_a_model = |role: &Option<ModelRef>, section| role.is_none() && key.starts_with(section);
        let section_changed = is_of_a_model(&before.actions_model, "actions.")
            || is_of_a_model(&models.actions, "actions.")
            || is_of_a_model(&before.persons_model, "persons.")
            || is_of_a_model(&models.persons, "persons.");
        if old != new && !section_changed {
            changes.push(format!("{key} {old} -> {new}"));
        }
    }
    if changes.is_empty() { "another version of vidindex".to_owned() } else { changes.join(", ") }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::run::record::testing::record;

    #[test]
    fn differences_name_models_and_keys_with_both_values() {
        let model =
            |id: &str, sha256: &str| Some(ModelRef { id: id.to_owned(), sha256: sha256.to_owned(), random: false });
        let before =
            RunRecord { persons_model: model("yolov5s", "0123456789"), actions_model: None, ..record(1, 1, 1) };
        let mut job = before.job.clone();
        let models = |actions, persons| PlanModels { actions, persons };
        let same = || models(None, model("yolov5s", "0123456789"));
        assert_eq!(difference(&before, &job, &same()), "another version of vidindex");
        let changed = models(None, model("yolov5s", "abcdef0123"));
        assert_eq!(difference(&before, &job, &changed), "persons.model yolov5s (01234567) -> yolov5s (abcdef01)");
        job.persons.as_mut().unwrap().confidence = 0.5;
        job.persons.as_mut().unwrap().track = true;
        let changed = models(None, model("yolov5m", "ab"));
        assert_eq!(
            difference(&before, &job, &changed),
            "persons.model yolov5s -> yolov5m, persons.confidence 0.25 -> 0.5, persons.track none -> true"
        );
        let both = Job::parse(
            "test.toml",
            "input.uri = 's3://archive/2026/'\noutput.uri = 's3://index/'\nactions.model = 'a'\npersons.model = 'p'",
            &[],
        );
        let added = models(model("slowfast", "ab"), model("yolov5s", "0123456789"));
        assert_eq!(difference(&before, &both.unwrap(), &added), "actions.model none -> slowfast");
    }
}
