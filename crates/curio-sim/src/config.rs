//! What a simulated Curio is: its release, its locators, its times.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

/// A release, by its numbers: `1.28.4`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release(pub u32, pub u32, pub u32);

impl Release {
    /// The last release whose source was read.
    pub const V1_28_4: Self = Self(1, 28, 4);

    /// Whether reads for sealing refuse addresses inside of a network. Source: curio v1.27.4
    /// `lib/robusthttp/ssrf.go`.
    pub fn has_wall(self) -> bool {
        self >= Self(1, 27, 4)
    }

    /// Whether `SSRFAllowedHosts` counts.
    pub fn has_allowed_hosts(self) -> bool {
        self >= Self(1, 28, 0)
    }

    /// Whether the poller can be woken. Source: curio v1.28.3 `cmd/curio/rpc/rpc.go:89-98`.
    pub fn has_wake_poller(self) -> bool {
        self >= Self(1, 28, 3)
    }
}

impl FromStr for Release {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Result<Vec<u32>, _> = text.trim_start_matches('v').split('.').map(str::parse).collect();
        match numbers.as_deref() {
            Ok([major, minor, patch]) => Ok(Self(*major, *minor, *patch)),
            _ => Err(format!("\"{text}\" is no release such as 1.28.4")),
        }
    }
}

/// One entry of `Market.StorageMarketConfig.PieceLocator`.
#[derive(Clone, Debug)]
pub struct Locator {
    /// Without a query: `?id=<piece CID>` is put behind it.
    pub url: String,
    /// Name and value of each header.
    pub headers: Vec<(String, String)>,
}

/// Everything that is configured.
#[derive(Clone, Debug)]
pub struct CurioConfig {
    /// Which release it plays.
    pub release: Release,
    /// Market nodes, each with a poller of its own.
    pub nodes: usize,
    /// Where data is looked for.
    pub locators: Vec<Locator>,
    /// `Ingest.SSRFAllowedHosts`: `host` or `host:port`.
    pub allowed_hosts: Vec<String>,
    /// Between two passes of a poller. Source: `tasks/storage-market/storage_market.go:61-65`.
    pub poll_interval: Duration,
    /// How long one HEAD may take. Source: the same, 672-786.
    pub head_limit: Duration,
    /// Between two tries of a read for sealing. Source: `lib/robusthttp`.
    pub read_pause: Duration,
    /// A read for sealing stops after so many bytes, until it is released; for tests that do something
    /// meanwhile.
    pub hold_after: Option<u64>,
    /// Where the web interface listens.
    pub listen: SocketAddr,
}

impl Default for CurioConfig {
    fn default() -> Self {
        Self {
            release: Release::V1_28_4,
            nodes: 1,
            locators: Vec::new(),
            allowed_hosts: Vec::new(),
            poll_interval: Duration::from_secs(30),
            head_limit: Duration::from_secs(10),
            read_pause: Duration::from_secs(1),
            hold_after: None,
            listen: ([127, 0, 0, 1], 0).into(),
        }
    }
}
