//! Parses a SlowFast's name: `slowfast-r101-16x8-nl` is the network with that depth, those frames and non-local blocks.

use super::{Affinity, FastInput, Lateral, Pathways, SlowFastConfig};

/// Description of the suffixes of a name, for messages.
pub const OPTIONS: &str = "-ava (takes boxes, scores each person), -nl or -nlsoftmax (non-local blocks), -ttoc or -sample (lateral \
    connections by time-to-channel or sampling), -tconv5 (or another temporal size), -grey or -diff (input of Fast), \
    -alpha8 and -beta16 (or others), -temporal6 (number of temporal blocks in res4)";

/// The network of this name and the distance of its frames in a 30 fps video. A name consists of pathways (`slowfast`,
/// `slow`, `fast`), depth (`r50`, `r101`; `tiny` is a narrow `r50` for small pictures), the number of frames of Slow
/// (or of the only pathway) `x` their distance, and options. Returns `None` for any other name.
pub fn named(name: &str) -> Option<(SlowFastConfig, usize)> {
    let mut parts = name.split('-').peekable();
    let pathways = match parts.next()? {
        "slowfast" => Pathways::Both,
        "slow" => Pathways::Slow,
        "fast" => Pathways::Fast,
        _ => return None,
    };
    let mut config = SlowFastConfig { pathways, ..SlowFastConfig::default() };
    match parts.next()? {
        "r50" => {}
        "r101" => config.depth = 101,
        "tiny" => config = SlowFastConfig { width: 8, crop: 64, head_pool: 2, ..config },
        _ => return None,
    }
    let sampling = parts.next_if(|part| part.starts_with(|first: char| first.is_ascii_digit()));
    let (frames, distance) = match sampling {
        Some(sampling) => {
            sampling.split_once('x').and_then(|(frames, distance)| Some((number(frames)?, number(distance)?)))?
        }
        None if pathways == Pathways::Fast => (32, 2),
        None => (8, 8),
    };
    // Fast takes every second frame of the video.
    config.alpha = if pathways == Pathways::Both { distance / 2 } else { 1 };
    // The values of the official checkpoints.
    config.fusion_kernel = if config.depth == 50 && distance == 8 { 7 } else { 5 };
    if config.depth == 101 && frames == 16 {
        config.temporal_blocks = 6;
    }
    for part in parts {
        option(&mut config, part)?;
    }
    config.frames = frames.checked_mul(config.alpha)?;
    let sampling_rate = distance.checked_div(config.alpha).filter(|rate| rate * config.alpha == distance)?;
    Some((config, sampling_rate))
}

fn option(config: &mut SlowFastConfig, part: &str) -> Option<()> {
    let both = config.pathways == Pathways::Both;
    let name = part.trim_end_matches(|last: char| last.is_ascii_digit());
    match (name, &part[name.len()..]) {
        ("ava", "") => *config = SlowFastConfig { boxes: true, classes: 80, ..config.clone() },
        // The paper has them only in res4. PySlowFast's `SLOWFAST_NLN_*` configurations give the blocks.
        ("nl" | "nlsoftmax", "") => {
            config.affinity = if name == "nl" { Affinity::DotProduct } else { Affinity::Softmax };
            let blocks = if config.depth == 50 { [1, 3, 5] } else { [6, 13, 20] };
            config.non_local = blocks.map(|block| (2, block)).into();
        }
        ("ttoc", "") if both => config.lateral = Lateral::TimeToChannel,
        ("sample", "") if both => config.lateral = Lateral::Sampling,
        ("tconv", width) if both => config.fusion_kernel = number(width)?,
        ("alpha", alpha) if both => config.alpha = number(alpha)?,
        ("beta", beta) if config.pathways != Pathways::Slow => config.beta_inv = number(beta)?,
        ("grey", "") if config.pathways != Pathways::Slow => config.fast_input = FastInput::Grey,
        ("diff", "") if config.pathways != Pathways::Slow => config.fast_input = FastInput::Difference,
        ("temporal", blocks) => config.temporal_blocks = blocks.parse().ok()?,
        _ => return None,
    }
    Some(())
}

/// Parses a number above 0.
fn number(digits: &str) -> Option<usize> {
    digits.parse().ok().filter(|&number| number > 0)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_model_zoos_give_their_networks() {
        let r50 = SlowFastConfig::default();
        let r101 = SlowFastConfig { depth: 101, fusion_kernel: 5, ..r50.clone() };
        for (name, config, sampling_rate) in [
            ("slowfast-r50-8x8", r50.clone(), 2),
            ("slowfast-r50", r50.clone(), 2),
            ("slowfast-r50-4x16", SlowFastConfig { alpha: 8, fusion_kernel: 5, ..r50.clone() }, 2),
            ("slowfast-r101-8x8", r101.clone(), 2),
            ("slowfast-r101-16x8", SlowFastConfig { frames: 64, temporal_blocks: 6, ..r101 }, 2),
            (
                "slow-r50-4x16",
                SlowFastConfig { pathways: Pathways::Slow, frames: 4, alpha: 1, fusion_kernel: 5, ..r50.clone() },
                16,
            ),
            ("fast-r50", SlowFastConfig { pathways: Pathways::Fast, alpha: 1, fusion_kernel: 5, ..r50.clone() }, 2),
            (
                "slowfast-tiny-ava",
                SlowFastConfig { width: 8, crop: 64, head_pool: 2, boxes: true, classes: 80, ..r50 },
                2,
            ),
        ] {
            assert_eq!(named(name), Some((config, sampling_rate)), "{name}");
        }
    }

    #[test]
    fn options_are_combined() {
        let (config, rate) = named("slowfast-r101-16x8-alpha8-beta16-nl-ttoc-grey-temporal23-tconv7").unwrap();
        assert_eq!((config.frames, config.alpha, rate), (128, 8, 1));
        assert_eq!((config.beta_inv, config.temporal_blocks, config.fusion_kernel), (16, 23, 7));
        assert_eq!((config.lateral, config.fast_input), (Lateral::TimeToChannel, FastInput::Grey));
        assert_eq!(config.non_local, [(2, 6), (2, 13), (2, 20)]);
    }

    #[test]
    fn other_names_are_rejected() {
        for name in [
            "slowfast",
            "slowfast-r18",
            "slow-r50-8x8-ttoc",
            "slow-r50-grey",
            "slowfast-r50-8",
            "slowfast-r50-0x8",
            "yolov5n",
            "slowfast-r50-8x8-alpha3",
            "slowfast-r50-8x8-alpha0",
            "slowfast-r50-8x1",
            "slowfast-r50-ava2",
            "slowfast-r50-",
        ] {
            assert_eq!(named(name), None, "{name}");
        }
    }
}
