//! Parameter names: PySlowFast's and wrapped ones brought into the form that the zoo's networks ask for, PyTorchVideo's and
//! YOLOv5's own.

use std::collections::BTreeMap;

use regex::Regex;

/// PySlowFast's patterns and what they become, with two pathways. `$s` is a stage's number less one, put in below.
const PYSLOWFAST: [(&str, &str); 9] = [
    (r"^s1\.pathway(\d)_stem\.conv\.", "blocks.0.multipathway_blocks.$1.conv."),
    (r"^s1\.pathway(\d)_stem\.bn\.", "blocks.0.multipathway_blocks.$1.norm."),
    (r"^s(\d)_fuse\.conv_f2s\.", "blocks.<$1>.multipathway_fusion.conv_fast_to_slow."),
    (r"^s(\d)_fuse\.bn\.", "blocks.<$1>.multipathway_fusion.norm."),
    (r"^s(\d)\.pathway(\d)_res(\d+)\.branch1(_bn)?\.", "blocks.<$1>.multipathway_blocks.$2.res_blocks.$3.branch1<$4>."),
    (
        r"^s(\d)\.pathway(\d)_res(\d+)\.branch2\.([abc])(_bn)?\.",
        "blocks.<$1>.multipathway_blocks.$2.res_blocks.$3.branch2<$5>_$4.",
    ),
    (r"^s(\d)\.pathway(\d)_nonlocal(\d+)\.bn\.", "blocks.<$1>.multipathway_blocks.$2.nonlocal$3.norm."),
    (r"^s(\d)\.pathway(\d)_nonlocal(\d+)\.", "blocks.<$1>.multipathway_blocks.$2.nonlocal$3."),
    (r"^head\.projection\.", "blocks.6.proj."),
];

/// The name without the wrappers of training in parallel, and PySlowFast's in PyTorchVideo's words.
pub(super) fn official(name: &str) -> String {
    let name = name.strip_prefix("module.").unwrap_or(name);
    for (pattern, official) in PYSLOWFAST {
        let Ok(pattern) = Regex::new(pattern) else { continue };
        if pattern.is_match(name) {
            let name = pattern.replace(name, official);
            return finish(&name);
        }
    }
    name.to_owned()
}

/// Puts in what a replacement alone cannot: stages counted from 0, and convolutions told from norms.
fn finish(name: &str) -> String {
    let mut name = name.to_owned();
    for stage in 1..=5 {
        name = name.replace(&format!("<{stage}>"), &(stage - 1).to_string());
    }
    let name = name.replace("branch1<>", "branch1_conv").replace("branch1<_bn>", "branch1_norm");
    name.replace("branch2<>", "branch2.conv").replace("branch2<_bn>", "branch2.norm")
}

/// With one pathway, PyTorchVideo's names know of none: PySlowFast's `pathway0` goes, and the head is a block earlier.
pub(super) fn of_networks<T>(parameters: BTreeMap<String, T>) -> BTreeMap<String, T> {
    let is_single = parameters.keys().any(|name| name.contains(".multipathway_blocks.0."))
        && !parameters.keys().any(|name| name.contains(".multipathway_blocks.1."));
    if !is_single {
        return parameters;
    }
    let single =
        |name: String| name.replace(".multipathway_blocks.0.", ".").replacen("blocks.6.proj.", "blocks.5.proj.", 1);
    parameters.into_iter().map(|(name, value)| (single(name), value)).collect()
}

/// Counters of the training, and YOLOv5's copy of its anchors in pixels: no part of any network.
pub(super) fn is_bookkeeping(name: &str) -> bool {
    name.ends_with(".num_batches_tracked") || name.ends_with(".anchor_grid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pyslowfasts_names_become_pytorchvideos() {
        for (own, expected) in [
            ("s1.pathway1_stem.bn.running_mean", "blocks.0.multipathway_blocks.1.norm.running_mean"),
            ("s1_fuse.conv_f2s.weight", "blocks.0.multipathway_fusion.conv_fast_to_slow.weight"),
            ("s4_fuse.bn.bias", "blocks.3.multipathway_fusion.norm.bias"),
            ("s3.pathway0_res2.branch2.a.weight", "blocks.2.multipathway_blocks.0.res_blocks.2.branch2.conv_a.weight"),
            ("s3.pathway0_res2.branch2.c_bn.bias", "blocks.2.multipathway_blocks.0.res_blocks.2.branch2.norm_c.bias"),
            ("s5.pathway1_res0.branch1.weight", "blocks.4.multipathway_blocks.1.res_blocks.0.branch1_conv.weight"),
            ("s5.pathway1_res0.branch1_bn.weight", "blocks.4.multipathway_blocks.1.res_blocks.0.branch1_norm.weight"),
            ("s4.pathway0_nonlocal6.conv_theta.weight", "blocks.3.multipathway_blocks.0.nonlocal6.conv_theta.weight"),
            ("s4.pathway0_nonlocal6.bn.weight", "blocks.3.multipathway_blocks.0.nonlocal6.norm.weight"),
            ("module.head.projection.bias", "blocks.6.proj.bias"),
            ("model.24.m.0.bias", "model.24.m.0.bias"),
        ] {
            assert_eq!(official(own), expected);
        }
    }

    #[test]
    fn a_single_pathway_has_no_number() {
        let names = ["s1.pathway0_stem.conv.weight", "s2.pathway0_res0.branch2.a.weight", "head.projection.weight"];
        let names = of_networks(names.into_iter().map(|name| (official(name), ())).collect());
        let expected = ["blocks.0.conv.weight", "blocks.1.res_blocks.0.branch2.conv_a.weight", "blocks.5.proj.weight"];
        assert!(names.keys().eq(expected.iter()));
    }
}
