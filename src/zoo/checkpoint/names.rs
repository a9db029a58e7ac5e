//! Parameter names: translates the names that training tools give to the parameters of a SlowFast or a YOLOv5 into the
//! official names (PyTorchVideo's and YOLOv5's own), which the zoo's networks use.
//!
//! References: `slowfast/utils/c2_model_loading.py` of facebookresearch/SlowFast for the Caffe2 names;
//! `mmaction/models/backbones/resnet3d_slowfast.py` of open-mmlab/mmaction2.

use std::collections::BTreeMap;

use regex::{Captures, Regex};

/// Prefixes that wrappers add to each name: data parallelism, and a class that holds the network.
const WRAPPERS: [&str; 2] = ["module.", "model."];
/// Prefix that `torch.compile` adds to the names of what it compiled, at any level of the network.
const COMPILED: &str = "_orig_mod.";

/// A pattern, and a function that returns the official name of what it matches.
type Rule = (&'static str, fn(&Captures<'_>) -> String);

const RULES: [Rule; 20] = [
    // PySlowFast: s1 is the stem, s2 to s5 are the stages.
    (r"^s1\.pathway([01])_stem\.(conv|bn)\.([a-z_]+)$", |c| stem(part(c, 1), part(c, 2), part(c, 3))),
    (r"^s([1-4])_fuse\.(conv_f2s|bn)\.([a-z_]+)$", |c| fusion(before(part(c, 1)), part(c, 2), part(c, 3))),
    (r"^s([2-5])\.pathway([01])_res([0-9]+)\.branch1(_bn)?\.([a-z_]+)$", |c| {
        shortcut(before(part(c, 1)), part(c, 2), part(c, 3), part(c, 4), part(c, 5))
    }),
    (r"^s([2-5])\.pathway([01])_res([0-9]+)\.branch2\.([abc])(_bn)?\.([a-z_]+)$", |c| {
        branch([before(part(c, 1)), part(c, 2), part(c, 3)], part(c, 4), part(c, 5), part(c, 6))
    }),
    (r"^s([2-5])\.pathway([01])_nonlocal([0-9]+)\.(bn|conv_[a-z_]+)\.([a-z_]+)$", |c| {
        non_local([before(part(c, 1)), part(c, 2), part(c, 3)], part(c, 4), part(c, 5))
    }),
    (r"^head\.projection\.([a-z_]+)$", |c| head(part(c, 1))),
    // Caffe2, with `t_` for the Fast pathway.
    (r"^(t_)?(?:res_)?conv1(_bn)?_(w|b|s|rm|riv)$", |c| stem(part(c, 1), part(c, 2), leaf(part(c, 3)))),
    (r"^t_pool1_subsample(_bn)?_(w|b|s|rm|riv)$", |c| fusion("0", part(c, 1), leaf(part(c, 2)))),
    (r"^t_res([2-4])_[0-9]+_branch2c_bn_subsample(_bn)?_(w|b|s|rm|riv)$", |c| {
        fusion(before(part(c, 1)), part(c, 2), leaf(part(c, 3)))
    }),
    (r"^(t_)?res([2-5])_([0-9]+)_branch1(_bn)?_(w|b|s|rm|riv)$", |c| {
        shortcut(before(part(c, 2)), part(c, 1), part(c, 3), part(c, 4), leaf(part(c, 5)))
    }),
    (r"^(t_)?res([2-5])_([0-9]+)_branch2([abc])(_bn)?_(w|b|s|rm|riv)$", |c| {
        branch([before(part(c, 2)), part(c, 1), part(c, 3)], part(c, 4), part(c, 5), leaf(part(c, 6)))
    }),
    (r"^nonlocal_conv([2-5])_([0-9]+)_bn_(w|b|s|rm|riv)$", |c| {
        non_local([before(part(c, 1)), "0", part(c, 2)], "bn", leaf(part(c, 3)))
    }),
    (r"^nonlocal_conv([2-5])_([0-9]+)_(theta|phi|g|out)_(w|b)$", |c| {
        non_local([before(part(c, 1)), "0", part(c, 2)], &format!("conv_{}", part(c, 3)), leaf(part(c, 4)))
    }),
    (r"^pred_(w|b)$", |c| head(leaf(part(c, 1)))),
    // mmaction2: layer1 to layer4 are the stages.
    (r"^backbone\.(slow|fast)_path\.conv1\.(conv|bn)\.([a-z_]+)$", |c| stem(part(c, 1), part(c, 2), part(c, 3))),
    (r"^backbone\.slow_path\.conv1_lateral\.(conv|bn)\.([a-z_]+)$", |c| fusion("0", part(c, 1), part(c, 2))),
    (r"^backbone\.slow_path\.layer([1-3])_lateral\.(conv|bn)\.([a-z_]+)$", |c| {
        fusion(part(c, 1), part(c, 2), part(c, 3))
    }),
    (r"^backbone\.(slow|fast)_path\.layer([1-4])\.([0-9]+)\.downsample\.(conv|bn)\.([a-z_]+)$", |c| {
        shortcut(part(c, 2), part(c, 1), part(c, 3), part(c, 4), part(c, 5))
    }),
    (r"^backbone\.(slow|fast)_path\.layer([1-4])\.([0-9]+)\.conv([123])\.(conv|bn)\.([a-z_]+)$", |c| {
        branch([part(c, 2), part(c, 1), part(c, 3)], part(c, 4), part(c, 5), part(c, 6))
    }),
    (r"^cls_head\.fc_cls\.([a-z_]+)$", |c| head(part(c, 1))),
];

