//! What there is: devices, and how fast they reach each other. Read from a description in TOML.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// A device.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// Its host's name.
    pub host: String,
    /// Which of the host's devices.
    pub index: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes a second that it reads from its memory.
    pub bandwidth: f64,
    /// Operations a second.
    pub compute: f64,
    /// Whether it may hold a part of a model; else only whole ones.
    pub distributed: bool,
}

/// How fast two devices reach each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// Seconds until the first byte arrives.
    pub latency: f64,
    /// Bytes a second.
    pub bandwidth: f64,
}

/// Devices and links.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    devices: Vec<Device>,
    within: BTreeMap<String, Link>,
    between: BTreeMap<(String, String), Link>,
}

/// Why a description is none of a cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// It is not TOML of this form.
    #[error("{0}")]
    Malformed(#[from] toml::de::Error),
    /// Two hosts have one name.
    #[error("two hosts are called {0}; give each a name of its own")]
    SameName(String),
    /// A link is to a host that is not described.
    #[error("a link names {0}, which is no host of the description")]
    UnknownHost(String),
    /// A size or rate is nothing that could be.
    #[error("{host}: {what} must be more than 0, got {value}")]
    NotPositive {
        /// Of which host, or which link.
        host: String,
        /// Which number.
        what: &'static str,
        /// What it is.
        value: f64,
    },
}

/// Within a host where nothing is said: PCIe 4, and a collective operation's own time.
const WITHIN: Link = Link { latency: 20e-6, bandwidth: 20e9 };
/// Between hosts where nothing is said: Ethernet of 1 Gbit/s.
const BETWEEN: Link = Link { latency: 200e-6, bandwidth: 0.11e9 };

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    host: Vec<HostDescription>,
    #[serde(default)]
    link: Vec<LinkDescription>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HostDescription {
    name: String,
    device: Vec<DeviceDescription>,
    /// Whole models only.
    #[serde(default)]
    standalone: bool,
    within: Option<RateDescription>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceDescription {
    memory_gb: f64,
    bandwidth_gb_s: f64,
    tflops: f64,
    #[serde(default = "one")]
    count: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RateDescription {
    latency_us: f64,
    gb_s: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkDescription {
    hosts: [String; 2],
    latency_us: f64,
    gb_s: f64,
}

const fn one() -> usize {
    1
}

impl Cluster {
    /// The cluster that `text`, in TOML, describes: `[[host]]` with `name`, `[[host.device]]` (`memory_gb`,
    /// `bandwidth_gb_s`, `tflops`, `count`), `standalone`, `within`; and `[[link]]` between `hosts`.
    ///
    /// # Errors
    /// When it describes none.
    pub fn parse(text: &str) -> Result<Self, ClusterError> {
        let description: Description = toml::from_str(text)?;
        let (mut devices, mut within, mut names) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
        for host in description.host {
            if !names.insert(host.name.clone()) {
                return Err(ClusterError::SameName(host.name));
            }
            for device in &host.device {
                positive(&host.name, "memory_gb", device.memory_gb)?;
                positive(&host.name, "bandwidth_gb_s", device.bandwidth_gb_s)?;
                positive(&host.name, "tflops", device.tflops)?;
            }
            let each = host.device.iter().flat_map(|device| std::iter::repeat_n(device, device.count));
            devices.extend(each.enumerate().map(|(index, device)| Device {
                host: host.name.clone(),
                index,
                memory: (device.memory_gb * 1e9) as u64,
                bandwidth: device.bandwidth_gb_s * 1e9,
                compute: device.tflops * 1e12,
                distributed: !host.standalone,
            }));
            if let Some(rate) = host.within {
                within.insert(host.name.clone(), link(&host.name, rate.latency_us, rate.gb_s)?);
            }
        }
        let mut between = BTreeMap::new();
        for LinkDescription { hosts, latency_us, gb_s } in description.link {
            if let Some(unknown) = hosts.iter().find(|host| !names.contains(*host)) {
                return Err(ClusterError::UnknownHost(unknown.clone()));
            }
            let link = link(&hosts.join(" and "), latency_us, gb_s)?;
            between.insert(pair(&hosts[0], &hosts[1]), link);
        }
        Ok(Self::new(devices, within, between))
    }

    /// These devices, with links as they usually are.
    #[must_use]
    pub fn of(devices: Vec<Device>) -> Self {
        Self::new(devices, BTreeMap::new(), BTreeMap::new())
    }

    pub(super) fn new(
        mut devices: Vec<Device>,
        within: BTreeMap<String, Link>,
        between: BTreeMap<(String, String), Link>,
    ) -> Self {
        // Whatever order hosts are told in, plans are the same.
        devices.sort_by(|a, b| (&a.host, a.index).cmp(&(&b.host, b.index)));
        Self { devices, within, between }
    }

    /// The devices, by host and index.
    #[must_use]
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// How `one` reaches `other`.
    pub(super) fn link(&self, one: &Device, other: &Device) -> Link {
        if one.host == other.host {
            return self.within.get(&one.host).copied().unwrap_or(WITHIN);
        }
        self.between.get(&pair(&one.host, &other.host)).copied().unwrap_or(BETWEEN)
    }
}

fn pair(one: &str, other: &str) -> (String, String) {
    let (first, second) = if one <= other { (one, other) } else { (other, one) };
    (first.to_owned(), second.to_owned())
}

fn link(of: &str, latency_us: f64, gb_s: f64) -> Result<Link, ClusterError> {
    positive(of, "latency_us", latency_us)?;
    positive(of, "gb_s", gb_s)?;
    Ok(Link { latency: latency_us * 1e-6, bandwidth: gb_s * 1e9 })
}

fn positive(host: &str, what: &'static str, value: f64) -> Result<(), ClusterError> {
    if value > 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(ClusterError::NotPositive { host: host.to_owned(), what, value })
}
