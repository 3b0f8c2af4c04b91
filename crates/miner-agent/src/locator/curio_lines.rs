//! The lines of Curio's configuration that make it read from this agent's locator, as `doctor` prints them.
//!
//! Source: curio v1.28.4 `deps/config/types.go:674-689,878-946`, `lib/robusthttp/ssrf.go`; releases as in
//! docs/curio.md.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use carferry_core::doctor::Check;
use carferry_core::rpc::endpoint::is_this_machine;
use url::{Host, Url};

use crate::config::Setting;

/// What stands in the place of a token, which no command prints.
const TOKEN: &str = "<the token of setting.locator.token>";

/// What an operator is to do at Curio.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CurioLines {
    /// Lines for Curio's configuration.
    pub(crate) toml: String,
    /// What these lines cannot do.
    pub(crate) warnings: Vec<String>,
}

/// What `doctor` says of the locator; nothing where there is none.
pub(crate) fn checks(setting: &Setting) -> Vec<Check> {
    const SUBJECT: &str = "locator";
    let locator = &setting.locator;
    let Some(listen) = &locator.listen else { return Vec::new() };
    let scheme = if locator.tls_cert_file.is_some() { "https" } else { "http" };
    let path = locator.path.trim().trim_matches('/');
    let url = setting.locator_url.clone().unwrap_or_else(|| format!("{scheme}://{listen}/{path}"));
    let has_token = locator.token.is_some() || locator.token_file.is_some();
    let Some(lines) = curio_lines(&url, has_token) else {
        let hint = "set setting.locatorUrl: http://10.0.0.5:7777/piece";
        return vec![Check::fail(SUBJECT, format!("{url} is no URL that Curio takes"), hint)];
    };
    let found = format!("{url}, for Curio's configuration; restart its market node after the first lines");
    let mut checks =
        vec![Check { hint: Some(format!("the lines:\n{}", lines.toml)), ..Check::ok(SUBJECT, found) }];
    let more = lines
        .warnings
        .into_iter()
        .map(|warning| Check::warn(SUBJECT, warning, "docs/curio.md has the releases"));
    checks.extend(more);
    if setting.state_dir.is_none() {
        checks.push(Check::warn(
            SUBJECT,
            "nothing is remembered over a restart: reads that Curio began then fail until every CAR was hashed again",
            "set setting.stateDir to a folder of this agent's own",
        ));
    }
    checks
}

/// The lines for a locator under this URL. `None` for what is no URL that Curio takes.
pub(crate) fn curio_lines(url: &str, has_token: bool) -> Option<CurioLines> {
    let parsed = Url::parse(url).ok()?;
    let scheme_fits = matches!(parsed.scheme(), "http" | "https");
    let is_plain = parsed.query().is_none() && parsed.fragment().is_none() && parsed.username().is_empty();
    let host = parsed.host()?;
    if !scheme_fits || !is_plain {
        return None;
    }
    let mut toml = format!(
        "[[Market.StorageMarketConfig.PieceLocator]]   # Curio v1.24.3 and later; read at its start\n  URL = \"{url}\"\n"
    );
    if has_token {
        toml.push_str("  [Market.StorageMarketConfig.PieceLocator.Headers]\n");
        let _infallible = writeln!(toml, "    Authorization = [\"Bearer {TOKEN}\"]");
    }
    let mut warnings = Vec::new();
    if is_walled(&host) {
        let port = parsed.port_or_known_default()?;
        let _infallible = writeln!(
            toml,
            "[Ingest]\n  SSRFAllowedHosts = [\"{host}:{port}\"]   # Curio v1.28.0 and later; takes effect while it runs"
        );
        warnings.push(format!(
            "Curio v1.27.4 up to before v1.28.0 reads nothing from {host} when it seals, and has no switch for that: its \
             deals are published and then cannot be sealed. Update Curio, or give the locator a public address"
        ));
    }
    if is_this_machine(&host) {
        warnings.push(format!(
            "{host} is this machine as seen from itself: where Curio runs on another, set setting.locatorUrl to an \
             address that Curio reaches"
        ));
    }
    Some(CurioLines { toml, warnings })
}

