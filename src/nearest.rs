//! Suggests the name that a user probably meant.

/// The known name that is most similar to `unknown`, if at most a third of its letters differ.
pub(crate) fn nearest<'a>(unknown: &str, known: &[&'a str]) -> Option<&'a str> {
    let unknown = unknown.to_lowercase();
    known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(&unknown, name), *name))
        .filter(|(distance, name)| *distance <= name.chars().count().div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}
