//! What is being built for, read from cargo's environment.

/// The backend MLX is built with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    Cpu,
    Cuda,
    Metal,
}

/// The platform compiled for, which may differ from the one compiled on.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) os: String,
    pub(crate) arch: String,
    pub(crate) msvc: bool,
    pub(crate) backend: Backend,
}

impl Target {
    pub(crate) fn from_env() -> Result<Self, String> {
        let os = cargo_env("CARGO_CFG_TARGET_OS")?;
        let feature = |name: &str| std::env::var_os(format!("CARGO_FEATURE_{name}")).is_some();
        let backend = match (os.as_str(), feature("CUDA"), feature("METAL")) {
            ("macos", false, _) => Backend::Metal,
            ("macos", true, _) => {
                return Err("feature `cuda` needs Linux or Windows, the target is macOS".into());
            }
            (_, _, true) => {
                return Err(format!("feature `metal` needs macOS, the target is {os}; leave it out"));
            }
            (_, true, false) => Backend::Cuda,
            (_, false, false) => Backend::Cpu,
        };
        Ok(Self {
            arch: cargo_env("CARGO_CFG_TARGET_ARCH")?,
            msvc: cargo_env("CARGO_CFG_TARGET_ENV")? == "msvc",
            os,
            backend,
        })
    }

    /// The package that carries MLX for this backend.
    pub(crate) fn package(&self) -> &'static str {
        match self.backend {
            Backend::Cpu => "mlx-cpu",
            Backend::Cuda => "mlx-cuda-13",
            Backend::Metal => "mlx-metal",
        }
    }
}

/// A variable cargo always sets for build scripts.
pub(crate) fn cargo_env(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|_| format!("{name} must be set; run this build script through cargo"))
}
