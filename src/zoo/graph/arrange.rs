//! Operators that move elements without computing: concatenate, split, slice, reshape, transpose.

use std::ops::Range;

use super::{FREE, GraphBuilder, Value, int, ints, node};

impl GraphBuilder<'_> {
    /// Concatenates values along `axis` (0 is the channels).
    pub fn concat(&mut self, values: &[&Value], axis: usize) -> Value {
        let mut shape = values[0].shape.clone();
        shape[axis] = values.iter().map(|value| value.shape[axis]).sum();
        let names: Vec<&str> = values.iter().map(|value| value.name.as_str()).collect();
        let output = self.fresh("Concat", shape);
        self.add_node("Concat", &names, output, vec![int("axis", axis as i64 + 1)])
    }

    /// Splits a value into pieces of these lengths along `axis` (0 is the channels).
    pub fn split(&mut self, input: &Value, axis: usize, lengths: &[usize]) -> Vec<Value> {
        let number = self.graph.node.len();
        let lengths_name = self.integers(&lengths.iter().map(|&length| length as i64).collect::<Vec<_>>());
        let pieces: Vec<Value> = (lengths.iter().enumerate())
            .map(|(piece, &length)| {
                let mut shape = input.shape.clone();
                shape[axis] = length;
                Value { name: format!("Split_{number}_{piece}"), shape }
            })
            .collect();
        let attributes = vec![int("axis", axis as i64 + 1)];
        let mut split = node("Split", &format!("Split_{number}"), &[&input.name, &lengths_name], "", attributes);
        split.output = pieces.iter().map(|piece| piece.name.clone()).collect();
        self.graph.node.push(split);
        let infos: Vec<_> = pieces.iter().map(|piece| self.info(piece)).collect();
        self.graph.value_info.extend(infos);
        pieces
    }

    /// Takes every `step`-th element of this range along `axis` (0 is the channels).
    pub fn slice(&mut self, input: &Value, axis: usize, range: Range<usize>, step: usize) -> Value {
        let mut shape = input.shape.clone();
        shape[axis] = range.len().div_ceil(step);
        let [start, end, axes, step] =
            [range.start, range.end, axis + 1, step].map(|number| self.integers(&[number as i64]));
        let output = self.fresh("Slice", shape);
        self.add_node("Slice", &[&input.name, &start, &end, &axes, &step], output, vec![])
    }

    /// Changes the shape. One of the lengths may be [`FREE`].
    pub fn reshape(&mut self, input: &Value, shape: &[usize]) -> Value {
        let size = |&length: &usize| if length == FREE { -1 } else { length as i64 };
        // 0 keeps the batch dimension.
        let sizes: Vec<i64> = std::iter::once(0).chain(shape.iter().map(size)).collect();
        let sizes = self.integers(&sizes);
        let output = self.fresh("Reshape", shape.into());
        self.add_node("Reshape", &[&input.name, &sizes], output, vec![])
    }

    /// Reorders the dimensions. `order` counts those after the batch from 0.
    pub fn transpose(&mut self, input: &Value, order: &[usize]) -> Value {
        let shape = order.iter().map(|&axis| input.shape[axis]).collect();
        let order: Vec<usize> = std::iter::once(0).chain(order.iter().map(|axis| axis + 1)).collect();
        let output = self.fresh("Transpose", shape);
        self.add_node("Transpose", &[&input.name], output, vec![ints("perm", &order)])
    }

    /// Changes the shape to that of `like`, including free lengths.
    pub(super) fn reshape_like(&mut self, input: &Value, like: &Value) -> Value {
        if !like.shape.contains(&FREE) {
            return self.reshape(input, &like.shape);
        }
        let sizes = format!("Shape_{}", self.graph.node.len());
        self.graph.node.push(node("Shape", &sizes, &[&like.name], &sizes, vec![]));
        let output = self.fresh("Reshape", like.shape.clone());
        self.add_node("Reshape", &[&input.name, &sizes], output, vec![])
    }
}
