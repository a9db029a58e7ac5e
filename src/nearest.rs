//! Suggestions: the known name that a misspelt one probably means.

/// The known name with the fewest typing errors between it and `unknown`: at most one for every three letters. Of names
/// that are equally near, the first.
pub(crate) fn nearest<'a>(unknown: &str, known: &[&'a str]) -> Option<&'a str> {
    let unknown = unknown.to_lowercase();
    known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(&unknown, name), *name))
        .filter(|(distance, name)| *distance <= name.chars().count().div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}
