//! Asks the attempts of this process to save their finished videos and to end, because a signal stops the process.

use std::sync::LazyLock;

use tokio::sync::watch;

static REQUESTED: LazyLock<watch::Sender<bool>> = LazyLock::new(|| watch::Sender::new(false));

/// Number of attempts that have not ended.
static SAVING: LazyLock<watch::Sender<usize>> = LazyLock::new(|| watch::Sender::new(0));

/// Held while there is an attempt, which saves its finished videos and ends once a stop is requested.
pub(super) struct Saves(());

impl Saves {
    pub(super) fn begin() -> Self {
        SAVING.send_modify(|attempts| *attempts += 1);
        Self(())
    }
}

impl Drop for Saves {
    fn drop(&mut self) {
        SAVING.send_modify(|attempts| *attempts -= 1);
    }
}

/// Requests the stop. Returns once no attempt is left.
pub(crate) async fn request() {
    REQUESTED.send_replace(true);
    // The sender is static, so that it is never closed.
    let _ = SAVING.subscribe().wait_for(|attempts| *attempts == 0).await;
}

/// Waits for the request.
pub(super) async fn requested() {
    let _ = REQUESTED.subscribe().wait_for(|requested| *requested).await;
}
