//! Finds address and token of a Lotus node's API: configuration, `*_API_INFO`, repository folders.
//!
//! The order is Lotus' own (lotus v1.23.3 `cli/util/apiinfo.go`, `cli/util/api.go`, `node/repo/fsrepo.go`),
//! with two extensions: `ws` and `wss` become `http` and `https`, because the same path answers POST
//! requests, and a URL may end in `/rpc/v0` or `/rpc/v1`. This module calls no node, and its callers pass the
//! environment.

use std::path::{Path, PathBuf};
use std::{fmt, io};

use url::{Host, Url};

use crate::config::secret::SecretError;
use crate::config::sections::LotusSection;
use crate::config::{Secret, secret};
use crate::error_chain::Hint;
use crate::rpc::authority::{self, AuthorityError};

/// The API version that every markets-capable Lotus speaks the same (v1.5 to v1.27.0).
const API_PATH: &str = "rpc/v0";

/// A node's API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `http(s)://host:port/rpc/v0`.
    pub url: Url,
    /// The token for `Authorization: Bearer`, if there is one.
    pub token: Option<Secret>,
    /// A PEM file with the authority that signed the node's certificate, where the system's are not trusted.
    pub ca_file: Option<PathBuf>,
    /// Where this was found, for messages: `FULLNODE_API_INFO`, `/home/lotus/.lotus`, `lotus.endpoint`.
    pub origin: String,
}

impl Endpoint {
    /// Whether the token crosses the network between this machine and the node's unencrypted.
    pub fn sends_token_in_clear(&self) -> bool {
        let is_here = self.url.host().is_some_and(|host| is_this_machine(&host));
        self.token.is_some() && self.url.scheme() == "http" && !is_here
    }
}

/// Whether a host names the machine that looks it up.
pub fn is_this_machine(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost" || name.ends_with(".localhost"),
        Host::Ipv4(address) => address.is_loopback() || address.is_unspecified(),
        Host::Ipv6(address) => address.is_loopback() || address.is_unspecified(),
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (from {})", self.url, self.origin)
    }
}

/// The kinds of nodes the agents call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// The client's chain node.
    FullNode,
    /// The provider's markets process: lotus-miner, or the markets node where it is split off.
    Miner,
    /// The provider's Boost.
    Boost,
}

impl fmt::Display for NodeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FullNode => "Lotus full node",
            Self::Miner => "Lotus miner",
            Self::Boost => "Boost",
        })
    }
}

/// Why no endpoint could be made.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// No source names the node's address.
    #[error("no {kind} is configured")]
    NotFound {
        /// The node that was looked for.
        kind: NodeKind,
    },
    /// An address that is neither a multiaddr nor a URL.
    #[error("{origin}: \"{address}\" is not an API address: {problem}")]
    Address {
        /// Where it is written.
        origin: String,
        /// The address, without its token.
        address: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Settings that exclude each other.
    #[error("{first} and {second} are both set")]
    Conflict {
        /// One setting.
        first: String,
        /// The other.
        second: String,
    },
    /// A repository folder without a running node.
    #[error("no API address in Lotus repository {repo}", repo = repo.display())]
    Repo {
        /// The folder.
        repo: PathBuf,
        /// The system's error for the file `api` or `token` in it.
        source: io::Error,
    },
    /// The token file of the configuration.
    #[error("token unavailable")]
    Token(#[from] SecretError),
    /// The authority of the node's certificate.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

impl Hint for EndpointError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotFound { kind: NodeKind::FullNode } => {
                "set lotus.endpoint and lotus.tokenFile, or FULLNODE_API_INFO as `lotus auth api-info --perm admin` prints it; without either, ~/.lotus of a node on this machine is used".to_owned()
            }
            Self::NotFound { kind: NodeKind::Miner } => {
                "set lotus.endpoint and lotus.tokenFile, or MARKETS_API_INFO or MINER_API_INFO as `lotus-miner auth api-info --perm write` prints it".to_owned()
            }
            Self::NotFound { kind: NodeKind::Boost } => {
                "set endpoint and tokenFile at the miner, or BOOST_API_INFO as `boostd auth api-info --perm admin` prints it".to_owned()
            }
            Self::Address { .. } => {
                "write http://host:1234, or a multiaddr such as /ip4/127.0.0.1/tcp/1234/http, with <token>: before it in *_API_INFO".to_owned()
            }
            Self::Conflict { first, second } => format!("keep {first} or {second}"),
            Self::Repo { .. } => {
                "the file `api` is there only while the node runs: start it, and let the agent's user read `api` and `token`".to_owned()
            }
            Self::Token(error) => return error.hint(),
            Self::Authority(error) => return error.hint(),
        })
    }
}