/// What a group matched, or an empty text.
fn part<'c>(captures: &'c Captures<'_>, group: usize) -> &'c str {
    captures.get(group).map_or("", |found| found.as_str())
}

/// The digit before this one, because the official names count stages from 0.
fn before(digit: &str) -> &'static str {
    match digit {
        "1" => "0",
        "2" => "1",
        "3" => "2",
        "4" => "3",
        _ => "4",
    }
}

fn leaf(caffe2: &str) -> &'static str {
    match caffe2 {
        "b" => "bias",
        "rm" => "running_mean",
        "riv" => "running_var",
        _ => "weight",
    }
}

fn kind(layer: &str) -> &'static str {
    if layer.ends_with("bn") { "norm" } else { "conv" }
}

fn pathway(index: &str) -> &'static str {
    if matches!(index, "1" | "t_" | "fast") { "1" } else { "0" }
}

fn stem(index: &str, layer: &str, leaf: &str) -> String {
    format!("blocks.0.multipathway_blocks.{}.{}.{leaf}", pathway(index), kind(layer))
}

fn fusion(block: &str, layer: &str, leaf: &str) -> String {
    let layer = if kind(layer) == "norm" { "norm" } else { "conv_fast_to_slow" };
    format!("blocks.{block}.multipathway_fusion.{layer}.{leaf}")
}

fn shortcut(block: &str, index: &str, unit: &str, layer: &str, leaf: &str) -> String {
    let (index, layer) = (pathway(index), kind(layer));
    format!("blocks.{block}.multipathway_blocks.{index}.res_blocks.{unit}.branch1_{layer}.{leaf}")
}

fn branch([block, index, unit]: [&str; 3], which: &str, layer: &str, leaf: &str) -> String {
    let which = match which {
        "1" => "a",
        "2" => "b",
        "3" => "c",
        letter => letter,
    };
    let (index, layer) = (pathway(index), kind(layer));
    format!("blocks.{block}.multipathway_blocks.{index}.res_blocks.{unit}.branch2.{layer}_{which}.{leaf}")
}

