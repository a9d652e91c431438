//! Which model, on which device, and the options of a prompt.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use mlxcel_engine::{
    DeviceChoice, DraftOptions, KvDtype, Limits, LoadOptions, Quantization, Trace, UnknownKvDtype,
};
use mlxcel_protocol::v1::Draft;

use super::quantize::{Quantize, parse_quantize, quantization};

/// Which model to load, and how, for one engine in this process.
#[derive(Debug, Clone, Args)]
pub(crate) struct ModelArgs {
    /// An alias, `owner/name[@revision]` on the hub, a directory, or a GGUF file.
    #[arg(short, long, default_value = "smollm2")]
    pub(crate) model: String,
    /// Where to run: `auto`, `cpu`, `gpu` or `gpu:N`.
    #[arg(long, default_value = "auto", value_parser = checked_device)]
    pub(crate) device: String,
    #[command(flatten)]
    pub(crate) loading: LoadingArgs,
}

/// How to load a model.
#[derive(Debug, Clone, Args)]
pub(crate) struct LoadingArgs {
    /// Quantise float weights while loading to this many bits (2, 3, 4, 5, 6 or 8), or to 4-bit floats (`mxfp4`).
    #[arg(long, value_name = "BITS", value_parser = parse_quantize)]
    pub(crate) quantize: Option<Quantize>,
    /// Weights that share a scale when quantising to bits (32, 64 or 128; 64 by default).
    #[arg(long, value_name = "N", requires = "quantize")]
    pub(crate) group_size: Option<u32>,
    /// Longest prompt plus output in tokens; 0 for the model's own limit.
    #[arg(short, long, value_name = "TOKENS", default_value_t = 0)]
    pub(crate) ctx_size: u32,
    /// How keys and values are stored: `f32`, `f16`, `int8`, `int4`, or `auto` for f32 on a CPU and the model's own
    /// dtype on a GPU. What is smaller leaves room for more context, and is less exact.
    #[arg(long, value_name = "DTYPE", default_value = "auto", value_parser = checked_kv_dtype)]
    pub(crate) kv_dtype: String,
    /// Guess up to N tokens ahead where a text repeats itself or its prompt, and check them in one step. The output is
    /// the same; code, quotations and edits come faster.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) lookup: u32,
    #[command(flatten)]
    pub(crate) draft: DraftArgs,
}

/// A draft model.
#[derive(Debug, Clone, Args)]
pub(crate) struct DraftArgs {
    /// Have a smaller model with the same tokens guess ahead, named as in `--model`. The output is the same; it comes
    /// faster where the smaller one is often right and costs little.
    #[arg(long, value_name = "MODEL", visible_alias = "model-draft")]
    pub(crate) draft_model: Option<String>,
    /// Most tokens that the draft model guesses ahead.
    #[arg(long, value_name = "N", default_value_t = 8, requires = "draft_model")]
    pub(crate) draft_max: u32,
    /// Fewest tokens that it guesses, even where that does not pay.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "draft_model")]
    pub(crate) draft_min: u32,
    /// Quantise the draft model's float weights while loading to this many bits (2, 3, 4, 5, 6 or 8).
    #[arg(long, value_name = "BITS", requires = "draft_model")]
    pub(crate) draft_quantize: Option<u32>,
}

impl DraftArgs {
    /// What to load, with its files at `path`.
    pub(crate) fn options(&self, path: PathBuf) -> DraftOptions {
        let quantize = self.draft_quantize.map(|bits| Quantization::Affine { bits, group_size: DRAFT_GROUP });
        DraftOptions { path, quantize, tokens: self.draft_min.min(self.draft_max)..=self.draft_max }
    }

    /// What to have a node load.
    pub(crate) fn request(&self) -> Option<Draft> {
        Some(Draft {
            model: self.draft_model.clone()?,
            min_tokens: self.draft_min.min(self.draft_max),
            max_tokens: self.draft_max,
            quantize_bits: self.draft_quantize.unwrap_or(0),
            quantize_group_size: self.draft_quantize.map_or(0, |_| DRAFT_GROUP),
        })
    }
}

/// Weights of a draft model that share a scale.
const DRAFT_GROUP: u32 = 64;

/// Where to note what the engine does.
#[derive(Debug, Clone, Args)]
pub(crate) struct TraceArgs {
    /// Write when each part of each step began and ended to FILE, for Perfetto or chrome://tracing.
    /// With several devices one file each, such as trace.gpu-1.json.
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
}