/// `[<token>:]<address>` as in `FULLNODE_API_INFO`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiInfo {
    /// The JSON web token.
    pub token: Option<Secret>,
    /// Multiaddr or URL, as written.
    pub address: String,
}

impl ApiInfo {
    /// Splits token and address. Of several entries with commas the first counts.
    pub fn parse(written: &str) -> Self {
        let first = written.split(',').next().unwrap_or(written).trim();
        match first.split_once(':') {
            Some((token, address)) if is_token(token) && !address.is_empty() => {
                Self { token: Some(Secret::new(token)), address: address.to_owned() }
            }
            _ => Self { token: None, address: first.to_owned() },
        }
    }

    /// The endpoint at this address; `origin` names the source of the address.
    pub fn endpoint(self, origin: impl Into<String>) -> Result<Endpoint, EndpointError> {
        let origin = origin.into();
        match api_url(&self.address) {
            Ok(url) => Ok(Endpoint { url, token: self.token, ca_file: None, origin }),
            Err(problem) => {
                Err(EndpointError::Address { origin, address: without_secrets(&self.address), problem })
            }
        }
    }
}

/// The client's full node: configuration, else `FULLNODE_API_INFO`, else `$LOTUS_PATH` or `~/.lotus`.
///
/// A token in the configuration is used with the address from any source.
pub fn resolve_full_node(
    config: &LotusSection,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Endpoint, EndpointError> {
    resolve(config, env, || {
        if let Some(endpoint) = from_info(env, &["FULLNODE_API_INFO"])? {
            return Ok(Some(endpoint));
        }
        repo_from_env(env, &["LOTUS_PATH"], Some("~/.lotus")).map(|repo| from_repo(&repo)).transpose()
    })?
    .ok_or(EndpointError::NotFound { kind: NodeKind::FullNode })
}

/// The provider's Boost: configuration, else `BOOST_API_INFO`, else `$BOOST_PATH` or `~/.boost`.
/// Source: boost v2.5.2 `cmd/boostd/main.go`, `cli/node/node.go`.
///
/// A token in the configuration is used with the address from any source.
pub fn resolve_boost(
    config: &LotusSection,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Endpoint, EndpointError> {
    resolve(config, env, || {
        if let Some(endpoint) = from_info(env, &["BOOST_API_INFO"])? {
            return Ok(Some(endpoint));
        }
        repo_from_env(env, &["BOOST_PATH"], Some("~/.boost")).map(|repo| from_repo(&repo)).transpose()
    })?
    .ok_or(EndpointError::NotFound { kind: NodeKind::Boost })
}

/// The provider's markets process: Lotus' own, or a Boost where the environment names one.
///
/// Configuration, else `BOOST_API_INFO`, else `MARKETS_API_INFO`, else a repository that the environment
/// names (`$LOTUS_MARKETS_PATH`, then `$LOTUS_MINER_PATH` or its old name `$LOTUS_STORAGE_PATH`), else
/// `~/.lotusminer` where it exists, else `MINER_API_INFO`, else its old name `STORAGE_API_INFO`.
/// Repositories before `MINER_API_INFO`, because `lotus-miner storage-deals import-data` does so: with
/// markets split off, `MINER_API_INFO` names a process that cannot import.
///
/// A token in the configuration is used with the address from any source.
pub fn resolve_miner(
    config: &LotusSection,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Endpoint, EndpointError> {
    resolve(config, env, || {
        if let Some(endpoint) = from_info(env, &["BOOST_API_INFO", "MARKETS_API_INFO"])? {
            return Ok(Some(endpoint));
        }
        let markets = repo_from_env(env, &["LOTUS_MARKETS_PATH"], None);
        let miner = || repo_from_env(env, &["LOTUS_MINER_PATH", "LOTUS_STORAGE_PATH"], Some("~/.lotusminer"));
        match markets.or_else(miner) {
            Some(repo) => from_repo(&repo).map(Some),
            None => from_info(env, &["MINER_API_INFO", "STORAGE_API_INFO"]),
        }
    })?
    .ok_or(EndpointError::NotFound { kind: NodeKind::Miner })
}

/// The endpoint of a node by its repository folder's files `api` and `token`.
///
/// A folder without `token` gives an endpoint without one.
pub fn from_repo(repo: &Path) -> Result<Endpoint, EndpointError> {
    let unreadable = |source| EndpointError::Repo { repo: repo.to_owned(), source };
    let named = |name: &str, error| crate::fsx::named("cannot read", &repo.join(name), error);
    let address =
        std::fs::read_to_string(repo.join("api")).map_err(|error| unreadable(named("api", error)))?;
    let token = match std::fs::read_to_string(repo.join("token")) {
        Ok(token) => Some(token.trim().to_owned()).filter(|token| !token.is_empty()).map(Secret::new),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(unreadable(named("token", error))),
    };
    ApiInfo { token, address: address.trim().to_owned() }.endpoint(repo.display().to_string())
}

fn resolve(
    config: &LotusSection,
    env: &dyn Fn(&str) -> Option<String>,
    elsewhere: impl FnOnce() -> Result<Option<Endpoint>, EndpointError>,
) -> Result<Option<Endpoint>, EndpointError> {
    let key = |name: &str| format!("{}.{name}", config.section);
    let conflict = |first: &str, second: String| Err(EndpointError::Conflict { first: key(first), second });
    let token = secret::resolve(&key("token"), config.token.as_ref(), config.token_file.as_deref())?;
    let endpoint = match (&config.endpoint, &config.api_info, &config.repo) {
        (Some(_), Some(_), _) => return conflict("endpoint", key("apiInfo")),
        (Some(_), _, Some(_)) => return conflict("endpoint", key("repo")),
        (_, Some(_), Some(_)) => return conflict("apiInfo", key("repo")),
        (Some(address), None, None) => Some(ApiInfo::parse(address).endpoint(key("endpoint"))?),
        (None, Some(info), None) => Some(ApiInfo::parse(info.expose()).endpoint(key("apiInfo"))?),
        (None, None, Some(repo)) => Some(from_repo(&expand_home(repo, env))?),
        (None, None, None) => None,
    };
    let has_token = endpoint.as_ref().is_some_and(|endpoint| endpoint.token.is_some());
    if token.is_some() && has_token && config.repo.is_none() {
        return conflict("token", "a token in the address".to_owned());
    }
    let endpoint = match endpoint {
        Some(endpoint) => Some(endpoint),
        None => elsewhere()?,
    };
    let ca_file = config.tls_ca_file.clone();
    if let Some(path) = &ca_file {
        authority::trusting(path).map_err(|source| AuthorityError {
            key: key("tlsCaFile"),
            path: path.clone(),
            source,
        })?;
    }
    Ok(endpoint.map(|endpoint| Endpoint { token: token.or(endpoint.token), ca_file, ..endpoint }))
}

/// Lotus takes a variable that is set but empty for set; here it counts as unset.
fn from_info(
    env: &dyn Fn(&str) -> Option<String>,
    names: &[&str],
) -> Result<Option<Endpoint>, EndpointError> {
    for &name in names {
        if let Some(info) = env(name).filter(|info| !info.trim().is_empty()) {
            return ApiInfo::parse(&info).endpoint(name).map(Some);
        }
    }
    Ok(None)
}

/// A folder that the environment names, whether it exists or not; else the default one if it does.
fn repo_from_env(
    env: &dyn Fn(&str) -> Option<String>,
    names: &[&str],
    default: Option<&str>,
) -> Option<PathBuf> {
    if let Some(path) = names.iter().find_map(|name| env(name).filter(|path| !path.is_empty())) {
        return Some(expand_home(Path::new(&path), env));
    }
    Some(expand_home(Path::new(default?), env)).filter(|path| path.is_dir())
}

fn expand_home(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    match (path.strip_prefix("~"), env("HOME")) {
        (Ok(below), Some(home)) => Path::new(&home).join(below),
        _ => path.to_owned(),
    }
}

/// Three parts of base64url with points between them, the last may be empty.
/// Source: lotus v1.23.3 `cli/util/apiinfo.go`, `infoWithToken`.
fn is_token(text: &str) -> bool {
    let word = |part: &str| part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    let parts: Vec<&str> = text.split('.').collect();
    match parts.as_slice() {
        [header, payload, signature] => {
            !header.is_empty() && !payload.is_empty() && word(header) && word(payload) && word(signature)
        }
        _ => false,
    }
}

/// `http(s)://host:port/rpc/v0` of a multiaddr or URL, or what is wrong with it.
fn api_url(address: &str) -> Result<Url, String> {
    let address = address.trim();
    if address.is_empty() {
        return Err("it is empty".to_owned());
    }
    if address.starts_with('/') {
        let (scheme, host_and_port) = multiaddr_scheme_host_and_port(address)?;
        return Url::parse(&format!("{scheme}://{host_and_port}/{API_PATH}"))
            .map_err(|error| error.to_string());
    }
    let (scheme, rest) = address.split_once("://").ok_or("it has neither a leading / nor a scheme")?;
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "http" | "ws" => "http",
        "https" | "wss" => "https",
        other => return Err(format!("the scheme {other} is none of http, https, ws, wss")),
    };
    let base = rest.trim_end_matches('/');
    let base = base.strip_suffix("/rpc/v0").or_else(|| base.strip_suffix("/rpc/v1")).unwrap_or(base);
    if base.is_empty() || base.starts_with('/') {
        return Err("the host is missing".to_owned());
    }
    let url = Url::parse(&format!("{scheme}://{base}/{API_PATH}")).map_err(|error| error.to_string())?;
    if base.contains(['?', '#', '@']) {
        return Err("an API address has no user and no query; the token has a place of its own".to_owned());
    }
    Ok(url)
}

/// A refused address as it may be shown: a token that is not quite one, a user or a query is left out.
fn without_secrets(address: &str) -> String {
    let shown = address.split(['?', '#']).next().unwrap_or_default();
    let begin = [":/ip", ":/dns", ":http", ":ws"].iter().filter_map(|mark| shown.find(mark)).min();
    let shown = begin.and_then(|at| shown.get(at + 1..)).unwrap_or(shown);
    shown.rsplit('@').next().unwrap_or_default().to_owned()
}

/// Scheme, host and port of the multiaddr forms that Lotus dials. Lotus ignores the parts after the port, and
/// would send a token unencrypted to an https, wss or tls address; here the connection to such an address is
/// encrypted.
fn multiaddr_scheme_host_and_port(address: &str) -> Result<(&'static str, String), String> {
    let mut parts = address.split('/').skip(1);
    let mut next =
        |what: &str| parts.next().filter(|part| !part.is_empty()).ok_or(format!("{what} is missing"));
    let mut protocol = next("the protocol")?;
    if protocol == "ip6zone" {
        let zone = next("the zone")?;
        return Err(format!("addresses of one link only (zone {zone}) cannot stand in a URL"));
    }
    if protocol == "dnsaddr" {
        return Err("dnsaddr is not dialled by Lotus; use dns, dns4 or dns6".to_owned());
    }
    let written = next("the host")?;
    let host = match protocol {
        "ip4" => written
            .parse()
            .map(Host::<String>::Ipv4)
            .map_err(|_| format!("{written} is not an IPv4 address"))?,
        "ip6" => written
            .parse()
            .map(Host::<String>::Ipv6)
            .map_err(|_| format!("{written} is not an IPv6 address"))?,
        "dns" | "dns4" | "dns6" => {
            Host::parse(written).map_err(|error| format!("host {written}: {error}"))?
        }
        other => return Err(format!("protocol {other} is none of ip4, ip6, dns, dns4, dns6")),
    };
    protocol = next("tcp")?;
    if protocol != "tcp" {
        return Err(format!("/tcp/<port> follows the host, not /{protocol}"));
    }
    let written = next("the port")?;
    let port: u16 = written.parse().map_err(|_| format!("{written} is not a port"))?;
    let is_secure = parts.any(|part| matches!(part, "https" | "wss" | "tls"));
    Ok((if is_secure { "https" } else { "http" }, format!("{host}:{port}")))
}

#[cfg(test)]
mod tests;
