//! Detectors: recognizes which of three output layouts an ONNX file has, and determines what else a job needs to know
//! about it.
//!
//! A YOLO predicts on a pyramid of grids, so its number of boxes follows from its input size: 640x640 pixels give
//! 80x80 + 40x40 + 20x20 = 8400 cells at 8, 16 and 32 pixels per cell. If the output's shape fits more than one layout,
//! the exporter's metadata or the descriptor decides; otherwise the model is rejected.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, SeqAccess, Visitor};

use crate::error::{Error, Result};
use crate::zoo::descriptor::{Descriptor, LabelSet, Labels, Origin, is_pictures, line, name_file};
use crate::zoo::exporter::Exported;
use crate::zoo::graph::PRODUCER;
use crate::zoo::inspect::{ModelInfo, TensorInfo};

/// Pixels per cell of each grid: the usual pyramid, P6, and P2.
const PYRAMIDS: [&[usize]; 3] = [&[8, 16, 32], &[8, 16, 32, 64], &[4, 8, 16, 32]];
/// Number of boxes that a YOLOv5 predicts per cell.
const ANCHORS: usize = 3;
/// Rows in the output of a pose model: box, one score, 17 keypoints with three values each.
const POSE_ROWS: usize = 4 + 1 + 51;
/// Input sides must be a multiple of this, which is the cell size of the usual pyramid's coarsest grid.
const SIDE_STEP: usize = 32;
/// Input side of the official models, which is the default.
const USUAL_SIDE: usize = 640;

/// Layout of a detector's output. Coordinates are pixels of its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// `[n, 3 x cells, 5 + classes]`: centre, width, height, objectness, and a score for each class. YOLOv5, YOLOv7.
    Yolov5,
    /// `[n, 4 + classes, cells]`: centre, width, height, and a score for each class. YOLOv5u, YOLOv8, v9, v11, v12.
    Yolov8,
    /// `[n, boxes, 6]`: two corners, score and class, already selected inside the graph (NMS or top k). YOLOv10, and
    /// exports with `nms=True`.
    Yolov10,
}

/// Height and width of a picture, pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// A detector's head, classes and input size.
#[derive(Debug, Clone, PartialEq)]
pub struct DetectorDescriptor {
    /// Layout of its output: the descriptor's `kind`.
    pub head: Head,
    /// Names of the classes, in the order of the scores.
    pub labels: Labels,
    /// Size of the letterboxed picture: the descriptor's `side`.
    pub size: Size,
    /// Where the weights come from.
    pub weights: Origin,
}

/// The keys of a detector's descriptor. Missing ones are taken from the model.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DetectorKeys {
    pub(super) labels: Option<Labels>,
    pub(super) side: Option<Size>,
    #[serde(default)]
    pub(super) weights: Origin,
}

/// A detector's input and output.
#[derive(Debug, Clone, Copy)]
pub struct DetectorTensors<'a> {
    /// The pictures, `[n, 3, height, width]`.
    pub images: &'a TensorInfo,
    /// The boxes, in the layout of the model's [`Head`].
    pub boxes: &'a TensorInfo,
}

impl Head {
    const ALL: [Self; 3] = [Self::Yolov5, Self::Yolov8, Self::Yolov10];

    /// The layout's name in a descriptor.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Yolov5 => "yolov5",
            Self::Yolov8 => "yolov8",
            Self::Yolov10 => "yolov10",
        }
    }

    pub(super) fn named(kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|head| head.kind() == kind)
    }

    /// Whether an output with these dimensions (`None` if unknown) can have this layout. `is_named` means that the
    /// descriptor or the exporter names the layout; then any number of anchors is accepted.
    fn fits(self, rows: Option<usize>, columns: Option<usize>, size: Size, is_named: bool) -> bool {
        match self {
            Self::Yolov5 => {
                let is_grid = |rows, cells| if is_named { rows % cells == 0 } else { rows == ANCHORS * cells };
                let are_boxes = |rows| size.cells().any(|cells| is_grid(rows, cells));
                rows.is_none_or(are_boxes) && columns.is_none_or(|columns| columns > 5)
            }
            Self::Yolov8 => {
                let are_boxes = |columns| size.cells().any(|cells| columns == cells);
                rows.is_none_or(|rows| rows > 4) && columns.is_none_or(are_boxes)
            }
            Self::Yolov10 if is_named => columns.is_none_or(|columns| columns == 6),
            Self::Yolov10 => {
                let is_grid = |rows| size.cells().any(|cells| rows % cells == 0);
                columns == Some(6) && !rows.is_some_and(is_grid)
            }
        }
    }

    /// The number of classes, if the output's shape implies it.
    fn classes(self, rows: Option<usize>, columns: Option<usize>) -> Option<usize> {
        match self {
            Self::Yolov5 => columns?.checked_sub(5),
            Self::Yolov8 => rows?.checked_sub(4),
            Self::Yolov10 => None,
        }
    }
}

