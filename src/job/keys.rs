//! The sections of the job file and their keys, read off the structs that hold them.

use std::sync::LazyLock;

use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor, value};
use serde::forward_to_deserialize_any;

use super::engine::{AwsBatch, Kubernetes, Slurm};
use super::reader::Place;
use super::{Actions, Input, Output, Persons, Prices, Report, Run};
use crate::error::{Error, Result};
use crate::nearest::nearest;
use crate::store::StoreConfig;

/// Every section of the job file with its keys, both in alphabetical order.
pub static SECTIONS: LazyLock<Vec<(&str, Vec<&str>)>> = LazyLock::new(|| {
    vec![
        ("actions", keys::<Actions>()),
        ("engine.aws-batch", keys::<AwsBatch>()),
        ("engine.kubernetes", keys::<Kubernetes>()),
        ("engine.slurm", keys::<Slurm>()),
        ("input", keys::<Input>()),
        ("input.store", keys::<StoreConfig>()),
        ("output", keys::<Output>()),
        ("output.store", keys::<StoreConfig>()),
        ("persons", keys::<Persons>()),
        ("prices", keys::<Prices>()),
        ("report", keys::<Report>()),
        ("run", keys::<Run>()),
        ("store", keys::<StoreConfig>()),
    ]
});

/// The keys of a section: the fields of its struct, as serde names them. A size in MiB is written with its unit, so its
/// key has none.
fn keys<T: DeserializeOwned>() -> Vec<&'static str> {
    let mut fields = FieldNames(&[]);
    // Fails once it has seen the names: there is no value to read.
    let _ = T::deserialize(&mut fields);
    let mut keys: Vec<_> = fields.0.iter().map(|name| name.strip_suffix("_mib").unwrap_or(name)).collect();
    keys.sort_unstable();
    keys
}

/// Keeps the names of the fields that a struct asks for.
struct FieldNames(&'static [&'static str]);

impl<'de> Deserializer<'de> for &mut FieldNames {
    type Error = value::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, value::Error> {
        self.0 = fields;
        self.deserialize_any(visitor)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, value::Error> {
        Err(value::Error::custom("there is no value"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// The section of this name and its keys; an error at `place` suggests the nearest name.
pub(super) fn known_section(name: &str, place: &Place) -> Result<&'static (&'static str, Vec<&'static str>)> {
    SECTIONS.iter().find(|(known, _)| *known == name).ok_or_else(|| {
        place.complain(format!("unknown section [{name}]")).with_hint(suggestion(name, &section_names(), "sections"))
    })
}

/// Checks that the section has this key; an error at `place` names the section that has it, or the nearest key.
pub(super) fn known_key(section: &str, keys: &[&str], key: &str, place: &Place) -> Result<()> {
    if keys.contains(&key) {
        return Ok(());
    }
    let home = SECTIONS.iter().find(|(_, keys)| keys.contains(&key));
    let hint = match home {
        Some((home, _)) => format!("`{key}` belongs in [{home}] (keys of [{section}]: {})", keys.join(", ")),
        None => suggestion(key, keys, "keys"),
    };
    Err(place.complain(format!("unknown key `{key}` in [{section}]")).with_hint(hint))
}

/// The error for a key at the top of the file, outside of every section.
pub(super) fn misplaced(name: &str, place: &Place) -> Error {
    let homes: Vec<_> =
        SECTIONS.iter().filter(|(_, keys)| keys.contains(&name)).map(|(home, _)| format!("[{home}]")).collect();
    if SECTIONS.iter().any(|(known, _)| *known == name) {
        return place.complain(format!("`{name}` must be a section")).with_hint(format!("write it once, as [{name}]"));
    }
    let error = place.complain(format!("the key `{name}` is outside of every section"));
    match homes.is_empty() {
        true => error.with_hint(suggestion(name, &section_names(), "sections")),
        false => error.with_hint(format!("move it to {}", homes.join(" or "))),
    }
}

fn section_names() -> Vec<&'static str> {
    SECTIONS.iter().map(|(name, _)| *name).collect()
}

/// The nearest known name, if one is near, and the list of all.
fn suggestion(unknown: &str, known: &[&str], what: &str) -> String {
    let all = format!("{what}: {}", known.join(", "));
    match nearest(unknown, known) {
        Some(near) => format!("did you mean `{near}`? ({all})"),
        None => all,
    }
}