impl TraceArgs {
    /// Creates the file, if one is wanted.
    pub(crate) fn create(&self) -> Result<Option<Trace>> {
        let create = |path: &PathBuf| {
            Trace::create(path).with_context(|| format!("cannot write the trace to {}", path.display()))
        };
        self.trace.as_ref().map(create).transpose()
    }

    /// The file of one of several devices.
    pub(crate) fn of_device(&self, device: &str) -> Option<PathBuf> {
        let path = self.trace.as_ref()?;
        let device = device.replace(':', "-");
        Some(match path.extension() {
            Some(extension) => path.with_extension(format!("{device}.{}", extension.to_string_lossy())),
            None => path.with_extension(device),
        })
    }
}

impl ModelArgs {
    pub(crate) fn load_options(&self) -> Result<LoadOptions> {
        let loading = &self.loading;
        Ok(LoadOptions {
            // The text was checked when it was parsed.
            device: parse_device(&self.device).unwrap_or_default(),
            quantize: quantization(loading.quantize, loading.group_size)?,
            context_tokens: (loading.ctx_size > 0).then_some(loading.ctx_size),
            // As is this.
            kv_dtype: parse_kv_dtype(&loading.kv_dtype).unwrap_or_default(),
            lookup_tokens: loading.lookup,
            ..LoadOptions::default()
        })
    }
}

/// Options of a prompt.
#[derive(Debug, Clone, Args)]
pub(crate) struct PromptArgs {
    /// Most tokens to generate; until the model stops or the context is full by default.
    #[arg(short = 'n', long = "max-tokens", value_name = "N", visible_alias = "n-predict")]
    pub(crate) max_tokens: Option<u32>,
    /// A system message before the conversation.
    #[arg(long, value_name = "TEXT", conflicts_with = "no_chat_template")]
    pub(crate) system: Option<String>,
    /// Give the model the prompt as it is.
    #[arg(long)]
    pub(crate) no_chat_template: bool,
    /// End before this text; may be given several times.
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    /// Go on past end-of-sequence tokens.
    #[arg(long)]
    pub(crate) ignore_eos: bool,
}

impl PromptArgs {
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            max_tokens: self.max_tokens,
            stop: self.stop.clone(),
            ignore_eos: self.ignore_eos,
            repetition: None,
        }
    }
}

/// A device as a person names it.
pub(crate) fn parse_device(text: &str) -> Result<DeviceChoice, String> {
    match text {
        "auto" => Ok(DeviceChoice::Default),
        "cpu" => Ok(DeviceChoice::Cpu),
        "gpu" => Ok(DeviceChoice::Gpu(0)),
        _ => text
            .strip_prefix("gpu:")
            .and_then(|index| index.parse().ok())
            .map(DeviceChoice::Gpu)
            .ok_or_else(|| "a device is auto, cpu, gpu or gpu:N".to_owned()),
    }
}

/// The text itself, once it is known to name a device.
pub(crate) fn checked_device(text: &str) -> Result<String, String> {
    parse_device(text).map(|_| text.to_owned())
}

/// A KV dtype as a person names it; `None` for `auto`.
pub(crate) fn parse_kv_dtype(text: &str) -> Result<Option<KvDtype>, String> {
    match text {
        "auto" => Ok(None),
        _ => text.parse().map(Some).map_err(|error: UnknownKvDtype| format!("{error}; or give auto")),
    }
}

/// The text itself, once it is known to name a KV dtype.
fn checked_kv_dtype(text: &str) -> Result<String, String> {
    parse_kv_dtype(text).map(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_several_devices_has_a_trace_of_its_own() {
        let of = |file: &str, device| TraceArgs { trace: Some(file.into()) }.of_device(device);
        assert_eq!(of("out/trace.json", "gpu:1"), Some("out/trace.gpu-1.json".into()));
        assert_eq!(of("trace", "gpu:0"), Some("trace.gpu-0".into()));
    }

    #[test]
    fn kv_dtypes_are_parsed_or_refused_with_the_choices() {
        assert_eq!(parse_kv_dtype("auto"), Ok(None));
        assert_eq!(parse_kv_dtype("int8"), Ok(Some(KvDtype::Int8)));
        assert!(parse_kv_dtype("bf16").is_err_and(|error| error.contains("f32, f16, int8 or int4")));
    }

    #[test]
    fn devices_are_parsed_or_refused_with_the_choices() {
        assert_eq!(parse_device("auto"), Ok(DeviceChoice::Default));
        assert_eq!(parse_device("gpu:3"), Ok(DeviceChoice::Gpu(3)));
        assert!(parse_device("tpu").is_err_and(|error| error.contains("gpu:N")));
    }
}
