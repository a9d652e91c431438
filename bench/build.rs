//! Lets tests and programs of this package find the MLX library at run time.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let args = std::env::var("DEP_MLX_LINK_ARGS").unwrap_or_default();
    for arg in args.split(';').filter(|arg| !arg.is_empty()) {
        println!("cargo::rustc-link-arg={arg}");
    }
}
