//! What a PySlowFast checkpoint says of its training: its `cfg`, a dump in YAML of sections and keys.

/// Settings that change the network or its input. None where the checkpoint does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Settings {
    /// `DATA.NUM_FRAMES`: frames that the Fast pathway sees, or the only one.
    pub(super) frames: Option<usize>,
    /// `DATA.SAMPLING_RATE`: frames of the video from one of those to the next.
    pub(super) sampling_rate: Option<usize>,
    /// `SLOWFAST.ALPHA`: Fast frames to each Slow one.
    pub(super) alpha: Option<usize>,
    /// `DATA.TRAIN_CROP_SIZE`: height and width of the pictures in training, in pixels.
    pub(super) trained_side: Option<usize>,
    /// `DATA.TEST_CROP_SIZE`: height and width of the pictures in its test, in pixels.
    pub(super) side: Option<usize>,
    /// `DETECTION.ENABLE`: whether it scores each person.
    pub(super) detects: bool,
}

impl Settings {
    /// Reads what is known and passes over the rest.
    pub(super) fn parse(cfg: &str) -> Self {
        let mut settings = Self::default();
        let mut section = "";
        for line in cfg.lines() {
            let Some((key, value)) = line.split_once(':') else { continue };
            if !key.starts_with(' ') {
                section = key;
                continue;
            }
            let number = value.trim().parse().ok().filter(|&number: &usize| number > 0);
            match (section, key.trim()) {
                ("DATA", "NUM_FRAMES") => settings.frames = number,
                ("DATA", "SAMPLING_RATE") => settings.sampling_rate = number,
                ("DATA", "TRAIN_CROP_SIZE") => settings.trained_side = number,
                ("DATA", "TEST_CROP_SIZE") => settings.side = number,
                ("SLOWFAST", "ALPHA") => settings.alpha = number,
                ("DETECTION", "ENABLE") => settings.detects = value.trim().eq_ignore_ascii_case("true"),
                _ => {}
            }
        }
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_from_their_own_sections() {
        let cfg = "AUG:\n  NUM_FRAMES: 1\nDATA:\n  MEAN:\n  - 0.45\n  - 0.45\n  NUM_FRAMES: 16\n  SAMPLING_RATE: 4\n  \
                   TEST_CROP_SIZE: 128\n  TRAIN_CROP_SIZE: 112\nDETECTION:\n  ENABLE: false\nSLOWFAST:\n  ALPHA: 8\n";
        let expected = Settings {
            frames: Some(16),
            sampling_rate: Some(4),
            alpha: Some(8),
            trained_side: Some(112),
            side: Some(128),
            detects: false,
        };
        assert_eq!(Settings::parse(cfg), expected);
        assert!(Settings::parse("DETECTION:\n  ENABLE: true\n").detects);
        assert_eq!(Settings::parse("of another tool"), Settings::default());
    }
}
