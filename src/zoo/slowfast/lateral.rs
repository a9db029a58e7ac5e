//! The lateral connections, which pass Fast's features to the Slow pathway.

use super::blocks::normed;
use super::{Lateral, SlowFastConfig};
use crate::error::Result;
use crate::zoo::graph::{GraphBuilder, Value, Window};

/// The convolution produces this many times Fast's channels.
const CONVOLUTION_RATIO: usize = 2;

/// Appends Fast's features, reduced to one in `alpha` frames, to Slow's channels.
pub(super) fn fuse(
    graph: &mut GraphBuilder<'_>,
    config: &SlowFastConfig,
    stage: usize,
    slow: &Value,
    fast: &Value,
) -> Result<Value> {
    let mut every = |first: usize| graph.slice(fast, 1, first..fast.shape[1], config.alpha);
    let lateral = match config.lateral {
        Lateral::Convolution | Lateral::BareConvolution => {
            let name = format!("blocks.{stage}.multipathway_fusion");
            let (conv, norm) = (format!("{name}.conv_fast_to_slow"), format!("{name}.norm"));
            let window = Window::same(&[config.fusion_kernel, 1, 1], &[config.alpha, 1, 1]);
            let channels = fast.shape[0] * CONVOLUTION_RATIO;
            vec![match config.lateral {
                Lateral::BareConvolution => graph.unbiased_conv(&conv, fast, channels, &window)?,
                _ => {
                    let lateral = normed(graph, &conv, &norm, fast, channels, &window)?;
                    graph.relu(&lateral)
                }
            }]
        }
        Lateral::TimeToChannel => (0..config.alpha).map(every).collect(),
        Lateral::Sampling => vec![every(0)],
    };
    let all: Vec<&Value> = std::iter::once(slow).chain(&lateral).collect();
    Ok(graph.concat(&all, 0))
}
