//! The example `cost_figure`: the zoo's models by their accuracy and their cost, as in the SlowFast paper's figure of accuracy and
//! complexity. Reads what `vidindex models list --json` prints, with or without `--cost`.
//!
//!     vidindex models list --json | cargo run --example cost_figure -- docs/images/cost.svg

use std::error::Error;

use plotters::coord::combinators::IntoLogRange as _;
use plotters::prelude::*;
use serde::Deserialize;

const SIZE: (u32, u32) = (1000, 420);
const FONT: &str = "sans-serif";

#[derive(Deserialize)]
struct Model {
    name: String,
    multiply_adds: Option<u64>,
    milliseconds: Option<f64>,
    official: Option<Official>,
}

#[derive(Deserialize)]
struct Official {
    accuracy_percent: std::collections::BTreeMap<String, f64>,
}

/// A family of models, which a line joins.
struct Family {
    name: &'static str,
    prefix: &'static str,
    suffix: &'static str,
    colour: RGBColor,
}

/// A diagram of the models that have this metric.
struct Panel {
    metric: &'static str,
    title: &'static str,
    families: &'static [Family],
}

const PANELS: [Panel; 2] = [
    Panel {
        metric: "Kinetics-400 top-1",
        title: "Kinetics-400 top-1 (30 views), percent",
        families: &[
            Family { name: "SlowFast", prefix: "slowfast-", suffix: "", colour: RGBColor(213, 94, 0) },
            Family { name: "Slow only", prefix: "slow-", suffix: "", colour: RGBColor(0, 114, 178) },
        ],
    },
    Panel {
        metric: "COCO val AP",
        title: "COCO val AP, percent",
        families: &[
            Family { name: "YOLOv5, 640 pixels", prefix: "yolov5", suffix: "", colour: RGBColor(0, 158, 115) },
            Family { name: "YOLOv5, 1280 pixels", prefix: "yolov5", suffix: "6", colour: RGBColor(204, 121, 167) },
        ],
    },
];

fn main() -> Result<(), Box<dyn Error>> {
    let out = std::env::args().nth(1).ok_or("give the file to write")?;
    let models: Vec<Model> = serde_json::from_reader(std::io::stdin())?;
    let page = SVGBackend::new(&out, SIZE).into_drawing_area();
    page.fill(&WHITE)?;
    for (area, panel) in page.split_evenly((1, 2)).iter().zip(&PANELS) {
        panel.draw(area, &models)?;
    }
    page.present()?;
    Ok(())
}

/// A model's billions of multiply-adds, its accuracy, and what is written beside it.
type Point = (f64, f64, String);

impl Panel {
    fn points(&self, family: &Family, models: &[Model]) -> Vec<Point> {
        let is_large = |model: &Model| model.name.ends_with('6') && model.name.starts_with("yolov5");
        let of_family =
            |model: &&Model| model.name.starts_with(family.prefix) && is_large(model) == (family.suffix == "6");
        let point = |model: &Model| {
            let accuracy = model.official.as_ref()?.accuracy_percent.get(self.metric)?;
            let short = model.name.trim_start_matches("slowfast-").trim_start_matches("slow-").to_owned();
            let text = match model.milliseconds {
                Some(milliseconds) => format!("{short}, {milliseconds:.0} ms"),
                None => short,
            };
            Some((model.multiply_adds? as f64 / 1e9, *accuracy, text))
        };
        let mut points: Vec<Point> = models.iter().filter(of_family).filter_map(point).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    }

    fn draw(
        &self,
        area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
        models: &[Model],
    ) -> Result<(), Box<dyn Error>> {
        let families: Vec<(&Family, Vec<Point>)> =
            self.families.iter().map(|family| (family, self.points(family, models))).collect();
        let all = || families.iter().flat_map(|(_, points)| points);
        let costs = all().map(|point| point.0).fold((f64::MAX, 0.0_f64), |(low, high), x| (low.min(x), high.max(x)));
        let values = all().map(|point| point.1).fold((f64::MAX, 0.0_f64), |(low, high), y| (low.min(y), high.max(y)));
        let margin = 0.08 * (values.1 - values.0);
        let mut chart = ChartBuilder::on(area)
            .caption(self.title, (FONT, 17))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(48)
            .build_cartesian_2d((0.7 * costs.0..3.0 * costs.1).log_scale(), values.0 - margin..values.1 + margin)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc("billions of multiply-adds for one clip or picture")
            .label_style((FONT, 13))
            .draw()?;
        for (family, points) in families {
            let colour = family.colour;
            let line = LineSeries::new(points.iter().map(|point| (point.0, point.1)), colour.stroke_width(2));
            chart
                .draw_series(line)?
                .label(family.name)
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2)));
            chart.draw_series(points.iter().map(|(x, y, text)| {
                EmptyElement::at((*x, *y))
                    + Circle::new((0, 0), 4, colour.filled())
                    + Text::new(text.clone(), (7, -5), (FONT, 12))
            }))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE)
            .border_style(BLACK.mix(0.3))
            .label_font((FONT, 13))
            .draw()?;
        Ok(())
    }
}
