//! The wall against addresses inside of a network, for reads of sealing. Source: curio v1.28.4
//! `lib/robusthttp/ssrf.go:41-51,205-220,299-402`.

use std::net::{IpAddr, Ipv4Addr};

use url::Url;

use crate::config::CurioConfig;

/// Whether the URL itself may be read.
pub(crate) fn check_url(config: &CurioConfig, url: &str) -> Result<(), String> {
    if !config.release.has_wall() || is_allowed(config, url) {
        return Ok(());
    }
    let host = Url::parse(url).ok().and_then(|url| Some(url.host_str()?.to_owned())).unwrap_or_default();
    let name = host.to_ascii_lowercase();
    if matches!(name.rsplit('.').next(), Some("localhost" | "local")) {
        return Err(format!("unsafe fetch url: special-use hostname {name:?} is not allowed"));
    }
    match name.parse() {
        Ok(address) => check_address(config, url, address),
        Err(_) => Ok(()),
    }
}

/// Whether this address may be read: looked at again when a name was dialled.
pub(crate) fn check_address(config: &CurioConfig, url: &str, address: IpAddr) -> Result<(), String> {
    if !config.release.has_wall() || is_allowed(config, url) || is_public(address) {
        return Ok(());
    }
    Err(format!("unsafe fetch url: non-public ip {address} is not allowed"))
}

/// Entries are compared as text: `host` allows every port.
fn is_allowed(config: &CurioConfig, url: &str) -> bool {
    let Ok(url) = Url::parse(url) else { return false };
    let host = url.host_str().unwrap_or_default();
    let with_port = format!("{host}:{}", url.port_or_known_default().unwrap_or(0));
    config.release.has_allowed_hosts()
        && config.allowed_hosts.iter().any(|allowed| *allowed == host || *allowed == with_port)
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => is_public_v4(address),
            None => (0x2000..0x4000).contains(&address.segments()[0]),
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_unspecified()
        || address.is_documentation()
        || (first == 100 && (64..128).contains(&second))
        || first >= 224)
}