impl Size {
    /// A square of this side, pixels.
    pub fn square(side: usize) -> Self {
        Self { height: side, width: side }
    }

    /// The number of cells of each pyramid whose strides divide this size.
    fn cells(self) -> impl Iterator<Item = usize> {
        let Self { height, width } = self;
        let fits = move |strides: &&&[usize]| {
            strides.iter().all(|&stride| height.is_multiple_of(stride) && width.is_multiple_of(stride))
        };
        let cells = move |strides: &&[usize]| strides.iter().map(|&stride| height / stride * (width / stride)).sum();
        PYRAMIDS.iter().filter(fits).map(cells)
    }
}

impl fmt::Display for Size {
    /// The notation of a descriptor.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { height, width } if height == width => height.fmt(f),
            Self { height, width } => write!(f, "[{height}, {width}]"),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct OneOrTwo;

        impl<'de> Visitor<'de> for OneOrTwo {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of pixels, or [height, width]")
            }

            fn visit_i64<E: serde::de::Error>(self, side: i64) -> std::result::Result<Size, E> {
                let wrong = |_| E::invalid_value(serde::de::Unexpected::Signed(side), &self);
                usize::try_from(side).map(Size::square).map_err(wrong)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<Size, A::Error> {
                let mut next = |at| items.next_element()?.ok_or_else(|| A::Error::invalid_length(at, &self));
                let size = Size { height: next(0)?, width: next(1)? };
                match items.next_element::<usize>()? {
                    None => Ok(size),
                    Some(_) => Err(A::Error::invalid_length(3, &self)),
                }
            }
        }

        deserializer.deserialize_any(OneOrTwo)
    }
}

impl Default for DetectorDescriptor {
    /// A YOLOv5 with the classes of COCO at 640 pixels.
    fn default() -> Self {
        Self {
            head: Head::Yolov5,
            labels: Labels::Set(LabelSet::Coco80),
            size: Size::square(USUAL_SIDE),
            weights: Origin::Trained,
        }
    }
}

impl DetectorDescriptor {
    /// Describes a model, given the kind and keys of its descriptor if it has one. Also returns the warning that every
    /// run logs about its labels.
    ///
    /// # Errors
    /// If the model is not a detector (the message says what it is, if known), the descriptor contradicts it, or
    /// nothing determines its layout or class names.
    pub(super) fn of_model(model: &ModelInfo, written: Option<(Head, DetectorKeys)>) -> Result<(Self, Option<String>)> {
        let (head, written) = written.map_or((None, None), |(head, written)| (Some(head), Some(written)));
        let DetectorKeys { labels: written_labels, side, weights } = written.unwrap_or_default();
        let exported = Exported::of(model);
        if let Some(what) = other_kind(model, &exported) {
            return Err(mistake(model, format!("it is {what}, and [persons] needs a detector")).with_hint(
                "export a model of the task `detect`, for example: yolo export model=yolo11n.pt format=onnx",
            ));
        }
        let tensors = detector_tensors(model)?;
        let size = input_size(model, tensors.images, side, exported.size)?;
        let file_labels = match &exported.names {
            Some(Ok(names)) => Some(Labels::of_names(names)),
            Some(Err(why)) if written_labels.is_none() => {
                return Err(mistake(model, format!("failed to read its metadata `names`: {why}"))
                    .with_hint(format!("name its classes in {}", Descriptor::path(&model.path).display())));
            }
            _ => None,
        };
        let classes = file_labels.as_ref().or(written_labels.as_ref()).map(Labels::len);
        let head = recognised(model, tensors.boxes, size, &exported, head, classes)?;
        let own_classes = head.classes(tensors.boxes.fixed(1), tensors.boxes.fixed(2));
        let settled = Labels::settle(file_labels, written_labels, own_classes, LabelSet::Coco80);
        let (labels, warning) = settled.map_err(|error| name_file(&model.path, error))?;
        Ok((Self { head, labels, size, weights }, warning))
    }

