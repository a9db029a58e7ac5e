//! Operators that select by position: pooling below boxes, and attention between positions.

use super::{BOXES, FREE, GraphBuilder, Value, float, int, node, number, string};

/// How the similarity of two positions is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Affinity {
    /// The product of their features, divided by the number of positions.
    #[default]
    DotProduct,
    /// The softmax of the product divided by the square root of the number of channels.
    Softmax,
}

impl GraphBuilder<'_> {
    /// Extracts the features below each box, `[channels, side, side]`, by averaging points interpolated between the
    /// pixels of `[channels, height, width]` (He et al., 2017; torchvision's `RoIAlign` with `aligned=False` and one
    /// point per pixel).
    ///
    /// Adds the input `boxes`, `[boxes, 5]`: index in the batch, x1, y1, x2, y2. `scale` converts these coordinates to
    /// pixels of the value. Everything that is built afterwards has one row per box instead of one per batch element.
    pub fn roi_align(&mut self, input: &Value, boxes: &str, side: usize, scale: f32) -> Value {
        self.rows = BOXES;
        let boxes = self.input(boxes, &[5]);
        let columns = self.split(&boxes, 0, &[1, 4]);
        let number = format!("Cast_{}", self.graph.node.len());
        let to_integer = vec![int("to", i64::from(number::INT64))];
        self.graph.node.push(node("Cast", &number, &[&columns[0].name], &number, to_integer));
        let everything = self.integers(&[-1]);
        let flat = format!("Reshape_{}", self.graph.node.len());
        self.graph.node.push(node("Reshape", &flat, &[&number, &everything], &flat, vec![]));
        let output = self.fresh("RoiAlign", vec![input.shape[0], side, side]);
        let attributes = vec![
            string("mode", "avg"),
            string("coordinate_transformation_mode", "output_half_pixel"),
            int("output_height", side as i64),
            int("output_width", side as i64),
            int("sampling_ratio", 0),
            float("spatial_scale", scale),
        ];
        self.add_node("RoiAlign", &[&input.name, &columns[1].name, &flat], output, attributes)
    }

    /// Attention of every position to all positions. The result has the shape of `query` (`[channels, ...]`): for each
    /// of its positions the sum of `value` over all positions, weighted by the affinity of `query` there and `key`.
    /// `key` and `value` have the same number of channels; they have fewer positions if they were pooled.
    pub fn attend(&mut self, query: &Value, key: &Value, value: &Value, affinity: Affinity) -> Value {
        let channels = query.shape[0];
        let mut flat = |of: &Value| self.reshape(of, &[channels, of.shape[1..].iter().product()]);
        let (positions, keys, values) = (flat(query), flat(key), flat(value));
        let keys_across = self.transpose(&keys, &[1, 0]);
        let seen = match affinity {
            // (value keyT) query equals value (keyT query), but never needs a matrix of positions by positions.
            Affinity::DotProduct => {
                let weights = self.matmul(&values, &keys_across);
                let weights = self.over_length(&weights, &keys);
                self.matmul(&weights, &positions)
            }
            Affinity::Softmax => {
                let scale = self.constant(&[1, 1], &[(channels as f32).powf(-0.5)]);
                let alike = self.matmul(&keys_across, &positions);
                let alike = self.mul(&alike, &scale);
                let weights = self.fresh("Softmax", alike.shape.clone());
                let weights = self.add_node("Softmax", &[&alike.name], weights, vec![int("axis", 1)]);
                self.matmul(&values, &weights)
            }
        };
        self.reshape_like(&seen, query)
    }

    /// The matrix product of `[m, k]` and `[k, n]`.
    fn matmul(&mut self, a: &Value, b: &Value) -> Value {
        let output = self.fresh("MatMul", vec![a.shape[0], b.shape[1]]);
        self.add_node("MatMul", &[&a.name, &b.name], output, vec![])
    }

    /// Divides a matrix by the number of columns of another.
    fn over_length(&mut self, input: &Value, of: &Value) -> Value {
        if of.shape[1] != FREE {
            let scale = self.constant(&[1, 1], &[1.0 / of.shape[1] as f32]);
            return self.mul(input, &scale);
        }
        let length = format!("Shape_{}", self.graph.node.len());
        self.graph.node.push(node("Shape", &length, &[&of.name], &length, vec![int("start", 2)]));
        let divisor = format!("Cast_{}", self.graph.node.len());
        let to_float = vec![int("to", i64::from(number::FLOAT))];
        self.graph.node.push(node("Cast", &divisor, &[&length], &divisor, to_float));
        let output = self.fresh("Div", input.shape.clone());
        self.add_node("Div", &[&input.name, &divisor], output, vec![])
    }
}
