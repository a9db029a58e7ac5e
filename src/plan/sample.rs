//! Samples: a few videos of an input, spread over what is listed first.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};

use super::list::{self, ListedObject};
use super::sift::Sift;
use super::{Skipped, inventory};
use crate::error::{Error, Result};
use crate::job::Job;
use crate::run::{Todo, VideoObject};
use crate::scratch::Scratch;
use crate::store::{Scanned, Store};

/// Number of objects that are listed at most.
const LISTED_MAX: usize = 20_000;

/// Up to `count` videos of the input that can be read, and the number of those that they stand for.
///
/// # Errors
/// If the input cannot be listed.
pub async fn sample(
    job: &Job,
    input: &dyn Store,
    output: &dyn Store,
    count: usize,
) -> Result<(Vec<VideoObject>, usize)> {
    let sift = Arc::new(Sift::new(&job.input, input, output)?);
    let scratch = Scratch::new()?;
    let scanned = match &job.input.inventory {
        Some(uri) => {
            let (objects, _) = inventory::list(uri, &job.input_store(), input, scratch.path()).await?;
            objects.map_ok(Scanned::Object).boxed()
        }
        None => {
            let sift = sift.clone();
            input.scan(Arc::new(move |folder| sift.folder(folder).is_none())).map_err(Error::from).boxed()
        }
    };
    let mut videos = Vec::new();
    let take = |object: ListedObject<'_>, _: &mut Skipped| {
        if let ListedObject::Video(video) = object
            && matches!(video.todo, Todo::Index { .. })
            && video.size_bytes > 0
        {
            videos.push(video);
        }
        Ok(())
    };
    list::list(&job.input, &sift, scanned.take(LISTED_MAX).boxed(), input, take).await?;
    // Stores list in different orders.
    videos.sort_by(|a, b| a.key.cmp(&b.key));
    let of = videos.len();
    let step = (of / count.max(1)).max(1);
    Ok((videos.into_iter().step_by(step).take(count).collect(), of))
}
