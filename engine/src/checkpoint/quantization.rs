//! Which modules of a checkpoint are quantised, and how.
//!
//! Reads the `quantization` object MLX writes into config.json: defaults, and overrides by module
//! path. MLX's affine layout and mxfp4 are accepted; every other scheme is refused by name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::error::CheckpointError;
use crate::Quantization;

/// Quantisation of every module of a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QuantizationConfig {
    default: Option<Quantization>,
    overrides: BTreeMap<String, Option<Quantization>>,
    /// Modules that have a `scales` tensor.
    packed: BTreeSet<String>,
}

impl QuantizationConfig {
    /// How the module at `path` (such as `model.layers.0.mlp.up_proj`) is quantised, or `None`
    /// when its weight is stored in a float type.
    pub fn for_module(&self, path: &str) -> Option<Quantization> {
        if !self.packed.contains(path) {
            return None;
        }
        self.overrides.get(path).copied().unwrap_or(self.default)
    }

    /// True when no module is quantised.
    pub fn is_empty(&self) -> bool {
        self.packed.is_empty()
    }

    /// The quantisation most modules share, for display.
    pub fn default_quantization(&self) -> Option<Quantization> {
        self.default.filter(|_| !self.is_empty())
    }

    /// The `quantization` object for config.json, or `None` when nothing is quantised.
    pub fn to_json(&self) -> Option<Value> {
        let default = self.default_quantization()?;
        let mut object = entry(default);
        object.entry("mode").or_insert(json!(AFFINE));
        for (path, quantization) in &self.overrides {
            let value = match quantization {
                Some(q) if self.packed.contains(path) => Value::Object(entry(*q)),
                _ => json!(false),
            };
            object.insert(path.clone(), value);
        }
        Some(Value::Object(object))
    }

    /// From what is known of each quantised module; the most frequent choice becomes the default.
    pub(super) fn from_modules(modules: BTreeMap<String, Quantization>) -> Self {
        let mut counts: Vec<(Quantization, usize)> = Vec::new();
        for quantization in modules.values() {
            match counts.iter_mut().find(|(q, _)| q == quantization) {
                Some((_, count)) => *count += 1,
                None => counts.push((*quantization, 1)),
            }
        }
        let default = counts.iter().max_by_key(|(_, count)| *count).map(|(q, _)| *q);
        let packed = modules.keys().cloned().collect();
        let overrides = modules
            .into_iter()
            .filter(|(_, q)| Some(*q) != default)
            .map(|(path, q)| (path, Some(q)))
            .collect();
        Self { default, overrides, packed }
    }

    /// From config.json and the names of the tensors present.
    pub(super) fn from_config<'a>(
        config: &Value,
        file: &Path,
        names: impl Iterator<Item = &'a str>,
    ) -> Result<Self, CheckpointError> {
        let refuse = |what: String| CheckpointError::unsupported(file, what);
        let packed: BTreeSet<String> =
            names.filter_map(|name| name.strip_suffix(".scales")).map(str::to_owned).collect();
        let section = ["quantization", "quantization_config"]
            .into_iter()
            .find_map(|key| config.get(key).filter(|value| !value.is_null()));
        let Some(section) = section else {
            if let Some(module) = packed.first() {
                return Err(refuse(format!(
                    "has no quantization entry, but the weights hold {module}.scales; convert the model again"
                )));
            }
            return Ok(Self::default());
        };
        let Some(section) = section.as_object() else {
            return Err(refuse("has a quantization entry that is not an object".into()));
        };
        if let Some(method) = section.get("quant_method").and_then(Value::as_str) {
            return Err(refuse(format!(
                "uses quantisation method {method}, which is not supported; supported: MLX affine, MLX mxfp4"
            )));
        }
        let default = parse_entry(section, "quantization").map_err(refuse)?;
        let mut overrides = BTreeMap::new();
        for (path, value) in section {
            match value {
                Value::Bool(false) => {
                    overrides.insert(path.clone(), None);
                }
                Value::Bool(true) if path.contains('.') => {
                    overrides.insert(path.clone(), Some(default));
                }
                Value::Object(entry) => {
                    overrides.insert(path.clone(), Some(parse_entry(entry, path).map_err(refuse)?));
                }
                _ => {}
            }
        }
        if let Some(module) = packed.iter().find(|module| overrides.get(*module) == Some(&None)) {
            return Err(refuse(format!(
                "says {module} is not quantised, but the weights hold {module}.scales"
            )));
        }
        Ok(Self { default: Some(default), overrides, packed })
    }

    /// The same after modules were renamed; `None` drops a module.
    pub(super) fn renamed(self, rename: &dyn Fn(&str) -> Option<String>) -> Self {
        // Rules speak of tensors, so a module travels as the name of its weight.
        let module = |path: &str| {
            let weight = rename(&format!("{path}.weight"))?;
            weight.strip_suffix(".weight").map(str::to_owned)
        };
        Self {
            default: self.default,
            overrides: self.overrides.into_iter().filter_map(|(path, q)| Some((module(&path)?, q))).collect(),
            packed: self.packed.iter().filter_map(|path| module(path)).collect(),
        }
    }
}

/// An entry of the `quantization` object; of the modes, affine goes without saying in those of modules.
fn entry(quantization: Quantization) -> Map<String, Value> {
    let mut entry = Map::new();
    entry.insert("group_size".into(), json!(quantization.group_size()));
    entry.insert("bits".into(), json!(quantization.bits()));
    if quantization == Quantization::Mxfp4 {
        entry.insert("mode".into(), json!(MXFP4));
    }
    entry
}

fn parse_entry(entry: &Map<String, Value>, path: &str) -> Result<Quantization, String> {
    let number = |key: &str, allowed: &[u32]| {
        let value = entry.get(key).ok_or_else(|| format!("has no {key} in {path}"))?;
        let number = value.as_u64().and_then(|value| u32::try_from(value).ok());
        number
            .filter(|number| allowed.contains(number))
            .ok_or_else(|| format!("has {key} {value} in {path}; supported: {allowed:?}"))
    };
    match entry.get("mode").map_or(Some(AFFINE), Value::as_str) {
        Some(AFFINE) => Ok(Quantization::Affine {
            bits: number("bits", &[2, 3, 4, 5, 6, 8])?,
            group_size: number("group_size", &[32, 64, 128])?,
        }),
        Some(MXFP4) => {
            // What is left out is MLX's default for the mode, which is all there is.
            for (key, only) in [("bits", 4), ("group_size", 32)] {
                if entry.contains_key(key) {
                    number(key, &[only])?;
                }
            }
            Ok(Quantization::Mxfp4)
        }
        other => Err(format!(
            "uses quantisation mode {} for {path}, which is not supported; supported: {AFFINE}, {MXFP4}",
            other.unwrap_or("that is no text")
        )),
    }
}

const AFFINE: &str = "affine";
const MXFP4: &str = "mxfp4";
