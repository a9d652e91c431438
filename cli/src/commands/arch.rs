//! `mlxcel arch`: the architectures this build can run.

use mlxcel_engine::families;
use serde_json::json;

use crate::args::ListArgs;

pub(crate) fn run(args: &ListArgs) {
    if args.json {
        let rows = families::list().map(|family| {
            json!({"model_type": family.model_type, "family": family.family, "models": family.models})
        });
        println!("{:#}", rows.collect::<serde_json::Value>());
    } else {
        for family in families::list() {
            println!("{:<12} {:<12} {}", family.model_type, family.family, family.models);
        }
    }
}
