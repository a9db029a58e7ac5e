//! The command `scenes`: creates an archive of drawn clips, for the demo, for tests, and to train the demo's models.

use std::error::Error;
use std::path::PathBuf;

use clap::Parser;

/// Draws scenes of moving people and encodes them as video clips, with the ground truth (actions and boxes) in
/// `truth.json`.
#[derive(Parser)]
struct Arguments {
    /// Seed of the random numbers.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of clips.
    #[arg(long, default_value_t = 24)]
    clips: usize,
    /// Draw people who walk across the frame, cross and hide, to follow them.
    #[arg(long)]
    crowd: bool,
    /// The folder to write to.
    #[arg(long)]
    out: PathBuf,
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let arguments = Arguments::parse();
    let write = if arguments.crowd { scenes::write_crowd } else { scenes::write };
    let videos = write(&arguments.out, arguments.seed, arguments.clips)?;
    for video in &videos {
        println!("{video}");
    }
    Ok(())
}