/// Whether Curio's wall against addresses inside of a network stops a read from this host. A name is looked
/// up by Curio; those of a network inside end in `.local` or have no dot.
fn is_walled<S: AsRef<str>>(host: &Host<S>) -> bool {
    match host {
        Host::Ipv4(address) => is_walled_v4(*address),
        Host::Ipv6(address) => is_walled_v6(*address),
        Host::Domain(name) => {
            let name = name.as_ref().trim_end_matches('.').to_ascii_lowercase();
            let ending = name.rsplit('.').next().unwrap_or_default();
            !name.contains('.') || matches!(ending, "local" | "localhost" | "internal" | "lan")
        }
    }
}

fn is_walled_v4(address: Ipv4Addr) -> bool {
    let [first, second, third, _] = address.octets();
    address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_unspecified()
        || address.is_documentation()
        || address.is_multicast()
        || first == 0
        || first >= 240
        // Between carriers and their customers (RFC 6598), for measurements (RFC 2544), protocols (RFC 6890).
        || (first == 100 && (64..128).contains(&second))
        || (first == 198 && (second == 18 || second == 19))
        || (first == 192 && second == 0 && third == 0)
}

fn is_walled_v6(address: Ipv6Addr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_walled_v4(address),
        IpAddr::V6(address) => {
            // Global unicast is 2000::/3; 2001:db8::/32 is documentation.
            let [first, second, ..] = address.segments();
            !(0x2000..0x4000).contains(&first) || (first == 0x2001 && second == 0xdb8)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locator_inside_gets_the_lines_of_the_wall_and_the_warning() {
        let lines = curio_lines("http://10.0.0.5:7777/piece", true).unwrap();
        insta::assert_snapshot!(format!("{}{}", lines.toml, lines.warnings.join("\n")), @r#"
        [[Market.StorageMarketConfig.PieceLocator]]   # Curio v1.24.3 and later; read at its start
          URL = "http://10.0.0.5:7777/piece"
          [Market.StorageMarketConfig.PieceLocator.Headers]
            Authorization = ["Bearer <the token of setting.locator.token>"]
        [Ingest]
          SSRFAllowedHosts = ["10.0.0.5:7777"]   # Curio v1.28.0 and later; takes effect while it runs
        Curio v1.27.4 up to before v1.28.0 reads nothing from 10.0.0.5 when it seals, and has no switch for that: its deals are published and then cannot be sealed. Update Curio, or give the locator a public address
        "#);
    }

    #[test]
    fn a_public_one_needs_none_of_them() {
        let lines = curio_lines("https://cars.example.com/piece", false).unwrap();
        assert!(!lines.toml.contains("SSRF") && !lines.toml.contains("Headers"), "{}", lines.toml);
        assert!(lines.warnings.is_empty());
    }

    #[test]
    fn addresses_inside_of_a_network_are_known() {
        for (host, walled) in [
            ("10.0.0.5", true),
            ("172.16.0.1", true),
            ("192.168.1.1", true),
            ("127.0.0.1", true),
            ("100.64.0.1", true),
            ("100.128.0.1", false),
            ("169.254.1.1", true),
            ("198.18.0.1", true),
            ("203.0.113.5", true),
            ("93.184.216.34", false),
            ("[::1]", true),
            ("[fd00::1]", true),
            ("[2a00::1]", false),
            ("[::ffff:10.0.0.1]", true),
            ("box", true),
            ("box.local", true),
            ("cars.example.com", false),
        ] {
            let lines = curio_lines(&format!("http://{host}:7777/piece"), false).unwrap();
            assert_eq!(lines.toml.contains("SSRFAllowedHosts"), walled, "{host}");
        }
        for url in [
            "ftp://host/piece",
            "http://host/piece?a=b",
            "http://host/piece#a",
            "http://user@host/piece",
            "piece",
        ] {
            assert_eq!(curio_lines(url, false), None, "{url}");
        }
    }
}
