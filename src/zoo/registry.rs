//! The named models of the zoo: their networks and sizes, and their official checkpoints.

use crate::error::{Error, Result};
use crate::nearest::nearest;
use crate::zoo::{Network, slowfast, yolov5};

/// A model of the zoo.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ZooModel {
    /// The name that `models build` and `models pull` take.
    pub name: &'static str,
    /// A one-line summary for humans.
    pub summary: &'static str,
    /// Number of parameters, with batch norms folded.
    pub parameters: u64,
    /// Multiply-adds for one clip or picture. `None` if frames may have any size.
    pub multiply_adds: Option<u64>,
    /// The published checkpoint, if there is one.
    pub official: Option<Official>,
}

/// A published checkpoint.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Official {
    /// URL of its directory, ending in `/`.
    pub base: &'static str,
    /// Its file name at that URL and in a mirror.
    pub file: &'static str,
    /// SPDX identifier of its licence.
    pub licence: &'static str,
    /// Published accuracy: each metric and its value in percent.
    pub accuracy: &'static [(&'static str, f64)],
}

impl Official {
    /// The publisher's name of the model.
    pub fn stem(&self) -> &'static str {
        self.file.rsplit_once('.').map_or(self.file, |(stem, _)| stem)
    }
}

/// The listed models, the default ones first. More names exist: [`network`] also accepts options after a name.
#[rustfmt::skip]
pub const MODELS: &[ZooModel] = &[
    model("slowfast-r50-8x8", "actions in 64-frame clips", 34_536_144, Some(65_708_888_064),
        kinetics("SLOWFAST_8x8_R50.pyth", &[(TOP_1, 76.94), (TOP_5, 92.69)])),
    model("slowfast-r50-4x16", "like slowfast-r50-8x8 with half as many Slow frames", 34_449_872, Some(36_099_198_976),
        kinetics("SLOWFAST_4x16_R50.pyth", &[(TOP_1, 75.34), (TOP_5, 91.89)])),
    model("slowfast-r101-8x8", "like slowfast-r50-8x8, twice as deep", 62_767_248, Some(125_905_539_072),
        kinetics("SLOWFAST_8x8_R101.pyth", &[(TOP_1, 77.90), (TOP_5, 93.27)])),
    model("slowfast-r101-16x8", "twice as deep, actions in 128-frame clips", 53_715_088, Some(213_021_233_152),
        kinetics("SLOWFAST_16x8_R101_50_50.pyth", &[(TOP_1, 78.70), (TOP_5, 93.61)])),
    model("slowfast-r101-16x8-nl", "like slowfast-r101-16x8 with non-local blocks: the paper's best", 60_014_224,
        Some(233_153_892_352), None),
    model("slowfast-r50-8x8-ava", "actions of each person in 64-frame clips", 33_798_544, None,
        ava("SLOWFAST_8x8_R50_DETECTION.pyth", &[(MAP, 24.67)])),
    model("slowfast-tiny", "R50 8x8 with an eighth of the channels at 64 pixels: for trying out a job", 645_812,
        Some(93_786_624), None),
    model("slowfast-tiny-ava", "slowfast-tiny for the actions of each person", 553_332, None, None),
    model("slow-r50-8x8", "only the Slow pathway", 32_427_536, Some(54_518_382_592),
        kinetics("SLOW_8x8_R50.pyth", &[(TOP_1, 74.58), (TOP_5, 91.63)])),
    model("slow-r50-4x16", "like slow-r50-8x8 with half as many frames", 32_427_536, Some(27_259_600_896),
        kinetics("SLOW_4x16_R50.pyth", &[(TOP_1, 72.40), (TOP_5, 90.18)])),
    model("slow-r50-4x16-ava", "slow-r50-4x16 for the actions of each person", 31_771_856, None,
        ava("SLOW_4x16_R50_DETECTION.pyth", &[(MAP, 19.5)])),
    model("fast-r50-32x2", "only the Fast pathway: small and fast", 613_632, Some(6_899_732_480), None),
    model("yolov5n", "objects in pictures of 640 pixels", 1_867_405, Some(2_234_060_800),
        coco("yolov5n.pt", &[(AP, 28.0)])),
    model("yolov5s", "more accurate and slower than yolov5n", 7_225_885, Some(8_216_780_800), coco("yolov5s.pt", &[(AP, 37.4)])),
    model("yolov5m", "more accurate and slower than yolov5s", 21_172_173, Some(24_436_224_000), coco("yolov5m.pt", &[(AP, 45.4)])),
    model("yolov5l", "more accurate and slower than yolov5m", 46_533_693, Some(54_496_870_400), coco("yolov5l.pt", &[(AP, 49.0)])),
    model("yolov5x", "more accurate and slower than yolov5l", 86_705_005, Some(102_724_096_000), coco("yolov5x.pt", &[(AP, 50.7)])),
    model("yolov5n6", "objects in pictures of 1280 pixels", 3_239_884, Some(9_118_105_600),
        coco("yolov5n6.pt", &[(AP, 36.0)])),
    model("yolov5s6", "more accurate and slower than yolov5n6", 12_612_508, Some(33_594_572_800),
        coco("yolov5s6.pt", &[(AP, 44.8)])),
    model("yolov5m6", "more accurate and slower than yolov5s6", 35_704_908, Some(99_824_025_600), coco("yolov5m6.pt", &[(AP, 51.3)])),
    model("yolov5l6", "more accurate and slower than yolov5m6", 76_726_332, Some(222_470_144_000), coco("yolov5l6.pt", &[(AP, 53.7)])),
    model("yolov5x6", "more accurate and slower than yolov5l6", 140_730_220, Some(419_129_344_000),
        coco("yolov5x6.pt", &[(AP, 55.0)])),
    model("yolov5s-v5", "yolov5s as of releases 4.0 and 5.0", 7_266_973, Some(8_478_924_800), None),
];