    /// Whether an output of this shape has the layout [`Self::head`], for a batch of `pictures`.
    pub fn accepts(&self, pictures: usize, shape: &[i64]) -> bool {
        let length = |length: i64| usize::try_from(length).ok();
        let [n, rows, columns] = *shape else { return false };
        let (rows, columns) = (length(rows), length(columns));
        length(n) == Some(pictures)
            && self.head.fits(rows, columns, self.size, true)
            && self.head.classes(rows, columns).is_none_or(|classes| classes == self.labels.len())
    }

    pub(super) fn to_toml(&self) -> String {
        let side = if self.size.height == self.size.width { "height and width" } else { "[height, width]" };
        [
            line("kind", format!("\"{}\"", self.head.kind()), ""),
            line("labels", self.labels.to_toml(), "in the order of the scores: a built-in set or a list"),
            line("side", self.size, &format!("{side} of the letterboxed picture")),
            self.weights.to_toml(),
        ]
        .concat()
    }
}

/// Finds a detector's input, and the first output that can be boxes.
///
/// # Errors
/// If the model has no such input or output.
pub fn detector_tensors(model: &ModelInfo) -> Result<DetectorTensors<'_>> {
    // Rank 0 also represents a shape that the file does not state.
    let may_be_boxes = |output: &&TensorInfo| output.element.is_float() && matches!(output.shape.len(), 0 | 3);
    match model.inputs.as_slice() {
        [images] if is_pictures(images, 4) => model.outputs.iter().find(may_be_boxes).map(|boxes| (images, boxes)),
        _ => None,
    }
    .map(|(images, boxes)| DetectorTensors { images, boxes })
    .ok_or_else(|| {
        let list = |tensors: &[TensorInfo]| tensors.iter().map(TensorInfo::to_string).collect::<Vec<_>>().join(", ");
        let found = format!("found {} -> {}", list(&model.inputs), list(&model.outputs));
        mistake(model, format!("expected a detector's pictures [n, 3, H, W] -> boxes of three dimensions; {found}"))
    })
}

/// The input size: the graph's if it is fixed, otherwise the descriptor's, the exporter's, or the default.
fn input_size(
    model: &ModelInfo,
    images: &TensorInfo,
    written: Option<Size>,
    exported: Option<[usize; 2]>,
) -> Result<Size> {
    let exported = exported.map(|[height, width]| Size { height, width });
    let own = written.or(exported).unwrap_or(Size::square(USUAL_SIDE));
    let size = Size { height: images.fixed(2).unwrap_or(own.height), width: images.fixed(3).unwrap_or(own.width) };
    if written.is_some_and(|written| written != size) {
        let toml = Descriptor::path(&model.path);
        let what = format!("`side` is {own}, but the model was built for {size}");
        return Err(Error::usage(format!("{}: {what}", toml.display())));
    }
    let fits = |side: usize| side > 0 && side.is_multiple_of(SIDE_STEP);
    if fits(size.height) && fits(size.width) {
        return Ok(size);
    }
    Err(mistake(model, format!("the sides of its input must be multiples of {SIDE_STEP}, but are {size}")))
}

