//! Names of videos and of clips.

/// The store of a video, and the video's key in it.
pub(super) fn place(uri: &str) -> (&str, &str) {
    let start = match uri.strip_prefix("s3://") {
        // The bucket.
        Some(rest) => rest.find('/').map(|at| "s3://".len() + at + 1),
        None => uri.rfind('/').map(|at| at + 1),
    };
    match start {
        Some(start) => uri.split_at(start),
        None => (".", uri),
    }
}

/// The name of a clip without its extension: its number, the video's name and the beginning.
pub(super) fn stem(number: usize, digits: usize, uri: &str, start_seconds: f64) -> String {
    let name = uri.rsplit('/').next().unwrap_or(uri);
    let name = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let plain = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let name: String = name.chars().take(80).map(plain).collect();
    format!("{number:0digits$}-{name}-{start_seconds:.1}s")
}

/// The extension of a file in a container that FFmpeg calls so.
pub(super) fn extension(container: &str) -> &'static str {
    if container == "mp4" { "mp4" } else { "mkv" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_video_is_in_a_bucket_or_in_a_folder() {
        assert_eq!(place("s3://archive/2026/cam 1/a.mp4"), ("s3://archive/", "2026/cam 1/a.mp4"));
        assert_eq!(place("/data/videos/a.mp4"), ("/data/videos/", "a.mp4"));
        assert_eq!(place("a.mp4"), (".", "a.mp4"));
    }

    #[test]
    fn names_of_clips_sort_by_number_and_have_no_odd_characters() {
        assert_eq!(stem(7, 3, "s3://b/cam 1/a:b.c.mp4", 12.34), "007-a_b.c-12.3s");
        assert_eq!(stem(1234, 4, "/v/x", 0.0), "1234-x-0.0s");
    }
}