/// The SPDX identifier of YOLOv5's licence.
pub const AGPL: &str = "AGPL-3.0";

const TOP_1: &str = "Kinetics-400 top-1";
const TOP_5: &str = "Kinetics-400 top-5";
const MAP: &str = "AVA 2.2 mAP";
const AP: &str = "COCO val AP";

const fn model(
    name: &'static str,
    summary: &'static str,
    parameters: u64,
    multiply_adds: Option<u64>,
    official: Option<Official>,
) -> ZooModel {
    ZooModel { name, summary, parameters, multiply_adds, official }
}

/// A checkpoint of PyTorchVideo, with the accuracy in its model zoo (three crops of ten clips).
const fn kinetics(file: &'static str, accuracy: &'static [(&'static str, f64)]) -> Option<Official> {
    let base = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/";
    Some(Official { base, file, licence: "Apache-2.0", accuracy })
}

/// A checkpoint of PyTorchVideo for persons' actions.
const fn ava(file: &'static str, accuracy: &'static [(&'static str, f64)]) -> Option<Official> {
    let base = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/ava/";
    Some(Official { base, file, licence: "Apache-2.0", accuracy })
}

/// A checkpoint of YOLOv5 release 7.0, with the accuracy in its README.
const fn coco(file: &'static str, accuracy: &'static [(&'static str, f64)]) -> Option<Official> {
    let base = "https://github.com/ultralytics/yolov5/releases/download/v7.0/";
    Some(Official { base, file, licence: AGPL, accuracy })
}

/// The network of this name, listed or not.
///
/// # Errors
/// If there is no such network. The message suggests the most similar name, and the hint lists all.
pub fn network(name: &str) -> Result<Network> {
    let slowfast = || slowfast::named(name).map(|(config, sampling_rate)| Network::SlowFast(config, sampling_rate));
    let found = slowfast().or_else(|| yolov5::named(name).map(Network::Yolov5));
    found.ok_or_else(|| {
        let names: Vec<&str> = MODELS.iter().map(|model| model.name).collect();
        let suggestion = nearest(name, &names).map(|near| format!(": did you mean `{near}`?")).unwrap_or_default();
        Error::usage(format!("the zoo has no model `{name}`{suggestion}")).with_hint(format!(
            "the models are {}. Suffixes of a SlowFast's name: {}. Suffixes of a YOLOv5's name: {}",
            names.join(", "),
            slowfast::OPTIONS,
            yolov5::OPTIONS
        ))
    })
}

/// The name and the official checkpoint of a model, by its name or by its publisher's (`SLOWFAST_8x8_R50`).
///
/// # Errors
/// If there is no such model, or no official checkpoint of it.
pub fn official(name: &str) -> Result<(&'static str, Official)> {
    let published = MODELS.iter().filter_map(|model| Some((model.name, model.official?)));
    let found = published.into_iter().find(|(own, official)| *own == name || official.stem() == name);
    found.ok_or_else(|| match network(name) {
        Ok(_) => Error::usage(format!("there are no official weights of `{name}`")).with_hint(
            "`vidindex models list` shows what can be pulled; `vidindex models convert` converts your own checkpoint",
        ),
        Err(error) => error,
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::zoo::inspect;
    use crate::zoo::weights::Weights;

    /// Counting only needs the shapes.
    struct Zeros;

    impl Weights for Zeros {
        fn tensor(&mut self, _: &str, shape: &[usize]) -> Result<Vec<f32>> {
            Ok(vec![0.0; shape.iter().product()])
        }
    }

    #[test]
    fn every_model_is_as_large_as_listed() {
        let mut wrong = Vec::new();
        for model in MODELS {
            let graph = network(model.name).unwrap().graph(&mut Zeros).unwrap().graph.unwrap();
            let counted = inspect::count(&graph);
            if counted != (model.parameters, model.multiply_adds) {
                wrong.push(format!("{}: {counted:?}", model.name));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn names_are_distinguished() {
        assert!(MODELS.iter().all(|model| MODELS.iter().filter(|other| other.name == model.name).count() == 1));
        assert!(network("slowfast-r101-16x8-ttoc-grey-ava").is_ok());
        let error = network("yolo5n").unwrap_err();
        assert_eq!(error.to_string(), "the zoo has no model `yolo5n`: did you mean `yolov5n`?");
        assert!(error.hint().unwrap().contains("slowfast-r50-8x8, "));
        assert_eq!(network("resnet-50").unwrap_err().to_string(), "the zoo has no model `resnet-50`");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn a_checkpoint_is_found_by_either_name() {
        assert_eq!(official("SLOWFAST_8x8_R50").unwrap(), official("slowfast-r50-8x8").unwrap());
        assert_eq!(official("yolov5x6").unwrap().1.file, "yolov5x6.pt");
        let error = official("yolov5s-v5").unwrap_err().to_string();
        assert_eq!(error, "there are no official weights of `yolov5s-v5`");
        assert!(official("yolov9").unwrap_err().to_string().starts_with("the zoo has no model `yolov9`"));
    }
}