/// Says what an unsupported model is, if its metadata or its outputs show it.
fn other_kind(model: &ModelInfo, exported: &Exported) -> Option<String> {
    if !model.inputs.iter().all(|input| is_pictures(input, 4)) {
        return None;
    }
    let outputs = || model.outputs.iter().filter(|output| output.element.is_float());
    let of_rank = |rank: usize| outputs().any(|output| output.shape.len() == rank);
    let has_masks = outputs().any(|output| output.shape.len() == 4 && output.fixed(1) == Some(32));
    let what = match exported.task.as_deref() {
        Some("segment") => "a segmentation model",
        Some("obb") => "a model of oriented boxes (OBB)",
        Some("pose") => "a pose model",
        Some("classify") => "a classifier of whole pictures",
        Some("detect") | None if exported.description.to_lowercase().contains("rtdetr") => "an RT-DETR",
        Some("detect") | None if has_masks => "a segmentation model",
        Some("detect") => return None,
        Some(task) => return Some(format!("a model of the task `{task}`")),
        None if of_rank(3) || of_rank(0) => return None,
        None if of_rank(5) => "a YOLOv5 of raw heads, which are not decoded",
        None if of_rank(2) => "a classifier of whole pictures",
        None => return None,
    };
    Some(what.to_owned())
}

/// The only layout that the output can have, by its shape and then by the exporter's metadata.
fn recognised(
    model: &ModelInfo,
    boxes: &TensorInfo,
    size: Size,
    exported: &Exported,
    written: Option<Head>,
    classes: Option<usize>,
) -> Result<Head> {
    let (rows, columns) = (boxes.fixed(1), boxes.fixed(2));
    let is_own = model.producer == PRODUCER;
    let exporter = exported.picks_boxes.then_some(Head::Yolov10).or(is_own.then_some(Head::Yolov5));
    let certain = written.or(exporter);
    let mut heads = Head::ALL.to_vec();
    heads.retain(|&head| head.fits(rows, columns, size, certain == Some(head)));
    if let Some(certain) = certain {
        if heads.contains(&certain) {
            return Ok(certain);
        }
        let whose = if written.is_some() { "its descriptor's `kind`" } else { "its exporter" };
        let what = format!("{whose} says `{}`, but its output is {boxes} for {size} pixels", certain.kind());
        return Err(mistake(model, what).with_hint(expected(size)));
    }
    let is_open = heads.len() > 1;
    if is_open && classes.is_some() {
        heads.retain(|head| head.classes(rows, columns).is_none_or(|own| classes == Some(own)));
    }
    if heads.len() > 1 {
        match (&exported.task, &exported.names) {
            (Some(_), _) => heads.retain(|head| *head != Head::Yolov5),
            // YOLOv5's own exporter writes no task.
            (None, Some(_)) => heads.retain(|head| *head == Head::Yolov5),
            (None, None) => {}
        }
    }
    match heads.as_slice() {
        // Without names, 52 classes cannot be distinguished from one class with 17 keypoints.
        [Head::Yolov8] if rows == Some(POSE_ROWS) && classes.is_none() => {
            Err(mistake(model, format!("its output {boxes} is that of a pose model"))
                .with_hint("export a model of the task `detect`; one of 52 classes must name them"))
        }
        [head] => Ok(*head),
        _ => {
            let is_grid = |rows| size.cells().any(|cells| rows == cells);
            let why = match rows {
                _ if is_open => "several detectors have this output shape",
                Some(rows) if is_grid(rows) => "a YOLOX or YOLOv6 (one box per cell, scores last) is not supported",
                _ => "this is not a supported detector",
            };
            Err(mistake(model, format!("its output is {boxes} for {size} pixels: {why}")).with_hint(expected(size)))
        }
    }
}

/// The hint that lists the supported outputs for this input size.
fn expected(size: Size) -> String {
    let cells = size.cells().next().unwrap_or_default();
    format!(
        "expected [n, {}, 5 + classes] (kind = \"yolov5\"), [n, 4 + classes, {cells}] (\"yolov8\") or [n, boxes, 6] \
         (\"yolov10\"); set `kind` and `labels` in a descriptor beside the model if the file does not determine them",
        ANCHORS * cells
    )
}