fn non_local([block, index, unit]: [&str; 3], layer: &str, leaf: &str) -> String {
    let (index, layer) = (pathway(index), if layer == "bn" { "norm" } else { layer });
    format!("blocks.{block}.multipathway_blocks.{index}.nonlocal{unit}.{layer}.{leaf}")
}

fn head(leaf: &str) -> String {
    format!("blocks.6.proj.{leaf}")
}

/// Maps the official names to the parameters and their names in the file.
///
/// # Errors
/// If two parameters have the same official name, because the file contains two networks.
pub(super) fn official<T>(parameters: Vec<(String, T)>) -> Result<BTreeMap<String, (String, T)>, String> {
    let rules: Vec<(Regex, Rule)> =
        RULES.into_iter().filter_map(|rule| Some((Regex::new(rule.0).ok()?, rule))).collect();
    let translate = |own: &str| {
        let own = own.replace(COMPILED, "");
        let bare = without_wrappers(&own);
        let found = rules.iter().find_map(|(pattern, rule)| Some(rule.1(&pattern.captures(bare)?)));
        found.unwrap_or_else(|| bare.to_owned())
    };
    let mut names: Vec<String> = parameters.iter().map(|(own, _)| translate(own)).collect();
    let is_detection = names.iter().any(|name| name.starts_with("detection_head."));
    let is_single = names.iter().any(|name| name.contains(".multipathway_blocks.0."))
        && !names.iter().any(|name| name.contains(".multipathway_blocks.1."));
    for name in &mut names {
        if is_single {
            // PyTorchVideo does not number a single pathway, and its head is one block earlier.
            *name = name.replace(".multipathway_blocks.0.", ".").replacen("blocks.6.proj.", "blocks.5.proj.", 1);
        }
        // Official names that begin like a wrapper: YOLOv5's numbered layers, and the network below a detection head.
        if name.starts_with(|first: char| first.is_ascii_digit()) || is_detection && name.starts_with("blocks.") {
            name.insert_str(0, "model.");
        }
    }
    let mut official: BTreeMap<String, (String, T)> = BTreeMap::new();
    for (name, (own, value)) in names.into_iter().zip(parameters) {
        if let Some((other, _)) = official.get(&name) {
            return Err(format!(
                "`{other}` and `{own}` are the same parameter, so the file holds more than one network"
            ));
        }
        official.insert(name, (own, value));
    }
    Ok(official)
}

fn without_wrappers(name: &str) -> &str {
    match WRAPPERS.iter().find_map(|wrapper| name.strip_prefix(wrapper)) {
        Some(inner) => without_wrappers(inner),
        None => name,
    }
}

