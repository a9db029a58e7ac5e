//! The training settings in a PySlowFast checkpoint: its `cfg`, a YAML dump with sections and keys.

/// Settings that change the network or its input. `None` if the checkpoint does not state them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Settings {
    /// `DATA.NUM_FRAMES`: frames of the Fast pathway, or of the only pathway.
    pub(super) frames: Option<usize>,
    /// `DATA.SAMPLING_RATE`: distance between two of those frames, in frames of the video.
    pub(super) sampling_rate: Option<usize>,
    /// `SLOWFAST.ALPHA`: Fast frames per Slow frame.
    pub(super) alpha: Option<usize>,
    /// `DATA.TRAIN_CROP_SIZE`: height and width of the training pictures, pixels.
    pub(super) trained_side: Option<usize>,
    /// `DATA.TEST_CROP_SIZE`: height and width of the test pictures, pixels.
    pub(super) side: Option<usize>,
    /// `DETECTION.ENABLE`: whether the network scores each person.
    pub(super) detects: bool,
}

impl Settings {
    /// Reads the known settings and ignores the rest.
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