fn mistake(model: &ModelInfo, what: String) -> Error {
    Error::usage(format!("{}: {what}", model.path.display()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::zoo::descriptor::tests::model;

    /// Describes a model with this input, output and metadata. A dimension of 0 is free.
    fn of(
        images: &[usize],
        output: &[usize],
        metadata: &[(&str, &str)],
    ) -> Result<(DetectorDescriptor, Option<String>)> {
        of_outputs(images, &[("output0", output)], metadata, None)
    }

    fn of_outputs(
        images: &[usize],
        outputs: &[(&str, &[usize])],
        metadata: &[(&str, &str)],
        written: Option<(Head, DetectorKeys)>,
    ) -> Result<(DetectorDescriptor, Option<String>)> {
        let mut info = model(&[("images", images)], outputs);
        info.metadata = metadata.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        DetectorDescriptor::of_model(&info, written)
    }

    fn written(head: Head, labels: &[&str], side: Option<Size>) -> Option<(Head, DetectorKeys)> {
        let labels = labels.iter().map(|&label| label.to_owned()).collect::<Vec<_>>();
        Some((
            head,
            DetectorKeys {
                labels: (!labels.is_empty()).then_some(Labels::List(labels)),
                side,
                ..DetectorKeys::default()
            },
        ))
    }

    const SQUARE: [usize; 4] = [1, 3, 640, 640];
    const FREE: [usize; 4] = [0, 3, 0, 0];

    #[test]
    fn heads_are_recognized_by_the_cells_of_the_input() {
        for (images, output, head, classes) in [
            (SQUARE, [1, 25_200, 85], Head::Yolov5, 80),
            (SQUARE, [1, 25_200, 6], Head::Yolov5, 1),
            (SQUARE, [1, 84, 8_400], Head::Yolov8, 80),
            (SQUARE, [1, 5, 8_400], Head::Yolov8, 1),
            // Any size, any batch, both orientations.
            ([4, 3, 320, 320], [4, 6_300, 7], Head::Yolov5, 2),
            ([4, 3, 320, 320], [4, 6, 2_100], Head::Yolov8, 2),
            ([1, 3, 384, 640], [1, 15_120, 85], Head::Yolov5, 80),
            ([1, 3, 384, 640], [1, 84, 5_040], Head::Yolov8, 80),
            // P6 and P2.
            ([1, 3, 1280, 1280], [1, 102_000, 85], Head::Yolov5, 80),
            ([1, 3, 1280, 1280], [1, 84, 34_000], Head::Yolov8, 80),
            (SQUARE, [1, 84, 34_000], Head::Yolov8, 80),
            // A small grid that looks like channels.
            ([1, 3, 64, 64], [1, 84, 84], Head::Yolov8, 80),
            ([1, 3, 64, 64], [1, 252, 7], Head::Yolov5, 2),
            // With free sides, at 640 pixels.
            (FREE, [0, 0, 85], Head::Yolov5, 80),
            (FREE, [0, 84, 0], Head::Yolov8, 80),
        ] {
            let (found, _) = of(&images, &output, &[]).unwrap();
            assert_eq!((found.head, found.labels.len()), (head, classes), "{images:?} -> {output:?}");
        }
    }

    #[test]
    fn boxes_that_the_graph_selects_need_names() {
        let names = ("names", "{0: 'cat', 1: 'person'}");
        for (output, metadata) in [
            ([1, 300, 6], vec![names]),
            ([4, 300, 6], vec![names, ("task", "detect")]),
            // `max_det=84` equals the number of cells at 64 pixels; the exporter's metadata decides.
            ([1, 84, 6], vec![names, ("end2end", "True")]),
            ([1, 84, 6], vec![names, ("args", "{'batch': 1, 'half': False, 'nms': True}")]),
            ([0, 0, 0], vec![names, ("task", "detect"), ("args", "{'nms': True}")]),
        ] {
            let (found, warning) = of(&[output[0], 3, 64, 64], &output, &metadata).unwrap();
            assert_eq!((found.head, found.labels.names()), (Head::Yolov10, vec!["cat", "person"]), "{output:?}");
            assert_eq!(warning, None);
        }
        let error = of(&SQUARE, &[1, 300, 6], &[]).unwrap_err();
        assert!(error.to_string().ends_with("the names of its classes are unknown"), "{error}");
        assert!(error.hint().unwrap().contains("`labels` in the TOML file beside it"));
        let (found, _) =
            of_outputs(&SQUARE, &[("o", &[1, 300, 6])], &[], written(Head::Yolov10, &["person"], None)).unwrap();
        assert_eq!(found.labels.names(), ["person"]);
    }

    #[test]
    fn names_and_exporters_decide_what_shapes_leave_open() {
        let n = |classes: usize| {
            let names = (0..classes).map(|class| format!("{class}: 'n{class}'"));
            format!("{{{}}}", names.collect::<Vec<_>>().join(", "))
        };
        // 3 x 84 boxes of 79 classes, or 84 cells of 248 classes.
        let both = [1, 252, 84];
        let small = [1, 3, 64, 64];
        assert!(of(&small, &both, &[]).unwrap_err().to_string().ends_with("several detectors have this output shape"));
        assert_eq!(of(&small, &both, &[("names", &n(79))]).unwrap().0.head, Head::Yolov5);
        assert_eq!(of(&small, &both, &[("names", &n(248))]).unwrap().0.head, Head::Yolov8);
        // YOLOv5's exporter writes no task; later exporters do.
        let names = n(1);
        let open = [0, 0, 0];
        assert_eq!(of(&FREE, &open, &[("names", &names)]).unwrap().0.head, Head::Yolov5);
        assert_eq!(of(&FREE, &open, &[("names", &names), ("task", "detect")]).unwrap().0.head, Head::Yolov8);
        assert_eq!(of(&FREE, &[], &[("names", &names), ("task", "detect")]).unwrap().0.head, Head::Yolov8);
        assert_eq!(of(&FREE, &[0, 0, 6], &[("names", &names)]).unwrap().0.head, Head::Yolov5);
        assert_eq!(of(&FREE, &[0, 0, 6], &[("names", &names), ("task", "detect")]).unwrap().0.head, Head::Yolov10);
        assert_eq!(of(&FREE, &[0, 0, 6], &[("names", &n(2))]).unwrap().0.head, Head::Yolov10);
        let error = of(&FREE, &open, &[]).unwrap_err();
        assert!(error.to_string().contains("several detectors have this output shape"), "{error}");
        let found = of_outputs(&FREE, &[("o", &open)], &[], written(Head::Yolov8, &["a"], None)).unwrap();
        assert_eq!(found.0.head, Head::Yolov8);
    }

    #[test]
    fn the_size_is_the_graphs_the_descriptors_or_the_exporters() {
        let size = |images: &[usize], metadata: &[(&str, &str)], side: Option<Size>| {
            let written = side.and_then(|side| written(Head::Yolov8, &[], Some(side)));
            of_outputs(images, &[("o", &[0, 84, 0])], metadata, written).map(|found| found.0.size)
        };
        let oblong = Size { height: 384, width: 640 };
        assert_eq!(size(&FREE, &[], None).unwrap(), Size::square(640));
        assert_eq!(size(&FREE, &[("imgsz", "[384, 640]")], None).unwrap(), oblong);
        assert_eq!(size(&FREE, &[("imgsz", "[384, 640]")], Some(Size::square(320))).unwrap(), Size::square(320));
        assert_eq!(size(&[1, 3, 384, 640], &[("imgsz", "[320, 320]")], None).unwrap(), oblong);
        assert_eq!(size(&[1, 3, 384, 0], &[("imgsz", "[320, 640]")], None).unwrap(), oblong);
        let error = size(&[1, 3, 384, 640], &[], Some(Size::square(640))).unwrap_err().to_string();
        assert!(error.ends_with("m.toml: `side` is 640, but the model was built for [384, 640]"), "{error}");
        for side in [Size::square(100), Size::square(0), Size { height: 640, width: 650 }] {
            let error = size(&FREE, &[], Some(side)).unwrap_err().to_string();
            assert!(error.contains("must be multiples of 32"), "{error}");
        }
    }

    #[test]
    fn other_networks_are_refused_by_name() {
        let boxes = |output: &'static [usize]| vec![("output0", output)];
        for (outputs, metadata, what) in [
            (vec![("output0", &[1, 116, 8400][..]), ("output1", &[1, 32, 160, 160])], vec![], "a segmentation model"),
            (vec![("output0", &[1, 25200, 117]), ("output1", &[1, 32, 160, 160])], vec![], "a segmentation model"),
            (boxes(&[1, 300, 38]), vec![("task", "segment")], "a segmentation model"),
            (boxes(&[1, 20, 8400]), vec![("task", "obb")], "a model of oriented boxes (OBB)"),
            (boxes(&[1, 56, 8400]), vec![("task", "pose")], "a pose model"),
            (boxes(&[1, 56, 8400]), vec![], "a pose model"),
            (boxes(&[1, 1000]), vec![("task", "classify")], "a classifier"),
            (boxes(&[1, 1000]), vec![], "a classifier"),
            (boxes(&[1, 1, 640, 640]), vec![("task", "depth")], "a model of the task `depth`"),
            (
                boxes(&[1, 300, 6]),
                vec![("task", "detect"), ("description", "Ultralytics rtdetr-l model trained on x.yaml")],
                "an RT-DETR",
            ),
            (vec![("raw0", &[1, 3, 80, 80, 85]), ("raw1", &[1, 3, 40, 40, 85])], vec![], "a YOLOv5 of raw heads"),
            (boxes(&[1, 8400, 85]), vec![], "a YOLOX or YOLOv6"),
            (boxes(&[1, 8400, 6]), vec![], "a YOLOX or YOLOv6"),
            (boxes(&[1, 300, 84]), vec![], "this is not a supported detector"),
            (boxes(&[1, 84, 8401]), vec![], "this is not a supported detector"),
            (boxes(&[1, 25_201, 85]), vec![], "this is not a supported detector"),
            (boxes(&[1, 84, 8400]), vec![("args", "{'nms': True}")], "says `yolov10`, but its output"),
        ] {
            let error = of_outputs(&SQUARE, &outputs, &metadata, None).unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
            assert_eq!((error.exit_code(), error.hint().is_some()), (2, true), "{error}");
        }
        let error = of_outputs(&SQUARE, &[("o", &[1, 84, 8400])], &[], written(Head::Yolov5, &[], None)).unwrap_err();
        assert!(error.to_string().contains("`kind` says `yolov5`, but its output is"), "{error}");
        let pose_like = of(&SQUARE, &[1, 56, 8400], &[("names", &format!("{:?}", vec!["x"; 52]))]).unwrap().0;
        assert_eq!(pose_like.labels.len(), 52);
    }

    #[test]
    fn names_of_other_classes_than_the_output_has_are_refused() {
        // An OBB model of 15 classes without a task: it has one more column than names.
        let names = format!("{:?}", (0..15).map(|class| format!("n{class}")).collect::<Vec<_>>());
        let error = of(&SQUARE, &[1, 20, 8400], &[("names", &names)]).unwrap_err().to_string();
        assert!(error.ends_with("its metadata names 15 classes, but the model has 16"), "{error}");
        let error = of(&SQUARE, &[1, 6, 8400], &[("names", "{0: person")]).unwrap_err().to_string();
        assert!(error.ends_with("failed to read its metadata `names`: unexpected `p` at character 5"), "{error}");
        let named = written(Head::Yolov8, &["cat", "dog"], None);
        let (found, _) = of_outputs(&SQUARE, &[("o", &[1, 6, 8400])], &[("names", "{0: person")], named).unwrap();
        assert_eq!(found.labels.names(), ["cat", "dog"]);
    }

    #[test]
    fn an_output_at_run_time_must_have_the_declared_shape() {
        let (two, _) = of(&FREE, &[0, 6, 0], &[("names", "['a', 'b']")]).unwrap();
        for (shape, is_promised) in [
            (vec![2, 6, 8400], true),
            (vec![1, 6, 8400], false),
            (vec![2, 7, 8400], false),
            (vec![2, 6, 8401], false),
            (vec![2, 25_200, 7], false),
            (vec![2, 6], false),
        ] {
            assert_eq!(two.accepts(2, &shape), is_promised, "{shape:?}");
        }
    }
}