/// Whether this is a training counter or YOLOv5's copy of its anchors in pixels, which are not part of any network.
pub(super) fn is_bookkeeping(name: &str) -> bool {
    name.ends_with(".num_batches_tracked") || name.ends_with(".anchor_grid")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn translated(names: &[&str]) -> Vec<String> {
        names
            .iter()
            // A parameter of the second pathway keeps the names from being taken for those of a single pathway.
            .map(|name| {
                let beside = "blocks.0.multipathway_blocks.1.other".to_owned();
                let names = official(vec![((*name).to_owned(), ()), (beside.clone(), ())]).unwrap();
                names.into_keys().find(|name| *name != beside).unwrap()
            })
            .collect()
    }

    #[test]
    fn every_trainers_names_become_the_official_ones() {
        for (owns, expected) in [
            (
                ["s1.pathway1_stem.bn.running_mean", "t_res_conv1_bn_rm", "backbone.fast_path.conv1.bn.running_mean"],
                "blocks.0.multipathway_blocks.1.norm.running_mean",
            ),
            (
                ["s1.pathway0_stem.conv.weight", "conv1_w", "backbone.slow_path.conv1.conv.weight"],
                "blocks.0.multipathway_blocks.0.conv.weight",
            ),
            (
                ["s1_fuse.conv_f2s.weight", "t_pool1_subsample_w", "backbone.slow_path.conv1_lateral.conv.weight"],
                "blocks.0.multipathway_fusion.conv_fast_to_slow.weight",
            ),
            (
                ["s4_fuse.bn.bias", "t_res4_5_branch2c_bn_subsample_bn_b", "backbone.slow_path.layer3_lateral.bn.bias"],
                "blocks.3.multipathway_fusion.norm.bias",
            ),
            (
                [
                    "s3.pathway0_res2.branch2.a.weight",
                    "res3_2_branch2a_w",
                    "backbone.slow_path.layer2.2.conv1.conv.weight",
                ],
                "blocks.2.multipathway_blocks.0.res_blocks.2.branch2.conv_a.weight",
            ),
            (
                [
                    "s3.pathway1_res2.branch2.c_bn.running_var",
                    "t_res3_2_branch2c_bn_riv",
                    "backbone.fast_path.layer2.2.conv3.bn.running_var",
                ],
                "blocks.2.multipathway_blocks.1.res_blocks.2.branch2.norm_c.running_var",
            ),
            (
                [
                    "s5.pathway1_res0.branch1_bn.weight",
                    "t_res5_0_branch1_bn_s",
                    "backbone.fast_path.layer4.0.downsample.bn.weight",
                ],
                "blocks.4.multipathway_blocks.1.res_blocks.0.branch1_norm.weight",
            ),
            (["head.projection.bias", "pred_b", "cls_head.fc_cls.bias"], "blocks.6.proj.bias"),
        ] {
            assert_eq!(translated(&owns), [expected; 3]);
        }
        assert_eq!(
            translated(&["s4.pathway0_nonlocal6.conv_theta.weight", "nonlocal_conv4_6_theta_w"]),
            ["blocks.3.multipathway_blocks.0.nonlocal6.conv_theta.weight"; 2]
        );
        assert_eq!(
            translated(&["s4.pathway0_nonlocal6.bn.weight", "nonlocal_conv4_6_bn_s"]),
            ["blocks.3.multipathway_blocks.0.nonlocal6.norm.weight"; 2]
        );
    }

    #[test]
    fn a_single_pathway_has_no_number() {
        let names = ["s1.pathway0_stem.conv.weight", "res2_0_branch2a_w", "head.projection.weight"];
        let names = official(names.into_iter().map(|name| (name.to_owned(), ())).collect()).unwrap();
        let expected = ["blocks.0.conv.weight", "blocks.1.res_blocks.0.branch2.conv_a.weight", "blocks.5.proj.weight"];
        assert!(names.keys().eq(expected.iter()));
    }

    #[test]
    fn two_networks_in_a_file_are_not_mixed() {
        let names = ["model.0.conv.weight", "module.model.0.conv.weight"];
        let error = official(names.map(|name| (name.to_owned(), ())).into()).unwrap_err();
        assert!(names.iter().all(|name| error.contains(&format!("`{name}`"))), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn wrappers_in_any_order_change_nothing(wrappers in proptest::collection::vec(0..3_usize, 0..5), is_inner: bool) {
            let inner = if is_inner { "._orig_mod." } else { "." };
            let known = [WRAPPERS[0], WRAPPERS[1], COMPILED];
            let prefix: String = wrappers.into_iter().map(|wrapper| known[wrapper]).collect();
            for network in [
                ["model.24.anchors", "model.0.conv.weight"],
                ["model.blocks.0.multipathway_blocks.1.conv.weight", "detection_head.proj.weight"],
                ["blocks.0.multipathway_blocks.1.conv.weight", "blocks.6.proj.weight"],
            ] {
                let wrapped = network.iter().map(|name| (format!("{prefix}{}", name.replacen('.', inner, 1)), ())).collect();
                let mut expected = network;
                expected.sort_unstable();
                prop_assert!(official(wrapped).unwrap().keys().eq(expected.iter()));
            }
        }
    }
}
